"""Write the documents of stored evaluations anew, without evaluating.

    python -m train.report R.json [R2.json ...]

Beside each R.json come R.md with its figures in R.figures, and R.html, one page that needs no other file.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from multimood_core.documents import Block, as_html, as_markdown, pictures
from multimood_core.errors import DataError
from multimood_core.reports import blocks_of
from multimood_core.stored_reports import read_report
from train.config import run_command


def write_reports(report: Mapping[str, Any], path: Path) -> None:
    """The Markdown and HTML documents of the report that stands at ``path``."""
    write_blocks(blocks_of(report), path)


def write_blocks(blocks: Sequence[Block], path: Path) -> None:
    """The blocks as Markdown with its figures, and as HTML, beside ``path``."""
    folder = path.with_suffix(".figures")
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures(blocks):
        (folder / f"{picture.name}.svg").write_text(picture.svg, encoding="utf-8")
    path.with_suffix(".md").write_text(as_markdown(blocks, folder.name), encoding="utf-8")
    path.with_suffix(".html").write_text(as_html(blocks), encoding="utf-8")


def load_report(path: Path) -> dict[str, Any]:
    """The report that stands at ``path``.

    Raises:
        DataError: it is no report of ``train.evaluate``; says where and why.
    """
    try:
        return read_report(path)
    except DataError as cause:
        raise DataError(f"{path}: {cause}") from cause


def print_table(report: Mapping[str, Any]) -> None:
    """The scores beside their baselines, the protocol named."""
    print(f"{report['data']}, {report['protocol']}, n = {report['n']}")
    name = "this checkpoint" if report.get("checkpoint") else report.get("system", "this system")
    for variant, found in {"": report, **report.get("variants", {})}.items():
        print(*([f"  {variant}"] if variant else []), sep="", end="\n" if variant else "")
        for task, scores in found["tasks"].items():
            rows = {name: scores} | (
                {} if variant else {n: b[task] for n, b in report["baselines"].items() if task in b}
            )
            for system, row in rows.items():
                figures = "  ".join(f"{key} {row[key]:.4f}" for key in ("accuracy", "weighted_f1", "macro_f1", "uar"))
                left = (
                    f"  unparsed {row['n_unparsed']}  missing {row['n_missing']}"
                    if row.get("n_unparsed") or row.get("n_missing")
                    else ""
                )
                print(f"  {task:18s} {system:36s} {figures}{left}")
        if found.get("responses"):
            others = {} if variant else found["responses"]["baselines"]
            for system, row in {name: found["responses"], **others}.items():
                keys = [
                    key
                    for key in ("bleu2_released", "bleu2", "rouge_l", "meteor_stem", "tokenscore/minilm")
                    if key in row
                ]
                print(f"  {'response':18s} {system:36s} " + "  ".join(f"{key} {row[key]:.4f}" for key in keys))
    for word, count in report.get("n_left_out", {}).items():
        print(f"  left out: {count} labelled {word!r}, which is none of the seven emotions")
    for reason, count in report.get("n_unreadable", {}).items():
        print(f"  could not be read, so wrong: {count} ({reason})")
    for variant, reason in report.get("not_run", {}).items():
        print(f"  not run: {variant}, since {reason}")


def print_comparison(found: Mapping[str, Any]) -> None:
    """Differences with interval and p."""
    print(
        f"{found['first']['command']}\n  less\n{found['second']['command']}\n  n = {found['n']} in {found['dialogues']} groups"
    )
    for task, scores in found["differences"].items():
        for key, d in scores.items():
            print(f"  {task:18s} {key:24s} {d['value']:+.4f}  [{d['low']:+.4f}, {d['high']:+.4f}]  p {d['p']:.4f}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", type=Path, nargs="+")
    for path in parser.parse_args(argv).reports:
        write_reports(load_report(path), path)
        print(path.with_suffix(".html"))


if __name__ == "__main__":
    run_command(main)
