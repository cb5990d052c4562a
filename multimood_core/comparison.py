"""Differences between two systems on the same items, each with an interval and a p of its own (paired bootstrap)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from multimood_core.bootstrap import Difference, f1_of, mean_of, paired_difference, uar_of
from multimood_core.errors import DataError

REPLY_METRICS: Final = (
    "bleu2_released",
    "bleu2",
    "rouge_l",
    "meteor",
    "meteor_stem",
    "bertscore/roberta-large",
    "tokenscore/minilm",
)


def label_differences(
    truth: Sequence[str], first: Sequence[str | None], second: Sequence[str | None], groups: Sequence[str]
) -> dict[str, Difference]:
    """First less second labels, for each score of a classification; None is wrong."""
    statistics = {
        "accuracy": [mean_of([t == p for t, p in zip(truth, said, strict=True)]) for said in (first, second)],
        "weighted_f1": [f1_of(truth, said, "weighted") for said in (first, second)],
        "macro_f1": [f1_of(truth, said, "macro") for said in (first, second)],
        "uar": [uar_of(truth, said) for said in (first, second)],
    }
    return {name: paired_difference(a, b, groups) for name, (a, b) in statistics.items()}


def reply_differences(
    first: Mapping[str, Sequence[float]], second: Mapping[str, Sequence[float]], groups: Sequence[str]
) -> dict[str, Difference]:
    """First less second replies, for each score that both have of every item."""
    return {
        name: paired_difference(mean_of(list(first[name])), mean_of(list(second[name])), groups)
        for name in REPLY_METRICS
        if name in first and name in second
    }


def compare_reports(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """What ``python -m train.evaluate --compare`` shows: differences of two reports on the items that both have.

    Raises:
        DataError: a report has no items, or they share none, or disagree about the truth.
    """
    rows = [_items(report) for report in (first, second)]
    shared = [key for key in rows[0] if key in rows[1]]
    if not shared:
        raise DataError(
            "Expected reports of the same items, but they share none. Were they made on the same data and split?"
        )
    for key in shared:
        if _truth(rows[0][key]) != _truth(rows[1][key]):
            raise DataError(
                f"The two reports disagree about the truth of item {key}: they were made on different data."
            )
    groups = [rows[0][key].get("group") or key.rpartition("/")[0] or key for key in shared]
    tasks: dict[str, dict[str, Any]] = {}
    for task in _truth(rows[0][shared[0]]):
        truth = [_truth(rows[0][key])[task] for key in shared]
        said = [[_label(row[key], task) for key in shared] for row in rows]
        tasks[task] = _plain(label_differences(truth, said[0], said[1], groups))
    if all(report.get("responses") for report in (first, second)):
        scores = [_reply_items(report, shared) for report in (first, second)]
        tasks["response"] = _plain(reply_differences(scores[0], scores[1], groups))
    return {
        "n": len(shared),
        "n_only_first": len(rows[0]) - len(shared),
        "n_only_second": len(rows[1]) - len(shared),
        "dialogues": len(set(groups)),
        "first": _about(first),
        "second": _about(second),
        "differences": tasks,
    }


def side_by_side(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """``compare_reports``, and without differences where there can be none; ``unpaired`` then says why."""
    try:
        return compare_reports(first, second)
    except DataError as cause:
        return {"first": _about(first), "second": _about(second), "differences": {}, "unpaired": str(cause)}


def _about(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report's head and scores, without its single items: what a document of the comparison shows of it."""
    kept = ("system", "checkpoint", "data", "split", "protocol", "command", "date", "n", "tasks")
    scores = {
        key: {name: value for name, value in found.items() if name not in ("items", "baselines")}
        for key in ("responses", "rewards")
        if (found := report.get(key))
    }
    return {key: report.get(key) for key in kept} | scores


def _items(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    if not report.get("items"):
        raise DataError(
            "Expected a report with its single items, as --out writes it; those beside a model card have none."
        )
    return {item["id"]: item for item in report["items"]}


def _truth(item: Mapping[str, Any]) -> Mapping[str, str]:
    truth = item["truth"]
    return {"client_emotion": truth} if isinstance(truth, str) else truth


def _label(item: Mapping[str, Any], task: str) -> str | None:
    predicted = item["predicted"] or {}
    found = predicted if "label" in predicted else predicted.get(task)
    return found["label"] if found else None


def _reply_items(report: Mapping[str, Any], shared: Sequence[str]) -> dict[str, list[float]]:
    places = {item["id"]: i for i, item in enumerate(report["items"])}
    return {name: [values[places[key]] for key in shared] for name, values in report["responses"]["items"].items()}


def _plain(found: Mapping[str, Difference]) -> dict[str, Any]:
    return {name: asdict(difference) for name, difference in found.items()}
