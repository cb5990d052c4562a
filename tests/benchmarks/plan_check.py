"""Measures what ``--dry-run`` predicts: peak memory and seconds a step of SFT on this machine; prints a Markdown table.

    python -m tests.benchmarks.plan_check --config train/configs/sft_mini.yaml [--key=value ...]

The first eight batches of the run's own order are trained on, and the largest of them all; the plan is of the same settings.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from train.config import load_config, run_command
from train.loop import Loop
from train.mixture import SftConfig, build_task
from train.plan import GIB
from train.sft import build, plan

STEPS = 8


def peak_bytes() -> int:
    """The kernel's peak of this process's resident memory."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def forget_peak() -> None:
    """Start the peak anew at what is resident now (Linux, proc(5))."""
    Path("/proc/self/clear_refs").write_text("5")


def main(argv: Sequence[str] | None = None) -> None:
    config, args = load_config(SftConfig, sys.argv[1:] if argv is None else argv, __doc__ or "")
    foreseen = plan(config, args)
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(config, out=Path(folder) / "run")
        model, processor = build(config)
        task = build_task(config, model, processor)
        loop = Loop(config, model, task.lengths, task.loss, config.out)
        model.train()
        largest = max(loop.batches, key=lambda batch: len(batch) * max(task.lengths[i] for i in batch))
        order = [largest, *(batch for batch, _ in zip(loop._remaining_batches(), range(STEPS), strict=False))]
        forget_peak()
        seconds = []
        for batch in order:
            began = time.perf_counter()
            loop._train_on(batch)
            seconds.append(time.perf_counter() - began)
        measured, mean = peak_bytes(), sum(seconds[1:]) / STEPS
    print(f"\n{foreseen.table()}\n")
    print("| figure | foreseen | measured |\n|---|---|---|")
    print(f"| peak memory | {foreseen.memory / GIB:.2f} GiB | {measured / GIB:.2f} GiB |")
    print(f"| seconds a step | {foreseen.seconds:.2f} | {mean:.2f} ({min(seconds[1:]):.2f} to {max(seconds[1:]):.2f}) |")
    print(f"\n{torch.get_num_threads()} threads, {foreseen.operations / mean / 1e9:.0f} billion operations a second.")


if __name__ == "__main__":
    run_command(main)
