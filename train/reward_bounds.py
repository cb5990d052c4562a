"""Measure where real replies lie, which is what scales the rewards.

    python -m train.reward_bounds --out assets/judges/mini/bounds.json

Of MESC's training split: how alike replies to different clients are, how much a reply tells of the client's next turn, and
the 99th percentiles of a reply's length, of what it repeats, copies from the dialogue and shares with replies to others.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np

from multimood_core.dialogues import Item, items_of
from multimood_core.follow_up import FollowUpReward
from multimood_core.guards import TemplateGuard, copied_share, repeated_share
from multimood_core.reward_scores import situation_of
from multimood_core.rewards import EMBEDDED, Bounds
from multimood_core.sentences import words_of
from multimood_core.similarity import MiniLMSimilarity, random_pair_mean
from multimood_core.text_encoder import MiniLM
from train.config import run_command
from train.data import read_mesc

_USUAL: Final = 99  # percentile of real replies up to which a guard takes nothing
_STEP: Final = 16  # replies a step, as in training


def measure(items: Sequence[Item], encoder: MiniLM, follow_up: FollowUpReward, origin: str, gains: int = 400) -> Bounds:
    """The bounds that the items' real replies give.

    Args:
        items: of a training split.
        encoder: for the similarity.
        follow_up: the reference model; its spread is what is measured.
        origin: what the bounds say of where they are from.
        gains: items whose follow-up likelihood is measured.
    """
    situations, replies = [situation_of(item) for item in items], [item.therapist.text for item in items]
    order = random.Random(0).sample(range(len(items)), len(items))
    guard = TemplateGuard(0.0)
    shared: list[float] = []
    for begin in range(0, len(order), _STEP):
        some = order[begin : begin + _STEP]
        shared += guard.shares([situations[i] for i in some], [replies[i] for i in some])
    followed = [i for i in order if situations[i].next_client][:gains]
    gained = follow_up.gains([situations[i] for i in followed], [replies[i] for i in followed])
    copied = [copied_share(situation, reply) for situation, reply in zip(situations, replies, strict=True)]
    return Bounds(
        similarity_floor=round(random_pair_mean(MiniLMSimilarity(encoder), replies), 4),
        longest=int(_usual([len(words_of(reply)) for reply in replies])),
        repeated=_usual([repeated_share(reply) for reply in replies]),
        copied=_usual(copied),
        shared=_usual(shared[guard.window :]),  # those before met a memory that was still short
        follow_up_spread=round(float(np.std(gained)), 4),
        origin=origin,
    )


def _usual(values: Sequence[float]) -> float:
    return round(float(np.percentile(values, _USUAL)), 4)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=EMBEDDED / "bounds.json")
    args = parser.parse_args(argv)
    items = list(items_of(read_mesc()["train"]))
    models = "MiniLM, and SmolLM2-135M-Instruct on 400 of them"
    origin = f"python -m train.reward_bounds: MESC, train split, {len(items)} replies; {models}"
    bounds = measure(items, MiniLM(), FollowUpReward.embedded(1.0), origin)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(asdict(bounds), indent=1) + "\n")
    print(args.out.read_text())


if __name__ == "__main__":
    run_command(main)
