"""Who judges what next, and the writing down of judgments.

Everything that decides is inside one transaction that holds the study: what one rater is given, nobody else is given. No
decision looks at a clock. An assignment stays a rater's until it is judged or the researcher gives it back to the queue, so
a browser that was closed goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, exists, func, select, update

from app.studies.adjudication import standing
from app.studies.entrance import begin_gate, finish_gate, phase_of
from app.studies.errors import AbsentError, InputError, StudyError
from app.studies.handout import SHARED_STAGES, current, give, kinds_of, task_of
from app.studies.lookup import added, counted, criteria_in, rater_row, settings_in, study_row
from app.studies.people import Person
from app.studies.places import of_left, shown
from app.studies.progress import progress_of
from app.studies.records import Criterion, StudySettings, Submission
from app.studies.schema import assignment, judgment, pair, response
from app.studies.store import Store, now


@dataclass(frozen=True, slots=True)
class Work:
    """What a rater has before them, without anything that they may not see.

    ``phase``: practice, gate, official, done (nothing is left that they may judge now) or closed.
    """

    phase: str
    round: int
    done: int
    left: int
    seconds_left: float | None
    task: Mapping[str, Any] | None = None
    last_gate: Mapping[str, Any] | None = None
    criteria: tuple[Criterion, ...] = field(default=())
    guideline_version: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Saved:
    """A judgment that is on the disk; ``feedback`` only in practice."""

    judgment: int
    feedback: Mapping[str, Any] | None


class Desk:
    """Hands out pairs and takes judgments.

    Args:
        store: the database.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    # -- the rater's -----------------------------------------------------------------------------------------------

    def next(self, person: Person, study_id: int) -> Work:
        """The pair that the rater has open, or a new one.

        Raises:
            RefusedError: not a rater of this study.
            StudyError: the entrance test has no items left for another round.
        """
        with self._store.write(study_id) as connection:
            place, row = rater_row(connection, person, study_id), study_row(connection, study_id)
            settings, (version, criteria) = settings_in(row), criteria_in(connection, study_id)
            phase, number, last = phase_of(connection, place.id, study_id, settings)
            task = None
            if row.state == "open":
                task = self._take(connection, place.id, study_id, settings, criteria, phase, number)
        with self._store.read() as connection:  # counting needs no lock
            progress = progress_of(connection, place.id, study_id, settings, phase, number)
        stands = "closed" if row.state != "open" else "done" if task is None else phase
        about = {"break_minutes": settings.break_minutes, "support": settings.support, "gate_kappa": settings.gate_kappa}
        return Work(stands, number, *progress, task, last, criteria, version, about)

    def previous(self, person: Person, study_id: int, before: int | None) -> Mapping[str, Any]:
        """The pair that the rater judged before assignment ``before``, or last, with their verdicts, to be judged anew.

        Raises:
            StudyError: there is none in this phase.
        """
        with self._store.read() as connection:
            place, row = rater_row(connection, person, study_id), study_row(connection, study_id)
            phase, number, _ = phase_of(connection, place.id, study_id, settings_in(row))
            earlier = [
                assignment.c.rater_id == place.id,
                assignment.c.kind.in_(kinds_of(phase)),
                assignment.c.round == number,
                assignment.c.state.in_(("judged", "declined")),
            ]
            if before is not None:
                earlier.append(assignment.c.id < before)
            found = connection.execute(select(assignment).where(*earlier).order_by(assignment.c.id.desc()).limit(1)).first()
            if found is None:
                raise StudyError("There is nothing before this that could be changed.")
            kept = current(connection, found.id)
            chosen = {"verdicts": shown(kept.verdicts, found.left_first), "comment": kept.comment, "replaces": kept.version}
            return task_of(connection, found.id) | chosen

    def judge(self, person: Person, study_id: int, sent: Submission) -> Saved:
        """Writes a judgment down; when this returns it is on the disk.

        Raises:
            AbsentError: the pair is not this rater's.
            StudyError: it was judged already, e.g. in another tab; that judgment is kept.
            InputError: verdicts or reason are not what was asked for.
        """
        with self._store.write(study_id) as connection:
            place, row = rater_row(connection, person, study_id), study_row(connection, study_id)
            given = connection.execute(
                select(assignment, pair.c.gold, pair.c.note, pair.c.study_id, pair.c.left_id, pair.c.right_id)
                .join(pair, pair.c.id == assignment.c.pair_id)
                .where(assignment.c.id == sent.assignment, assignment.c.rater_id == place.id, pair.c.study_id == study_id)
            ).first()
            if given is None:
                raise AbsentError("This item is not assigned to you; reload the page for your next one.")
            version, criteria = criteria_in(connection, study_id)
            verdicts = of_left(sent, criteria, given.left_first)
            twice = connection.execute(select(judgment).where(judgment.c.key == sent.key)).first()
            if twice is not None:
                if (twice.assignment_id, twice.verdicts) != (given.id, verdicts):
                    raise InputError("Expected a new key with each judgment; reload the page.")
                return Saved(twice.id, _feedback(given))
            if row.state != "open":
                raise StudyError("The study is closed: this judgment was not taken. Ask the researcher who runs it.")
            settings = settings_in(row)
            phase, number, _ = phase_of(connection, place.id, study_id, settings)
            if given.kind not in kinds_of(phase) or given.round != number:
                raise StudyError("That part of the study is finished; your judgments in it are kept as they were.")
            kept = current(connection, given.id)
            if (kept.version if kept else None) != sent.replaces:
                raise StudyError(
                    "This item was judged already, perhaps in another tab; that judgment is kept. Reload for the next one."
                )
            both = response.c.id.in_((given.left_id, given.right_id))
            hashes = counted(connection, select(response.c.id, response.c.checkpoint_sha256).where(both))
            values = {
                "assignment_id": given.id, "version": (kept.version if kept else 0) + 1, "key": sent.key, "verdicts": verdicts,
                "reason": sent.reason, "comment": sent.comment, "seconds": sent.seconds, "left_first": given.left_first,
                "guideline_version": version, "left_sha256": hashes[given.left_id], "right_sha256": hashes[given.right_id],
                "created": now(),
            }  # fmt: skip
            made = added(connection, judgment, values)
            state = "declined" if sent.reason else "judged"
            connection.execute(update(assignment).where(assignment.c.id == given.id).values(state=state))
            if given.kind == "official":
                restate(connection, given.pair_id, settings, criteria)
            elif given.kind == "gate":
                finish_gate(connection, place.id, given.round, settings, criteria)
        return Saved(made, _feedback(given))

    # -- choosing --------------------------------------------------------------------------------------------------

    def _take(
        self, connection: Connection, rater_id: int, study_id: int, settings: StudySettings, criteria: Sequence[Criterion],
        phase: str, number: int,
    ) -> Mapping[str, Any] | None:  # fmt: skip
        open_one = (
            select(assignment.c.id)
            .where(
                assignment.c.rater_id == rater_id, assignment.c.kind.in_(kinds_of(phase)), assignment.c.state == "open",
                assignment.c.round == number,
            )
            .order_by(assignment.c.id)
            .limit(1)
        )
        found = connection.execute(open_one).scalar()
        if found is None and phase == "gate":
            begin_gate(connection, rater_id, study_id, settings, criteria, number)
            found = connection.execute(open_one).scalar()
        elif found is None and phase == "practice":
            found = self._give_any(connection, rater_id, study_id, "practice", number, settings)
        elif found is None:
            if _attention_due(connection, rater_id, settings):
                found = self._give_any(connection, rater_id, study_id, "attention", 0, settings)
            if found is None:
                found = self._give_official(connection, rater_id, study_id, settings, criteria)
        return None if found is None else task_of(connection, found)

    def _give_official(
        self, connection: Connection, rater_id: int, study_id: int, settings: StudySettings, criteria: Sequence[Criterion]
    ) -> int | None:
        seen = exists().where(assignment.c.pair_id == pair.c.id, assignment.c.rater_id == rater_id)
        wanted = (
            select(pair.c.id)
            .where(pair.c.study_id == study_id, pair.c.kind == "official", pair.c.queue.is_not(None), ~seen)
            .order_by(pair.c.queue, pair.c.position)
            .limit(1)
        )
        chosen = connection.execute(wanted).scalar()
        if chosen is None:
            return None
        before = select(func.count()).where(assignment.c.pair_id == chosen, assignment.c.state.in_(("open", "judged")))
        stage = connection.execute(before).scalar_one() + 1
        given = give(connection, rater_id, chosen, "official", stage, 0, settings)
        restate(connection, chosen, settings, criteria)
        return given

    def _give_any(
        self, connection: Connection, rater_id: int, study_id: int, kind: str, number: int, settings: StudySettings
    ) -> int | None:
        seen = exists().where(
            assignment.c.pair_id == pair.c.id, assignment.c.rater_id == rater_id, assignment.c.round == number
        )
        query = select(pair.c.id).where(pair.c.study_id == study_id, pair.c.kind == kind, ~seen)
        chosen = connection.execute(query.order_by(pair.c.position, pair.c.id).limit(1)).scalar()
        return None if chosen is None else give(connection, rater_id, chosen, kind, 0, number, settings)

