"""What a run of GRPO or PPO would take (``--dry-run``), without the parent that it starts from.

A round writes completions, reads them as the reference (and, for PPO, as the policy that wrote them), and learns from them
``updates`` times. Reading and learning are bound by operations, writing by how fast the weights can be read: once for each
token, whatever the number of completions. What the reward takes is not in it: a judge elsewhere answers in its own time.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Final, cast

import torch
from torch import Tensor, nn

from multimood_core.errors import DataError
from multimood_core.model import MultiMoodForConditionalGeneration
from multimood_core.processor import MultiMoodProcessor
from train.base import add_lora
from train.loop import precision_on
from train.mixture import CORPUS, SftConfig, SftTask, shape_of
from train.plan import (
    UTILISATION,
    Plan,
    forward_operations,
    held_bytes,
    language_model_loss,
    meta_base,
    peak_memory,
    peak_operations,
    process_bytes,
    projector_operations,
    read_strategy,
    small_parameters,
    step_operations,
)
from train.policy import WHOLE_MODEL, PolicyConfig, read_mixture, train_adapter
from train.rollouts import Situations, token_scores
from train.turns import read_split

# Bytes a second (NVIDIA's data sheets: H100 SXM5 80 GB, H200).
BANDWIDTH: Final = {"h100": 3.35e12, "h200": 4.8e12}


def plan_rounds(
    stage: str, config: PolicyConfig, args: argparse.Namespace, readings: int, head: Callable[[int], nn.Module] | None = None
) -> Plan:
    """Count what a run of rounds takes; a completion is counted as long as the therapists' replies.

    Args:
        stage: its name.
        config: the resolved settings.
        args: ``strategy`` and ``device``.
        readings: times that completions are read before something is learnt from them.
        head: makes what is trained beside the adapter, from the language model's width.

    Raises:
        DataError: the strategy splits the model.
    """
    strategy = read_strategy(args.strategy, args.device)
    if strategy.sharded:
        raise DataError(WHOLE_MODEL)
    mixture, rng = read_mixture(config.mixture, config.root), random.Random(config.seed)
    model, processor = planned_policy(mixture)
    situations = planned_situations(mixture, model, processor)
    prefixes, replies, means = [], [], dict.fromkeys(("video", "audio", "turns", "text"), 0.0)
    for index in range(len(situations)):
        prefix, reply = situations.lengths(index, config.completion, rng)
        parts = situations.task.parts(index, prefix, rng)
        prefixes.append(sum(parts.values()))
        replies.append(min(config.max_tokens, reply))
        means = {name: mean + parts[name] / len(situations) for name, mean in means.items()}
    beside = head(model.config.llm_size) if head else nn.Module()
    device, mine = strategy.device, max(1, config.prompts // strategy.processes)
    half = precision_on(device, config.precision) != "no"
    longest, mean = max(prefixes), round(sum(prefixes) / len(prefixes))
    most, written = config.group * config.max_tokens, round(config.group * sum(replies) / len(replies))
    adapter = sum(p.numel() for p in model.parameters() if p.requires_grad)
    trained = adapter + sum(p.numel() for p in beside.parameters())
    gradients = 4.0 * trained
    learning = peak_memory(model, _round_loss(model, [(longest, most)] * mine), half) - 4.0 * adapter
    writing = mine * (config.group + 1) * (longest + config.max_tokens) * cache_bytes(model)
    operations = round_operations(model, mean, written, readings, config.updates)
    operations = config.prompts * (operations + projector_operations(model, means["video"], means["audio"]))
    small = small_parameters(model, mixture)
    weights = held_bytes(model, small) + held_bytes(beside, set()) + 4.0 * adapter  # the reference is a second adapter
    reached = peak_operations(device, half) * UTILISATION[device]
    tokens_in_turn = config.max_tokens * (weights + writing) / bandwidth(device)
    steps = max(1, int(len(situations) // config.prompts * config.epochs))
    return Plan(
        stage=stage,
        strategy=strategy,
        parameters=adapter + sum(p.numel() for part in (model, beside) for p in part.parameters()),
        trained=trained,
        tokens=means | {f"{config.group} completions (at most {most})": float(written)},
        samples=len(situations),
        steps=steps,
        batch=(mine, longest + most),
        weights=weights,
        optimizer=8.0 * trained,
        gradients=gradients * (2 if strategy.processes > 1 else 1),
        activations=max(learning, writing),
        base=process_bytes(device),
        operations=operations,
        seconds=operations / strategy.processes / reached + tokens_in_turn,
        notes=(
            f"{steps * config.prompts * config.group:,} completions; {tokens_in_turn:,.2f} s of a step for writing them token by "
            "token; without the reward's time",
        ),
    )


def round_operations(
    model: MultiMoodForConditionalGeneration, prompt: int, written: int, readings: int, updates: int
) -> float:
    """Of one prompt's round at the least, its ``written`` tokens counted behind the prompt as one sequence.

    Writing and each of the ``readings`` are a forward pass, each of the ``updates`` a forward and a backward pass.
    """
    loss = language_model_loss(model, 1, prompt + written, written)
    return (1 + readings) * forward_operations(loss) + updates * step_operations(model, loss)


def planned_policy(mixture: SftConfig) -> tuple[MultiMoodForConditionalGeneration, MultiMoodProcessor]:
    """The policy without numbers, in training mode, its adapter trained, and its processor."""
    model, processor = meta_base(mixture, shape_of(mixture))
    add_lora(model, mixture.rank, mixture.alpha, mixture.lora_dropout)
    train_adapter(model)
    return cast(MultiMoodForConditionalGeneration, model.train()), processor


def planned_situations(
    mixture: SftConfig, model: MultiMoodForConditionalGeneration, processor: MultiMoodProcessor
) -> Situations:
    """The prompts of the training split, without media."""
    dialogues = read_split(CORPUS, "train", mixture.data)
    return Situations(SftTask(dataclasses.replace(mixture, sentences=0), model, processor, dialogues, []))


def _round_loss(model: MultiMoodForConditionalGeneration, rows: Sequence[tuple[int, int]]) -> Callable[[], Tensor]:
    """The loss of several prompts, each (tokens of the prefix, tokens of its completions), read one after another."""
    text = model.model.language_model
    text.set_attn_implementation("planned")

    def loss() -> Tensor:
        found = []
        for prefix, completions in rows:
            dtype = model.get_input_embeddings().weight.dtype
            embeds = torch.empty(1, prefix + completions, model.config.llm_size, dtype=dtype, device="meta")
            states = text(inputs_embeds=embeds.requires_grad_(True), use_cache=False).last_hidden_state[0, -completions:]
            targets = torch.zeros(completions, dtype=torch.long, device="meta")
            weight = model.lm_head.weight
            logits = (states.to(weight.dtype) @ weight.T).float()  # outside of autocast, as in training
            found.append(token_scores(logits, targets, model.config.media_token_ids)[0].mean())
        return torch.stack(found).mean()

    return loss


def cache_bytes(model: MultiMoodForConditionalGeneration) -> float:
    """Keys and values of one token."""
    text = model.config.text
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2.0 * text.num_hidden_layers * text.num_key_value_heads * width * model.get_input_embeddings().weight.element_size()


@cache
def bandwidth(device: str) -> float:
    """Bytes a second that weights are read at."""
    if device in BANDWIDTH:
        return BANDWIDTH[device]
    source = torch.zeros(2**26)
    target, best = torch.empty_like(source), float("inf")
    for _ in range(4):
        began = time.perf_counter()
        target.copy_(source)
        best = min(best, time.perf_counter() - began)
    return 2 * source.nbytes / best
