"""The rewards of replies that were written when checkpoints were evaluated, side by side.

    python -m train.evaluate --data mesc --split val --responses --checkpoint mini-sft --out sft.json   (and so on)
    python -m train.score_rewards --reports sft.json grpo.json ppo.json [--reward embedded] [--out rewards.json]
        [--readme README.md]

Means of the total and of each part with 95 % intervals over whole dialogues, the labels' accuracies, and each later
report's difference to the first on the same items; so do the trivial baselines of replies. A reward that is missing is left
out of both, and counted. ``--readme`` writes the table between the two reward marks of that file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from multimood_core.baselines import reply_baselines
from multimood_core.bootstrap import interval, mean_of, paired_difference, resamples
from multimood_core.decoding import LABELS
from multimood_core.dialogues import items_of
from multimood_core.errors import DataError
from multimood_core.reward_scores import situation_of
from multimood_core.rewards import ReplySituation, Reward
from train.config import run_command
from train.data import read_mesc
from train.files import write_file
from train.marks import put_between_marks
from train.policy import Rewarder, rewarder_of

_CHUNK = 32  # replies scored together
Parts = dict[str, list[float | None]]
"""Part -> a value for each item, in the reports' order; "reward" is the total."""


def read_replies(path: Path) -> tuple[dict[str, str], Parts]:
    """Item id -> reply, from a report; and for each label whether it was right, 1 or 0 for each item in the same order.

    Raises:
        DataError: the file is no report with replies.
    """
    try:
        items = json.loads(path.read_text())["items"]
        replies = {item["id"]: item["response"] for item in items}
        right: Parts = {
            f"{task.replace('_', ' ')}, accuracy": [
                float(task in item["predicted"] and item["predicted"][task]["label"] == item["truth"][task])
                for item in items
            ]
            for task in LABELS
        }
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise DataError(f"Expected a report of train.evaluate --responses at {path}: {cause!r}") from cause
    if not replies or any(reply is None for reply in replies.values()):
        raise DataError(f"{path} has items without a reply. Run train.evaluate with --responses.")
    return replies, right


def score(replies: Mapping[str, str], situations: Mapping[str, ReplySituation], reward: Rewarder) -> Parts:
    """The parts of each reply's reward, and the number of its words as ``words``.

    Raises:
        DataError: a reply is to no item of these situations.
    """
    unknown = sorted(set(replies) - set(situations))
    if unknown:
        raise DataError(f"Expected replies to items of this split, but {', '.join(unknown[:3])} are none of it.")
    names = list(replies)
    found: list[Reward] = []
    for begin in tqdm(range(0, len(names), _CHUNK), desc="rewards"):
        some = names[begin : begin + _CHUNK]
        found += reward([situations[name] for name in some], [replies[name] for name in some])
    parts: Parts = {"reward": [one.total for one in found]}
    for name in {name: None for one in found for name in one.parts}:
        parts[name] = [one.parts.get(name) for one in found]
    parts["words"] = [float(len(replies[name].split())) for name in names]
    return parts


def summary(parts: Parts, dialogues: Sequence[str]) -> dict[str, Any]:
    """Mean, interval and number of the missing for each part."""
    rows = {}
    for name, values in parts.items():
        kept = [(v, d) for v, d in zip(values, dialogues, strict=True) if v is not None]
        if kept:
            numbers, groups = zip(*kept, strict=True)
            rows[name] = asdict(interval(mean_of(numbers), resamples(groups))) | {"missing": len(values) - len(kept)}
    return rows


def differences(parts: Parts, first: Parts, dialogues: Sequence[str]) -> dict[str, Any]:
    """How far each part's mean lies above the first report's, on the items that both have."""
    rows = {}
    for name in parts.keys() & first.keys():
        columns = zip(parts[name], first[name], dialogues, strict=True)
        kept = [(a, b, d) for a, b, d in columns if a is not None and b is not None]
        if kept:
            ours, theirs, groups = zip(*kept, strict=True)
            rows[name] = asdict(paired_difference(mean_of(ours), mean_of(theirs), groups))
    return rows


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table of the reports, a row for each part."""
    names = list(found)
    lines = [f"| part | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    parts = {part: None for one in found.values() for part in one["parts"]}
    for part in parts:
        cells = []
        for name in names:
            row, gap = found[name]["parts"].get(part), found[name]["differences"].get(part)
            cell = f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})" if row else ""
            cells.append(cell + (f", {gap['value']:+.3f} (p {gap['p']:.3f})" if gap else ""))
        lines.append(f"| {part} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=Path, nargs="+", required=True, help="of train.evaluate --responses")
    parser.add_argument("--reward", default="embedded", help="embedded, or the folder of a trained reward model")
    parser.add_argument("--out", type=Path, help="JSON with all figures")
    parser.add_argument("--readme", type=Path, help="a file with reward marks")
    args = parser.parse_args(argv)
    splits = read_mesc()
    known = {item.id: item for split in splits.values() for item in items_of(split)}
    situations = {name: situation_of(item) for name, item in known.items()}
    reward = rewarder_of(args.reward)
    answers = {path.stem: read_replies(path) for path in args.reports}
    items = list(answers[args.reports[0].stem][0])
    if any(list(replies) != items for replies, _ in answers.values()):
        raise DataError("Expected reports on the same items. Evaluate the checkpoints on the same split and limit.")
    dialogues = [name.rpartition("/")[0] for name in items]
    scored = {name: score(replies, situations, reward) | right for name, (replies, right) in answers.items()}
    others = reply_baselines(list(items_of(splits["train"])), [known[name] for name in items])
    for name, said in others.items():
        scored[name] = score(dict(zip(items, said, strict=True)), situations, reward)
    first = scored[args.reports[0].stem]
    found = {
        name: {
            "n": len(items),
            "parts": summary(parts, dialogues),
            "differences": differences(parts, first, dialogues) if parts is not first else {},
        }
        for name, parts in scored.items()
    }
    print(table(found))
    if args.out:
        write_file(args.out, lambda path: path.write_text(json.dumps(found, indent=1) + "\n"))
    if args.readme:
        put_between_marks(args.readme, "rewards", table(found))


if __name__ == "__main__":
    run_command(main)
