"""Who judges what next, and the writing down of judgments.

Everything that decides is inside one transaction that holds the study: what one rater is given, nobody else is given. No
decision looks at a clock. An assignment stays a rater's until it is judged or the researcher gives it back to the queue, so
a browser that was closed goes on where it was.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, and_, exists, func, insert, select, update

from app.studies.adjudication import Queue, standing
from app.studies.errors import AbsentError, InputError, StudyError
from app.studies.lookup import added, counted, criteria_in, rater_row, settings_in, study_row
from app.studies.people import Person
from app.studies.records import REASONS, Criterion, StudySettings, Submission, expect
from app.studies.schema import assignment, gate, item, judgment, pair, rater, response
from app.studies.store import Store, now
from multimood_core.agreement import cohen_kappa
from multimood_core.preference import VERDICTS, swapped

PLACES: Final = ("a", "tie", "b")  # what a rater chooses, as shown: A better, tie, B better
SHARED_STAGES: Final = ("official", "attention")  # one queue for the rater, who is not told which is which
MOST_SECONDS: Final = 86400.0
DISTRESSING: Final = "distressing"


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
            phase, number, last = _phase(connection, place.id, study_id, settings)
            task = None
            if row.state == "open":
                task = self._take(connection, place.id, study_id, settings, criteria, phase, number)
        with self._store.read() as connection:  # counting needs no lock
            progress = _progress(connection, place.id, study_id, settings, phase, number)
        shown = "closed" if row.state != "open" else "done" if task is None else phase
        about = {"break_minutes": settings.break_minutes, "support": settings.support, "gate_kappa": settings.gate_kappa}
        return Work(shown, number, *progress, task, last, criteria, version, about)

    def previous(self, person: Person, study_id: int, before: int | None) -> Mapping[str, Any]:
        """The pair that the rater judged before assignment ``before``, or last, with their verdicts, to be judged anew.

        Raises:
            StudyError: there is none in this phase.
        """
        with self._store.read() as connection:
            place, row = rater_row(connection, person, study_id), study_row(connection, study_id)
            phase, number, _ = _phase(connection, place.id, study_id, settings_in(row))
            earlier = [
                assignment.c.rater_id == place.id,
                assignment.c.kind.in_(_kinds(phase)),
                assignment.c.round == number,
                assignment.c.state.in_(("judged", "declined")),
            ]
            if before is not None:
                earlier.append(assignment.c.id < before)
            found = connection.execute(select(assignment).where(*earlier).order_by(assignment.c.id.desc()).limit(1)).first()
            if found is None:
                raise StudyError("There is nothing before this that could be changed.")
            kept = _current(connection, found.id)
            shown = _shown(kept.verdicts, found.left_first)
            task = _task(connection, found.id)
        return task | {"verdicts": shown, "comment": kept.comment, "replaces": kept.version}

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
            verdicts = _of_left(sent, criteria, given.left_first)
            twice = connection.execute(select(judgment).where(judgment.c.key == sent.key)).first()
            if twice is not None:
                if (twice.assignment_id, twice.verdicts) != (given.id, verdicts):
                    raise InputError("Expected a new key with each judgment; reload the page.")
                return Saved(twice.id, _feedback(given))
            if row.state != "open":
                raise StudyError("The study is closed: this judgment was not taken. Ask the researcher who runs it.")
            settings = settings_in(row)
            phase, number, _ = _phase(connection, place.id, study_id, settings)
            if given.kind not in _kinds(phase) or given.round != number:
                raise StudyError("That part of the study is finished; your judgments in it are kept as they were.")
            kept = _current(connection, given.id)
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
                _finish_gate(connection, place.id, given.round, settings, criteria)
        return Saved(made, _feedback(given))

    # -- choosing --------------------------------------------------------------------------------------------------

    def _take(
        self, connection: Connection, rater_id: int, study_id: int, settings: StudySettings, criteria: Sequence[Criterion],
        phase: str, number: int,
    ) -> Mapping[str, Any] | None:  # fmt: skip
        open_one = (
            select(assignment.c.id)
            .where(
                assignment.c.rater_id == rater_id, assignment.c.kind.in_(_kinds(phase)), assignment.c.state == "open",
                assignment.c.round == number,
            )
            .order_by(assignment.c.id)
            .limit(1)
        )
        found = connection.execute(open_one).scalar()
        if found is None and phase == "gate":
            self._begin_gate(connection, rater_id, study_id, settings, criteria, number)
            found = connection.execute(open_one).scalar()
        elif found is None and phase == "practice":
            found = self._give_any(connection, rater_id, study_id, "practice", number, settings)
        elif found is None:
            if _attention_due(connection, rater_id, settings):
                found = self._give_any(connection, rater_id, study_id, "attention", 0, settings)
            if found is None:
                found = self._give_official(connection, rater_id, study_id, settings, criteria)
        return None if found is None else _task(connection, found)

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
        given = _give(connection, rater_id, chosen, "official", stage, 0, settings)
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
        return None if chosen is None else _give(connection, rater_id, chosen, kind, 0, number, settings)

    def _begin_gate(
        self, connection: Connection, rater_id: int, study_id: int, settings: StudySettings, criteria: Sequence[Criterion],
        number: int,
    ) -> None:  # fmt: skip
        seen = exists().where(assignment.c.pair_id == pair.c.id, assignment.c.rater_id == rater_id)
        pool = connection.execute(
            select(pair.c.id, pair.c.gold)
            .where(pair.c.study_id == study_id, pair.c.kind == "gate", pair.c.gold.is_not(None), ~seen)
            .order_by(pair.c.id)
        ).all()
        if len(pool) < settings.gate_size:
            raise StudyError(
                f"Round {number} of the entrance test needs {settings.gate_size} items that you have not seen, and there are "
                f"{len(pool)}. Ask the researcher to add some."
            )
        chosen = draw_gate(pool, settings, criteria, f"gate/{settings.seed}/{rater_id}/{number}")
        for pair_id in chosen:
            _give(connection, rater_id, pair_id, "gate", 0, number, settings)


def draw_gate(pool: Sequence[Any], settings: StudySettings, criteria: Sequence[Criterion], seed: str) -> list[int]:
    """Items of one round, drawn so that the gold of each criterion has more than one category (kappa needs it).

    Raises:
        StudyError: no draw of a hundred has.
    """
    rng = random.Random(seed)
    for _ in range(100):
        rows = rng.sample(list(pool), settings.gate_size)
        if all(len({row.gold[criterion.key] for row in rows}) > 1 for criterion in criteria):
            return [row.id for row in rows]
    raise StudyError(
        "The gold of the entrance test is nearly always the same verdict for a criterion, so kappa could not be computed. "
        "Ask the researcher for items of more kinds."
    )


def restate(connection: Connection, pair_id: int, settings: StudySettings, criteria: Sequence[Criterion]) -> None:
    """Works out anew where a pair stands, after its assignments or votes have changed."""
    rows = connection.execute(
        select(assignment.c.id, assignment.c.state).where(assignment.c.pair_id == pair_id).order_by(assignment.c.id)
    ).all()
    judged = [row.id for row in rows if row.state == "judged"]
    votes = [_current(connection, number).verdicts for number in judged]
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


def _kinds(phase: str) -> tuple[str, ...]:
    return SHARED_STAGES if phase == "official" else (phase,)


def _give(
    connection: Connection, rater_id: int, pair_id: int, kind: str, stage: int, number: int, settings: StudySettings
) -> int:
    # A hash rather than a running generator: the order does not depend on what was given before.
    digest = hashlib.sha256(f"order/{settings.seed}/{pair_id}/{rater_id}/{number}".encode()).digest()
    values = {"pair_id": pair_id, "rater_id": rater_id, "kind": kind, "stage": stage, "round": number,
              "left_first": bool(digest[0] & 1), "state": "open", "created": now()}  # fmt: skip
    return added(connection, assignment, values)


def _current(connection: Connection, assignment_id: int) -> Any:
    query = select(judgment).where(judgment.c.assignment_id == assignment_id).order_by(judgment.c.version.desc()).limit(1)
    return connection.execute(query).first()


def _shown(verdicts: Mapping[str, str], left_first: bool) -> dict[str, str]:
    """Verdicts of the left response as places on the rater's page."""
    places = PLACES if left_first else PLACES[::-1]
    return {criterion: places[VERDICTS.index(verdict)] for criterion, verdict in verdicts.items()}  # type: ignore[arg-type]


