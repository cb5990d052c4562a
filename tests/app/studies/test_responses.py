"""Responses written ahead by real checkpoints: stored one by one, stopped and gone on with, refused from other weights."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import select

from app.ports import EngineLike
from app.studies import schema
from app.studies.deidentify import deidentified
from app.studies.errors import StudyError
from app.studies.guidelines import CRITERIA
from app.studies.items import read_upload
from app.studies.records import StudySettings
from app.studies.responses import Writer, reply
from app.worker import Worker
from multimood_core.engine import Engine
from tests.app.studies.scene import Scene, line

SHA = "0" * 64  # of the tiny checkpoint


def settled(writer: Writer, scene: Scene, number: int, until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        status = writer.status(scene.researcher, number)
        if until(status):
            return status
        time.sleep(0.01)
    raise AssertionError(writer.status(scene.researcher, number))


@pytest.fixture
def number(scene: Scene) -> int:
    """Three items with one uploaded response each, and two checkpoints that have written nothing."""
    number = scene.studies.create(scene.researcher, "s", StudySettings(gate_size=0))
    lines = [line(f"i{i}", {"uploaded": "A response of five words."}) for i in range(3)]
    scene.studies.add_items(scene.researcher, number, read_upload("\n".join(lines).encode(), CRITERIA))
    scene.studies.add_checkpoints(scene.researcher, number, {"tiny": SHA, "other": SHA})
    return number


@pytest.fixture
def writer(scene: Scene, worker: Worker, engine: Engine) -> Iterator[Writer]:
    made = Writer(scene.store, worker, lambda name: engine)
    yield made
    made.stop()


def written(scene: Scene) -> list[Any]:
    with scene.store.read() as connection:
        query = select(schema.response).where(schema.response.c.checkpoint_sha256.is_not(None))
        return list(connection.execute(query.order_by(schema.response.c.id)))


def test_each_missing_response_is_written_by_the_model_and_once(
    scene: Scene, number: int, writer: Writer, engine: Engine
) -> None:
    with pytest.raises(StudyError, match="3 responses of tiny"):
        scene.studies.open(scene.researcher, number)
    writer.start(scene.researcher, number)
    status = settled(writer, scene, number, lambda s: not s["running"])
    assert (status["done"], status["wanted"], status["problem"]) == (6, 6, "")
    rows = written(scene)
    assert len({(row.item_id, row.system_id) for row in rows}) == 6
    assert {row.checkpoint_sha256 for row in rows} == {SHA}
    item = json.loads(line("i0"))
    assert rows[0].text == deidentified(reply(engine, item["problem"], item["situation"], item["turns"]).strip())
    scene.studies.open(scene.researcher, number)
    with pytest.raises(StudyError, match="fixed"):
        writer.start(scene.researcher, number)


def test_a_job_that_was_stopped_goes_on_with_what_is_missing(scene: Scene, number: int, worker: Worker, engine: Engine) -> None:
    first = Writer(scene.store, worker, lambda name: engine)
    first.start(scene.researcher, number)
    settled(first, scene, number, lambda s: s["done"] >= 2)
    with pytest.raises(StudyError, match="already"):
        first.start(scene.researcher, number)
    first.stop()
    before = written(scene)
    second = Writer(scene.store, worker, lambda name: engine)  # as after a restart of the app
    second.start(scene.researcher, number)
    settled(second, scene, number, lambda s: not s["running"])
    assert written(scene)[: len(before)] == before
    assert len(written(scene)) == 6


def test_other_weights_than_the_study_chose_are_refused(scene: Scene, worker: Worker, engine: Engine) -> None:
    number = scene.study(items=1, opened=False)
    scene.studies.add_checkpoints(scene.researcher, number, {"tiny": "1" * 64})
    writer = Writer(scene.store, worker, lambda name: engine)
    writer.start(scene.researcher, number)
    status = settled(writer, scene, number, lambda s: not s["running"])
    assert "have changed" in status["problem"]
    assert written(scene) == []


def test_a_mistake_while_writing_is_told_and_keeps_what_was_written(
    scene: Scene, number: int, worker: Worker, engine: Engine
) -> None:
    loaded = []

    def load(name: str) -> EngineLike:
        if name == "other":
            raise OSError("the disk is gone")
        loaded.append(name)
        return engine

    writer = Writer(scene.store, worker, load)
    writer.start(scene.researcher, number)
    status = settled(writer, scene, number, lambda s: not s["running"])
    assert "log has the details" in status["problem"]
    assert "disk" not in status["problem"]
    assert len(written(scene)) == 3
    assert loaded == ["tiny"]
