"""A session as files: JSON for machines, a printable page for people."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import jinja2

from app.alert_view import INCOMPLETE, WHY
from app.exchange import Exchange
from app.safety import Alert
from app.session import Session
from app.timeline import svg
from app.view import COLOURS, DECISIONS, agreement, decimal, readings, stage_seconds, used_modalities
from multimood_core.records import CheckpointId

FORMAT: Final = "multimood-session/1"
MODE: Final = "simulation or research"  # the only one there is
LIMITS: Final = (
    "The labels and replies in this report were predicted by a statistical model and may be wrong, more often for people, "
    "languages, voices and faces unlike those it was trained on. An expression is not a feeling, and no label here is an "
    "assessment of a person. MultiMood is a research tool for professionals in simulation and training; it is no medical "
    "device, gives no advice in a crisis, and nothing in it replaces the judgement of the professional who used it. "
    "Replies marked as said were chosen by that person; others were only suggested."
)
_TEMPLATES: Final = Path(__file__).resolve().parent / "templates"


def record(session: Session) -> dict[str, Any]:
    """Everything of a session but its sound and pictures, which are not kept, as plain values."""
    country = session.guard.safety.country
    with session.changed:
        return {
            "format": FORMAT,
            "mode": MODE,
            "started": session.started.isoformat(timespec="seconds"),
            "notice_acknowledged": session.acknowledged.isoformat(timespec="seconds") if session.acknowledged else None,
            "checkpoint": asdict(session.checkpoint),
            "context": asdict(session.context),
            "turns": [_turn(exchange, session) for exchange in session.exchanges],
            "alerts": [_alert(alert) for alert in session.guard.alerts],
            "help": {"country": country.code, "compiled": country.compiled},
            "notes": [
                {"after_turn": n.after, "written": n.written.isoformat(timespec="seconds"), "text": n.text}
                for n in session.notes
            ],
            "history": [asdict(turn) for turn in session.history()],
            "limits": LIMITS,
        }


def _turn(exchange: Exchange, session: Session) -> dict[str, Any]:
    prediction, reading = exchange.prediction, exchange.reading
    return {
        "number": exchange.number,
        "source": exchange.source,
        "started": exchange.started.isoformat(timespec="seconds"),
        "capture": asdict(exchange.capture) if exchange.capture else None,
        "client": {"words": exchange.words, "words_corrected": exchange.words_corrected},
        "risk": {"score": reading.score, "found": [asdict(risk) for risk in exchange.risks]} if reading else None,
        "modalities": asdict(exchange.modalities) if exchange.modalities else None,
        "expressions": {name: dict(values) for name, values in exchange.expressions.items()},
        "words_alone": dict(exchange.words_alone.probabilities) if exchange.words_alone else None,
        "conflicts": [asdict(pair) for pair in session.guard.safety.conflicts.pairs(readings(exchange))],
        "labels": {
            task: {
                "predicted": label.label,
                "probabilities": dict(label.probabilities),
                "set_by_clinician": exchange.corrections.get(task),
            }
            for task, label in exchange.labels.items()
        },
        "reply": {
            "suggested": exchange.suggestion,
            "earlier_suggestions": exchange.earlier_suggestions,
            "decision": exchange.decision,
            "withheld": exchange.withheld or None,
            "prepared": asdict(exchange.prepared) if exchange.prepared else None,
            "said": exchange.said or None,
        },
        "checkpoint": asdict(answered_by(exchange, session)) if exchange.labels else None,
        "tokens": asdict(prediction.tokens) if prediction else None,
        "seconds": asdict(prediction.seconds) if prediction else None,
    }


def answered_by(exchange: Exchange, session: Session) -> CheckpointId:
    """The weights that answered a turn; one whose reply was withheld has labels of the session's own, and no prediction."""
    return exchange.prediction.checkpoint if exchange.prediction else session.checkpoint


def _alert(alert: Alert) -> dict[str, Any]:
    return {
        "turn": alert.turn,
        "raised": alert.raised.isoformat(timespec="seconds"),
        "categories": list(alert.categories),
        "found": [asdict(risk) for risk in alert.risks],
        "cleared": alert.cleared.isoformat(timespec="seconds") if alert.cleared else None,
        "reason": alert.reason or None,
    }


def as_json(session: Session) -> str:
    """``record`` as JSON text."""
    return json.dumps(record(session), ensure_ascii=False, indent=2) + "\n"


def as_html(session: Session) -> str:
    """The session as one HTML file that prints on A4 and asks no other address for anything."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    with session.changed:
        return environment.get_template("report.html").render(
            session=session,
            timeline=svg(session.exchanges, session.notes, least_turns=8),
            limits=LIMITS,
            why=WHY,
            incomplete=INCOMPLETE,
            colours=COLOURS,
            decisions=DECISIONS,
            decimal=decimal,
            agreement=agreement,
            answered_by=answered_by,
            conflicts=session.guard.safety.conflicts,
            used_modalities=used_modalities,
            stage_seconds=stage_seconds,
        )
