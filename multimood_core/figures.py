"""Figures of evaluations and of training runs as SVG text; nothing in them refers to another host."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_INK: Final = "#1f2933"
_FILL: Final = "#2f6f8f"
_SOFT: Final = "#c9d6df"
# Blue and vermilion of Okabe and Ito, told apart with every kind of colour vision; the dashes say it once more.
_LINES: Final = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", ":"), ("#CC79A7", "-."))
_STYLE: Final[dict[Any, Any]] = {"svg.fonttype": "none", "svg.hashsalt": "multimood"}  # the same figure, the same file
_DRAWING: Final = Lock()  # matplotlib's settings are the process's, and the app draws for several people


@dataclass(frozen=True, slots=True)
class Line:
    """One run's measure by step: as it was logged, smoothed, and as validation saw it."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    smooth: Sequence[float]
    validation: Sequence[tuple[float, float]] = ()


def confusion(table: Mapping[str, Mapping[str, int]]) -> str:
    """True classes as rows, answers as columns, shades by row, counts written in."""
    rows, columns = list(table), list(next(iter(table.values())))
    counts = np.array([[table[row][column] for column in columns] for row in rows], dtype=float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes = _axes(1.6 + 0.6 * len(columns), 1.2 + 0.4 * len(rows))
    axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1)
    axes.invert_yaxis()
    for i, row in enumerate(counts):
        for j, count in enumerate(row):
            axes.text(
                j + 0.5,
                i + 0.5,
                f"{count:.0f}",
                ha="center",
                va="center",
                color="white" if shares[i, j] > 0.55 else _INK,
            )
    axes.set_xticks(np.arange(len(columns)) + 0.5, [*map(_plain, columns)], rotation=35, ha="right")
    axes.set_yticks(np.arange(len(rows)) + 0.5, [*map(_plain, rows)])
    axes.set(xlabel="answer", ylabel="truth")
    return _svg(axes)


def reliability(bins: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy against confidence; a calibrated system lies on the line. The number of answers stands at each bar."""
    axes = _axes(4.2, 3.2)
    axes.plot([0, 1], [0, 1], color=_SOFT, linestyle="--")
    for row in bins:
        axes.bar(row["low"], row["accuracy"], width=row["high"] - row["low"], align="edge", color=_SOFT, edgecolor=_INK)
        axes.plot(row["confidence"], row["accuracy"], "o", color=_FILL)
        axes.text((row["low"] + row["high"]) / 2, row["accuracy"] + 0.02, str(row["n"]), ha="center")
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.1))
    return _svg(axes)


def bars(values: Mapping[str, float], label: str) -> str:
    """One bar for each name, in the order given."""
    axes = _axes(4.6, 0.8 + 0.28 * len(values))
    places = np.arange(len(values))[::-1]
    axes.barh(places, list(values.values()), color=_FILL)
    axes.set_yticks(places, [*map(_plain, values)])
    axes.axvline(0, color=_INK, linewidth=0.8)
    for place, value in zip(places, values.values(), strict=True):
        axes.text(value, place, f" {value:.2f}", va="center", ha="left" if value >= 0 else "right")
    low, high = min(0.0, *values.values()), max(0.0, *values.values())
    room = 0.2 * (high - low or 1)
    axes.set(xlabel=label, xlim=(low - (room if low < 0 else 0), high + room))
    return _svg(axes)


def intervals(rows: Mapping[str, tuple[float, float, float]], label: str, zero: bool = False) -> str:
    """A point with its interval for each name: value, low, high; ``zero`` draws where there is no difference."""
    axes = _axes(5.4, 0.8 + 0.3 * len(rows))
    places = np.arange(len(rows))[::-1]
    for place, (value, low, high) in zip(places, rows.values(), strict=True):
        axes.plot([low, high], [place, place], color=_INK)
        axes.plot(value, place, "o", color=_FILL)
    if zero:
        axes.axvline(0, color=_SOFT, linestyle="--")
    axes.set_yticks(places, [*map(_plain, rows)])
    axes.set(xlabel=label, ylim=(-0.6, len(rows) - 0.4))
    return _svg(axes)


def curve(lines: Sequence[Line], label: str) -> str:
    """A measure by step: each run smoothed, its raw line behind it, its validations as circles."""
    axes = _axes(5.2, 2.9)
    draw_curve(axes, lines, label)
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize="small")
    return _svg(axes)


def draw_curve(axes: Axes, lines: Sequence[Line], label: str) -> None:
    """``curve`` into a panel; the n-th line looks the same in every panel."""
    for number, line in enumerate(lines):
        colour, dashes = _LINES[number % len(_LINES)]
        if line.values:
            axes.plot(line.steps, line.values, color=colour, alpha=0.3, linewidth=0.7)
            axes.plot(line.steps, line.smooth, dashes, color=colour, label=_plain(line.name), linewidth=1.6)
        if line.validation:
            name = None if line.values else _plain(line.name)
            axes.plot(*zip(*line.validation, strict=True), "o", color=colour, markersize=4, fillstyle="none", label=name)
    axes.set(xlabel="step", ylabel=label)


def _plain(name: str) -> str:
    """A name that is no formula, whatever stands in it."""
    return name.replace("$", r"\$")


def _axes(width: float, height: float) -> Axes:
    axes = Figure(figsize=(width, height)).add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _svg(axes: Axes) -> str:
    figure, file = axes.get_figure(root=True), io.StringIO()
    assert figure is not None
    with _DRAWING, matplotlib.rc_context(_STYLE):
        figure.savefig(
            file,
            format="svg",
            bbox_inches="tight",
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    # Without the XML head, whose DTD names a host, the text can stand in a page as it is.
    return re.sub(r"<metadata>.*?</metadata>", "", file.getvalue()[file.getvalue().index("<svg") :], flags=re.DOTALL)
