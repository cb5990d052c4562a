"""Writes the responses of a study's checkpoints ahead of time: item by item, each one stored before the next is begun.

Stopped at any point, the job goes on with what is still missing. The model's turn comes through the app's ``Worker``, one
response at a time, so that a live session waits for one response at most.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, Row, func, insert, select

from app.ports import EngineLike
from app.studies.background import Background
from app.studies.deidentify import deidentified
from app.studies.errors import StudyError
from app.studies.lookup import led_study, settings_in
from app.studies.people import Person
from app.studies.schema import item, response, study, system
from app.studies.store import Store, now
from app.worker import BusyError, Job, Worker
from multimood_core.engine import Finished
from multimood_core.records import Context, HistoryTurn, Turn

PATIENCE: Final = 0.5  # seconds between two tries where the model's queue is full


class Writer:
    """One job at a time, for one study.

    Args:
        store: the database.
        worker: the thread on which models answer.
        load: the engine of a checkpoint by its name; slow.
    """

    def __init__(self, store: Store, worker: Worker, load: Callable[[str], EngineLike]) -> None:
        self._store, self._worker, self._load = store, worker, load
        self._work = Background("multimood-responses", "Responses are being written already; wait for them, or stop them first.")

    def start(self, by: Person, number: int) -> None:
        """Begins, or goes on, with the responses that are missing.

        Raises:
            StudyError: a job runs already, or the study is no draft.
        """
        with self._store.read() as connection:
            if led_study(connection, by, number).state != "draft":
                raise StudyError("The study was opened: its responses are fixed.")
        self._work.begin(number, self._counts(number)[0], lambda: self._run(number))

    def stop(self, number: int | None = None) -> None:
        """Ends the job, of this study alone where one is given, after the response that is being written."""
        self._work.stop(number)

    def status(self, by: Person, number: int) -> dict[str, Any]:
        """Written, wanted, whether a job runs, seconds that it may take, and what went wrong."""
        with self._store.read() as connection:
            led_study(connection, by, number)
        return self._work.status(number, lambda: self._counts(number))

    def _counts(self, number: int) -> tuple[int, int]:
        kinds = item.c.kind.in_(("official", "gate"))
        with self._store.read() as connection:
            items = connection.execute(_wanted_items(number, func.count())).scalar_one()
            systems = select(func.count()).where(system.c.study_id == number, system.c.kind == "checkpoint")
            wanted = items * connection.execute(systems).scalar_one()
            done = (
                select(func.count())
                .select_from(response)
                .join(item, item.c.id == response.c.item_id)
                .join(system, system.c.id == response.c.system_id)
                .where(item.c.study_id == number, kinds, system.c.kind == "checkpoint")
            )
            return connection.execute(done).scalar_one(), wanted

    def _run(self, number: int) -> str:
        with self._store.read() as connection:
            names = settings_in(connection.execute(select(study).where(study.c.id == number)).one()).hidden_names
            systems = connection.execute(
                select(system).where(system.c.study_id == number, system.c.kind == "checkpoint").order_by(system.c.id)
            ).all()
        for chosen in systems:
            engine: EngineLike | None = None
            while not self._work.stopped.is_set():
                with self._store.read() as connection:
                    missing = _first_missing(connection, number, chosen.id)
                if missing is None:
                    break
                if engine is None:
                    engine = self._load(chosen.name)
                    _require_same(engine, chosen)
                text = self._answer(engine, missing)
                if text is None:
                    return ""
                if not text.strip():
                    raise StudyError(f"{chosen.name} has written nothing to item {missing.key}; use another checkpoint.")
                values = {"item_id": missing.id, "system_id": chosen.id, "text": deidentified(text.strip(), names),
                          "checkpoint_sha256": chosen.checkpoint_sha256, "created": now()}  # fmt: skip
                with self._store.write(number) as connection:
                    connection.execute(insert(response).values(values))
        return ""

    def _answer(self, engine: EngineLike, row: Row[Any]) -> str | None:
        """The reply to an item, from the worker's thread; None where the job is being stopped.

        Raises:
            StudyError: the model could not answer.
        """
        done, said, failed = threading.Event(), [], []

        def run() -> None:
            said.append(reply(engine, row.problem, row.situation, row.turns))
            done.set()

        def fail(sentence: str) -> None:
            failed.append(sentence)
            done.set()

        while True:
            try:
                self._worker.submit(Job(run, fail, lambda place: None))
                break
            except BusyError as error:
                if "closing" in str(error) or self._work.stopped.wait(PATIENCE):
                    return None
        done.wait()
        if failed:
            raise StudyError(f"Item {row.key}: {failed[0]}")
        return said[0]


def reply(engine: EngineLike, problem: str, situation: str, turns: list[dict[str, Any]]) -> str:
    """What a checkpoint says to the last of ``turns``, with the data's labels in the history as in the paper."""
    history = [HistoryTurn(t["speaker"], t["text"], t.get("emotion"), t.get("strategy")) for t in turns[:-1]]
    run = engine.begin(Turn(text=turns[-1]["text"]), history, Context(problem, situation), engine.memory(), 0.0)
    for event in run.events():
        if isinstance(event, Finished):
            return event.prediction.response
    return ""


def _wanted_items(number: int, *columns: Any) -> Any:
    """Items that checkpoints answer; those of an upload with gold have two responses of nobody's system."""
    complete = select(response.c.item_id).where(response.c.system_id.is_(None))
    return select(*columns).where(
        item.c.study_id == number, item.c.kind.in_(("official", "gate")), item.c.id.not_in(complete)
    )


def _first_missing(connection: Connection, number: int, system_id: int) -> Row[Any] | None:
    written = select(response.c.item_id).where(response.c.system_id == system_id)
    return connection.execute(_wanted_items(number, item).where(item.c.id.not_in(written)).order_by(item.c.id).limit(1)).first()


def _require_same(engine: EngineLike, chosen: Row[Any]) -> None:
    found = engine.checkpoint.id.sha256
    if found != chosen.checkpoint_sha256:
        raise StudyError(
            f"The weights of {chosen.name} have changed since the study chose them (expected {chosen.checkpoint_sha256[:12]}, "
            f"got {found[:12]}); bring them back, or make another study."
        )
