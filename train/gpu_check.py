"""What only a GPU can show: the 7B shape's training steps, mamba-ssm's kernels, and longer runs of the mini checkpoints.

    train/gpu_check.sh [--key=value ...]       (python -m train.gpu_check --config train/configs/gpu_check_h100.yaml)

Each case of ``train.gpu_cases`` runs in a process of its own, so that its memory is its own, and leaves ``OUT/CASE.json``;
one that failed leaves the reason there, and ``OUT/CASE.log``, and is tried again by the next call. Then the mini checkpoints
are trained for longer than a CPU would, piece by piece. A call ends within ``minutes``; the next goes on. ``OUT/report.md``
has the table for BENCHMARKS.md, ``OUT/report.json`` everything.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from multimood_core.errors import DataError
from train.config import load_config, run_command
from train.files import write_file
from train.gpu_cases import CASES, TOLERANCE, Scale, device_kind
from train.lineage import commit

_LEAST: Final = 45.0  # seconds under which nothing more is begun
_PARTING: Final = 40.0  # seconds that a stopped run has for writing its state
# What the mini checkpoints' longer runs are started from, each written by a stage that a CPU has time for.
_NEEDED: Final = ("data/mesc/train.jsonl", "runs/projectors/final", "runs/compressor-2/final")


@dataclass(frozen=True, slots=True)
class GpuCheckConfig(Scale):
    """What is checked, and for how long."""

    out: Path = field(default=Path("runs/gpu-check"), metadata={"help": "folder of the results"})
    minutes: float = field(default=9.0, metadata={"help": "that one call may take"})
    cases: tuple[str, ...] = field(default=tuple(CASES), metadata={"help": f"of {', '.join(CASES)}"})
    case: str = field(default="", metadata={"help": "this one alone, in this process"})
    retrain: bool = field(default=True, metadata={"help": "then train the mini checkpoints with more epochs"})


def retraining(out: Path) -> list[tuple[str, list[str]]]:
    """The mini checkpoints' stages with more epochs than a CPU has time for: stage and arguments."""
    sft, judge = f"--parent={out}/mini-sft/final", f"--reward={out}/mini-reward-model/final"
    return [
        ("sft", ["--config", "train/configs/sft_mini.yaml", "--epochs=6", f"--out={out}/mini-sft"]),
        ("reward_model", ["--config", "train/configs/reward_model_mini.yaml", "--items=null", "--epochs=2", sft,
                          f"--out={out}/mini-reward-model"]),
        ("grpo", ["--config", "train/configs/grpo_mini.yaml", "--epochs=3", sft, f"--out={out}/mini-grpo"]),
        ("ppo", ["--config", "train/configs/ppo_mini.yaml", "--epochs=3", sft, judge, f"--out={out}/mini-ppo"]),
    ]  # fmt: skip


def run_for(words: Sequence[str], seconds: float, log: Path) -> int | None:
    """Run a command for ``seconds`` at the most, asked to stop before they end; its status, None where it was stopped."""
    with log.open("w") as file:
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT)
        try:
            return process.wait(seconds - _PARTING)
        except subprocess.TimeoutExpired:
            process.terminate()
        try:
            process.wait(_PARTING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return None


def run_cases(config: GpuCheckConfig, words: Sequence[str], end: float) -> None:
    """Run what of the cases has no result yet, while there is time."""
    for name in config.cases:
        result, log = config.out / f"{name}.json", config.out / f"{name}.log"
        if result.is_file() and "failed" not in json.loads(result.read_text()):
            continue
        if end - time.monotonic() < _LEAST:
            print(f"{name}: no time left; the next call runs it", flush=True)
            return
        print(f"{name} ...", flush=True)
        command = [sys.executable, "-m", "train.gpu_check", *words, f"--case={name}"]
        status = run_for(command, end - time.monotonic(), log)
        if status != 0:
            last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-3:]
            why = "not done when the time was over" if status is None else " / ".join(last)
            _write(result, {"stage": name, "failed": why})
        print(f"{name}: {result.read_text()}", flush=True)


