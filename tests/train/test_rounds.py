"""Rounds survive a kill, and two processes compute what one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from multimood_core.errors import ModelError
from multimood_core.rewards import ReplySituation, RewardFunction
from tests.train.policies import share_of_letter
from tests.train.rounds_processes import make_rounds
from train import grpo, ppo
from train.rounds import Rounds

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


class _Letters:
    """A term of a reward: the share of a reply's letters that are an "e"."""

    name = "letters"

    def __call__(self, situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[float | None]:
        return [reward.total for reward in share_of_letter(situations, replies)]


class _Bored:
    """A guard that takes more from a reply at every call."""

    name = "bored"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[float]:
        self.calls += 1
        return [1 / self.calls] * len(replies)

    def state(self) -> int:
        return self.calls

    def restore(self, state: int | list[Any]) -> None:
        self.calls = state if isinstance(state, int) else 0


def test_what_a_guard_remembers_goes_with_the_state(tmp_path: Path) -> None:
    """A run that forgot it would go on with other rewards."""

    def make(out: Path) -> Rounds:
        loop = make_rounds("grpo", out)
        loop.task.reward = RewardFunction([(_Letters(), 1.0)], [_Bored()])
        return loop

    whole, stopped = make(tmp_path / "whole"), make(tmp_path / "stopped")
    whole.run()
    rewards = [json.loads(line)["part/guard/bored"] for line in (tmp_path / "whole/metrics.jsonl").open()]
    assert rewards == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])
    collect = stopped.task.collect

    def stop_in_the_fourth(batch: Any, step: int) -> Any:
        if step == 3:
            stopped._save()
            raise KeyboardInterrupt
        return collect(batch, step)

    stopped.task.collect = stop_in_the_fourth  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    make(tmp_path / "stopped").run(resume=True)
    torch.testing.assert_close(curve(tmp_path / "stopped"), curve(tmp_path / "whole"), atol=1e-5, rtol=1e-5)


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


@pytest.mark.parametrize("main", [grpo.main, ppo.main], ids=["grpo", "ppo"])
def test_a_stage_leaves_a_checkpoint_with_its_lineage(
    main: Callable[[list[str]], None], toy_stage: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = [f"--mixture={toy_stage}", f"--out={out}", "--precision=no", "--prompts=10", "--group=2", "--max_tokens=4"]
    main([*words, "--lr=0.05"])
    lineage = json.loads((out / "final/lineage.json").read_text())
    assert lineage["stage"] == main.__module__.removeprefix("train.")
    assert lineage["parents"]["policy"]["name"] == "toy"
    assert lineage["data_sha256"] == "['mesc'] train here"
    assert (lineage["steps"], lineage["config"]["prompts"]) == (3, 10)
    assert (out / "final/config.yaml").is_file()
    saved = load_file(out / "final/adapter_model.safetensors")
    trained = {n: v for n, v in load_file(out / "state/trained.safetensors").items() if "lora_" in n}
    assert len(saved) == len(trained)
    for name, value in saved.items():  # in half precision, and without the adapter's name
        (twin,) = [v for n, v in trained.items() if n.replace(".default.", ".").endswith(name)]
        torch.testing.assert_close(value, twin.to(value.dtype))
    with pytest.raises(ModelError, match="holds a run already"):
        main(words)
