"""Draws how a run of GRPO or PPO went: reward, divergence from the reference, length of the completions, entropy.

    python -m train.curves --runs runs/grpo runs/ppo --out curves.svg

Each run's ``metrics.jsonl`` is a line in each panel, a mean over ``--window`` steps with the steps themselves behind it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from multimood_core.errors import DataError
from train.config import run_command
from train.files import write_file

PANELS: Final = {"reward": "reward", "kl": "divergence (nats a token)", "length": "tokens a completion", "entropy": "entropy"}


def read_curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Measure -> steps and values of one run.

    Raises:
        DataError: the folder holds no metrics.
    """
    path = run / "metrics.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as cause:
        raise DataError(f"Expected a run's metrics at {path}: {cause}") from cause
    return {name: [(row["step"], row[name]) for row in rows if name in row] for name in PANELS}


def smoothed(values: Sequence[float], window: int) -> np.ndarray:
    """Mean over the last ``window`` values, or as many as there are."""
    sums = np.cumsum([0.0, *values])
    begins = np.maximum(np.arange(1, len(values) + 1) - window, 0)
    ends = np.arange(1, len(values) + 1)
    return (sums[ends] - sums[begins]) / (ends - begins)


def draw(runs: Sequence[Path], window: int, out: Path) -> None:
    """One panel for each measure, one colour for each run, as SVG."""
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "multimood"}):
        figure = Figure(figsize=(9, 5.5), layout="constrained")
        panels = figure.subplots(2, 2)
        found = {run.name: read_curves(run) for run in runs}
        for axes, (name, label) in zip(panels.flat, PANELS.items(), strict=True):
            for number, (run, curves) in enumerate(found.items()):
                if not curves[name]:
                    continue
                steps, values = zip(*curves[name], strict=True)
                axes.plot(steps, values, color=f"C{number}", alpha=0.25, linewidth=0.8)
                axes.plot(steps, smoothed(values, window), color=f"C{number}", label=run)
            axes.set(xlabel="step", ylabel=label)
        panels.flat[0].legend(frameon=False)
        write_file(out, lambda path: figure.savefig(path, format="svg", metadata={"Date": None}))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="folders with metrics.jsonl")
    parser.add_argument("--window", type=int, default=20, help="steps that a point is the mean of")
    parser.add_argument("--out", type=Path, required=True, help="an SVG file")
    args = parser.parse_args(argv)
    draw(args.runs, args.window, args.out)


if __name__ == "__main__":
    run_command(main)
