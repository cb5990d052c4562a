"""Setting a study up, opening and closing it, and its raters: what the researcher who leads it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from app.studies.assignment import release, restate
from app.studies.deidentify import deidentified
from app.studies.errors import AbsentError, InputError, StudyError
from app.studies.guidelines import CRITERIA
from app.studies.items import Drawing, NewItem, draw, from_dialogue
from app.studies.lookup import added, criteria_in, led_study, settings_in, study_row
from app.studies.opening import (
    golden,
    left_first,
    missing,
    pair_gate_items,
    write_attention_pairs,
    write_guideline,
    write_official_pairs,
    write_pair,
    write_practice,
)
from app.studies.people import RATERS, Person
from app.studies.places import PLACES
from app.studies.records import Criterion, StudySettings, as_plain, expect
from app.studies.schema import (
    account,
    assignment,
    item,
    pair,
    rater,
    response,
    study,
    system,
)
from app.studies.store import Store, now
from multimood_core.dialogues import Item
from multimood_core.preference import VERDICTS, swapped

PERSON: Final = "therapist in the data"


class Studies:
    """Studies as their leaders see them.

    Args:
        store: the database.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    # -- set-up ----------------------------------------------------------------------------------------------------

    def create(self, by: Person, name: str, settings: StudySettings, criteria: Sequence[Criterion] = CRITERIA) -> int:
        """A draft with the first version of its guideline; returns its number."""
        expect(0 < len(name.strip()) <= 120, "a name of 1 to 120 characters", name)
        with self._store.write() as connection:
            values = {"name": name.strip(), "state": "draft", "settings": as_plain(settings), "created": now()}
            values["created_by"] = by.id
            number = added(connection, study, values)
            write_guideline(connection, number, 1, criteria)
        return number

    def configure(self, by: Person, number: int, settings: StudySettings) -> None:
        """Other settings.

        Raises:
            StudyError: the study is open or closed, and was judged under the settings it has.
        """
        with self._store.write(number) as connection:
            self._draft(connection, by, number)
            connection.execute(update(study).where(study.c.id == number).values(settings=as_plain(settings)))

    def reword(self, by: Person, number: int, criteria: Sequence[Criterion]) -> int:
        """A new version of the guideline; returns it. In an open study the criteria themselves stay.

        Raises:
            StudyError: the study is not a draft and the criteria are others.
        """
        with self._store.write(number) as connection:
            row = led_study(connection, by, number)
            version, before = criteria_in(connection, number)
            same = [c.key for c in before] == [c.key for c in criteria]
            if not same and row.state != "draft":
                raise StudyError("Judgments were given on these criteria: reword them, or make another study.")
            if not same and connection.execute(golden(number).limit(1)).first() is not None:
                raise StudyError("There are items with gold on these criteria: make another study for others.")
            write_guideline(connection, number, version + 1, criteria)
        return version + 1

    def add_items(self, by: Person, number: int, new: Sequence[NewItem], kind: str = "upload") -> int:
        """Stores items with their responses, de-identified; all of them or none. Returns how many.

        An item of a known id takes further responses where it is otherwise the same.

        Raises:
            InputError: an id with other contents, or a response that is there already.
        """
        with self._store.write(number) as connection:
            row = self._draft(connection, by, number)
            names = settings_in(row).hidden_names
            known: dict[str, Any] = {
                r.key: r for r in connection.execute(select(item).where(item.c.study_id == number))
            }
            systems = {r.name: r.id for r in connection.execute(select(system).where(system.c.study_id == number))}
            for entry in new:
                self._add_item(connection, number, entry, names, known, systems, kind)
        return len(new)

    def _add_item(
        self, connection: Connection, number: int, new: NewItem, names: Sequence[str], known: dict[str, Any],
        systems: dict[str, int], kind: str,
    ) -> None:  # fmt: skip
        turns = [dict(turn) | {"text": deidentified(turn["text"] or "", names)} for turn in new.turns]
        values = {
            "study_id": number, "key": new.key, "kind": new.kind, "problem": deidentified(new.problem, names),
            "situation": deidentified(new.situation, names), "turns": turns, "emotion": new.emotion, "strategy": new.strategy,
        }  # fmt: skip
        there = known.get(new.key)
        if there is None and not turns:
            raise InputError(f"Expected turns for {new.key!r}, which is not in this study; responses alone go to items that are.")
        if there is None:
            made = added(connection, item, values)
            known[new.key] = connection.execute(select(item).where(item.c.id == made)).one()
        else:
            made = there.id
            words = [turn["text"] for turn in there.turns]
            same = there.kind == new.kind and words == [turn["text"] for turn in turns] and new.gold is None
            if turns and not same:
                raise InputError(f"The id {new.key!r} is in this study with other contents; give this item another id.")
        numbers = []
        for name, text in new.responses.items():
            values = {"item_id": made, "text": deidentified(text, names), "created": now()}
            if new.gold is None:
                if name not in systems:
                    row = {"study_id": number, "name": name, "kind": kind}
                    systems[name] = added(connection, system, row)
                values["system_id"] = systems[name]
            try:
                with connection.begin_nested():
                    numbers.append(added(connection, response, values))
            except IntegrityError as cause:
                raise InputError(f"There is a response of {name!r} to {new.key!r} already.") from cause
        if new.gold is not None:
            write_pair(connection, number, made, new.kind, numbers[0], numbers[1], gold=dict(new.gold), note=new.note)

    def clear(self, by: Person, number: int) -> None:
        """Takes every item, response and system out of a draft, as after a wrong upload."""
        with self._store.write(number) as connection:
            self._draft(connection, by, number)
            mine = select(item.c.id).where(item.c.study_id == number)
            connection.execute(delete(pair).where(pair.c.study_id == number))
            connection.execute(delete(response).where(response.c.item_id.in_(mine)))
            connection.execute(delete(item).where(item.c.study_id == number))
            connection.execute(delete(system).where(system.c.study_id == number))

    def sample(self, by: Person, number: int, items: Sequence[Item], how: Drawing) -> int:
        """Draws items of dialogues, seeded by the study; those it has are left out. Returns how many.

        Raises:
            InputError: fewer are left than are asked for.
        """
        with self._store.read() as connection:
            seed = settings_in(led_study(connection, by, number)).seed
            known = set(connection.execute(select(item.c.key).where(item.c.study_id == number)).scalars())
        chosen = draw([entry for entry in items if entry.id not in known], how.count, seed, how.stratified)
        new = [from_dialogue(entry, how.kind, PERSON if how.with_person else None) for entry in chosen]
        return self.add_items(by, number, new, "person")

    def add_checkpoints(self, by: Person, number: int, checkpoints: Mapping[str, str]) -> None:
        """Systems whose responses are still to be written: name -> SHA-256."""
        with self._store.write(number) as connection:
            self._draft(connection, by, number)
            known = set(connection.execute(select(system.c.name).where(system.c.study_id == number)).scalars())
            for name, sha256 in checkpoints.items():
                expect(name not in known, "a system that the study has not", name)
                values = {"study_id": number, "name": name, "kind": "checkpoint", "checkpoint_sha256": sha256}
                connection.execute(insert(system).values(values))

    # -- gold of the entrance test ---------------------------------------------------------------------------------

    def next_gold(self, by: Person, number: int) -> dict[str, Any] | None:
        """A drawn item of the entrance test that has responses and no gold yet, in a random order of the two."""
        with self._store.write(number) as connection:
            row = self._draft(connection, by, number)
            pair_gate_items(connection, number, settings_in(row))
            without = select(pair).where(pair.c.study_id == number, pair.c.kind == "gate", pair.c.gold.is_(None))
            rows = connection.execute(without.order_by(pair.c.position, pair.c.id)).all()
            if not rows:
                return None
            straight = left_first(settings_in(row), rows[0].id)
            texts = {r.id: r.text for r in connection.execute(select(response).where(response.c.item_id == rows[0].item_id))}
            about = connection.execute(select(item).where(item.c.id == rows[0].item_id)).one()
            a, b = (rows[0].left_id, rows[0].right_id) if straight else (rows[0].right_id, rows[0].left_id)
            turns = [{"speaker": turn["speaker"], "text": turn["text"]} for turn in about.turns]
            return {"pair": rows[0].id, "problem": about.problem, "situation": about.situation, "turns": turns,
                    "a": texts[a], "b": texts[b], "left": len(rows)}  # fmt: skip

    def set_gold(self, by: Person, number: int, pair_id: int, places: Mapping[str, str]) -> None:
        """The gold verdicts of an item, in the places in which ``next_gold`` showed it.

        Raises:
            InputError: verdicts that are not asked for.
            AbsentError: no such item.
        """
        with self._store.write(number) as connection:
            row = self._draft(connection, by, number)
            _, criteria = criteria_in(connection, number)
            good = set(places) == {c.key for c in criteria} and set(places.values()) <= set(PLACES)
            expect(good, f"{', '.join(PLACES)} for each criterion", dict(places))
            verdicts = {key: VERDICTS[PLACES.index(place)] for key, place in places.items()}
            if not left_first(settings_in(row), pair_id):
                verdicts = {key: swapped(verdict) for key, verdict in verdicts.items()}
            mine = (pair.c.id == pair_id, pair.c.study_id == number, pair.c.kind == "gate")
            if not connection.execute(update(pair).where(*mine).values(gold=verdicts)).rowcount:
                raise AbsentError("There is no such item in the entrance test.")

    # -- open and closed -------------------------------------------------------------------------------------------

    def open(self, by: Person, number: int) -> None:
        """Lets raters in: makes the pairs of the official queue, attention checks and practice items, the first time.

        Raises:
            StudyError: something is still missing; names all of it.
        """
        with self._store.write(number) as connection:
            row = led_study(connection, by, number)
            if row.origin_sha256 is not None:
                raise StudyError("An imported study is a record and is not judged any further.")
            if row.state == "open":
                raise StudyError("The study is open already.")
            settings, (_, criteria) = settings_in(row), criteria_in(connection, number)
            if row.state == "draft":
                pair_gate_items(connection, number, settings)
                problems = missing(connection, number, settings, criteria)
                if problems:
                    raise StudyError("Before the study can open: " + "; ".join(problems) + ".")
                write_official_pairs(connection, number, settings)
                write_attention_pairs(connection, number, settings, criteria)
                write_practice(connection, number, criteria)
            connection.execute(update(study).where(study.c.id == number).values(state="open"))

    def close(self, by: Person, number: int) -> None:
        """Takes no further judgment until it is opened again.

        Raises:
            StudyError: it is not open.
        """
        with self._store.write(number) as connection:
            if led_study(connection, by, number).state != "open":
                raise StudyError("Only an open study can be closed.")
            connection.execute(update(study).where(study.c.id == number).values(state="closed"))

    # -- raters ----------------------------------------------------------------------------------------------------

    def add_rater(self, by: Person, number: int, account_id: int) -> None:
        """Lets an account judge in the study, again if it was taken out.

        Raises:
            StudyError: the account's role does not judge, or it is disabled.
        """
        with self._store.write(number) as connection:
            led_study(connection, by, number)
            self.join(connection, account_id, number)

    def join(self, connection: Connection, account_id: int, number: int) -> None:
        """As ``add_rater``, inside another's transaction (an accepted invitation)."""
        row = connection.execute(select(account).where(account.c.id == account_id)).first()
        if row is None or row.disabled is not None:
            raise AbsentError("There is no such account in use.")
        if row.role not in RATERS:
            raise StudyError(f"Only {' and '.join(RATERS)}s judge: a {row.role} knows which system said what.")
        mine = (rater.c.study_id == number, rater.c.account_id == account_id)
        if connection.execute(select(rater.c.id).where(*mine)).first() is not None:
            connection.execute(update(rater).where(*mine).values(removed=None))
            return
        count = connection.execute(select(func.count()).where(rater.c.study_id == number)).scalar_one()
        values = {"study_id": number, "account_id": account_id, "code": f"R{count + 1}", "joined": now()}
        connection.execute(insert(rater).values(values))

    def remove_rater(self, by: Person, number: int, rater_id: int) -> int:
        """Takes a rater out; their judgments stay, their open items go back to the queue. Returns how many those were."""
        with self._store.write(number) as connection:
            row = led_study(connection, by, number)
            mine = (rater.c.study_id == number, rater.c.id == rater_id)
            if not connection.execute(update(rater).where(*mine).values(removed=now())).rowcount:
                raise AbsentError("There is no such rater in this study.")
            return release(connection, rater_id, settings_in(row), criteria_in(connection, number)[1])

    def release_rater(self, by: Person, number: int, rater_id: int) -> int:
        """Gives a rater's open items back to the queue, e.g. of one who stays away; the rater stays. Returns how many."""
        with self._store.write(number) as connection:
            row = led_study(connection, by, number)
            if connection.execute(select(rater.c.id).where(rater.c.study_id == number, rater.c.id == rater_id)).first() is None:
                raise AbsentError("There is no such rater in this study.")
            return release(connection, rater_id, settings_in(row), criteria_in(connection, number)[1])

    def leave_all(self, connection: Connection, account_id: int) -> None:
        """Gives back the open items of an account in every study, inside another's transaction."""
        for row in connection.execute(select(rater.c.id, rater.c.study_id).where(rater.c.account_id == account_id)).all():
            release(
                connection, row.id, settings_in(study_row(connection, row.study_id)), criteria_in(connection, row.study_id)[1]
            )

    def put_back(self, by: Person, number: int, pair_id: int) -> None:
        """Puts a pair that was set aside back into the queue: it gets raters who have not seen it.

        Raises:
            StudyError: it was not set aside.
        """
        with self._store.write(number) as connection:
            row = led_study(connection, by, number)
            found = connection.execute(select(pair).where(pair.c.id == pair_id, pair.c.study_id == number)).first()
            if found is None or found.state != "aside":
                raise StudyError("This item was not set aside.")
            mine = (assignment.c.pair_id == pair_id, assignment.c.state == "declined")
            connection.execute(update(assignment).where(*mine).values(state="released"))
            restate(connection, pair_id, settings_in(row), criteria_in(connection, number)[1])

    def _draft(self, connection: Connection, by: Person, number: int) -> Any:
        row = led_study(connection, by, number)
        if row.state != "draft":
            raise StudyError("The study was opened: its items, systems and settings are fixed. Make another study for others.")
        return row
