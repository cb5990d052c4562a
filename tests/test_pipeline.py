"""``make pipeline``: every stage runs on synthetic data, and the app's session takes turns with the checkpoint that is left."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from app.session import Phase, Session
from app.worker import Worker
from multimood_core.checksums import checkpoint_sha256
from multimood_core.engine import Engine
from multimood_core.labels import EMOTIONS, STRATEGIES
from tests import pipeline

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def exported() -> Path:
    """The checkpoint that the whole pipeline leaves; its status is 0 only where the core's engine answers with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(pipeline.REPOSITORY)  # the smoke configurations name folders of the repository
        assert pipeline.main() == 0
    return pipeline.REPOSITORY / pipeline.CHECKPOINTS / pipeline.NAME


def test_the_sessions_engine_takes_turns_with_the_exported_checkpoint(exported: Path) -> None:
    worker = Worker()
    try:
        session = Session(Engine(exported, language="en"), worker)
        session.acknowledge()
        for number, take in enumerate((
            lambda: session.type_turn("I have not slept since I lost my job."),
            lambda: session.take_clip(pipeline.REPOSITORY / pipeline.SETS / "mesc/clips/0_0.mp4"),
        )):
            take()
            limit = time.monotonic() + 300
            while session.phase is not Phase.DECIDING and session.problem is None and time.monotonic() < limit:
                session.watch(session.version, 1.0)
            assert session.problem is None
            current = session.current
            assert current is not None
            assert current.labels["client_emotion"].label in EMOTIONS
            assert current.labels["therapist_emotion"].label in EMOTIONS
            assert current.labels["strategy"].label in STRATEGIES
            assert sum(current.labels["strategy"].probabilities.values()) == pytest.approx(1.0, abs=1e-4)
            assert session.phase is Phase.DECIDING  # a reply was written; of a model this young it may be empty
            assert current.modalities is not None
            assert current.modalities.video == ("used" if number else "missing")
            session.edit("I see.")
        assert session.checkpoint.sha256 == checkpoint_sha256(exported)
    finally:
        worker.close()


def test_every_stage_left_a_whole_state_metrics_and_its_lineage(exported: Path) -> None:
    build = pipeline.REPOSITORY / pipeline.BUILD
    for stage in ("projectors", "compressor", "sft", "reward_model", "grpo", "ppo"):
        out = build / stage
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert rows, stage
        board = EventAccumulator(str(out / "tensorboard")).Reload()
        losses = {event.step: event.value for event in board.Scalars("loss")}
        for row in rows:
            if "loss" in row:
                assert losses[row["step"]] == pytest.approx(row["loss"], rel=1e-5), stage
        assert (out / "state/trained.safetensors").is_file()
        assert not list(build.rglob("*.partial"))
    told = json.loads((exported / "lineage.json").read_text())
    stages = [command.split()[2] for command in told["commands"]]
    assert stages == ["train.projectors", "train.compressor", "train.sft", "train.reward_model", "train.ppo"]
    assert told["stage"] == "ppo"
    assert set(told["files"]) >= {"modules.safetensors", "adapter_model.safetensors", "config.json"}

