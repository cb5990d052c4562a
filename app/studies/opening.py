"""What a study is made of when it opens: pairs of responses in a random order, attention checks, practice items."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, func, insert, select

from app.studies.adjudication import Queue
from app.studies.entrance import draw_gate
from app.studies.errors import StudyError
from app.studies.guidelines import CRITERIA, PRACTICE
from app.studies.lookup import added, counted
from app.studies.records import Criterion, StudySettings, as_plain
from app.studies.schema import guideline, item, pair, response, system
from app.studies.store import now

ATTENTION_CHECKS: Final = 24  # made when a study opens; half of them twins, half with one response in disorder
LEAST_WORDS: Final = 5  # of a response whose words are put into disorder


def write_guideline(connection: Connection, number: int, version: int, criteria: Iterable[Criterion]) -> None:
    values = {"study_id": number, "version": version, "criteria": [as_plain(c) for c in criteria], "created": now()}
    connection.execute(insert(guideline).values(values))


def write_pair(
    connection: Connection, number: int, item_id: int, kind: str, left: int, right: int, position: int = 0,
    queue: int | None = None, gold: Mapping[str, str] | None = None, note: str = "",
) -> None:  # fmt: skip
    values = {"study_id": number, "item_id": item_id, "kind": kind, "left_id": left, "right_id": right, "position": position,
              "queue": queue, "state": "open", "gold": gold, "note": note, "labels": {}}  # fmt: skip
    connection.execute(insert(pair).values(values))


def golden(number: int) -> Any:
    return select(pair.c.id).where(pair.c.study_id == number, pair.c.kind == "gate", pair.c.gold.is_not(None))


def left_first(settings: StudySettings, pair_id: int) -> bool:
    return random.Random(f"gold/{settings.seed}/{pair_id}").random() < 0.5


def _responses(connection: Connection, number: int, kind: str) -> dict[int, dict[int, int]]:
    """Item -> system -> response, in the order of the systems."""
    rows = connection.execute(
        select(item.c.id, response.c.system_id, response.c.id)
        .join(response, response.c.item_id == item.c.id)
        .where(item.c.study_id == number, item.c.kind == kind, response.c.system_id.is_not(None))
        .order_by(item.c.id, response.c.system_id)
    )
    found: dict[int, dict[int, int]] = {}
    for item_id, system_id, response_id in rows:
        found.setdefault(item_id, {})[system_id] = response_id
    return found


def pair_gate_items(connection: Connection, number: int, settings: StudySettings) -> None:
    """Gives each drawn item of the entrance test that has all its responses one pair of systems, at random."""
    systems = list(connection.execute(select(system.c.id).where(system.c.study_id == number).order_by(system.c.id)).scalars())
    paired = set(connection.execute(select(pair.c.item_id).where(pair.c.study_id == number, pair.c.kind == "gate")).scalars())
    for item_id, responses in _responses(connection, number, "gate").items():
        if item_id not in paired and len(systems) > 1 and set(responses) == set(systems):
            left, right = sorted(random.Random(f"gate/{settings.seed}/{item_id}").sample(systems, 2))
            write_pair(connection, number, item_id, "gate", responses[left], responses[right])


def missing(connection: Connection, number: int, settings: StudySettings, criteria: Sequence[Criterion]) -> list[str]:
    """What a draft still lacks, in words."""
    problems = []
    systems = {r.id: r.name for r in connection.execute(select(system).where(system.c.study_id == number))}
    if len(systems) < 2:
        problems.append(f"choose at least two systems ({len(systems)} so far)")
    kinds = counted(connection, select(item.c.kind, func.count()).where(item.c.study_id == number).group_by(item.c.kind))
    if not kinds.get("official"):
        problems.append("add items")
    there = counted(connection, select(response.c.system_id, func.count())
            .join(item, item.c.id == response.c.item_id)
            .where(item.c.study_id == number, item.c.kind == "official")
            .group_by(response.c.system_id))
    for system_id, name in systems.items():
        lacking = kinds.get("official", 0) - there.get(system_id, 0)
        if lacking:
            problems.append(f"{lacking} response{'s' if lacking > 1 else ''} of {name} are still to be written")
    if settings.gate_size:
        golden = connection.execute(
            select(pair.c.id, pair.c.gold).where(pair.c.study_id == number, pair.c.kind == "gate", pair.c.gold.is_not(None))
        ).all()
        if len(golden) < settings.gate_size:
            problems.append(f"the entrance test needs {settings.gate_size} items with gold, there are {len(golden)}")
        else:
            try:
                draw_gate(golden, settings, criteria, "opening")
            except StudyError:
                problems.append("the gold of the entrance test has nearly always the same verdict for a criterion")
    return problems


def write_official_pairs(connection: Connection, number: int, settings: StudySettings) -> None:
    pairs = [
        (item_id, responses[left], responses[right])
        for item_id, responses in _responses(connection, number, "official").items()
        for i, left in enumerate(responses)
        for right in list(responses)[i + 1 :]
    ]
    random.Random(f"queue/{settings.seed}").shuffle(pairs)
    rows = [
        {"study_id": number, "item_id": item_id, "kind": "official", "left_id": left, "right_id": right, "position": place,
         "queue": int(Queue.NEW), "state": "open", "note": "", "labels": {}}
        for place, (item_id, left, right) in enumerate(pairs)
    ]  # fmt: skip
    connection.execute(insert(pair), rows)


def write_attention_pairs(
    connection: Connection, number: int, settings: StudySettings, criteria: Sequence[Criterion]
) -> None:
    """Pairs whose answer is known: a response beside itself, and a response beside its own words in disorder."""
    if not settings.attention_every:
        return
    rng = random.Random(f"attention/{settings.seed}")
    rows = connection.execute(
        select(response.c.id, response.c.item_id, response.c.text)
        .join(item, item.c.id == response.c.item_id)
        .where(item.c.study_id == number, item.c.kind == "official", response.c.system_id.is_not(None))
        .order_by(response.c.id)
    ).all()
    chosen = rng.sample(rows, min(ATTENTION_CHECKS, len(rows)))
    for place, row in enumerate(chosen):
        words = row.text.split()
        if place % 2 == 0 or len(set(words)) < LEAST_WORDS:
            tie = {criterion.key: "tie" for criterion in criteria}
            write_pair(connection, number, row.item_id, "attention", row.id, row.id, place, gold=tie)
            continue
        mixed = words
        while mixed == words:
            mixed = rng.sample(words, len(words))
        values = {"item_id": row.item_id, "text": " ".join(mixed).lower(), "created": now()}
        made = added(connection, response, values)
        # Only what the disorder decides is checked: nobody has to find a step in it or out of it.
        decided = [c.key for c in criteria if c.key in ("fluency", "overall")] or [c.key for c in criteria][-1:]
        gold = dict.fromkeys(decided, "win")
        write_pair(connection, number, row.item_id, "attention", row.id, made, place, gold=gold)


def write_practice(connection: Connection, number: int, criteria: Sequence[Criterion]) -> None:
    """The tutorial's own items, for studies on the five criteria; others bring theirs in an upload."""
    if [c.key for c in criteria] != [c.key for c in CRITERIA]:
        return
    for place, entry in enumerate(PRACTICE):
        turns = [{"speaker": "client", "text": entry.client}]
        values = {"study_id": number, "key": entry.key, "kind": "practice", "problem": entry.problem,
                  "situation": entry.situation, "turns": turns}  # fmt: skip
        made = added(connection, item, values)
        numbers = [
            added(connection, response, {"item_id": made, "text": text, "created": now()})
            for text in (entry.first, entry.second)
        ]
        write_pair(connection, number, made, "practice", numbers[0], numbers[1], place, gold=entry.verdicts(), note=entry.note)
