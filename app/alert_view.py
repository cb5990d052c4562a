"""How an alert looks: above every tab until it is cleared, and the prepared answer in its four parts. Everything is escaped."""

from __future__ import annotations

from html import escape
from typing import Final

from app.exchange import Exchange
from app.safety import PARTS, Line
from app.session import Session

WHY: Final = {"words": "words on the list", "model": "the trained model, by", "conversation": "turns that add up"}
TITLES: Final = {
    "acknowledge": "acknowledge",
    "boundary": "say the boundary",
    "transition": "one step at a time",
    "guide": "guide to people",
}
INCOMPLETE: Final = (
    "The screen reads English words alone. It misses some risk and raises false alarms: no alert is no all-clear, and your own "
    "judgement comes first."
)
WITHHELD: Final = {
    "risk": "The model's reply is withheld: this turn may show risk. Below is a prepared answer, as a draft for you.",
    "alert": "The model's reply is withheld while the safety alert stands. Below is a prepared answer, as a draft for you.",
    "reply": "The model's reply was withheld: it could have encouraged harm. Have it written again, or write your own.",
}


def banner(session: Session) -> str:
    """The alerts that stand, with what they rest on and where help is; empty where none stands."""
    standing, guard = session.guard.standing, session.guard
    if not standing:
        return ""
    categories = guard.categories
    turns = sorted({alert.turn for alert in standing})
    where = f"turn {turns[0]}" if len(turns) == 1 else f"turns {', '.join(map(str, turns))}"
    reasons = {
        f"<li><b>{escape(risk.category)}</b>, turn {alert.turn}, {WHY[risk.why]}: "
        f"<q dir=\"auto\">{escape(risk.evidence)}</q></li>": None
        for alert in standing
        for risk in alert.risks
    }
    country = guard.safety.country
    lines = "".join(_line(line) for line in guard.safety.lines(categories))
    return (
        f'<section class="mm-alert" data-alert="{len(guard.alerts)}">'
        '<div role="alert"><h2 id="mm-alert-title" tabindex="-1"><span aria-hidden="true">\u25b2</span> '
        f"Safety alert: possible {escape(_and(categories))} ({where})</h2>"
        "<p>No reply of the model is shown until you clear this alert. Attend to the person first.</p></div>"
        f'<div class="mm-alert-parts"><div><h3>Why</h3><ul>{"".join(reasons)}</ul><p class="mm-alert-note">{INCOMPLETE}</p></div>'
        f"<div><h3>Help, {escape(country.name)}</h3><ul><li><b>Emergency</b> {escape(country.emergency)}</li>{lines}</ul>"
        f'<p class="mm-alert-note">List of {escape(country.compiled)}. {escape(country.note)} '
        "Another country: start the app with <code>--country</code>.</p></div></div>"
        '<button type="button" class="mm-alert-strip" data-page="alert"><span aria-hidden="true">\u25b2</span> '
        "Safety alert stands: go to it <kbd>S</kbd></button></section>"
    )


def _line(line: Line) -> str:
    return f"<li><b>{escape(line.name)}</b> {escape(line.contact)} <small>({escape(line.source)})</small></li>"


def _and(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def withheld(exchange: Exchange) -> str:
    """Why no reply of the model stands here; empty where one may."""
    return f'<p class="mm-withheld">{WITHHELD[exchange.withheld]}</p>' if exchange.withheld else ""


def prepared(exchange: Exchange) -> str:
    """The prepared answer, part by part; empty where there is none, or it is no longer what is suggested."""
    answer = exchange.prepared
    if answer is None or exchange.said or exchange.suggestion != answer.text:
        return ""
    parts = "".join(f"<dt>{TITLES[part]}</dt><dd>{escape(getattr(answer, part))}</dd>" for part in PARTS)
    return f'<dl class="mm-prepared">{parts}</dl>'
