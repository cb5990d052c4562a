"""Rounds survive a kill, and two processes compute what one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from multimood_core.errors import ModelError
from tests.train.rounds_processes import make_rounds

pytestmark = pytest.mark.timeout(900)  # each case starts processes that import everything anew
REPOSITORY = Path(__file__).resolve().parents[2]
KINDS = pytest.mark.parametrize("kind", ["grpo", "ppo"])
MEASURES = ("loss", "reward", "kl", "entropy", "clipped", "length")


def curve(out: Path) -> torch.Tensor:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return torch.tensor([[row["step"], *(row[name] for name in MEASURES)] for row in rows])


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "ACCELERATE_USE_CPU": "true"}


@KINDS
def test_two_processes_compute_the_loss_of_one(kind: str, tmp_path: Path) -> None:
    alone = make_rounds(kind, tmp_path / "alone")
    alone.run()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    command += ["tests.train.rounds_processes", kind, str(tmp_path / "two"), "0"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-6000:]
    assert (tmp_path / "two/processes").read_text() == "2"
    torch.testing.assert_close(curve(tmp_path / "two"), curve(tmp_path / "alone"), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(load_file(tmp_path / "two/end.safetensors"), alone.trained_state(), atol=1e-3, rtol=1e-3)


@KINDS
def test_a_killed_run_resumes_into_the_curve_of_one_that_was_not_killed(kind: str, tmp_path: Path) -> None:
    whole = make_rounds(kind, tmp_path / "whole")
    whole.run()
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "tests.train.rounds_processes", kind, str(out), "0.3"]
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment(), stderr=subprocess.DEVNULL)
    log, limit = out / "metrics.jsonl", time.monotonic() + 300
    while time.monotonic() < limit and not (log.is_file() and log.read_text().count("\n") >= 3):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(curve(out)) < whole.total_steps
    resumed = make_rounds(kind, out)
    resumed.run(resume=True)
    torch.testing.assert_close(curve(out), curve(tmp_path / "whole"), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(resumed.trained_state(), whole.trained_state())


def test_a_full_disk_says_so_and_leaves_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = make_rounds("grpo", tmp_path / "run")
    loop.run()
    before = (tmp_path / "run/state/trained.safetensors").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("train.state.save_file", full)
    with pytest.raises(ModelError, match=r"Could not write .*state: .*No space left.*make room"):
        loop._save()
    assert (tmp_path / "run/state/trained.safetensors").read_bytes() == before
