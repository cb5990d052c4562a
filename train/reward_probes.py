"""Replies that try to trick the reward, beside what therapists really said.

    python -m train.reward_probes [--split val] [--items 250] [--follow-up] [--out P.json]

Each row is one way of replying to the same items of MESC; means with 95 % intervals over whole dialogues. The real reply is
its own reference, so its r_sim says nothing here: `without r_sim` is the reward as it is where no reference is at hand,
with the guard that remembers what was said to others; `and without memory` leaves that out too, as when one reply is judged.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from tqdm import tqdm

from multimood_core.bootstrap import interval, mean_of, paired_difference, resamples
from multimood_core.dialogues import Item, items_of
from multimood_core.reward_scores import situation_of
from multimood_core.rewards import WINDOW, Remembers, ReplySituation, Reward, RewardFunction, embedded_rewards
from multimood_core.sentences import words_of
from train.config import run_command
from train.data import read_mesc
from train.files import write_file

Columns = dict[str, list[float | None]]
_CHUNK: Final = 16  # replies a call, as GRPO's steps have
_KEYWORDS: Final = (
    "I understand.", "I'm sorry.", "You're safe.", "I hear you.", "That must be hard.", "I'm here for you.",
    "Your feelings are valid.", "Take your time.", "You're not alone.", "It's okay.",
)  # fmt: skip
REAL: Final = "therapist's real reply"
BLIND: Final = "without r_sim"


def probes(items: Sequence[Item], train: Sequence[Item], seed: int = 0) -> dict[str, list[str]]:
    """Way of replying -> its reply to each item."""
    rng = random.Random(seed)
    real = [item.therapist.text for item in items]
    others = [rng.choice([o for o in train if o.dialogue.id != item.dialogue.id]).therapist.text for item in items]
    common = Counter(item.therapist.text for item in train).most_common(1)[0][0]
    clients = [item.client.text for item in items]
    return {
        REAL: real,
        "real reply to another client": others,
        "empty": [""] * len(items),
        "full stops": ["..."] * len(items),
        "commonest reply of the training split": [common] * len(items),
        "one kind sentence for everybody": ["I'm so sorry that you are going through this, it must be very hard."] * len(items),
        "one kind sentence and question for everybody": [
            "I can see how painful this is for you. Can you tell me more about what happened?"
        ] * len(items),
        "keywords": ["I understand. I'm sorry. You're safe."] * len(items),
        "keywords, drawn anew": [" ".join(rng.sample(_KEYWORDS, 3)) for _ in items],
        "client's words": clients,
        "client's words as a question": [f"You say: {text} Is that right?" for text in clients],
        "first three words of the reference": [" ".join(text.split()[:3]) for text in real],
        "the same and a full stop": [" ".join(text.split()[:3]).rstrip(".,?!-") + "." for text in real],
        "one question ten times": ["How do you feel?" + " How do you feel?" * 9 for _ in items],
        "five real replies in one": [" ".join(o.therapist.text for o in rng.sample(list(train), 5)) for _ in items],
        "words of the reference, shuffled": [" ".join(rng.sample(t.split(), len(t.split()))) for t in real],
    }  # fmt: skip


def score(reward: RewardFunction, situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[Reward]:
    """The rewards in steps of 16 replies, in an order that is not the dialogues', as in training; guards begin anew."""
    reward.restore({})
    order = list(range(len(replies)))
    random.Random(0).shuffle(order)
    found: dict[int, Reward] = {}
    for begin in range(0, len(order), _CHUNK):
        some = order[begin : begin + _CHUNK]
        found |= zip(some, reward([situations[i] for i in some], [replies[i] for i in some]), strict=True)
    return [found[i] for i in range(len(replies))]


def columns(rewards: Sequence[Reward], blind: Sequence[Reward], forgetful: Sequence[Reward]) -> Columns:
    """Column -> each item's value; the last is the product of the guards."""
    parts: Columns = {"reward": [one.total for one in rewards], BLIND: [one.total for one in blind]}
    parts["and without memory"] = [one.total for one in forgetful]
    names = [name for name in rewards[0].parts if "/" not in name or name.startswith("r_sim/")]
    parts |= {name: [one.parts[name] for one in rewards] for name in names}
    return parts | {"guards": [guard_product(one) for one in rewards]}


