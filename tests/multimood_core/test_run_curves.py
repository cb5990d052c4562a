"""Curves are read whatever stands in the file, smoothed over steps, and thinned without losing what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from multimood_core.errors import DataError
from multimood_core.figures import curve
from multimood_core.run_curves import CURVES, METRICS, keep_curves, line_of, read_curves, smoothed


def test_a_point_is_the_mean_of_the_steps_before_it() -> None:
    assert smoothed([1, 2, 3, 4], [1.0, 2.0, 6.0, 4.0], 3) == pytest.approx([1.0, 1.5, 3.0, 4.0])
    # steps 10 and 20 are more than five apart, 20 and 24 are not
    assert smoothed([10, 20, 24], [1.0, 2.0, 6.0], 5) == pytest.approx([1.0, 2.0, 4.0])


def test_what_is_no_line_of_metrics_is_counted_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / METRICS
    good = ['{"step": 1, "loss": 2.0, "norm": NaN, "word": "x"}', '{"step": 2, "val/loss": 1.5}']
    path.write_text("\n".join([good[0], "[1]", '{"loss": 3}', good[1], '{"step": 3, "lo']))
    curves = read_curves(path)
    assert list(curves.measures) == ["loss"]
    assert curves.measures["loss"].training == [(1, 2.0)]
    assert curves.measures["loss"].validation == [(2, 1.5)]
    assert (curves.steps, curves.unreadable) == (2, 3)
    path.write_text("no metrics\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl, a line of JSON"):
        read_curves(path)


def test_a_kept_curve_is_short_and_has_the_same_means(tmp_path: Path) -> None:
    run, folder = tmp_path / "run", tmp_path / "checkpoint"
    run.mkdir()
    folder.mkdir()
    rows = [{"step": step, "loss": float(step % 7), "only/late": 1.0} for step in range(1, 1001)]
    for row in rows[:500]:
        del row["only/late"]
    lines = [json.dumps(row) for row in rows]
    lines.insert(600, json.dumps({"step": 600, "val/loss": 1.23456789}))
    (run / METRICS).write_text("\n".join(lines) + "\n")
    path = keep_curves(run, folder)
    assert path == folder / CURVES
    kept = read_curves(path)
    # 1000 steps in groups of five: 200 lines, the first of which is the mean of 1, 2, 3, 4 and 5
    assert len(kept.measures["loss"].training) == 200
    assert kept.measures["loss"].training[0] == (5, 3.0)
    assert sum(value for _, value in kept.measures["loss"].training) == pytest.approx(sum(r["loss"] for r in rows) / 5)
    assert len(kept.measures["only/late"].training) == 100
    assert kept.measures["loss"].validation == [(600, 1.2346)]
    again = tmp_path / "exported again"
    again.mkdir()
    keep_curves(folder, again)
    assert (again / CURVES).read_text() == path.read_text()
    assert keep_curves(tmp_path, again) is None


def test_a_figure_shows_the_raw_line_behind_the_smooth_one(tmp_path: Path) -> None:
    path = tmp_path / METRICS
    path.write_text("".join(json.dumps({"step": i, "kl": i % 3, "val/kl": 1}) + "\n" for i in range(1, 30)))
    line = line_of("a $run$", read_curves(path), "kl", 3)
    assert line is not None
    assert line.smooth[2:] == pytest.approx([1.0] * 27)
    assert max(line.values) == 2
    svg = curve([line, line], "divergence")
    assert svg.count("opacity: 0.3") >= 2
    assert ">a $run$<" in svg
    assert line_of("a", read_curves(path), "reward", 3) is None
