"""The session's timeline as SVG, for the page and for reports: expression by turn, strategies, corrections, notes."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from app.exchange import Exchange, Note
from app.view import COLOURS
from multimood_core.labels import EMOTIONS

LANE: Final = 14  # px between two emotions
LEFT: Final = 84  # px for their names
STEP: Final = 56  # px between two turns
TOP: Final = 10
ORDER: Final = ("joy", "neutral", "fear", "anger", "disgust", "sadness", "depression")
SHORT: Final = {
    "open question": "question",
    "approval": "approval",
    "self-disclosure": "disclosure",
    "restatement": "restate",
    "interpretation": "interpret",
    "advisement": "advise",
    "communication skills": "courtesy",
    "structuring the therapy": "structure",
    "guiding the pace and depth of the conversation": "pace",
    "others": "other",
}
assert set(ORDER) == set(EMOTIONS)


def svg(exchanges: Sequence[Exchange], notes: Sequence[Note] = (), least_turns: int = 15) -> str:
    """One lane for each emotion, one column for each turn.

    A filled circle is the expression of the client's turn, ringed where the clinician set it; a diamond under it is the
    strategy of what was said, hollow where nothing was; a flag is a note.
    """
    lanes, columns = TOP + LANE * len(ORDER), max(least_turns, len(exchanges))
    width, height = LEFT + STEP * columns, lanes + 50
    parts = [  # the lanes run on to the frame's edge, however wide that is
        f'<text x="{LEFT - 12}" y="{_y(name) + 4}" text-anchor="end">{name}</text>'
        f'<line x1="{LEFT}" x2="{width + 2000}" y1="{_y(name)}" y2="{_y(name)}" class="mm-lane"/>'
        for name in ORDER
    ]
    parts.append(f'<text x="{LEFT - 12}" y="{lanes + 16}" text-anchor="end">strategy</text>')
    shown = [(i, e, label) for i, e in enumerate(exchanges) if (label := e.label("client_emotion"))]
    path = " ".join(f"{_x(i)},{_y(label)}" for i, _, label in shown)
    parts.append(f'<polyline points="{path}" class="mm-path"/>')
    for i, exchange, label in shown:
        set_by_hand = "client_emotion" in exchange.corrections
        words = f"turn {exchange.number}: {label}{', set by the clinician' if set_by_hand else ', predicted'}"
        if set_by_hand:
            parts.append(f'<circle cx="{_x(i)}" cy="{_y(label)}" r="10" class="mm-ring-mark"/>')
        parts.append(f'<circle cx="{_x(i)}" cy="{_y(label)}" r="6" fill="{COLOURS[label]}"><title>{words}</title></circle>')
        parts.append(_strategy(exchange, _x(i), lanes + 12))
        parts.append(f'<text x="{_x(i)}" y="{lanes + 44}" text-anchor="middle" class="mm-number">{exchange.number}</text>')
    for note in notes:
        x = LEFT + STEP * note.after + 2
        parts.append(
            f'<path d="M{x} {TOP - 6}v{lanes - TOP}M{x} {TOP - 6}h10l-3 4 3 4h-10" class="mm-flag">'
            f"<title>note: {escape(note.text)}</title></path>"
        )
    summary = f"Timeline of {len(exchanges)} turns"
    return (
        f'<svg class="mm-svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" preserveAspectRatio="xMinYMin" '
        f'role="img" aria-label="{summary}" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _x(turn: int) -> int:
    return LEFT + STEP * turn + STEP // 2


def _y(emotion: str) -> int:
    return TOP + LANE * ORDER.index(emotion) + LANE // 2


def _strategy(exchange: Exchange, x: int, y: int) -> str:
    name = exchange.label("strategy")
    if not name:
        return ""
    said = exchange.decision in ("accepted", "edited")
    ring = f'<circle cx="{x}" cy="{y}" r="10" class="mm-ring-mark"/>' if "strategy" in exchange.corrections else ""
    title = f"{name}{'' if said else ', suggested and not said'}"
    return (
        f'{ring}<path d="M{x} {y - 6}l6 6-6 6-6-6z" class="mm-strategy{"" if said else " mm-hollow"}"><title>{title}</title>'
        f'</path><text x="{x}" y="{y + 20}" text-anchor="middle" class="mm-short">{SHORT[name]}</text>'
    )
