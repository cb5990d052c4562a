"""What it saves to compute once what the completions of a group share; prints a row for each part of a GRPO step.

    python -m tests.benchmarks.group_sharing [--checkpoint NAME_OR_FOLDER] [--group 4] [--prompts 4] [--repeats 3]

A step is timed in two ways on the same prompts: as ``train.grpo`` makes it (a prompt's media are projected, its history is
compressed and it is read once a group, when completions are written and where their likelihoods come from), and with each
completion as a group of its own, which is how a trainer works that knows rows alone. Prompts have a drawn face and voice
and a history; completions are as long in both ways (``--tokens``, no earlier end). Neither rewards nor the optimizer's
step are timed: they are the same.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from multimood_core.prompts import AUDIO_TOKEN, HISTORY_TOKEN, VIDEO_TOKEN
from multimood_core.records import HistoryTurn
from multimood_core.registry import DEFAULT, Checkpoint, load
from multimood_core.rewards import ReplySituation
from train.policy import add_reference, reference, train_adapter
from train.rollouts import Branches, Group, Prompt, Writer, log_probabilities

_FRAMES: Final = 16  # pictures
_VOICE: Final = 20  # features
_SAYINGS: Final = (
    "I do not know what to do any more, it has been like this for weeks and nobody seems to notice",
    "My sister called last night and we argued again about the house",
    "I feel a little better since we talked, but the mornings are hard",
    "Everything at work went wrong and I could not say a word",
)


def make_prompts(checkpoint: Checkpoint, count: int, seed: int = 0) -> list[Prompt]:
    """Prompts with a face, a voice and six earlier turns; the features are noise, which costs what a face costs."""
    model, processor, rng = checkpoint.model, checkpoint.processor, random.Random(seed)
    noise = torch.Generator().manual_seed(seed)
    vision, audio = model.config.vision, model.config.audio
    prompts = []
    for number in range(count):
        history = [
            HistoryTurn("client" if i % 2 == 0 else "therapist", rng.choice(_SAYINGS), "neutral") for i in range(6)
        ]
        counts = {VIDEO_TOKEN: model.config.video_tokens(_FRAMES), AUDIO_TOKEN: _VOICE, HISTORY_TOKEN: len(history)}
        ids = processor.expand(processor.encode_prompt(rng.choice(_SAYINGS), history), counts)
        units = [token for turn in history for token in processor.encode_history_turn(turn)]
        media = {
            "video_features": torch.randn(1, _FRAMES, vision.grid**2, vision.hidden_size, generator=noise),
            "audio_features": torch.randn(1, _VOICE, audio.hidden_size, generator=noise),
            "history_ids": torch.tensor([units]),
        }
        prompts.append(Prompt(str(number), ReplySituation(rng.choice(_SAYINGS), tuple(history)), ids, media))
    return prompts


class Step:
    """The parts of a step on given prompts; ``shared`` says whether a group's completions share their prompt."""

    def __init__(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], group: int, tokens: int, shared: bool) -> None:
        self.model = checkpoint.model
        self.writer = Writer(checkpoint.model, checkpoint.processor, checkpoint.calibration, max_tokens=tokens)
        self.writer.ends = frozenset()  # type: ignore[misc]
        self.prompts = list(prompts) if shared else [prompt for prompt in prompts for _ in range(group)]
        self.count = group if shared else 1
        self.groups: list[Group] = []

    def write(self) -> None:
        self.groups = self.writer.write(self.prompts, self.count, [f"{i}" for i in range(len(self.prompts))])

    def refer(self) -> None:
        with torch.no_grad(), reference(self.model):
            for group in self.groups:
                self._likelihoods(group)

    def learn(self) -> None:
        for group in self.groups:
            self._likelihoods(group).mean().backward()
        self.model.zero_grad()

    def _likelihoods(self, group: Group) -> torch.Tensor:
        branches = Branches.of(group.prefix, group.completions, self.model.get_input_embeddings())
        states = branches.states(self.model)
        return log_probabilities(self.model.lm_head, states, branches.targets, self.writer.barred)[0]


def timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measure(checkpoint: Checkpoint, group: int, prompts: int, tokens: int, repeats: int) -> dict[str, list[list[float]]]:
    """Part -> for each repeat the seconds shared and apart; both ways one after the other in each repeat."""
    asked = make_prompts(checkpoint, prompts)
    ways = [Step(checkpoint, asked, group, tokens, shared) for shared in (True, False)]
    names = {"completions": "write", "the reference's likelihoods": "refer", "likelihoods and their gradient": "learn"}
    found: dict[str, list[list[float]]] = {name: [] for name in [*names, "the step"]}
    for repeat in range(repeats + 1):
        rows = {name: [timed(getattr(way, method)) for way in ways] for name, method in names.items()}
        rows["the step"] = [sum(column) for column in zip(*rows.values(), strict=True)]
        if repeat:  # the first is not counted
            for name, row in rows.items():
                found[name].append(row)
    return found


def table(found: dict[str, list[list[float]]], group: int, prompts: int) -> str:
    """A Markdown table: medians in seconds, and how many times as long it takes apart, with the range."""
    lines = [f"| a GRPO step of {prompts} prompts with {group} completions | shared | apart | times |", "|---|---|---|---|"]
    for name, rows in found.items():
        shared, apart = (statistics.median(column) for column in zip(*rows, strict=True))
        ratios = [row[1] / row[0] for row in rows]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append(f"| {name} | {shared:.2f} s | {apart:.2f} s | {spread} |")
    return "\n".join(lines)


def prepared(name_or_dir: str) -> Checkpoint:
    """A checkpoint that learns beside its reference."""
    checkpoint = load(name_or_dir)
    train_adapter(checkpoint.model)
    add_reference(checkpoint.model)
    return checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=DEFAULT)
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    found = measure(prepared(args.checkpoint), args.group, args.prompts, args.tokens, args.repeats)
    print(table(found, args.group, args.prompts))


if __name__ == "__main__":
    main()
