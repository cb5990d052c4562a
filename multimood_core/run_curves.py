"""What a training run logged by step (``metrics.jsonl`` of ``train.loop``): read, smoothed, and thinned to be kept.

A checkpoint that is handed on keeps its curve beside its weights as ``CURVES``: the same lines, each the mean over so many
steps that a few hundred remain.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from multimood_core.errors import DataError
from multimood_core.figures import Line

METRICS: Final = "metrics.jsonl"  # of a run
CURVES: Final = "curves.jsonl"  # beside a checkpoint
KEPT_ROWS: Final = 240  # a figure of five inches shows no more
MAX_BYTES: Final = 64 * 2**20
_VALIDATION: Final = "val/"


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure by step, as training logged it and as validation did."""

    training: Sequence[tuple[int, float]] = ()
    validation: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True, slots=True)
class RunCurves:
    """All measures of a run. ``unreadable`` counts lines that are none, such as one that is being written."""

    measures: Mapping[str, Measure]
    steps: int
    unreadable: int = 0


def read_curves(path: Path) -> RunCurves:
    """The measures of a ``metrics.jsonl`` or ``curves.jsonl``. Values that are no numbers are left out.

    Raises:
        DataError: the file cannot be read, or not one line of it tells a step.
    """
    rows, unreadable = _rows(path)
    training: dict[str, list[tuple[int, float]]] = {}
    validation: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float) and math.isfinite(value):
                place = validation if name.startswith(_VALIDATION) else training
                place.setdefault(name.removeprefix(_VALIDATION), []).append((row["step"], float(value)))
    names = dict.fromkeys([*training, *validation])
    measures = {name: Measure(training.get(name, ()), validation.get(name, ())) for name in names}
    return RunCurves(measures, max(row["step"] for row in rows), unreadable)


def _rows(path: Path) -> tuple[list[dict[str, Any]], int]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"Expected a run's metrics of at most {MAX_BYTES >> 20} MB, got {path.stat().st_size >> 20} MB.")
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as cause:
        raise DataError(f"Expected a run's metrics in {path.name}: {cause.strerror}.") from cause
    rows, unreadable = [], 0
    for line in lines:
        try:
            row = json.loads(line)
            good = isinstance(row, dict) and isinstance(row.get("step"), int)
        except (ValueError, RecursionError):
            good = False
        if good:
            rows.append(row)
        else:
            unreadable += 1
    if not rows:
        raise DataError(f"Expected a run's metrics in {path.name}, a line of JSON with its step for each step, got none.")
    return rows, unreadable


def smoothed(steps: Sequence[int], values: Sequence[float], window: int) -> list[float]:
    """Mean over the values of the last ``window`` steps, or of as many as there are.

    Args:
        steps: of the values, rising.
        values: one for each step that was logged.
        window: in steps, the value's own included.
    """
    at, sums = np.asarray(steps), np.cumsum([0.0, *values])
    begins, ends = np.searchsorted(at, at - window, side="right"), np.arange(1, len(at) + 1)
    return list(map(float, (sums[ends] - sums[begins]) / (ends - begins)))


def line_of(name: str, curves: RunCurves, measure: str, window: int) -> Line | None:
    """A run's line in a panel; None where it did not log the measure."""
    found = curves.measures.get(measure)
    if found is None:
        return None
    steps, values = [step for step, _ in found.training], [value for _, value in found.training]
    return Line(name, steps, values, smoothed(steps, values, window), found.validation)


def keep_curves(run: Path, folder: Path, most: int = KEPT_ROWS) -> Path | None:
    """Write a run's curves, thinned, as ``CURVES`` into a checkpoint's folder.

    Args:
        run: the run's folder; where it has no metrics, but its own ``CURVES``, these are taken.
        folder: the checkpoint's; it exists.
        most: lines of training at the most, each the mean over as many steps as that takes.

    Returns:
        The file, or None where the run has nothing to keep.

    Raises:
        DataError: the run's metrics hold nothing.
    """
    found = next((path for path in (run / METRICS, run / CURVES) if path.is_file()), None)
    if found is None:
        return None
    rows, _ = _rows(found)
    trained = [row for row in rows if not any(name.startswith(_VALIDATION) for name in row)]
    validated = [row for row in rows if any(name.startswith(_VALIDATION) for name in row)]
    stride = max(1, math.ceil(len(trained) / most))
    means = [_mean(trained[begin : begin + stride]) for begin in range(0, len(trained), stride)]
    kept = sorted([*means, *map(_rounded, validated)], key=lambda row: row["step"])
    path = folder / CURVES
    path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    return path


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The rows in one, at the last one's step."""
    names = dict.fromkeys(name for row in rows for name in row if name != "step")
    known = {name: [row[name] for row in rows if isinstance(row.get(name), int | float)] for name in names}
    return _rounded({"step": rows[-1]["step"]} | {n: sum(v) / len(v) for n, v in known.items() if v})


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in row.items()}
