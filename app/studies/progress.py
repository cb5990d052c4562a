"""How much a rater has judged, how much is still to come, and how long that may take."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from app.studies.adjudication import Queue
from app.studies.handout import kinds_of
from app.studies.lookup import counted
from app.studies.records import StudySettings
from app.studies.schema import assignment, judgment, pair, rater


def progress_of(
    connection: Connection, rater_id: int, study_id: int, settings: StudySettings, phase: str, number: int
) -> tuple[int, int, float | None]:
    """Judged, still to judge (an estimate in the official queue, which all raters share), and seconds that this may take."""
    mine = [assignment.c.rater_id == rater_id, assignment.c.kind.in_(kinds_of(phase)), assignment.c.round == number]
    states = select(assignment.c.state, func.count()).where(*mine).group_by(assignment.c.state)
    counts = counted(connection, states)
    done = counts.get("judged", 0) + counts.get("declined", 0)
    if phase == "practice":
        total = select(func.count()).where(pair.c.study_id == study_id, pair.c.kind == "practice")
        left = connection.execute(total).scalar_one() - done
    elif phase == "gate":
        left = counts.get("open", 0)
    else:
        left = _share(connection, study_id, settings) + counts.get("open", 0)
    recent = (
        select(judgment.c.seconds)
        .join(assignment, assignment.c.id == judgment.c.assignment_id)
        .where(*mine)
        .order_by(judgment.c.id.desc())
        .limit(25)
    )
    seconds = sorted(connection.execute(recent).scalars())
    return done, left, left * seconds[len(seconds) // 2] if seconds else None


def _share(connection: Connection, study_id: int, settings: StudySettings) -> int:
    """One rater's part of the judgments that are still wanted; pairs that may yet need a third are not foreseen."""
    queues = (
        select(pair.c.queue, func.count())
        .where(pair.c.study_id == study_id, pair.c.kind == "official", pair.c.queue.is_not(None))
        .group_by(pair.c.queue)
    )
    wanted = sum((settings.overlap if q == Queue.NEW else 1) * n for q, n in connection.execute(queues))
    raters = connection.execute(
        select(func.count()).where(rater.c.study_id == study_id, rater.c.removed.is_(None))
    ).scalar_one()
    return -(-wanted // max(1, raters))
