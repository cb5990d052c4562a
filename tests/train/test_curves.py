"""A run's curves as a picture with every run and measure, kept beside a checkpoint, and a folder without metrics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from multimood_core.errors import DataError
from multimood_core.run_curves import CURVES, read_curves
from train.curves import PANELS, main


def write_run(folder: Path, steps: int) -> Path:
    folder.mkdir()
    rows = [{"step": i, "reward": i / 10, "kl": 0.1, "length": 9.0, "entropy": 2.0} for i in range(1, steps + 1)]
    rows.append({"step": steps, "val/reward": 0.5})  # a line of another kind
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_every_run_and_measure_is_drawn(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, steps) for name, steps in (("grpo", 5), ("ppo", 3))]
    main(["--runs", *map(str, runs), "--out", str(tmp_path / "curves.svg")])
    svg = (tmp_path / "curves.svg").read_text()
    assert svg.startswith("<?xml")
    for text in (*PANELS.values(), "grpo", "ppo"):
        assert f">{text}<" in svg
    main(["--runs", *map(str, runs), "--out", str(tmp_path / "again.svg")])
    assert (tmp_path / "again.svg").read_text() == svg


def test_a_checkpoint_keeps_the_curve_of_its_run(tmp_path: Path) -> None:
    run, checkpoint = write_run(tmp_path / "grpo", 1000), tmp_path / "mine"
    checkpoint.mkdir()
    (checkpoint / "modules.safetensors").write_bytes(b"")
    main(["--runs", str(run), "--keep", str(checkpoint)])
    assert (checkpoint / CURVES).stat().st_size < (run / "metrics.jsonl").stat().st_size / 3
    kept = read_curves(checkpoint / CURVES)
    assert (kept.steps, kept.measures["reward"].validation) == (1000, [(1000, 0.5)])
    with pytest.raises(DataError, match="one run"):
        main(["--runs", str(run), str(run), "--keep", str(checkpoint)])
    with pytest.raises(DataError, match="there are none"):
        main(["--runs", str(tmp_path), "--keep", str(checkpoint)])


def test_a_folder_without_metrics_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Expected a run's metrics in metrics.jsonl"):
        main(["--runs", str(tmp_path), "--out", str(tmp_path / "x.svg")])
