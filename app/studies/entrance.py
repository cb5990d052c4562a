"""Training and the entrance test: in which phase a rater is, the items of a round, and its kappas."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, and_, exists, func, insert, select

from app.studies.errors import StudyError
from app.studies.handout import current, give
from app.studies.records import Criterion, StudySettings
from app.studies.schema import assignment, gate, pair
from app.studies.store import now
from multimood_core.agreement import cohen_kappa
from multimood_core.preference import VERDICTS

DISTRESSING: Final = "distressing"


def phase_of(
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


def begin_gate(
    connection: Connection, rater_id: int, study_id: int, settings: StudySettings, criteria: Sequence[Criterion],
    number: int,
) -> None:  # fmt: skip
    """Gives the rater the items of a round, none of which they have seen.

    Raises:
        StudyError: there are not enough of them.
    """
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
        give(connection, rater_id, pair_id, "gate", 0, number, settings)


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


def finish_gate(
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
    kept = [(row.gold, current(connection, row.id)) for row in rows]
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
