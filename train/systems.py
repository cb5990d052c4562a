"""The language model that the evaluation's arguments name."""

from __future__ import annotations

import argparse
import os

from multimood_core.decoding import Sampling
from multimood_core.endpoint import Endpoint, EndpointSettings
from multimood_core.text_models import EndpointTextModel, LocalTextModel, TextModel, text_model_weights
from train.base import own_device


def text_model(args: argparse.Namespace, sampling: Sampling) -> TextModel:
    """A model in a folder, or one behind an endpoint whose answers are kept beside the report.

    Raises:
        ModelError: the folder holds no causal language model.
    """
    if args.llm:
        return LocalTextModel(text_model_weights(args.llm), sampling, str(own_device()))
    cache = args.cache or (args.out.with_name(f"{args.out.stem}.answers.db") if args.out else None)
    settings = EndpointSettings(
        args.endpoint,
        args.url,
        os.environ.get("OPENAI_API_KEY", ""),
        temperature=args.temperature,
        concurrency=args.concurrency,
        cache=cache,
        price_in=args.price_in,
        price_out=args.price_out,
    )
    return EndpointTextModel(Endpoint(settings))