def run_retraining(config: GpuCheckConfig, end: float) -> dict[str, str]:
    """Go on with the mini checkpoints' longer runs; returns how far each is."""
    absent = [name for name in _NEEDED if not Path(name).exists()]
    if absent:
        return {"mini checkpoints": f"not run: {', '.join(absent)} not here (CONTRIBUTING.md says what writes them)"}
    told: dict[str, str] = {}
    for stage, words in retraining(config.out):
        out = Path(words[-1].partition("=")[2])
        if not (out / "final").is_dir() and end - time.monotonic() > _LEAST + _PARTING:
            begun = (out / "state").is_dir() or next(out.glob("pairs-*.jsonl"), None)
            command = [sys.executable, "-m", f"train.{stage}", *words, *(["--resume"] if begun else [])]
            print(" ".join(command[1:]), flush=True)
            status = run_for(command, end - time.monotonic(), config.out / f"{out.name}.log")
            if status:
                told[out.name] = f"failed with status {status}: {config.out}/{out.name}.log"
                return told
        told[out.name] = "trained" if (out / "final").is_dir() else f"at step {_step(out)}; the next call goes on"
        if not (out / "final").is_dir():  # the stages after it begin with what it leaves
            break
    return told


def _step(out: Path) -> int:
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return json.loads(lines[-1])["step"] if lines else 0


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_file(path, lambda place: place.write_text(json.dumps(content, indent=1) + "\n"))


def report(config: GpuCheckConfig, retrained: Mapping[str, str]) -> str:
    """Write ``report.json`` and ``report.md``; returns the Markdown."""
    found = {name: json.loads((config.out / f"{name}.json").read_text()) for name in config.cases
             if (config.out / f"{name}.json").is_file()}  # fmt: skip
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, at toy size"
    about = {"device": device, "torch": torch.__version__, "commit": commit()}
    _write(config.out / "report.json", about | {"cases": found, "retrained": dict(retrained)})
    lines = [f"{device}; torch {torch.__version__}; commit {about['commit'][:12]}; `{config.model}`, random weights", ""]
    lines += ["| steps of | tokens a sample | samples | seconds a step (range) | tokens/s | peak memory | operations, at least "
              "| utilisation |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name in config.cases:
        one = found.get(name, {"failed": "not run yet"})
        if "seconds" in one:
            used = "" if one["utilisation"] is None else f"{one['utilisation']:.1%}"
            low, high = one["seconds_range"]
            lines.append(
                f"| {one['stage']}, {one['weights']} | {one['tokens_a_sample']:,.0f} | {one['samples']} "
                f"| {one['seconds']:.3g} ({low:.3g} to {high:.3g}) | {one['tokens_a_second']:,.0f} "
                f"| {one['peak_gib']:.1f} GiB | {one['floor_operations']:.3g} | {used} |"
            )
        elif "differences" in one:
            most = max(one["differences"].values())
            lines.append(
                f"| mamba-ssm against the loop | 512 | 1 | {one['seconds_kernel']:.3g} against {one['seconds_loop']:.3g} | | | "
                f"largest difference {most:.2g}, {'within' if one['within'] else 'more than'} {TOLERANCE} | |"
            )
        else:
            reason = one.get("not_run") or one.get("failed")
            lines.append(f"| {name} | not run: {reason} | | | | | | |")
    lines += ["", *(f"- {name}: {state}" for name, state in retrained.items())]
    text = "\n".join(lines).rstrip() + "\n"
    write_file(config.out / "report.md", lambda path: path.write_text(text))
    return text


def main(argv: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    config, args = load_config(GpuCheckConfig, words, __doc__ or "")
    unknown = sorted({*config.cases, *filter(None, [config.case])} - set(CASES))
    if unknown:
        raise DataError(f"Expected cases of {', '.join(CASES)}, got {', '.join(unknown)}.")
    if args.dry_run:
        print(f"{device_kind()}: {', '.join(config.cases)}, {config.minutes:g} minutes a call, to {config.out}")
        return
    end = time.monotonic() + 60 * config.minutes
    config.out.mkdir(parents=True, exist_ok=True)
    if config.case:
        _write(config.out / f"{config.case}.json", CASES[config.case](config, config.out / config.case))
        return
    run_cases(config, words, end)
    print(report(config, run_retraining(config, end) if config.retrain else {}))


if __name__ == "__main__":
    run_command(main)
