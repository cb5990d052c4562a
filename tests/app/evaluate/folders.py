"""Folders of reports, runs and checkpoints with what is found in such folders: good files, torn ones, and traps."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from app.evaluate.places import Place, Places
from multimood_core.lineage import weights_hash
from tests.multimood_core.test_stored_reports import report

SECRET = "a secret of this computer"
HOSTILE = "<img src=x onerror=window.hurt=1><script>window.hurt=1</script>"


def make(root: Path) -> Places:
    """Two comparable reports, one without items, a torn and a foreign file, two runs, and a chain of two checkpoints."""
    reports, runs, checkpoints = root / "reports", root / "runs", root / "checkpoints"
    (reports / "inner").mkdir(parents=True)
    rewards = {"parts": {"r_sim": {"n": 10, "n_missing": 0, "mean": 0.4, "interval": [0.3, 0.5]}}, "baselines": {}}
    known = {"checkpoint": {"name": "mini", "sha256": "ab" * 32}, "rewards": rewards}
    write(reports / "before.json", report("before RL", "aa" * 4 + "ab") | known | {"date": "2026-01-02T03:04:05+00:00"})
    write(reports / "after.json", report("after RL", "ab" * 5) | known | {"date": "2026-02-02T03:04:05+00:00"})
    clips = report(HOSTILE, "ab" * 5, items=False, data="emodb", protocol="clips", date="2025-01-01T00:00:00+00:00")
    write(reports / "inner" / "clips.json", clips)
    (reports / "torn.json").write_text('{"data": "mesc", "protoc')
    write(reports / "foreign.json", {"secret": HOSTILE})
    outside = root / "outside"
    outside.mkdir()
    (outside / "secret.json").write_text(json.dumps(report(SECRET, "ab")))
    os.symlink(outside / "secret.json", reports / "link.json")
    os.symlink(outside, reports / "linked")
    run(runs / "sft", 60, loss=2.0)
    run(runs / "grpo", 40, loss=0.1, reward=0.3, kl=0.01, length=12.0, entropy=2.0, **{"part/r_sim": 0.2, "lr": 0.1})
    (runs / "empty").mkdir()
    (runs / "empty" / "metrics.jsonl").write_text("no metrics")
    told: dict[str, Any] = {"stage": "sft", "seed": 3, "commit": "c0ffee", "steps": 60, "commands": ["python -m train.sft"]}
    final = checkpoint(runs / "sft" / "final", b"sft", **told)
    parents = {"policy": {"name": "somewhere/sft/final", "sha256": weights_hash(final)}}
    parents["reward model"] = {"name": "../../outside/secret", "sha256": "0" * 64}
    told = {"stage": "grpo", "seed": 4, "steps": 40, "parents": parents, "data_sha256": "da" * 32}
    told["commands"] = ["python -m train.sft", "python -m train.grpo"]
    mine = checkpoint(checkpoints / "mini-grpo", b"grpo", **told)
    links = "[here](javascript:alert(1)) ![pixel](http://elsewhere.example/x.png) **bold**"
    (mine / "README.md").write_text(f"# mini\n\n{HOSTILE}\n\n{links}\n\n| a | b |\n|---|---|\n| 1 | 2 |\n")
    return Places((Place(reports, ("*.json", "*/*.json")),), (runs,), checkpoints)


def write(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values))


def run(folder: Path, steps: int, **measures: float) -> None:
    folder.mkdir(parents=True)
    rows = [{"step": step, **{name: value + step % 5 / 10 for name, value in measures.items()}} for step in range(1, steps + 1)]
    rows.append({"step": steps, "val/loss": 1.5})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def checkpoint(folder: Path, content: bytes, **told: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "modules.safetensors").write_bytes(content)
    write(folder / "lineage.json", told)
    return folder
