"""Is an LLM judge to be trusted? Judges against people on the same replies (MentalAlign; Badawi et al. 2025).

    python -m train.judge_trust [--data DIR] [--out T.json]

DIR holds ``human.csv`` and a table for each judge; ``MULTIMOOD_DATA``/mentalalign by default. Prints agreement, bias and
rank correlation with 95 % intervals, for each judge and attribute.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import Any, Final

from multimood_core.documents import Block, Command, Heading, Picture, Table, Text, as_markdown
from multimood_core.errors import DataError
from multimood_core.figures import intervals
from multimood_core.judge_trust import Ratings, read_ratings, system_spearman, trust_table
from train.config import run_command
from train.report import write_blocks
from train.turns import data_root

_PEOPLE: Final = "human"
_COLUMNS: Final = {
    "consistency": "ICC(C,1)", "agreement": "ICC(A,1)", "spearman": "Spearman", "bias": "bias", "exact": "equal",
}  # fmt: skip
_COMMAND: Final = "python -m train.judge_trust"


def compare_judges(people: Ratings, judges: Mapping[str, Ratings], samples: int, seed: int = 0) -> dict[str, Any]:
    """Judge -> attribute -> statistics, and ``systems``: whether the judge orders the systems as people do."""
    found: dict[str, Any] = {}
    for name, ratings in judges.items():
        table = trust_table(people, ratings, samples, seed)
        order = system_spearman(
            people.scores.mean(1), ratings.scores.mean(1), people.conversations, people.systems, samples, seed
        )
        found[name] = {
            "attributes": {key: _plain(asdict(value)) for key, value in table.items()},
            "systems": _plain(asdict(order)),
        }
    return found


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without NaN, which JSON does not know: what is not defined is null."""
    return {
        key: _plain(value) if isinstance(value, dict) else None if isinstance(value, float) and isnan(value) else value
        for key, value in values.items()
    }


def blocks_of(report: Mapping[str, Any]) -> Iterator[Block]:
    """The report as blocks."""
    yield Heading("Judges against people", 1)
    yield Text(
        f"{report['n']} replies of {report['systems']} systems in {report['conversations']} conversations, rated from 1 to 5 "
        "by people and by each judge. Bias is the judge's mean less the people's, in points. Intervals (95 %) resample whole "
        f"conversations {report['samples']} times."
    )
    yield Command(report["command"])
    for name, judge in report["judges"].items():
        yield Heading(name)
        yield Table(
            ("attribute", "n", "missing", *_COLUMNS.values()),
            [
                (attribute, str(row["n"]), str(row["n_missing"]), *(_cell(row[key]) for key in _COLUMNS))
                for attribute, row in judge["attributes"].items()
            ],
        )
        yield Text(
            f"Order of the {report['systems']} systems by their mean rating, rank correlation: {_cell(judge['systems'])}."
        )
    yield Heading("Beside each other")
    for key, label in _COLUMNS.items():
        rows = {name: judge["attributes"]["mean"][key] for name, judge in report["judges"].items()}
        shown = {name: (row["value"], row["low"], row["high"]) for name, row in rows.items() if row["low"] is not None}
        yield Picture(
            f"judges-{key}", f"{label} of each judge's mean rating.", intervals(shown, label, zero=key == "bias")
        )


def _cell(row: Mapping[str, float | None]) -> str:
    if row["value"] is None:
        return "not defined"
    return f"{row['value']:.3f}" + (f" [{row['low']:.3f}, {row['high']:.3f}]" if row["low"] is not None else "")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with human.csv and a table for each judge")
    parser.add_argument("--samples", type=int, default=1000, help="resamples for the intervals")
    parser.add_argument("--out", type=Path, help="JSON with everything, Markdown and HTML beside it")
    args = parser.parse_args(argv)
    folder = args.data or data_root() / "mentalalign"
    tables = {path.stem: path for path in sorted(folder.glob("*.csv"))}
    if _PEOPLE not in tables or len(tables) < 2:
        raise DataError(
            f"Expected human.csv and at least one judge's table in {folder}, got {', '.join(tables) or 'none'}."
        )
    people = read_ratings(tables.pop(_PEOPLE))
    report = {
        "n": len(people.conversations),
        "conversations": len(set(people.conversations)),
        "systems": len(set(people.systems)),
        "samples": args.samples,
        "judges": compare_judges(people, {name: read_ratings(path) for name, path in tables.items()}, args.samples),
        "command": _COMMAND + (f" --samples {args.samples}" if args.samples != parser.get_default("samples") else ""),
    }
    blocks = list(blocks_of(report))
    print(as_markdown([block for block in blocks if not isinstance(block, Picture)], ""))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1), encoding="utf-8")
        write_blocks(blocks, args.out)


if __name__ == "__main__":
    run_command(main)
