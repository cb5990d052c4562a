"""A small GRPO or PPO run for one process or several: ``python -m tests.train.rounds_processes grpo|ppo OUT SECONDS``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from tests.train.policies import share_of_letter, toy_policy
from train import ppo
from train.grpo import GrpoConfig, MultiMoodGRPOTrainer
from train.ppo import PpoConfig
from train.rounds import Rounds

SETTINGS: dict[str, Any] = {
    "precision": "no", "prompts": 4, "group": 3, "max_tokens": 8, "updates": 2, "lr": 1e-2, "epochs": 0.7, "beta": 0.1,
    "save_minutes": 0.0005,
}  # fmt: skip


def make_rounds(kind: str, out: Path, pause: float = 0.0) -> Rounds:
    """A toy run whose every step takes ``pause`` seconds longer."""

    def reward(*args: Any) -> Any:
        time.sleep(pause)
        return share_of_letter(*args)

    policy, situations = toy_policy()
    if kind == "grpo":
        config = GrpoConfig(out=out, **SETTINGS)
        task = MultiMoodGRPOTrainer(config, policy, situations, reward)
        return Rounds(config, policy.model, len(situations), task, out)
    settings = PpoConfig(out=out, **SETTINGS)
    parts = ppo.build(settings, policy, situations, reward)
    return Rounds(settings, parts.model, len(situations), parts.task, out, parts.groups)


if __name__ == "__main__":
    loop = make_rounds(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
    loop.run("--resume" in sys.argv)
    trained = loop.trained_state()
    if loop.accelerator.is_main_process:
        save_file(trained, Path(sys.argv[2]) / "end.safetensors")
        (Path(sys.argv[2]) / "processes").write_text(str(loop.accelerator.num_processes))
