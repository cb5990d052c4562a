"""Two processes compute what one does: the same losses, the same weights, also when the model is split or resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.train.two_processes import make_run

# Each case starts processes that import everything anew.
pytestmark = pytest.mark.timeout(900)
REPOSITORY = Path(__file__).resolve().parents[2]


def launch(out: Path, *more: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "tests.train.two_processes", str(out), *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-6000:]
    assert (out / "processes").read_text() == "2"


def curve(out: Path) -> torch.Tensor:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return torch.tensor([[row["step"], row["loss"], row["norm"]] for row in rows])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process's run."""
    out = tmp_path_factory.mktemp("alone") / "run"
    loop = make_run(out)
    loop.run()
    assert loop.accelerator.num_processes == 1
    torch.save(loop.trained_state(), out / "end.pt")
    return out


@pytest.mark.parametrize("kind", ["", "--fsdp2"], ids=["copies", "split"])
def test_two_processes_compute_the_loss_of_one(alone: Path, tmp_path: Path, kind: str) -> None:
    launch(tmp_path / "run", *filter(None, [kind]))
    torch.testing.assert_close(curve(tmp_path / "run"), curve(alone), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        load_file(tmp_path / "run/end.safetensors"), torch.load(alone / "end.pt", weights_only=True), atol=1e-4, rtol=1e-3
    )


@pytest.mark.parametrize("kind", ["", "--fsdp2"], ids=["copies", "split"])
def test_two_processes_go_on_where_they_stopped(alone: Path, tmp_path: Path, kind: str) -> None:
    """Asked to stop in the middle, they leave a state from which they reach the same end."""
    out = tmp_path / "run"
    launch(out, "--stop=3", *filter(None, [kind]))
    assert len(curve(out)) == 3
    launch(out, "--resume", *filter(None, [kind]))
    torch.testing.assert_close(curve(out), curve(alone), atol=1e-4, rtol=1e-4)


def test_a_run_of_two_processes_goes_on_with_one(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    launch(out, "--stop=3")
    make_run(out).run(resume=True)
    torch.testing.assert_close(curve(out), curve(alone), atol=1e-4, rtol=1e-4)
