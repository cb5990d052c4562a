"""What the two tabs show, from records to HTML; every word from a file is escaped by the templates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import jinja2
from markupsafe import Markup

from app.evaluate import cards
from app.evaluate.places import REPORTS, RUNS, Places
from app.evaluate.runs import Ancestor, Panel, Run, Saved
from app.evaluate.shelf import Stored
from multimood_core.documents import Block, as_fragment

_TEMPLATES: Final = Path(__file__).resolve().parents[1] / "templates"
_TASKS: Final = {"client_emotion": "client", "therapist_emotion": "therapist", "strategy": "strategy"}
_FILTERS: Final = ("system", "data", "split", "protocol")


def reports(stored: Sequence[Stored], places: Places) -> str:
    """The list with its filters; what is no report has a line of its own below."""
    good = [one for one in stored if one.head]
    choices = {name: sorted({getattr(one.head, name) for one in good} - {""}) for name in _FILTERS}
    folders = dict.fromkeys(places.shown(place.folder.resolve()) for place in places.reports)
    return _render(
        "evaluate_reports.html", reports=good, problems=[one for one in stored if not one.head], choices=choices,
        tasks=_TASKS, folders=list(folders), variable=REPORTS,
    )  # fmt: skip


def report(stored: Stored, blocks: Sequence[Block]) -> str:
    """One report, whole."""
    document = Markup(as_fragment(blocks, top=3))
    return _render("evaluate_document.html", document=document, title=stored.name, address=f"report/{stored.id}")


def comparison(first: Stored, second: Stored, blocks: Sequence[Block]) -> str:
    """Two reports side by side."""
    document, address = Markup(as_fragment(blocks, top=3)), f"compare/{first.id}/{second.id}"
    names = [one.name if first.name != second.name else f"{one.folder}/{one.name}" for one in (first, second)]
    return _render("evaluate_document.html", document=document, title=" and ".join(names), address=address)


def runs(found: Sequence[Run], checkpoints: Sequence[Saved], places: Places) -> str:
    """The registry, and the runs with curves."""
    folders = [places.shown(folder.resolve()) for folder in (places.checkpoints, *places.runs)]
    return _render("runs.html", runs=found, checkpoints=checkpoints, folders=folders, variable=RUNS)


def checkpoint(saved: Saved, chain: Ancestor) -> str:
    """Where a checkpoint comes from, and its card."""
    card = Markup(cards.as_html(saved.card)) if saved.card else ""
    return _render("runs_checkpoint.html", saved=saved, generations=_generations(chain), card=card)


def curves(found: Sequence[Run], panels: Sequence[Panel], window: int, everything: bool) -> str:
    """A figure for each measure."""
    drawn = [(panel, Markup(_own_ids(panel.svg, f"c{number}-"))) for number, panel in enumerate(panels)]
    return _render("runs_curves.html", runs=found, panels=drawn, window=window, everything=everything)


def _own_ids(svg: str, prefix: str) -> str:
    for before, after in (('id="', f'id="{prefix}'), ('href="#', f'href="#{prefix}'), ("url(#", f"url(#{prefix}")):
        svg = svg.replace(before, after)
    return svg.replace("<svg ", '<svg aria-hidden="true" ', 1)  # the table below the figure says it in words


def _generations(chain: Ancestor) -> list[tuple[int, Ancestor]]:
    """The chain from its beginning: parents before their child, with how far each is from the end."""
    listed: list[tuple[int, Ancestor]] = []

    def walk(one: Ancestor, depth: int) -> None:
        for parent in one.parents:
            walk(parent, depth + 1)
        if not any(known.sha256 == one.sha256 and known.name == one.name for _, known in listed):
            listed.append((depth, one))

    walk(chain, 0)
    return listed


def number(value: Any) -> str:
    """A figure with four digits that count, or a dash where there is none."""
    return "–" if value is None else f"{value:.4g}"


def _render(name: str, **values: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["number"] = number
    return environment.get_template(name).render(**values)
