"""Results for people: one template for the results page and for the report that prints on A4; plots are vector."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any, Final

import jinja2
from sqlalchemy import Connection

from app.studies.lookup import criteria_in, settings_in, study_row
from app.studies.overview import pair_states, raters_of, systems_of
from app.studies.results import results

TEMPLATES: Final = Path(__file__).resolve().parents[1] / "templates"
_WIDTH: Final = 520  # of a plot, pixels
_ROW: Final = 24
_LEFT: Final = 120
# Blue, grey and orange of Okabe and Ito: told apart with every kind of colour vision; the words stand beside them.
COLOURS: Final = {"win": "#0072B2", "tie": "#8A8A8A", "loss": "#D55E00"}


def fragment(found: Mapping[str, Any], unfolded: bool = False) -> str:
    """The results as HTML for the page; ``unfolded`` for paper, on which nothing can be opened."""
    template = _environment().get_template("study_results.html")
    names = {criterion["key"]: criterion["name"] for criterion in found["criteria"]}
    fleiss = [(name, found["agreement"][key]["fleiss"]) for key, name in names.items()]
    tables = [[(name, table["rows"][key]) for key, name in names.items()] for table in found["preferences"]]
    return template.render(
        found=found, fleiss_rows=fleiss, pair_rows=_by_raters(found), bar_rows=tables, dots=dots, bars=bars, number=number,
        percent=percent, unfolded=unfolded,
    )  # fmt: skip


def page(connection: Connection, study_id: int) -> str:
    """The whole report as one HTML file that asks no other address for anything."""
    row = study_row(connection, study_id)
    version, criteria = criteria_in(connection, study_id)
    return _environment().get_template("study_report.html").render(
        study=row, settings=settings_in(row), version=version, criteria=criteria, systems=systems_of(connection, study_id),
        raters=raters_of(connection, study_id), states=pair_states(connection, study_id), number=number, percent=percent,
        created=datetime.datetime.fromtimestamp(row.created, datetime.UTC),
        results=fragment(results(connection, study_id), unfolded=True),
    )  # fmt: skip


def _by_raters(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Cohen's kappas with one row for each two raters."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for key, table in found["agreement"].items():
        for one in table["pairs"]:
            row = rows.setdefault(tuple(one["raters"]), {"raters": one["raters"], "n": one["n"], "cells": {}})
            row["cells"][key] = one
    return list(rows.values())


def number(value: float | None, digits: int = 2) -> str:
    """A figure, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A fraction as percent, or a dash."""
    return "–" if value is None else f"{100 * value:.1f}"


def dots(rows: list[tuple[str, Mapping[str, Any]]]) -> str:
    """Values up to 1 as dots with their intervals, one row each; what has no value says so."""
    height = _ROW * len(rows) + 28
    lowest = min([0.0, *(v for _, row in rows for v in (row["value"], row["low"]) if v is not None)])
    begin = math.floor(5 * lowest) / 5  # the axis shows all of every interval

    def at(value: float) -> float:
        return _LEFT + (value - begin) / (1 - begin) * (_WIDTH - _LEFT - 64)

    x = {tick / 5: at(tick / 5) for tick in range(round(5 * begin), 6)}
    parts = [f'<line class="mm-lane" x1="{v:.1f}" x2="{v:.1f}" y1="4" y2="{height - 20}"/><text x="{v:.1f}" y="{height - 6}" '
             f'text-anchor="middle">{k:g}</text>' for k, v in x.items()]  # fmt: skip
    for i, (name, value) in enumerate(rows):
        y = _ROW * i + 16
        parts.append(f'<text x="0" y="{y + 4}">{escape(name)}</text>')
        if value["value"] is None:
            parts.append(f'<text x="{_LEFT}" y="{y + 4}" class="mm-why">not defined</text>')
            continue
        if value["low"] is not None:
            low, high = at(value["low"]), at(value["high"])
            parts.append(f'<line class="mm-interval" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="mm-point" cx="{at(value["value"]):.1f}" cy="{y}" r="4"/>')
        parts.append(f'<text x="{_WIDTH - 40}" y="{y + 4}">{value["value"]:.2f}</text>')
    return _svg(height, "agreement with its interval", parts)


def bars(rows: list[tuple[str, Mapping[str, Any]]]) -> str:
    """Win, tie and loss as parts of a whole, one row each."""
    height, width = _ROW * len(rows) + 4, _WIDTH - _LEFT - 40
    parts = []
    for i, (name, row) in enumerate(rows):
        y, x = _ROW * i + 4, float(_LEFT)
        parts.append(f'<text x="0" y="{y + 12}">{escape(name)}</text>')
        if not row["n"]:
            parts.append(f'<text x="{_LEFT}" y="{y + 12}" class="mm-why">nothing settled yet</text>')
            continue
        for verdict, colour in COLOURS.items():
            size = width * row[verdict]
            parts.append(f'<rect x="{x:.1f}" y="{y}" width="{size:.1f}" height="16" fill="{colour}"/>')
            if size > 56:
                parts.append(f'<text x="{x + 4:.1f}" y="{y + 12}" class="mm-in">{verdict} {100 * row[verdict]:.0f}</text>')
            x += size
        parts.append(f'<text x="{_WIDTH - 36}" y="{y + 12}">n {row["n"]}</text>')
    return _svg(height, "win, tie and loss", parts)


def _svg(height: int, label: str, parts: list[str]) -> str:
    return f'<svg class="mm-plot" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
