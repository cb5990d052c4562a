"""The predict command: one documented object, or one sentence on stderr."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from multimood_core import __main__ as command
from multimood_core.engine import Engine
from multimood_core.records import CheckpointId
from multimood_core.registry import Checkpoint
from tests import synthetic
from tests.multimood_core.tiny import tiny_model

REPOSITORY = Path(__file__).resolve().parents[2]
CLIP = Path("clip")


def run(*words: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "multimood_core", "predict", *map(str, words)]
    return subprocess.run(call, cwd=REPOSITORY, capture_output=True, text=True, timeout=timeout, check=False)


def assert_refused(done: subprocess.CompletedProcess[str], *says: str) -> None:
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    for part in says:
        assert part in done.stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "clip.mp4 (0 bytes)"),
        (b"My diary. Dear diary!\n" * 50, "clip.mp4"),
        (bytes(range(256)) * 40, "clip.mp4"),
        (None, "found none"),
    ],
    ids=["empty", "text", "noise", "absent"],
)
def test_a_bad_clip_is_one_sentence(tmp_path: Path, content: bytes | None, says: str) -> None:
    clip = tmp_path / "clip.mp4"
    if content is not None:
        clip.write_bytes(content)
    assert_refused(run(clip), says)


def test_a_clip_that_is_too_long_is_one_sentence(tmp_path: Path) -> None:
    images = synthetic.moving_pattern(12, width=64, height=48)
    clip = synthetic.write_clip(tmp_path / "long.mp4", images=images, times=[60.0 * i for i in range(12)])
    assert_refused(run(clip), "long.mp4", "600")


def test_a_bad_history_is_one_sentence(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    history.write_text('{"speaker": "client", "text": "fine"}\n{"speaker": "nobody"}\n')
    assert_refused(run("--text", "hello", "--history", history), "history.jsonl, line 2", "expected")


def test_a_bad_clip_is_refused_before_anything_heavy_is_loaded(tmp_path: Path) -> None:
    code = (
        "import sys; from multimood_core.__main__ import main\n"
        f"code = main(['predict', {str(tmp_path / 'absent.mp4')!r}])\n"
        "sys.exit('torch was loaded' if 'torch' in sys.modules else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert_refused(done, "absent.mp4")


def test_an_unknown_checkpoint_is_one_sentence() -> None:
    assert_refused(run("--text", "hello", "--checkpoint", "nothing"), "got 'nothing'")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "expected a clip, or words with --text"),
        (["--text", ""], "expected a clip, or words with --text"),
        (["--text", " \n "], "expected a clip, or words with --text"),
        (["--text", "hello", "--mood"], "--mood"),
        (["n" * 5000], "found none"),
        (["--text", "hello", "--checkpoint", ""], "got ''"),
        (["--text", "hello", "--history", "."], "cannot be read"),
    ],
)
def test_arguments_that_cannot_be_used_are_one_sentence(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = command.main(["predict", *words, "--json"])
    except SystemExit as end:
        status = int(str(end.code))
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.usefixtures("tiny_engine")
def test_an_unknown_language_is_refused_though_nothing_is_spoken(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["predict", "--text", "hello", "--language", "xx"]) == 2
    assert "got 'xx'" in capsys.readouterr().err


def test_json_is_one_object_with_the_documented_keys(embedded_checkpoint: Path, silent_clip: Path, tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    history.write_text(
        '{"speaker": "client", "text": "I lost my job.", "emotion": "sadness"}\n'
        '{"speaker": "therapist", "text": "When?", "strategy": "open question"}\n'
    )
    done = run(
        silent_clip, "--text", "I can’t sleep", "--history", history, "--checkpoint", embedded_checkpoint, "--json", timeout=250
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    said = json.loads(done.stdout)
    assert list(said) == [
        "client_emotion", "therapist_emotion", "strategy", "response", "transcript", "modalities", "tokens", "seconds",
        "checkpoint",
    ]  # fmt: skip
    for name, size in (("client_emotion", 7), ("therapist_emotion", 7), ("strategy", 10)):
        assert set(said[name]) == {"label", "probabilities"}
        assert len(said[name]["probabilities"]) == size
        assert sum(said[name]["probabilities"].values()) == pytest.approx(1)
        assert said[name]["label"] in said[name]["probabilities"]
    assert isinstance(said["response"], str)
    assert said["transcript"] == "I can’t sleep"
    assert said["modalities"] == {"video": "no_face", "audio": "silent", "text": "given"}
    assert set(said["tokens"]) == {"history_text", "history_compressed", "prompt", "response"}
    assert said["tokens"]["history_compressed"] == 2
    assert set(said["seconds"]) == {"media", "asr", "towers", "labels", "first_token", "total"}
    assert set(said["checkpoint"]) == {"name", "sha256"}
    assert said["checkpoint"]["name"] == "drawn"


@pytest.fixture
def tiny_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real engine on tiny weights, whatever checkpoint is asked for."""
    model, processor = tiny_model(seed=3)
    checkpoint = Checkpoint(CheckpointId("tiny", "0" * 64), CLIP, model, processor)
    monkeypatch.setattr("multimood_core.engine.load", lambda name: checkpoint)
    assert Engine("any").checkpoint is checkpoint


@pytest.mark.usefixtures("tiny_engine")
def test_without_json_the_answer_is_for_reading(capsys: pytest.CaptureFixture[str], silent_clip: Path) -> None:
    assert command.main(["predict", str(silent_clip), "--text", "nobody listens"]) == 0
    shown = capsys.readouterr().out
    used, by = "video no_face, audio silent, text given\n", "tiny, SHA-256 000000000000\n"
    for part in ("nobody listens", "client emotion", "strategy", "suggested reply", used, by):
        assert part in shown


@pytest.mark.usefixtures("tiny_engine")
def test_a_clip_in_which_nothing_is_said_or_seen_is_one_sentence(
    capsys: pytest.CaptureFixture[str], silent_clip: Path, tmp_path: Path
) -> None:
    quiet = synthetic.write_clip(tmp_path / "quiet.wav", sound=np.zeros(8000, np.float32), audio="pcm_s16le")
    for clip in (silent_clip, quiet):
        assert command.main(["predict", str(clip)]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "nothing to go by" in err
