"""Have several LLM judges score two systems' replies to the same turns, such as before and after RL (paper, Table 2).

    python -m train.judge_replies --reports SFT.json GRPO.json --judges MODEL [MODEL ...] [--url URL] --out J.json

The reports are those of ``train.evaluate --responses`` on the same split. A judge sees both replies without their systems'
names, twice, with the two exchanged, and gives each seven scores from 0 to 10. Keys are read from MULTIMOOD_JUDGE_KEY or
OPENAI_API_KEY; answers are kept beside ``--out``, so a run that was stopped goes on. Whether a judge is to be trusted at all
is what ``train.judge_trust`` measures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from multimood_core import figures
from multimood_core.dialogues import items_of, read_dialogues
from multimood_core.documents import Block, Command, Heading, Picture, Table, Text
from multimood_core.endpoint import Endpoint, EndpointSettings, key_of_environment
from multimood_core.errors import DataError
from multimood_core.pair_judge import judge_pairs, mean_over_judges, summary
from multimood_core.reward_scores import situation_of
from multimood_core.rewards import ReplySituation
from train.config import run_command
from train.data import read_mesc
from train.report import load_report, write_blocks


def replies_of(report: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Item id -> reply; an answer that never came is an empty reply.

    Raises:
        DataError: the report has no replies.
    """
    if not report.get("responses") or not report.get("items"):
        raise DataError(f"Expected a report with replies at {path}. Run train.evaluate with --responses and --out.")
    return {item["id"]: item["response"] or "" for item in report["items"]}


def situations_of(data: str, split: str) -> dict[str, tuple[ReplySituation, str]]:
    """Item id -> what a reply answers, and its dialogue.

    Args:
        data: mesc, or a file of dialogues.
        split: of MESC.
    """
    dialogues = read_mesc()[split] if data == "mesc" else read_dialogues(Path(data))
    return {item.id: (situation_of(item), item.dialogue.id) for item in items_of(dialogues)}


def name_of(report: Mapping[str, Any]) -> str:
    """The system's name, which no judge is told."""
    return str(report.get("system") or report["checkpoint"]["name"])


def judge(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that ``--out`` holds.

    Raises:
        DataError: the reports have no replies, share no items, or are of other data than ``--data``.
    """
    reports = [load_report(path) for path in args.reports]
    first, second = (replies_of(report, path) for report, path in zip(reports, args.reports, strict=True))
    if len({report.get("split") for report in reports}) > 1:
        raise DataError(f"Expected two reports of one split, got {' and '.join(str(r.get('split')) for r in reports)}.")
    situations = situations_of(args.data, reports[0].get("split", "test"))
    shared = [key for key in first if key in second and key in situations][: args.limit]
    if not shared:
        raise DataError(f"Expected two reports on items of {args.data}, but they share none of its items.")
    asked = [situations[key] for key in shared]
    names = [name_of(report) for report in reports]
    labels = names if len(set(names)) > 1 else [f"{name} ({path.stem})" for name, path in zip(names, args.reports, strict=True)]
    found, calls = {}, {}
    for model in args.judges:
        cache = args.cache or args.out.with_name(f"{args.out.stem}.answers.db")
        settings = EndpointSettings(
            model, args.url, key_of_environment(), concurrency=args.concurrency, cache=cache, price_in=args.price_in,
            price_out=args.price_out,
        )  # fmt: skip
        endpoint = Endpoint(settings)
        pairs = [situation for situation, _ in asked], [first[k] for k in shared], [second[k] for k in shared]
        found[model] = judge_pairs(endpoint, *pairs, names)
        calls[model] = endpoint.report()
    dialogues = [dialogue for _, dialogue in asked]
    judges = {model: summary(judged, dialogues) for model, judged in found.items()}
    if len(judges) > 1:
        judges["mean of the judges"] = summary(mean_over_judges(found), dialogues)
    return {"systems": labels, "split": reports[0].get("split"), "n": len(shared), "judges": judges, "calls": calls}


def document(found: Mapping[str, Any]) -> Iterator[Block]:
    """Table 2 for each judge, with the differences and what the place alone did."""
    first, second = found["systems"]
    yield Heading(f"LLM judges: {first} and {second}", 1)
    judged = "Seven dimensions from 0 to 10; each pair was judged blind in both orders."
    yield Text(f"n = {found['n']}, split {found['split']}. {judged}")
    yield Command(found["command"])
    for model, about in found["judges"].items():
        yield Heading(model)
        yield Text(f"{about['n']} pairs judged, {about['n_missing']} without an answer that could be read.")
        if "scores" not in about:
            continue
        rows = []
        for name, (a, b) in about["scores"].items():
            gap = about["differences"][name]
            rows.append(
                (name, *(f"{side['value']:.2f} ({side['low']:.2f} to {side['high']:.2f})" for side in (a, b)),
                 f"{gap['value']:+.2f} ({gap['low']:+.2f} to {gap['high']:+.2f})", f"{gap['p']:.3f}")
            )  # fmt: skip
        yield Table(("dimension", first, second, f"{second} less {first}", "p"), rows)
        shown = {name: (gap["value"], gap["low"], gap["high"]) for name, gap in about["differences"].items()}
        picture = figures.intervals(shown, "points", zero=True)
        yield Picture(f"{model.replace('/', '-')}-differences", f"{second} less {first}, with 95 % intervals.", picture)
        place = about["place"]
        yield Text(
            f"Being shown first is worth {place['value']:+.2f} points ({place['low']:+.2f} to {place['high']:+.2f}); the same "
            f"reply was the better one, or both were equal, in both orders for {100 * about['same_verdict']:.0f} % of the pairs."
        )
    for model, calls in found["calls"].items():
        cost = "cost not known" if calls["cost"] is None else f"cost {calls['cost']:.2f}"
        yield Text(f"{model}: {calls['calls']} calls, {calls['failed']} failed, {calls['cached']} from the disk, {cost}.")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=Path, nargs=2, required=True, metavar=("BEFORE", "AFTER"))
    parser.add_argument("--judges", nargs="+", required=True, metavar="MODEL", help="behind the endpoint, one after another")
    parser.add_argument("--url", help="of the endpoint; OpenAI's by default")
    parser.add_argument("--data", default="mesc", help="mesc, or the file of dialogues that the reports are of")
    parser.add_argument("--limit", type=int, help="items at the most")
    parser.add_argument("--cache", type=Path, help="file for the answers; beside --out by default")
    parser.add_argument("--concurrency", type=int, default=8, help="calls at a time")
    parser.add_argument("--price-in", type=float, help="money per million tokens read, to state the cost")
    parser.add_argument("--price-out", type=float, help="money per million tokens written")
    parser.add_argument("--out", type=Path, required=True, help="JSON with everything, Markdown and HTML beside it")
    args = parser.parse_args(argv)
    data = [] if args.data == "mesc" else ["--data", Path(args.data).name]
    words = ["--reports", *(path.name for path in args.reports), "--judges", *args.judges, *data]
    found = judge(args) | {"command": " ".join(["python -m train.judge_replies", *words])}
    args.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    blocks = list(document(found))
    write_blocks(blocks, args.out)
    for block in blocks:
        if isinstance(block, Table):
            print(*("  ".join(f"{cell:28s}" for cell in row) for row in (block.header, *block.rows)), sep="\n")
        elif isinstance(block, Heading | Text):
            print(block.text)


if __name__ == "__main__":
    run_command(main)
