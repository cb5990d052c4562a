"""Reports of evaluations on the disk: read with care, since anything may lie in their folder, and told in a line.

A report is one system's, the comparison of two (``train.evaluate --compare``), or rewards of replies (``train.score_rewards``).
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from multimood_core.errors import DataError

MAX_BYTES: Final = 128 * 2**20  # MESC's test split with every score of every reply takes some megabytes
_EVALUATION: Final[dict[str, type]] = {
    "data": str, "protocol": str, "n": int, "tasks": dict, "baselines": dict, "command": str,
}  # fmt: skip
_COMPARISON: Final[dict[str, type]] = {"first": dict, "second": dict, "differences": dict, "command": str}


@dataclass(frozen=True, slots=True)
class ReportHead:
    """What a list says of a report. ``sha256`` is the checkpoint's; ``n`` None where a comparison shares no items.

    ``kind`` is evaluation, ablations, comparison or rewards. ``scores``: accuracy of each task, for a glance. ``paired``: it
    holds single items, so differences can be worked out.
    """

    kind: str
    system: str
    data: str
    split: str
    protocol: str
    date: datetime.datetime
    sha256: str
    n: int | None
    scores: Mapping[str, float]
    paired: bool


def read_report(path: Path) -> dict[str, Any]:
    """A report as ``train.evaluate --out`` writes it, of a system or of a comparison.

    Raises:
        DataError: the file cannot be read, or is no such report; says what is wrong with it, not where it lies.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"Expected a report of at most {MAX_BYTES >> 20} MB, got {path.stat().st_size >> 20} MB.")
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise DataError(f"Expected a report of train.evaluate, but it cannot be read: {cause.strerror}.") from cause
    except (ValueError, RecursionError) as cause:
        raise DataError(f"Expected a report of train.evaluate, but this is no whole JSON ({cause}).") from cause
    if holds_rewards(report):
        return report
    expected = _COMPARISON if isinstance(report, dict) and "first" in report else _EVALUATION
    wrong = [key for key, kind in expected.items() if not isinstance(report, dict) or not isinstance(report.get(key), kind)]
    if wrong:
        raise DataError(f"Expected a report of train.evaluate, but {', '.join(wrong)} is absent or of another form.")
    return report


def holds_rewards(report: Any) -> bool:
    """Whether this is what ``train.score_rewards --out`` writes: rewards of replies, by the name of their system."""
    known = isinstance(report, dict) and bool(report)
    return known and all(isinstance(one, dict) and {"n", "parts", "differences"} <= set(one) for one in report.values())


def head_of(report: Mapping[str, Any], written: float) -> ReportHead:
    """The line of a report that ``read_report`` gave.

    Args:
        report: of a system or of a comparison.
        written: when its file was written, in seconds since 1970, for reports that do not tell their date.

    Raises:
        DataError: a part is not of the form that it has in a report.
    """
    try:
        date = datetime.datetime.fromtimestamp(written, datetime.UTC)
        if holds_rewards(report):
            n = max(one["n"] for one in report.values())
            return ReportHead("rewards", " and ".join(report), "", "", "", date, "", n, {}, False)
        if told := report.get("date"):
            date = datetime.datetime.fromisoformat(told).astimezone(datetime.UTC)
        if "first" in report:
            sides = [report[key] for key in ("first", "second")]
            data, split, protocol = (_joined(side.get(key) for side in sides) for key in ("data", "split", "protocol"))
            system = " and ".join(_system(side) for side in sides)
            return ReportHead("comparison", system, data, split, protocol, date, "", report.get("n"), {}, False)
        checkpoint = report.get("checkpoint") or {}
        accuracies = {str(task): float(scores["accuracy"]) for task, scores in report["tasks"].items()}
        return ReportHead(
            "ablations" if report.get("variants") else "evaluation",
            _system(report),
            report["data"],
            _words(report.get("split") or "all"),
            report["protocol"],
            date,
            _words(checkpoint.get("sha256") or ""),
            report["n"],
            accuracies,
            bool(report.get("items")),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as cause:
        raise DataError(f"Expected a report of train.evaluate, but a part of it is of another form ({cause!r}).") from cause


def _system(report: Mapping[str, Any]) -> str:
    """The system's name; reports from before it was written down have their checkpoint's."""
    return _words(report.get("system") or (report.get("checkpoint") or {}).get("name") or "not named")


def _joined(values: Any) -> str:
    return " / ".join(dict.fromkeys(str(value) for value in values if value))


def _words(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text expected, got {value!r}")
    return value
