"""The model card and the README's tables hold what the reports hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from multimood_core import registry
from multimood_core.errors import DataError
from train.card import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = registry.resolve(registry.DEFAULT)
    target = tmp_path / "copy"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("reports", "README.md"))
    return target


def reports(tmp_path: Path) -> list[Path]:
    row = {"accuracy": 0.5, "weighted_f1": 0.25, "macro_f1": 0.125, "uar": 0.4321}
    scores = row | {"accuracy_interval": [0.4, 0.6]}
    tasks = dict.fromkeys(("client_emotion", "therapist_emotion", "strategy"), scores)
    mesc = {"data": "mesc", "protocol": "gold-history", "n": 454, "tasks": tasks, "command": "C1", "items": [1, 2]}
    mesc["baselines"] = {"majority": dict.fromkeys(tasks, row)}
    replies = {"n": 454, "bleu2_released": 0.0792, "rouge_l": 0.135}
    mesc["responses"] = replies | {"items": {"rouge_l": [0.1]}, "baselines": {"constant response": replies | {"rouge_l": 0.25}}}
    clips = {"data": "emodb", "protocol": "clips, no words", "n": 104, "tasks": {"client_emotion": scores}, "command": "C2"}
    clips["baselines"] = {"majority": {"client_emotion": row}}
    paths = [tmp_path / "mesc.json", tmp_path / "clips.json"]
    for path, report in zip(paths, (mesc, clips), strict=True):
        path.write_text(json.dumps(report))
    return paths


def test_card_and_readme_are_written_from_the_reports(folder: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- results: how -->\nold\n<!-- /results -->\nafter\n")
    main(["--checkpoint", str(folder), "--readme", str(readme), "--reports", *map(str, reports(tmp_path))])
    card, text = (folder / "README.md").read_text(), readme.read_text()
    assert registry.checkpoint_sha256(folder) in card
    assert "| client emotion | **this checkpoint** | 50.00 | 25.00 | 12.50 | 43.21 |" in card
    assert "40.0 to 60.0" in card
    assert "| `C1` | **mini-sft** | 454 | 50.00 / 25.00 | 50.00 / 25.00 | 50.00 / 25.00 |" in text
    assert "| `C2` | 104 | 43.2 | 43.2 |" in text
    assert text.startswith("before\n<!-- results: how -->")
    assert text.endswith("<!-- /results -->\nafter\n")
    assert "old" not in text
    assert "| **this checkpoint** | 7.92 |  | 13.50 |  |  |  |" in card
    assert "| constant response | 7.92 |  | 25.00 |" in card
    assert "| `C1` | **mini-sft** | 454 | 7.92 |  | 13.50 |" in text
    kept = json.loads((folder / "reports" / "mesc.json").read_text())
    assert "items" not in kept
    assert "items" not in kept["responses"]


def test_a_checkpoint_trained_with_rewards_shows_them_beside_its_parents(folder: Path, tmp_path: Path) -> None:
    told = json.loads((folder / "lineage.json").read_text())
    told |= {"stage": "grpo", "parents": {"policy": {"name": "assets/checkpoints/mini-sft", "sha256": "0"}}}
    (folder / "lineage.json").write_text(json.dumps(told))
    row = {"value": 0.25, "low": 0.2, "high": 0.3, "missing": 0}
    found = {"mini-sft": {"n": 445, "parts": {"reward": row}, "differences": {}}}
    found["copy"] = {"n": 445, "parts": {"reward": row | {"value": 0.5}}, "differences": {"reward": {"value": 0.25, "p": 0.001}}}
    rewards = tmp_path / "val.json"
    rewards.write_text(json.dumps(found | {"other": found["copy"]}))
    given = ["--checkpoint", str(folder), "--reports", *map(str, reports(tmp_path))]
    main([*given, "--rewards", str(rewards)])
    card = (folder / "README.md").read_text()
    assert "`mini-sft` after reinforcement learning by GRPO" in card
    assert "| reward | 0.250 (0.200 to 0.300) | 0.500 (0.200 to 0.300), +0.250 (p 0.001) |" in card
    assert set(json.loads((folder / "reports" / "rewards_val.json").read_text())) == {"mini-sft", "copy"}
    rewards.write_text(json.dumps({"mini-sft": found["mini-sft"]}))
    with pytest.raises(DataError, match="rewards of mini-sft and copy"):
        main([*given, "--rewards", str(rewards)])
    with pytest.raises(DataError, match="Expected --rewards"):
        main(given)


def test_a_readme_without_marks_is_left_alone(folder: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("nothing here")
    with pytest.raises(DataError, match="marks"):
        main(["--checkpoint", str(folder), "--readme", str(readme), "--reports", *map(str, reports(tmp_path))])
    assert readme.read_text() == "nothing here"
