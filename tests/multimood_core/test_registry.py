"""A checkpoint comes back as it was saved, strictly, or says what does not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from multimood_core import checksums, registry
from multimood_core.checksums import DECIDING, SUMS, check_sums, checkpoint_sha256, record_sums
from multimood_core.errors import ModelError
from multimood_core.registry import Checkpoint, available, load, load_modules, module_state, resolve
from tests.multimood_core.tiny import CALIBRATION, next_token_logits, tiny_model


def test_a_checkpoint_answers_as_before_it_was_saved(embedded: Checkpoint, embedded_checkpoint: Path) -> None:
    assert not any(p.requires_grad for p in embedded.model.parameters())
    assert not embedded.model.training
    expected = load_file(embedded_checkpoint / "expected.safetensors")["logits"]
    torch.testing.assert_close(next_token_logits(embedded.model, embedded.processor), expected, atol=1e-4, rtol=1e-4)
    embedded.model.disable_adapters()
    try:
        plain = next_token_logits(embedded.model, embedded.processor)
    finally:
        embedded.model.enable_adapters()
    assert not torch.allclose(plain, expected, atol=1e-2)
    assert embedded.calibration == CALIBRATION
    assert (embedded.id.name, len(embedded.id.sha256)) == ("drawn", 64)


def test_the_folder_holds_only_what_training_changed(embedded_checkpoint: Path) -> None:
    names = load_file(embedded_checkpoint / "modules.safetensors").keys()
    assert not [name for name in names if "language_model" in name or "lm_head" in name]
    towers = {name for name in names if "_tower." in name}
    assert {name.rpartition(".")[2] for name in towers} == {"feature_mean", "feature_std"}
    assert {"model.video_mode.weight", "model.compressor.memory_projection.weight"} <= names
    adapter = load_file(embedded_checkpoint / "adapter_model.safetensors")
    assert adapter
    assert all(".lora_" in name for name in adapter)
    assert json.loads((embedded_checkpoint / "lineage.json").read_text()) == {"stage": "test"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state.pop("model.video_mode.weight"), r"missing \['model\.video_mode\.weight'\]"),
        (lambda state: state.update(foreign=torch.zeros(1)), r"unexpected \['foreign'\]"),
        (lambda state: state.update({"model.video_mode.weight": torch.zeros(2, 2)}), r"other shapes \['model\.video_mode"),
    ],
)
def test_modules_that_do_not_fit_are_refused(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], says: str
) -> None:
    model, _ = tiny_model()
    state = module_state(model)
    save_file(state, tmp_path / "good.safetensors")
    other, _ = tiny_model(seed=1)
    load_modules(other, tmp_path / "good.safetensors")
    torch.testing.assert_close(module_state(other), state)
    change(state)
    save_file(state, tmp_path / "modules.safetensors")
    with pytest.raises(ModelError, match=says):
        load_modules(model, tmp_path / "modules.safetensors")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state.pop(sorted(state)[0]), "missing"),
        (lambda state: state.update({"base_model.model.foreign.lora_A.weight": torch.zeros(2, 2)}), "unexpected.*foreign"),
        (lambda state: state.update({sorted(state)[0]: torch.zeros(3, 5)}), "does not fit"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    embedded: Checkpoint,
    embedded_checkpoint: Path,
    tmp_path: Path,
    change: Callable[[dict[str, torch.Tensor]], object],
    says: str,
) -> None:
    state = load_file(embedded_checkpoint / "adapter_model.safetensors")
    change(state)
    save_file(state, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=says):
        registry._load_adapter(embedded.model, tmp_path)
    registry._load_adapter(embedded.model, embedded_checkpoint)


@pytest.mark.parametrize("name", ["config.json", "calibration.json", "modules.safetensors"])
def test_a_folder_without_one_of_its_files_is_named(embedded_checkpoint: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "faulty"
    shutil.copytree(embedded_checkpoint, folder)
    (folder / SUMS).unlink()
    (folder / name).unlink()
    with pytest.raises(ModelError, match="faulty"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "calibration.json"])
def test_a_file_that_was_cut_short_is_named(embedded_checkpoint: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "faulty"
    shutil.copytree(embedded_checkpoint, folder)
    (folder / SUMS).unlink()
    (folder / name).write_bytes((folder / name).read_bytes()[:20])
    with pytest.raises(ModelError, match="faulty"):
        load(folder)


@pytest.mark.parametrize("name", ["modules.safetensors", "adapter_model.safetensors"])
def test_tensors_that_were_cut_short_are_named(
    embedded: Checkpoint, embedded_checkpoint: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes((embedded_checkpoint / name).read_bytes()[:1000])
    with pytest.raises(ModelError, match=rf"complete safetensors file at .*{name}"):
        registry._load_adapter(embedded.model, tmp_path) if "adapter" in name else load_modules(embedded.model, tmp_path / name)


def test_an_unknown_name_lists_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "CHECKPOINTS", tmp_path)
    with pytest.raises(ModelError, match=r"none is installed.*got 'nothing'"):
        load("nothing")
    for name in ("b", "a", "no-checkpoint"):
        (tmp_path / name).mkdir()
    for name in ("b", "a"):
        (tmp_path / name / "modules.safetensors").touch()
    assert available() == ["a", "b"]
    assert resolve("a") == tmp_path / "a"
    with pytest.raises(ModelError, match=r"\(a, b\)"):
        resolve("no-checkpoint")


def test_the_hash_is_of_the_files_that_decide_the_answers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "modules.safetensors").write_bytes(b"1")
    first = checkpoint_sha256(tmp_path)
    (tmp_path / "README.md").write_text("card")
    (tmp_path / "lineage.json").write_text("{}")
    assert checkpoint_sha256(tmp_path) == first
    (tmp_path / "modules.safetensors").write_bytes(b"2")
    assert checkpoint_sha256(tmp_path) != first


@pytest.mark.parametrize("name", DECIDING)
def test_a_checkpoint_with_a_flipped_bit_is_refused(embedded_checkpoint: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(embedded_checkpoint, folder)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ModelError, match=rf"{name} was changed: expected SHA-256 .*, got .*Copy the checkpoint again"):
        load(folder)


def test_a_file_that_came_or_went_is_refused_and_a_change_that_was_meant_is_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.json", "modules.safetensors"):
        (tmp_path / name).write_text(name)
    record_sums(tmp_path)
    check_sums(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"adapter_config\.json came into"):
        check_sums(tmp_path)
    assert checksums.main([str(tmp_path)]) == 0
    assert checkpoint_sha256(tmp_path) in capsys.readouterr().out
    check_sums(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelError, match=r"Expected config\.json in"):
        check_sums(tmp_path)
    (tmp_path / SUMS).write_text("no sums\nat all, x\nsingle")
    with pytest.raises(ModelError, match="a line with SHA-256 and name"):
        check_sums(tmp_path)
    assert checksums.main([str(tmp_path / "absent")]) == 1


def test_one_without_hashes_is_taken_with_its_own_in_the_log_but_not_among_the_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "modules.safetensors").write_bytes(b"1")
    check_sums(tmp_path / "mine")
    assert checkpoint_sha256(tmp_path / "mine") in caplog.text
    monkeypatch.setattr(registry, "CHECKPOINTS", tmp_path)
    with pytest.raises(ModelError, match=f"Expected {SUMS} beside the weights"):
        load("mine")
