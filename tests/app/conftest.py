"""A real engine on a tiny model for the session's logic; the app on a real checkpoint, and devices, for the browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from app.build import Served, serving
from app.demo import demo_turn, draw_face
from app.session import Session
from app.sessions import Sessions
from app.worker import Worker
from multimood_core import registry
from multimood_core.config import MultiMoodConfig
from multimood_core.engine import Engine
from multimood_core.records import CheckpointId
from multimood_core.registry import Calibration, Checkpoint
from tests.app.browser import write_camera, write_microphone
from tests.multimood_core.tiny import tiny_model

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session", autouse=True)
def own_records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the app keeps, of people, studies and comparisons, lies in a folder of the tests, and so does its key."""
    folder = tmp_path_factory.mktemp("records")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MULTIMOOD_RECORDS", str(folder / "records"))
        environment.setenv("MULTIMOOD_DATABASE_URL", f"sqlite:///{folder / 'studies.sqlite3'}")
        environment.setenv("MULTIMOOD_COMPARE", str(folder / "compare"))
        environment.setenv("MULTIMOOD_VAULT_KEY_FILE", str(folder / "keys" / "vault.key"))
        environment.delenv("MULTIMOOD_VAULT_KEY", raising=False)
        yield folder / "records"


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


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The app on an installed checkpoint, or on one with untrained projectors around the real language model."""
    names = registry.available()
    folder: str | Path = registry.DEFAULT if registry.DEFAULT in names else names[0] if names else ""
    if not folder:
        folder = tmp_path_factory.mktemp("untrained")
        settings = yaml.safe_load((REPOSITORY / "train" / "configs" / "model_mini.yaml").read_text())
        model, _ = registry.build_embedded(MultiMoodConfig(**settings))
        registry.save(folder, model, registry.Calibration(), {"about": "untrained, for tests"})
    engine = Engine(folder, language="en")
    engine.transcriber.load()
    with serving(engine, port=0) as served:
        yield served


@pytest.fixture(scope="session")
def devices(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A drawn face, and the demo's first sentence with three seconds of quiet after it, in a loop."""
    folder = tmp_path_factory.mktemp("devices")
    spoken = demo_turn(0).waveform
    assert spoken is not None
    sound = np.concatenate([spoken.samples, np.zeros(3 * spoken.rate, np.float32)])
    images = [draw_face(-0.6, 0.4, i / 10) for i in range(40)]
    return write_camera(folder / "camera.y4m", images), write_microphone(folder / "microphone.wav", sound, spoken.rate)


def settled(session: Session, seconds: float = 60.0) -> Session:
    """Waits until the model is done with the session's turn."""
    with session.changed:
        assert session.changed.wait_for(lambda: not session.busy, seconds), f"still {session.phase} after {seconds} s"
    return session
