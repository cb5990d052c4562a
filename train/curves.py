"""Draws how training runs went, and keeps a run's curve beside the checkpoint that came of it.

    python -m train.curves --runs runs/grpo runs/ppo --out curves.svg
    python -m train.curves --runs runs/sft-2 --keep mini-sft

``--out``: reward, divergence from the reference, length of the completions and entropy, a panel each, a line for each run:
a mean over ``--window`` steps with the steps themselves behind it. ``--keep`` writes ``curves.jsonl`` into a checkpoint's
folder, the run's metrics thinned to a few hundred lines, where the app's Runs tab finds them; ``train.export`` does so by
itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import matplotlib
from matplotlib.figure import Figure

from multimood_core.errors import DataError
from multimood_core.figures import draw_curve
from multimood_core.registry import resolve
from multimood_core.run_curves import METRICS, RunCurves, keep_curves, line_of, read_curves
from train.config import run_command
from train.files import write_file

PANELS: Final = {"reward": "reward", "kl": "divergence (nats a token)", "length": "tokens a completion", "entropy": "entropy"}


def draw(runs: Sequence[Path], window: int, out: Path) -> None:
    """One panel for each measure, one colour for each run, as SVG."""
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "multimood"}):
        figure = Figure(figsize=(9, 5.5), layout="constrained")
        panels = figure.subplots(2, 2)
        found = {run.name: _curves_of(run) for run in runs}
        for axes, (measure, label) in zip(panels.flat, PANELS.items(), strict=True):
            lines = [line_of(name, curves, measure, window) for name, curves in found.items()]
            draw_curve(axes, [line for line in lines if line], label)
        panels.flat[0].legend(frameon=False)
        write_file(out, lambda path: figure.savefig(path, format="svg", metadata={"Date": None}))


def _curves_of(run: Path) -> RunCurves:
    try:
        return read_curves(run / METRICS)
    except DataError as cause:
        raise DataError(f"{run}: {cause}") from cause


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="folders with metrics.jsonl")
    parser.add_argument("--window", type=int, default=20, help="steps that a point is the mean of")
    parser.add_argument("--out", type=Path, help="an SVG file")
    parser.add_argument("--keep", metavar="CHECKPOINT", help="a checkpoint's name or folder that keeps the one run's curve")
    args = parser.parse_args(argv)
    if not args.out and not args.keep:
        parser.error("--out or --keep is required")
    if args.out:
        draw(args.runs, args.window, args.out)
    if args.keep:
        if len(args.runs) > 1:
            raise DataError(f"Expected one run whose curve {args.keep} keeps, got {len(args.runs)}.")
        kept = keep_curves(args.runs[0], resolve(args.keep))
        if kept is None:
            raise DataError(f"Expected a run's metrics at {args.runs[0] / METRICS}, but there are none.")
        print(kept)


if __name__ == "__main__":
    run_command(main)
