"""A real engine on a tiny model for the session's logic, and a checkpoint for the browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.session import Session
from app.sessions import Sessions
from app.worker import Worker
from multimood_core.engine import Engine
from multimood_core.records import CheckpointId
from multimood_core.registry import Calibration, Checkpoint
from tests.multimood_core.tiny import tiny_model


@pytest.fixture(scope="session")
def engine() -> Engine:
    """Every part that a turn passes through, on a language model of two small layers with random weights."""
    model, processor = tiny_model()
    return Engine(Checkpoint(CheckpointId("tiny", "0" * 64), Path(), model, processor, Calibration()), language="en")


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(capacity=2)
    yield worker
    worker.close()


@pytest.fixture
def sessions(engine: Engine, worker: Worker) -> Sessions:
    return Sessions(engine, worker)


@pytest.fixture
def session(sessions: Sessions) -> Session:
    """A session whose notice was read."""
    session = sessions.open()
    session.acknowledge()
    return session


def settled(session: Session, seconds: float = 60.0) -> Session:
    """Waits until the model is done with the session's turn."""
    with session.changed:
        assert session.changed.wait_for(lambda: not session.busy, seconds), f"still {session.phase} after {seconds} s"
    return session