def guard_product(reward: Reward) -> float:
    """What the guards leave of a reward."""
    return math.prod(value for name, value in reward.parts.items() if name.startswith("guard/") and value is not None)


def mean_interval(values: Sequence[float | None], weights: np.ndarray) -> dict[str, float]:
    """The mean of the values that are there, with its interval under the items' ``weights`` (samples, items)."""
    known = [i for i, value in enumerate(values) if value is not None]
    return asdict(interval(mean_of([float(values[i] or 0.0) for i in known]), weights[:, known]))


def table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Markdown, a row for each way of replying."""
    names = list(next(iter(found.values())))
    lines = [f"| reply | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for probe, row in found.items():
        cells = [f"{row[n]['value']:.3f} ({row[n]['low']:.3f} to {row[n]['high']:.3f})" if n in row else "" for n in names]
        lines.append(f"| {probe} | {' | '.join(cells)} |")
    return "\n".join(lines)


def measure(items: Sequence[Item], train: Sequence[Item], follow_up: bool = False) -> dict[str, Any]:
    """Every probe's columns with intervals, its difference to the real replies, and replies a second."""
    dialogues = [item.dialogue.id for item in items]
    situations = [situation_of(item) for item in items]
    unseen = [replace(situation, reference=None) for situation in situations]
    weights, reward = resamples(dialogues), embedded_rewards(follow_up=follow_up, window=WINDOW)
    forgetful = RewardFunction(reward.terms, [guard for guard in reward.guards if not isinstance(guard, Remembers)])
    rows: dict[str, dict[str, dict[str, float]]] = {}
    gaps: dict[str, dict[str, float]] = {}
    for name, replies in tqdm(probes(items, train).items(), desc="probes"):
        rewards = score(reward, situations, replies)
        values = columns(rewards, score(reward, unseen, replies), score(forgetful, unseen, replies))
        rows[name] = {column: mean_interval(one, weights) for column, one in values.items() if any(v is not None for v in one)}
        if name == REAL:
            real = np.array(values[BLIND], dtype=float)
        else:
            gaps[name] = asdict(paired_difference(mean_of(real), mean_of(np.array(values[BLIND], dtype=float)), dialogues))
    return {"n": len(items), "dialogues": len(set(dialogues)), "rows": rows, "real less probe": gaps}


def replies_a_second(items: Sequence[Item], train: Sequence[Item], follow_up: bool = False) -> float:
    """Speed on items and replies that were not scored before, in steps of 16."""
    reward = embedded_rewards(follow_up=follow_up, window=WINDOW)
    drawn = random.Random(1).sample(list(train), len(items))
    situations, replies = [situation_of(item) for item in items], [item.therapist.text for item in drawn]
    begun = time.perf_counter()
    score(reward, situations, replies)
    return len(replies) / (time.perf_counter() - begun)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="val", choices=("train", "val"))
    parser.add_argument("--items", type=int, default=250, help="items, drawn from the split")
    parser.add_argument("--follow-up", action="store_true", help="with the follow-up likelihood as a third term")
    parser.add_argument("--out", type=Path, help="JSON with all figures")
    args = parser.parse_args(argv)
    splits = read_mesc()
    items = [item for item in items_of(splits[args.split]) if words_of(item.therapist.text)]
    items = random.Random(0).sample(items, min(args.items, len(items)))
    train = list(items_of(splits["train"]))
    found = measure(items, train, args.follow_up) | {"replies a second": replies_a_second(items, train, args.follow_up)}
    print(f"MESC, {args.split}, n = {found['n']} items of {found['dialogues']} dialogues\n\n{table(found['rows'])}\n")
    for name, gap in found["real less probe"].items():
        print(f"real less {name}: {gap['value']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f})")
    print(f"{found['replies a second']:.1f} replies a second, {torch.get_num_threads()} threads")
    if args.out:
        write_file(args.out, lambda path: path.write_text(json.dumps(found, indent=1) + "\n"))


if __name__ == "__main__":
    run_command(main)
