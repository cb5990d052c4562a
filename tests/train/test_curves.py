"""A run's curves: smoothing by hand, a picture with every run and measure, and a folder without metrics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from multimood_core.errors import DataError
from train.curves import PANELS, main, read_curves, smoothed


def write_run(folder: Path, steps: int) -> Path:
    folder.mkdir()
    rows = [{"step": i, "reward": i / 10, "kl": 0.1, "length": 9.0, "entropy": 2.0} for i in range(1, steps + 1)]
    rows.append({"step": steps, "val/reward": 0.5})  # a line of another kind
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_point_is_the_mean_of_the_steps_before_it() -> None:
    assert smoothed([1.0, 2.0, 6.0, 4.0], 3).tolist() == pytest.approx([1.0, 1.5, 3.0, 4.0])


def test_every_run_and_measure_is_drawn(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, steps) for name, steps in (("grpo", 5), ("ppo", 3))]
    assert read_curves(runs[0])["reward"] == [(i, i / 10) for i in range(1, 6)]
    main(["--runs", *map(str, runs), "--out", str(tmp_path / "curves.svg")])
    svg = (tmp_path / "curves.svg").read_text()
    assert svg.startswith("<?xml")
    for text in (*PANELS.values(), "grpo", "ppo"):
        assert f">{text}<" in svg
    main(["--runs", *map(str, runs), "--out", str(tmp_path / "again.svg")])
    assert (tmp_path / "again.svg").read_text() == svg


def test_a_folder_without_metrics_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Expected a run's metrics at .*metrics.jsonl"):
        read_curves(tmp_path)
