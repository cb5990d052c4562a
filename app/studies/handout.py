"""The rows by which a pair is before a rater: giving it, what the page shows of it, and the newest judgment on it."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from sqlalchemy import Connection, select

from app.studies.lookup import added
from app.studies.records import StudySettings
from app.studies.schema import assignment, item, judgment, pair, response
from app.studies.store import now

SHARED_STAGES: Final = ("official", "attention")  # one queue for the rater, who is not told which is which


def kinds_of(phase: str) -> tuple[str, ...]:
    """The kinds of assignments that a phase is made of."""
    return SHARED_STAGES if phase == "official" else (phase,)


def give(
    connection: Connection, rater_id: int, pair_id: int, kind: str, stage: int, number: int, settings: StudySettings
) -> int:
    """Puts a pair before a rater; returns the assignment."""
    # A hash rather than a running generator: the order does not depend on what was given before.
    digest = hashlib.sha256(f"order/{settings.seed}/{pair_id}/{rater_id}/{number}".encode()).digest()
    values = {"pair_id": pair_id, "rater_id": rater_id, "kind": kind, "stage": stage, "round": number,
              "left_first": bool(digest[0] & 1), "state": "open", "created": now()}  # fmt: skip
    return added(connection, assignment, values)


def current(connection: Connection, assignment_id: int) -> Any:
    """The newest judgment on an assignment, or None."""
    query = select(judgment).where(judgment.c.assignment_id == assignment_id).order_by(judgment.c.version.desc()).limit(1)
    return connection.execute(query).first()


def task_of(connection: Connection, assignment_id: int) -> dict[str, Any]:
    """What the page shows of an assignment: no name of a system, no vote, no stage, no gold."""
    left, right = response.alias("left"), response.alias("right")
    row = connection.execute(
        select(
            assignment.c.id, assignment.c.left_first, item.c.problem, item.c.situation, item.c.turns,
            left.c.text.label("left_text"), right.c.text.label("right_text"),
        )
        .join(pair, pair.c.id == assignment.c.pair_id)
        .join(item, item.c.id == pair.c.item_id)
        .join(left, left.c.id == pair.c.left_id)
        .join(right, right.c.id == pair.c.right_id)
        .where(assignment.c.id == assignment_id)
    ).one()  # fmt: skip
    texts = (row.left_text, row.right_text) if row.left_first else (row.right_text, row.left_text)
    return {
        "assignment": row.id,
        "problem": row.problem,
        "situation": row.situation,
        "turns": [{"speaker": turn["speaker"], "text": turn["text"]} for turn in row.turns],
        "a": texts[0],
        "b": texts[1],
    }
