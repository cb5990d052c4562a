"""A study in a few lines: people, made-up items, and raters who judge by a rule."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import insert, select

from app.studies import schema
from app.studies.assignment import Desk, Saved, Work
from app.studies.guidelines import CRITERIA
from app.studies.items import read_upload
from app.studies.overview import listed
from app.studies.people import People, Person
from app.studies.places import PLACES
from app.studies.records import StudySettings, Submission
from app.studies.store import Store, now
from app.studies.studies import Studies

KEYS = tuple(criterion.key for criterion in CRITERIA)
PASSWORD = "a long enough one"
TOPICS = ("the neighbour", "a lost letter", "the new flat", "an old quarrel", "the night shift", "a broken bicycle")


def line(key: str, systems: Mapping[str, str] | None = None, gold: Mapping[str, str] | None = None, **more: Any) -> str:
    """One line of an upload."""
    topic = TOPICS[sum(map(ord, key)) % len(TOPICS)]
    responses = systems or {s: f"{s.title()} says in {key}: tell me more about {topic}, if you like." for s in ("one", "two")}
    item = {
        "id": key, "problem": "everyday life", "situation": f"It is about {topic}.",
        "turns": [{"speaker": "client", "text": f"I keep thinking of {topic} ({key})."}],
        "emotion": "sadness", "strategy": "open question", "responses": responses, **more,
    }  # fmt: skip
    return json.dumps(item | ({"gold": dict(gold)} if gold else {}))


def gate_gold(index: int) -> dict[str, str]:
    """Gold verdicts of the first response that vary from item to item and from criterion to criterion."""
    rng = random.Random(f"gold/{index}")
    return {key: rng.choice(("win", "tie", "loss")) for key in KEYS}


class Scene:
    """People and studies of one database."""

    def __init__(self, store: Store, people: People) -> None:
        self.store, self.people = store, people
        self.studies, self.desk = Studies(store), Desk(store)
        self.admin = people.create_first("admin", PASSWORD)
        self.researcher = self.person("researcher", "rita")

    def person(self, role: str, name: str) -> Person:
        """An account, made through an invitation."""
        token = self.people.invite(self.admin, role)
        return self.people.accept(token, name, PASSWORD, self.studies.join)

    def raters(self, number: int, count: int) -> list[Person]:
        """Annotators who have joined the study; accounts are written directly, as hashing is not what is tested."""
        found = []
        for i in range(count):
            values = {"name": f"rater{number}-{i}-{uuid.uuid4().hex[:4]}", "role": "annotator", "password": "", "created": now()}
            with self.store.write() as connection:
                key = connection.execute(insert(schema.account).values(values)).inserted_primary_key
            person = Person(int(key[0]), values["name"], "annotator")  # type: ignore[index,arg-type]
            self.studies.add_rater(self.researcher, number, person.id)
            found.append(person)
        return found

    def study(self, items: int = 6, opened: bool = True, gate_pool: int = 0, systems: tuple[str, ...] = ("one", "two"),
              practice: bool = False, **settings: Any) -> int:  # fmt: skip
        """A study of uploaded items; without an entrance test, attention checks and practice unless asked for."""
        settings = {"gate_size": 0, "attention_every": 0} | settings
        number = self.studies.create(self.researcher, "a study", StudySettings(**settings))
        lines = [line(f"item-{i}", {s: f"{s} answers item {i} with some words." for s in systems}) for i in range(items)]
        lines += [line(f"gate-{i}", gold=gate_gold(i)) for i in range(gate_pool)]
        self.studies.add_items(self.researcher, number, read_upload("\n".join(lines).encode(), CRITERIA))
        if opened:
            self.studies.open(self.researcher, number)
            if not practice:
                with self.store.write() as connection:
                    connection.execute(schema.pair.delete().where(schema.pair.c.kind == "practice"))
        return number

    def take(self, person: Person, number: int) -> Work:
        return self.desk.next(person, number)

    def judge(self, person: Person, number: int, task: Mapping[str, Any], verdicts: Mapping[str, str] | None = None,
              reason: str = "", replaces: int | None = None, key: str | None = None, seconds: float = 5.0) -> Saved:  # fmt: skip
        """Sends a judgment; all ties where no verdicts are given."""
        chosen = {} if reason else dict(verdicts) if verdicts else dict.fromkeys(KEYS, "tie")
        sent = Submission(task["assignment"], chosen, reason, "", seconds, key or uuid.uuid4().hex, replaces)
        return self.desk.judge(person, number, sent)

    def left_verdicts(self, task: Mapping[str, Any], wanted: Mapping[str, str]) -> dict[str, str]:
        """Places on the page that give these verdicts to the pair's left response."""
        with self.store.read() as connection:
            left_first = connection.execute(
                select(schema.assignment.c.left_first).where(schema.assignment.c.id == task["assignment"])
            ).scalar_one()
        order = PLACES if left_first else PLACES[::-1]
        return {key: order[("win", "tie", "loss").index(verdict)] for key, verdict in wanted.items()}

    def work_off(self, person: Person, number: int, rule: Callable[[Mapping[str, Any]], Mapping[str, str]]) -> int:
        """Judges all that the rater is given by a rule from task to places; returns how many that were."""
        count = 0
        while (task := self.take(person, number).task) is not None:
            self.judge(person, number, task, rule(task))
            count += 1
        return count

    def studies_of(self, person: Person) -> list[dict[str, Any]]:
        return listed(self.store, person)

    def pairs(self, number: int, kind: str = "official") -> list[Any]:
        with self.store.read() as connection:
            query = select(schema.pair).where(schema.pair.c.study_id == number, schema.pair.c.kind == kind)
            return list(connection.execute(query.order_by(schema.pair.c.id)))