def _of_left(sent: Submission, criteria: Sequence[Criterion], left_first: bool) -> dict[str, str]:
    """Places on the page as verdicts of the left response.

    Raises:
        InputError: a criterion is absent or unknown, a place is none of ``PLACES``, or a reason goes with verdicts.
    """
    expect(0 <= sent.seconds <= MOST_SECONDS, f"0 to {MOST_SECONDS:,.0f} seconds", sent.seconds)
    if sent.reason:
        expect(sent.reason in REASONS, f"a reason of {', '.join(REASONS)}", sent.reason)
        expect(not sent.verdicts, "no verdicts where an item cannot be judged", dict(sent.verdicts))
        return {}
    keys = [criterion.key for criterion in criteria]
    good = set(sent.verdicts) == set(keys) and set(sent.verdicts.values()) <= set(PLACES)
    expect(good, f"{', '.join(PLACES)} for each of {', '.join(keys)}", dict(sent.verdicts))
    of_first = {key: VERDICTS[PLACES.index(sent.verdicts[key])] for key in keys}
    return dict(of_first) if left_first else {key: swapped(verdict) for key, verdict in of_first.items()}


def _task(connection: Connection, assignment_id: int) -> dict[str, Any]:
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


def _feedback(given: Any) -> dict[str, Any] | None:
    if given.kind != "practice" or given.gold is None:
        return None
    return {"gold": _shown(given.gold, given.left_first), "note": given.note}


