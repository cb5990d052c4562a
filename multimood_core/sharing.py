"""Models that share the frozen weights of one that is loaded: language model and towers lie in memory once.

Each model keeps its own modules, its own adapter and its own statistics of the towers' features, so that several can
answer at the same time, from whatever thread: nothing is switched on or off between them. Only tensors are the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from multimood_core.config import MultiMoodConfig
from multimood_core.errors import ModelError
from multimood_core.model import MultiMoodForConditionalGeneration
from multimood_core.processor import MultiMoodProcessor
from multimood_core.registry import BuildFunction, Checkpoint, load

_FROZEN: Final = ("model.language_model.", "model.vision_tower.", "model.audio_tower.", "lm_head.")
_OWN: Final = ("feature_mean", "feature_std")  # statistics that come with a checkpoint


def load_beside(name_or_dir: str | Path, other: Checkpoint, dtype: torch.dtype | None = None) -> Checkpoint:
    """Load a checkpoint that shares language model and towers with ``other``.

    Raises:
        ModelError: no such checkpoint, files that do not fit together, or frozen weights of another shape.
    """
    return load(name_or_dir, dtype, beside(other))


def fits_beside(folder: Path, other: Checkpoint) -> bool:
    """Whether the checkpoint in ``folder`` was trained on frozen weights of the same shapes as ``other``."""
    return _shape(MultiMoodConfig.from_pretrained(folder)) == _shape(other.model.config)


def _shape(config: Any) -> tuple[Any, ...]:
    text, towers = config.text, (config.vision, config.audio)
    sizes = (text.model_type, text.hidden_size, text.num_hidden_layers, text.vocab_size)
    return sizes + tuple((tower.tower, tower.hidden_size, json.dumps(tower.settings or {}, sort_keys=True)) for tower in towers)


def beside(other: Checkpoint) -> BuildFunction:
    """For ``registry.load``: makes a model on the frozen weights of ``other``; all else waits for the checkpoint's files.

    Args:
        other: a loaded checkpoint. Its adapter plays no part.
    """

    def build(
        config: MultiMoodConfig, dtype: torch.dtype | None
    ) -> tuple[MultiMoodForConditionalGeneration, MultiMoodProcessor]:
        source = other.model
        held = source.get_input_embeddings().get_parameter("weight").dtype
        if dtype not in (None, held):
            raise ModelError(f"Expected a language model in {held} like the one whose weights are shared, got {dtype}.")
        config.text_config = source.config.text
        config.tie_word_embeddings = source.config.tie_word_embeddings
        tokenizer = other.processor.tokenizer
        processor = MultiMoodProcessor(tokenizer, config.prompt, config.recent_turns, config.guesses)
        processor.register(config)
        with torch.device("meta"):
            model = MultiMoodForConditionalGeneration(config)
        _take_over(model, source)
        model.generation_config.pad_token_id = source.generation_config.pad_token_id
        model.generation_config.eos_token_id = source.generation_config.eos_token_id
        return model.eval(), processor

    return build


def base_language_model(checkpoint: Checkpoint) -> Any:
    """The language model under a checkpoint as it was before any training, on the same weights, for text alone.

    Returns:
        A ``transformers`` causal language model in evaluation mode. Rows of the media's placeholders are in its
        vocabulary and must not be generated.
    """
    source = checkpoint.model
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(source.config.text)
    found = {name: tensor for name, tensor in _tensors(source) if name.startswith("model.language_model.")}
    for name, _ in list(_tensors(model)):
        if name.startswith("model."):
            _put(model, name, _shared(found.get(f"model.language_model.{name.removeprefix('model.')}"), name))
    if source.config.tie_word_embeddings:
        model.lm_head.weight = model.get_input_embeddings().weight
    else:
        _put(model, "lm_head.weight", _shared(dict(_tensors(source)).get("lm_head.weight"), "lm_head.weight"))
    return model.eval()


def _take_over(model: nn.Module, source: nn.Module) -> None:
    found = dict(_tensors(source))
    for name, tensor in list(_tensors(model)):
        if name.endswith(_OWN):
            _put(model, name, torch.empty_like(tensor, device="cpu"))
        elif name.startswith(_FROZEN):
            given = found.get(name)
            if given is None or given.shape != tensor.shape:
                raise ModelError(
                    f"{name} should be of shape {tuple(tensor.shape)} to be shared, but the loaded model has "
                    f"{tuple(given.shape) if given is not None else 'none'}: they stand on other frozen weights. Load it alone."
                )
            _put(model, name, _shared(given, name))
        else:  # filled from the checkpoint's file, which has to hold every one of them
            _put(model, name, nn.Parameter(torch.empty_like(tensor, device="cpu"), requires_grad=False))


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers under the names that they have without an adapter, and none of the adapter's."""
    for name, tensor in chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        if ".lora_" not in name:
            yield name.replace(".base_layer.", "."), tensor


def _shared(tensor: Tensor | None, name: str) -> Tensor:
    """The same memory under a handle of its own, which may be frozen or not as its model says."""
    if tensor is None:
        raise ModelError(f"Expected {name} in the loaded model, but it has none: it is another kind of language model.")
    return nn.Parameter(tensor.detach(), requires_grad=False) if isinstance(tensor, nn.Parameter) else tensor.detach()


def _put(model: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, last = name.rpartition(".")
    module = model.get_submodule(path)
    if last in module._buffers:
        module._buffers[last] = tensor
    else:
        setattr(module, last, tensor)
