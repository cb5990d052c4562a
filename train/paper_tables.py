"""The paper's tables with our rows in them: systems on MESC's four tasks (its table 4), and what is left out (its table 7,
SMES's tables VI and VII).

    python -m train.paper_tables --reports R1.json R2.json ... [--ablations A.json] [--readme README.md]

Reports are those of ``train.evaluate --responses``, on the same items under the same protocol. Rows of the paper carry its own
figures; its BERTScore and our score of matched token states are on different scales and never share a column.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from multimood_core.errors import DataError
from train.config import run_command
from train.marks import put_between_marks
from train.report import load_report

_TASKS: Final = ("client_emotion", "therapist_emotion", "strategy")
_REPLIES: Final = {
    "bleu2_released": "BLEU-2 as released", "bleu2": "BLEU-2", "rouge_l": "ROUGE-L", "bertscore/roberta-large": "BERTScore",
    "tokenscore/minilm": "token score, MiniLM",
}  # fmt: skip
# Accuracy and weighted F1 of the three labels, then BLEU-2 (the released kind), ROUGE-L and BERTScore of the reply.
PAPER: Final[Mapping[str, tuple[str, str, str, float, float, float]]] = {
    "MultiMood SFT+GRPO, 7B": ("58.60 / 57.78", "99.33 / 99.00", "42.81 / 39.65", 6.18, 17.86, 86.80),
    "MultiMood SFT+Comp+GRPO, 7B": ("55.94 / 55.33", "99.11 / 99.11", "38.10 / 34.58", 5.42, 15.83, 86.00),
    "SMES": ("54.60 / 46.80", "96.10 / 64.00", "49.00 / 20.20", 5.13, 15.42, 86.80),
}
PAPER_ABLATIONS: Final[Mapping[str, tuple[str, str, str, float, float, float]]] = {
    "history 0": ("45.2 / 40.6", "98.9 / 91.2", "32.1 / 28.3", 3.9, 13.6, 85.2),
}
# Kind of ablations -> the marks between which its table stands.
_MARKS: Final = {"table7": "ablations", "smes": "smes"}
_HEAD: Final = ("system", "n", "client's emotion", "therapist's emotion", "strategy", *_REPLIES.values(), "not parsed")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _paper_line(name: str, row: tuple[str, str, str, float, float, float]) -> str:
    *labels, bleu, rouge, bert = row
    return _line((f"{name} (paper)", "", *map(str, labels), f"{bleu:.2f}", "", f"{rouge:.2f}", f"{bert:.2f}", "", ""))


def _our_line(name: str, n: int, tasks: Mapping[str, Any], replies: Mapping[str, Any] | None) -> str:
    labels = [f"{100 * t['accuracy']:.2f} / {100 * t['weighted_f1']:.2f}" if (t := tasks.get(task)) else "" for task in _TASKS]
    scores = [f"{100 * replies[key]:.2f}" if replies and key in replies else "" for key in _REPLIES]
    unparsed = {task: tasks[task]["n_unparsed"] for task in tasks if "n_unparsed" in tasks[task]}
    left = " / ".join(str(unparsed.get(task, 0)) for task in _TASKS) if unparsed else ""
    return _line((name, str(n), *labels, *scores, left))


def systems_table(reports: Sequence[Mapping[str, Any]]) -> str:
    """The paper's rows, ours, and the trivial baselines of the first report; below them each row's command.

    Raises:
        DataError: the reports are of different items or protocols, or have no replies.
    """
    first = reports[0]
    for report in reports:
        same = [report.get(key) == first.get(key) for key in ("data", "split", "protocol", "n")]
        if not all(same) or "responses" not in report:
            raise DataError(
                f"Expected reports with replies (--responses) on {first['data']}, {first.get('split')} split, "
                f"{first['protocol']}, n = {first['n']}; {report['command']} is another."
            )
    lines = [_line(_HEAD), "|---" * len(_HEAD) + "|", *(_paper_line(*pair) for pair in PAPER.items())]
    lines += [_our_line(f"**{r['system']}**", r["n"], r["tasks"], r["responses"]) for r in reports]
    lines += _baseline_lines(first)
    return "\n".join([*lines, "", *(f"- {report['system']}: `{report['command']}`" for report in reports)])


def _baseline_lines(report: Mapping[str, Any]) -> list[str]:
    replies = report.get("responses") or {"baselines": {}}
    return [
        *(_our_line(name, report["n"], tasks, None) for name, tasks in report["baselines"].items()),
        *(_our_line(name, report["n"], {}, row) for name, row in replies["baselines"].items()),
    ]


def _differences(name: str, found: Mapping[str, Any]) -> str:
    """What leaving this out costs, with the p of the paired bootstrap; empty where the report tells no differences."""
    wanted = dict.fromkeys(_TASKS, "accuracy") | {"response": "rouge_l"}
    names = dict(zip(wanted, (*_HEAD[2:5], _REPLIES["rouge_l"]), strict=True))
    gaps = {task: found.get("differences", {}).get(task, {}).get(key) for task, key in wanted.items()}
    told = [f"{names[task]} {100 * gap['value']:+.2f} (p {gap['p']:.3f})" for task, gap in gaps.items() if gap]
    return f"- everything less {name}, in points of accuracy and ROUGE-L: {', '.join(told)}" if told else ""


def ablations_table(report: Mapping[str, Any]) -> str:
    """What every variant scores, the paper's row beside ours, the trivial baselines, and why a row could not be run.

    Raises:
        DataError: the report is none of ``--ablations``.
    """
    if "variants" not in report:
        raise DataError(f"Expected a report of train.evaluate --ablations, but {report['command']} is none.")
    lines = [_line(_HEAD), "|---" * len(_HEAD) + "|"]
    lines.append(_our_line(f"**{report['system']}, everything**", report["n"], report["tasks"], report.get("responses")))
    for name, found in report["variants"].items():
        lines.append(_our_line(name, found["n"], found["tasks"], found.get("responses")))
        lines += [_paper_line(name, PAPER_ABLATIONS[name])] if name in PAPER_ABLATIONS else []
    lines += [_paper_line("SMES", PAPER["SMES"])] if report["ablations"] == "smes" else []
    lines += _baseline_lines(report)
    lines += ["", f"- `{report['command']}`"]
    lines += [line for name, found in report["variants"].items() if (line := _differences(name, found))]
    lines += [f"- {name} was not run: {reason}." for name, reason in report.get("not_run", {}).items()]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=Path, nargs="+", default=(), help="of train.evaluate --responses")
    parser.add_argument("--ablations", type=Path, nargs="+", default=(), help="of train.evaluate --ablations")
    parser.add_argument("--readme", type=Path, help="a file with systems, ablations and smes marks")
    args = parser.parse_args(argv)
    tables = {}
    if args.reports:
        tables["systems"] = systems_table([load_report(path) for path in args.reports])
    for report in map(load_report, args.ablations):
        tables[_MARKS[report.get("ablations", "table7")]] = ablations_table(report)
    if not tables:
        parser.error("--reports or --ablations is required")
    for name, lines in tables.items():
        print(f"{lines}\n")
        if args.readme:
            put_between_marks(args.readme, name, lines)


if __name__ == "__main__":
    run_command(main)