def restate(connection: Connection, pair_id: int, settings: StudySettings, criteria: Sequence[Criterion]) -> None:
    """Works out anew where a pair stands, after its assignments or votes have changed."""
    rows = connection.execute(
        select(assignment.c.id, assignment.c.state).where(assignment.c.pair_id == pair_id).order_by(assignment.c.id)
    ).all()
    judged = [row.id for row in rows if row.state == "judged"]
    votes = [current(connection, number).verdicts for number in judged]
    states = [row.state for row in rows]
    found = standing(
        votes, states.count("open"), states.count("declined"), settings.overlap, [criterion.key for criterion in criteria]
    )
    queue = None if found.queue is None else int(found.queue)
    connection.execute(update(pair).where(pair.c.id == pair_id).values(state=found.state, queue=queue, labels=dict(found.labels)))


def release(connection: Connection, rater_id: int, settings: StudySettings, criteria: Sequence[Criterion]) -> int:
    """Gives a rater's open pairs back to the queue; returns how many."""
    query = select(assignment.c.id, assignment.c.pair_id, assignment.c.kind)
    rows = connection.execute(query.where(assignment.c.rater_id == rater_id, assignment.c.state == "open")).all()
    for row in rows:
        if row.kind == "official":
            connection.execute(update(assignment).where(assignment.c.id == row.id).values(state="released"))
            restate(connection, row.pair_id, settings, criteria)
    return sum(row.kind == "official" for row in rows)


# -- details ---------------------------------------------------------------------------------------------------------


def _feedback(given: Any) -> dict[str, Any] | None:
    if given.kind != "practice" or given.gold is None:
        return None
    first, second = ("A", "B") if given.left_first else ("B", "A")
    note = given.note.replace("{first}", first).replace("{second}", second)
    return {"gold": shown(given.gold, given.left_first), "note": note}


def _attention_due(connection: Connection, rater_id: int, settings: StudySettings) -> bool:
    if not settings.attention_every:
        return False
    query = select(assignment.c.kind, func.count()).where(
        assignment.c.rater_id == rater_id, assignment.c.kind.in_(SHARED_STAGES), assignment.c.round == 0,
        assignment.c.state.in_(("judged", "declined")),
    )  # fmt: skip
    counts = counted(connection, query.group_by(assignment.c.kind))
    return counts.get("official", 0) >= settings.attention_every * (counts.get("attention", 0) + 1)
