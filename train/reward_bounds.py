"""Measure where real replies lie, which is what scales the rewards.

    python -m train.reward_bounds --out assets/judges/mini/bounds.json

Of MESC's training split: how alike replies to different clients are, and the 99th percentiles of a reply's length, of
what it repeats and of what it copies from the dialogue.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np

from multimood_core.dialogues import Item, items_of
from multimood_core.guards import copied_share, repeated_share
from multimood_core.rewards import EMBEDDED, Bounds, ReplySituation
from multimood_core.sentences import words_of
from multimood_core.similarity import MiniLMSimilarity, Similarity, random_pair_mean
from multimood_core.text_encoder import MiniLM
from train.config import run_command
from train.data import read_mesc

_USUAL: Final = 99  # percentile of real replies up to which a guard takes nothing


def situation_of(item: Item) -> ReplySituation:
    """What the item's therapist answered, with the real reply and the client's next turn."""
    turns, after = item.dialogue.turns, item.index + 2
    next_client = turns[after].text if after < len(turns) else None
    context = item.dialogue.context
    return ReplySituation(item.client.text, item.history(gold=False), context, item.therapist.text, next_client)


def measure(items: Sequence[Item], similarity: Similarity, origin: str) -> Bounds:
    """The bounds that the items' real replies give."""
    replies = [item.therapist.text for item in items]
    return Bounds(
        similarity_floor=round(random_pair_mean(similarity, replies), 4),
        longest=int(np.percentile([len(words_of(reply)) for reply in replies], _USUAL)),
        repeated=round(float(np.percentile([repeated_share(reply) for reply in replies], _USUAL)), 4),
        copied=round(float(np.percentile([copied_share(situation_of(i), i.therapist.text) for i in items], _USUAL)), 4),
        origin=origin,
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=EMBEDDED / "bounds.json")
    args = parser.parse_args(argv)
    items = list(items_of(read_mesc()["train"]))
    origin = f"python -m train.reward_bounds: MESC, train split, {len(items)} replies, MiniLM"
    bounds = measure(items, MiniLMSimilarity(MiniLM()), origin)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(asdict(bounds), indent=1) + "\n")
    print(args.out.read_text())


if __name__ == "__main__":
    run_command(main)
