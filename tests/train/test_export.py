"""An exported checkpoint answers as the one that was trained, says where it comes from, and is there whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoProcessor

from multimood_core import registry
from multimood_core.checksums import check_sums, checkpoint_sha256
from multimood_core.errors import DataError, ModelError
from multimood_core.lineage import sha256_of, weights_hash
from multimood_core.registry import ADAPTER, Calibration, save
from multimood_core.run_curves import CURVES, read_curves
from tests.multimood_core.tiny import next_token_logits, tiny_model
from train import export
from train.lineage import lineage
from train.mixture import SftConfig

LAYERS = r".*language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj"


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny checkpoint with an adapter that changes the answers, and a base of the same size to load it on."""
    monkeypatch.setattr(export, "build_base", lambda mixture, config: tiny_model())
    model, _ = tiny_model()
    torch.manual_seed(1)
    model.add_adapter(LoraConfig(r=4, init_lora_weights=False, target_modules=LAYERS), adapter_name=ADAPTER)
    folder = tmp_path / "final"
    folder.mkdir()
    told = {"stage": "sft", "steps": 7, "seed": 3, "commit": "abc", "data_sha256": "d" * 64, "commands": ["python -m train.sft"]}
    save(folder, model, Calibration(), told, dtype=torch.float32)
    return folder


def run(trained: Path, *more: str) -> Path:
    export.main([f"--checkpoint={trained}", "--name=mine", f"--to={trained.parent / 'out'}", *more])
    return trained.parent / "out" / "mine"


def test_an_exported_adapter_is_listed_and_answers_as_before(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (trained.parent / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n')
    folder = run(trained)
    assert read_curves(folder / CURVES).measures["loss"].training == [(1, 3.0), (2, 2.0)]
    monkeypatch.setattr(registry, "CHECKPOINTS", folder.parent)
    assert registry.available() == ["mine"]
    loaded = registry.load("mine", build=lambda config, dtype: tiny_model())
    before = registry.load(trained, build=lambda config, dtype: tiny_model())
    logits = [next_token_logits(checkpoint.model, checkpoint.processor) for checkpoint in (loaded, before)]
    torch.testing.assert_close(*logits)
    assert checkpoint_sha256(folder) == checkpoint_sha256(trained)
    check_sums(folder, required=True)


def test_merged_weights_answer_as_the_adapter_did(trained: Path) -> None:
    before = registry.load(trained, build=lambda config, dtype: tiny_model())
    plain, processor = tiny_model()
    expected = next_token_logits(before.model, before.processor)
    assert not torch.allclose(expected, next_token_logits(plain, processor), atol=1e-2), "the adapter changes nothing"
    folder = run(trained, "--form=merged", "--dtype=float32")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    again = AutoProcessor.from_pretrained(folder)
    assert (again.prompt, again.recent_turns) == (processor.prompt, processor.recent_turns)
    torch.testing.assert_close(next_token_logits(model, again), expected, atol=1e-4, rtol=1e-4)
    assert not any("lora" in name for name in model.state_dict())


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_card_and_lineage_say_where_it_comes_from(trained: Path, form: str) -> None:
    folder = run(trained, f"--form={form}")
    told, text = json.loads((folder / "lineage.json").read_text()), (folder / "README.md").read_text()
    assert told["exported_from"] == {"name": "final", "sha256": checkpoint_sha256(trained)}
    assert (told["stage"], told["steps"], told["seed"]) == ("sft", 7, 3)
    assert told["files"]
    for name, digest in told["files"].items():
        assert sha256_of([folder / name]) == digest
    for known in ("# mine", "| sft |", "| 7 |", "`python -m train.sft`", "d" * 64, "Research use only", "Not measured yet"):
        assert known in text


def test_a_checkpoint_that_does_not_fit_is_not_exported(trained: Path) -> None:
    (trained / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors was changed"):
        run(trained)
    assert not (trained.parent / "out").exists()


def test_an_earlier_export_is_replaced_when_asked_and_kept_when_the_disk_is_full(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(trained)
    with pytest.raises(DataError, match=r"there already.*--replace=true"):
        run(trained)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.shutil, "copyfile", full)
    with pytest.raises(ModelError, match="No space left"):
        run(trained, "--replace=true")
    assert (folder / "modules.safetensors").is_file()
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("words", "says"),
    [(["--form=whole"], "form of adapter, merged"), (["--dtype=int8"], "dtype of"), (["--name="], "Give it as --name=NAME")],
)
def test_what_cannot_be_exported_is_said(trained: Path, words: list[str], says: str) -> None:
    with pytest.raises(DataError, match=says):
        run(trained, *words)


def test_a_dry_run_writes_nothing(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not run(trained, "--dry-run").exists()
    assert "(adapter)" in capsys.readouterr().out


def test_a_lineage_names_parents_by_their_weights_and_all_commands(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [str(Path(export.__file__).with_name("ppo.py")), "--config", "a b.yaml"])
    told = lineage("ppo", SftConfig(seed=4), {"parent": trained, "compressor": None}, "0" * 64, 5)
    assert told["parents"] == {"parent": {"name": str(trained), "sha256": weights_hash(trained)}}
    assert told["commands"] == ["python -m train.sft", "python -m train.ppo --config 'a b.yaml'"]
    assert (told["stage"], told["seed"], told["steps"], told["data_sha256"]) == ("ppo", 4, 5, "0" * 64)
    assert told["config"]["seed"] == 4
    json.dumps(told)


def test_one_changed_weight_changes_a_parents_hash(trained: Path) -> None:
    before, path = weights_hash(trained), trained / "modules.safetensors"
    state = load_file(path)
    name = next(iter(state))
    save_file(state | {name: state[name] + 1}, path)
    assert weights_hash(trained) != before
