"""What the researcher sees of a study while it is set up and while it runs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, select

from app.studies.adjudication import Queue
from app.studies.entrance import DISTRESSING
from app.studies.lookup import counted, criteria_in, led_study, settings_in
from app.studies.opening import golden, missing
from app.studies.people import RATERS, Person
from app.studies.records import as_plain
from app.studies.schema import account, assignment, gate, item, judgment, pair, rater, response, study, system
from app.studies.store import Store


def listed(store: Store, person: Person) -> list[dict[str, Any]]:
    """The studies that the person leads, or may judge in."""
    columns = (study.c.id, study.c.name, study.c.state, study.c.created)
    if person.role in RATERS:
        query = select(*columns).join(rater, rater.c.study_id == study.c.id)
        query = query.where(rater.c.account_id == person.id, rater.c.removed.is_(None), study.c.state != "draft")
    else:
        query = select(*columns)
        if person.role != "admin":
            query = query.where(study.c.created_by == person.id)
    with store.read() as connection:
        return [dict(row._mapping) for row in connection.execute(query.order_by(study.c.id.desc()))]


def overview(store: Store, by: Person, number: int) -> dict[str, Any]:
    """Everything that the set-up page shows."""
    with store.read() as connection:
        row = led_study(connection, by, number)
        settings, (version, criteria) = settings_in(row), criteria_in(connection, number)
        kinds = counted(connection, select(item.c.kind, func.count()).where(item.c.study_id == number).group_by(item.c.kind))
        with_gold = connection.execute(select(func.count()).select_from(golden(number).subquery())).scalar_one()
        lacking = missing(connection, number, settings, criteria) if row.state == "draft" else []
        return {
            "id": number, "name": row.name, "state": row.state, "settings": as_plain(settings), "imported": row.origin_sha256,
            "guideline_version": version, "criteria": [as_plain(c) for c in criteria], "items": kinds, "gold": with_gold,
            "systems": systems_of(connection, number), "raters": raters_of(connection, number), "missing": lacking,
            "pairs": pair_states(connection, number),
        }  # fmt: skip


def preview(store: Store, by: Person, number: int, after: int = 0, count: int = 20) -> list[dict[str, Any]]:
    """Items after the one of that number with all their texts, for a look at what the de-identification left."""
    with store.read() as connection:
        led_study(connection, by, number)
        query = select(item).where(item.c.study_id == number, item.c.id > after)
        rows = connection.execute(query.order_by(item.c.id).limit(count)).all()
        answers = connection.execute(
            select(response.c.item_id, response.c.text, system.c.name)
            .outerjoin(system, system.c.id == response.c.system_id)
            .where(response.c.item_id.in_([r.id for r in rows]))
            .order_by(response.c.id)
        ).all()
    said: dict[int, list[dict[str, Any]]] = {}
    for item_id, text, name in answers:
        said.setdefault(item_id, []).append({"system": name, "text": text})
    return [
        {
            "id": r.id, "key": r.key, "kind": r.kind, "problem": r.problem, "situation": r.situation,
            "turns": [{"speaker": turn["speaker"], "text": turn["text"]} for turn in r.turns],
            "responses": said.get(r.id, []),
        }
        for r in rows
    ]  # fmt: skip


def systems_of(connection: Connection, number: int) -> list[dict[str, Any]]:
    """Each system with how many responses it has."""
    rows = connection.execute(
        select(
            system.c.id, system.c.name, system.c.kind, system.c.checkpoint_sha256, func.count(response.c.id).label("responses")
        )
        .outerjoin(response, response.c.system_id == system.c.id)
        .where(system.c.study_id == number)
        .group_by(system.c.id)
        .order_by(system.c.id)
    )
    return [dict(row._mapping) for row in rows]


def raters_of(connection: Connection, number: int) -> list[dict[str, Any]]:
    """Each rater with progress, entrance tests and distress."""
    rows = connection.execute(
        select(rater.c.id, rater.c.code, rater.c.removed, account.c.name)
        .outerjoin(account, account.c.id == rater.c.account_id)
        .where(rater.c.study_id == number)
        .order_by(rater.c.id)
    ).all()
    counts: dict[tuple[int, str], int] = {}
    query = select(assignment.c.rater_id, assignment.c.state, func.count()).where(assignment.c.kind == "official")
    for rater_id, state, count in connection.execute(query.group_by(assignment.c.rater_id, assignment.c.state)):
        counts[rater_id, state] = count
    rounds: dict[int, list[Any]] = {}
    for row in connection.execute(
        select(gate).join(rater, rater.c.id == gate.c.rater_id).where(rater.c.study_id == number).order_by(gate.c.round)
    ):
        rounds.setdefault(row.rater_id, []).append({"round": row.round, "passed": row.passed, "kappas": row.kappas})
    distressed = counted(connection, select(assignment.c.rater_id, func.count())
            .join(judgment, judgment.c.assignment_id == assignment.c.id)
            .where(judgment.c.reason == DISTRESSING)
            .group_by(assignment.c.rater_id))
    return [
        {"id": r.id, "code": r.code, "name": r.name, "removed": r.removed is not None, "gate": rounds.get(r.id, []),
         "judged": counts.get((r.id, "judged"), 0), "open": counts.get((r.id, "open"), 0),
         "declined": counts.get((r.id, "declined"), 0), "distressed": distressed.get(r.id, 0)}
        for r in rows
    ]  # fmt: skip


def pair_states(connection: Connection, number: int) -> dict[str, Any]:
    """How many pairs are settled, open and aside; what waits in which queue, and whether somebody is left for it."""
    mine = (pair.c.study_id == number, pair.c.kind == "official")
    states = counted(connection, select(pair.c.state, func.count()).where(*mine).group_by(pair.c.state))
    waiting = select(pair.c.queue, func.count()).where(*mine, pair.c.queue.is_not(None))
    queues = counted(connection, waiting.group_by(pair.c.queue))
    aside = connection.execute(
        select(pair.c.id, item.c.key).join(item, item.c.id == pair.c.item_id).where(*mine, pair.c.state == "aside").limit(50)
    )
    active = select(rater.c.id).where(rater.c.study_id == number, rater.c.removed.is_(None)).subquery()
    raters = connection.execute(select(func.count()).select_from(active)).scalar_one()
    seen = (
        select(assignment.c.pair_id, func.count().label("n"))
        .join(active, active.c.id == assignment.c.rater_id)
        .where(assignment.c.kind == "official")
        .group_by(assignment.c.pair_id)
        .subquery()
    )
    stuck = connection.execute(
        select(func.count())
        .select_from(pair.outerjoin(seen, seen.c.pair_id == pair.c.id))
        .where(*mine, pair.c.queue.is_not(None), func.coalesce(seen.c.n, 0) >= raters)
    ).scalar_one()
    return {
        "open": states.get("open", 0), "settled": states.get("settled", 0), "aside": [dict(r._mapping) for r in aside],
        "queues": {name.name.lower(): queues.get(int(name), 0) for name in Queue}, "without_rater": stuck,
    }  # fmt: skip