def _phase(
    connection: Connection, rater_id: int, study_id: int, settings: StudySettings
) -> tuple[str, int, Mapping[str, Any] | None]:
    """Phase, round of training (0 once it is over), and how the last entrance test ended."""
    rounds = connection.execute(select(gate).where(gate.c.rater_id == rater_id).order_by(gate.c.round)).all()
    last = None
    if rounds:
        last = {"round": rounds[-1].round, "passed": rounds[-1].passed, "kappas": rounds[-1].kappas}
        if rounds[-1].passed:
            return "official", 0, last
    number = len(rounds) + 1
    judged = connection.execute(
        select(func.count()).where(
            assignment.c.rater_id == rater_id, assignment.c.kind == "practice", assignment.c.round == number,
            assignment.c.state.in_(("judged", "declined")),
        )
    ).scalar_one()  # fmt: skip
    there = connection.execute(select(func.count()).where(pair.c.study_id == study_id, pair.c.kind == "practice")).scalar_one()
    if judged < there:
        return "practice", number, last
    return ("gate", number, last) if settings.gate_size else ("official", 0, last)


def _finish_gate(
    connection: Connection, rater_id: int, number: int, settings: StudySettings, criteria: Sequence[Criterion]
) -> None:
    """Scores the round once all its items are judged. To decline an item is to disagree with its gold, save in distress."""
    rows = connection.execute(
        select(assignment.c.id, assignment.c.state, pair.c.gold)
        .join(pair, pair.c.id == assignment.c.pair_id)
        .where(and_(assignment.c.rater_id == rater_id, assignment.c.kind == "gate", assignment.c.round == number))
    ).all()
    if any(row.state == "open" for row in rows):
        return
    kept = [(row.gold, _current(connection, row.id)) for row in rows]
    kept = [(gold, own) for gold, own in kept if own.reason != DISTRESSING]
    codes = [*VERDICTS, "declined"]
    kappas: dict[str, float | None] = {}
    for criterion in criteria:
        truth = [codes.index(gold[criterion.key]) for gold, _ in kept]
        own = [codes.index(judged.verdicts.get(criterion.key, "declined")) for _, judged in kept]
        kappas[criterion.key] = cohen_kappa(truth, own, len(codes), samples=0).value
    passed = all(kappa is not None and kappa > settings.gate_kappa for kappa in kappas.values())
    values = {"rater_id": rater_id, "round": number, "passed": passed, "kappas": kappas, "created": now()}
    connection.execute(insert(gate).values(values))


def _attention_due(connection: Connection, rater_id: int, settings: StudySettings) -> bool:
    if not settings.attention_every:
        return False
    query = select(assignment.c.kind, func.count()).where(
        assignment.c.rater_id == rater_id, assignment.c.kind.in_(SHARED_STAGES), assignment.c.round == 0,
        assignment.c.state.in_(("judged", "declined")),
    )  # fmt: skip
    counts = counted(connection, query.group_by(assignment.c.kind))
    return counts.get("official", 0) >= settings.attention_every * (counts.get("attention", 0) + 1)


def _progress(
    connection: Connection, rater_id: int, study_id: int, settings: StudySettings, phase: str, number: int
) -> tuple[int, int, float | None]:
    """Judged, still to judge (an estimate in the official queue, which all raters share), and seconds that this may take."""
    mine = [assignment.c.rater_id == rater_id, assignment.c.kind.in_(_kinds(phase)), assignment.c.round == number]
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
