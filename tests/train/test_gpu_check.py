"""The check for a GPU machine takes every one of its ways at toy size, counts what it should, and goes on where it stopped."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from multimood_core.conv_compressor import selective_scan
from multimood_core.errors import DataError
from multimood_core.model import MultiMoodForConditionalGeneration
from tests.train.fresh_process import forget_process
from train import gpu_check
from train.base import read_model_config
from train.config import load_config
from train.gpu_cases import Scale, build_model, build_task, compare_scans, own_processor
from train.gpu_check import GpuCheckConfig, main, report, retraining, run_cases, run_for, run_retraining
from train.grpo import GrpoConfig
from train.mixture import SftConfig
from train.ppo import PpoConfig
from train.reward_model import RewardModelConfig

REPOSITORY = Path(__file__).resolve().parents[2]
SMOKE = REPOSITORY / "train/configs/gpu_check_smoke.yaml"
pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)  # the configurations name files of the repository


def smoke(out: Path, **changes: Any) -> GpuCheckConfig:
    return load_config(GpuCheckConfig, ["--config", str(SMOKE), f"--out={out}", *(f"--{k}={v}" for k, v in changes.items())])[0]


@pytest.mark.usefixtures("here")
def test_every_case_takes_its_steps(tmp_path: Path) -> None:
    for case in ("sft-lora", "sft-qlora", "grpo", "ppo"):
        forget_process()
        main(["--config", str(SMOKE), f"--out={tmp_path}", f"--case={case}"])
    found = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert set(found) == {"sft-lora", "sft-qlora", "grpo", "ppo"}
    for one in found.values():
        assert one["seconds"] > 0
        assert one["tokens_a_second"] == pytest.approx(one["tokens_a_step"] / one["seconds"])
        assert 0 < one["utilisation"] < 1
        assert len(one["loss"]) == 2
    # Weights of a model with this seed are the same, nf4 rounds them: the losses are near and not equal.
    plain, rounded = found["sft-lora"]["loss"][0], found["sft-qlora"]["loss"][0]
    assert 0 < abs(plain - rounded) < 0.2 * plain
    assert found["sft-lora"]["floor_operations"] == found["sft-qlora"]["floor_operations"]
    # GRPO: two passes forwards and one of learning; PPO: three, and four of learning, each about three times a pass.
    assert found["ppo"]["floor_operations"] / found["grpo"]["floor_operations"] == pytest.approx(15 / 5, rel=0.15)
    text = report(smoke(tmp_path), {})
    assert "| sft, nf4 |" in text
    assert "| mamba | not run: not run yet |" in text


@pytest.mark.usefixtures("here")
def test_the_prompt_is_the_full_length_multimodal_one() -> None:
    config = read_model_config(Path("train/configs/model_h100.yaml"))
    processor = own_processor(config)
    with torch.device("meta"):
        model = MultiMoodForConditionalGeneration(config)
    scale = load_config(GpuCheckConfig, ["--config", "train/configs/gpu_check_h100.yaml"])[0]
    task = build_task(scale, model, processor)
    ids = task.encode(len(task.items) - 1, random.Random(0), read=False).ids
    counts = [ids.count(token) for token in (config.video_token_id, config.audio_token_id, config.history_token_id)]
    assert counts == [1352, 1496, 10]  # 12 turns, the last two of which are the item
    assert 200 < len(ids) - sum(counts) < 1000


@pytest.mark.usefixtures("here")
def test_a_kernel_is_compared_and_a_wrong_one_is_found() -> None:
    def kernel(u: Any, delta: Any, a: Any, b: Any, c: Any, return_last_state: bool) -> tuple[torch.Tensor, torch.Tensor]:
        y, last = selective_scan(u.mT, delta.mT, a, b.mT, c.mT, None)
        return y.mT, last

    def wrong(*inputs: Any, return_last_state: bool) -> tuple[torch.Tensor, torch.Tensor]:
        y, last = kernel(*inputs, return_last_state)
        return 1.01 * y, last

    scale = Scale(model=Path("train/configs/model_smoke.yaml"))
    good = compare_scans(kernel, scale, 40)
    assert good["within"]
    assert set(good["differences"]) == {"from zero", "from a state", "compressor"}
    assert not compare_scans(wrong, scale, 40)["within"]


def _python(*lines: str) -> list[str]:
    return [sys.executable, "-c", "\n".join(lines)]


def test_a_command_is_asked_to_stop_before_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "_PARTING", 20.0)
    polite = _python("import signal, sys, time", "signal.signal(15, lambda *_: (print('state written'), sys.exit(130)))",
                     "print('begun', flush=True)", "time.sleep(60)")  # fmt: skip
    began = time.monotonic()
    assert run_for(polite, 25.0, tmp_path / "log") is None  # five seconds to begin on a busy machine
    assert time.monotonic() - began < 20
    assert (tmp_path / "log").read_text().split("\n")[:2] == ["begun", "state written"]
    assert run_for(_python("raise SystemExit(3)"), 60.0, tmp_path / "log") == 3


def test_a_second_call_runs_what_is_missing_or_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def run(words: Sequence[str], seconds: float, log: Path) -> int:
        name = words[-1].partition("=")[2]
        called.append(name)
        log.write_text("a\nNo module named 'bitsandbytes'\n")
        if name == "sft-qlora" and called.count(name) == 1:
            return 1
        (tmp_path / f"{name}.json").write_text('{"stage": "x", "not_run": "y"}')
        return 0

    monkeypatch.setattr(gpu_check, "run_for", run)
    config = smoke(tmp_path)
    run_cases(config, [], time.monotonic() + 10)
    assert called == []  # no time to begin anything
    run_cases(config, [], time.monotonic() + 1000)
    assert called == list(config.cases)
    assert "bitsandbytes" in report(config, {})
    run_cases(config, [], time.monotonic() + 1000)
    assert called == [*config.cases, "sft-qlora"]
    assert "bitsandbytes" not in report(config, {})


def test_the_mini_checkpoints_are_trained_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = smoke(Path("out"))
    config.out.mkdir()
    assert "data/mesc/train.jsonl" in run_retraining(config, time.monotonic() + 1000)["mini checkpoints"]
    for name in gpu_check._NEEDED:
        Path(name).mkdir(parents=True)
    called: list[tuple[str, bool]] = []

    def run(words: Sequence[str], seconds: float, log: Path) -> int | None:
        out = Path(next(word for word in words if word.startswith("--out=")).partition("=")[2])
        called.append((words[2], "--resume" in words))
        if (out / "state").is_dir():
            (out / "final").mkdir()
            return 0
        (out / "state").mkdir(parents=True)
        (out / "metrics.jsonl").write_text('{"step": 7}\n')
        return None  # stopped

    monkeypatch.setattr(gpu_check, "run_for", run)
    assert run_retraining(config, time.monotonic() + 1000) == {"mini-sft": "at step 7; the next call goes on"}
    found = run_retraining(config, time.monotonic() + 1000)
    assert found == {"mini-sft": "trained", "mini-reward-model": "at step 7; the next call goes on"}
    assert called == [("train.sft", False), ("train.sft", True), ("train.reward_model", False)]


def test_the_longer_runs_are_commands_that_their_stages_take() -> None:
    stages = {"sft": SftConfig, "reward_model": RewardModelConfig, "grpo": GrpoConfig, "ppo": PpoConfig}
    for stage, words in retraining(Path("out")):
        here = [str(REPOSITORY / word) if word.startswith("train/") else word for word in words]
        config, _ = load_config(stages[stage], here)
        assert str(config.out).startswith("out/mini-")


def test_the_script_runs_with_the_smoke_configuration(tmp_path: Path) -> None:
    command = [REPOSITORY / "train/gpu_check.sh", "--config", SMOKE, f"--out={tmp_path}", "--cases=[mamba]"]
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "mamba.json").read_text())["stage"] == "mamba"
    assert "mamba" in json.loads((tmp_path / "report.json").read_text())["cases"]
    assert (tmp_path / "report.md").read_text() in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.usefixtures("here")
def test_the_paper_scale_on_a_cpu_says_what_it_needs() -> None:
    with pytest.raises(DataError, match="needs a GPU.*gpu_check_smoke.yaml"):
        build_model(Scale())
