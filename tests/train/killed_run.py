"""A small training run to be killed and resumed: ``python killed_run.py OUT SECONDS_A_STEP [--resume]``."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from train.loop import Loop, LoopConfig


def make_loop(out: Path, pause: float = 0.0, epochs: float = 3.0, lr: float = 0.05) -> Loop:
    """Linear regression with dropout and views drawn at random, so that every source of chance is in the curve."""
    torch.manual_seed(7)
    inputs, model = torch.randn(40, 6), nn.Linear(6, 1)
    targets = inputs.sum(1, keepdim=True)

    def loss(batch: Sequence[int], rng: random.Random) -> Mapping[str, Tensor]:
        time.sleep(pause)
        rows = [i for i in batch if rng.random() < 0.9] or list(batch)
        seen = nn.functional.dropout(inputs[rows], 0.2)
        return {"loss": (model(seen) - targets[rows]).square().mean()}

    config = LoopConfig(epochs=epochs, batch_tokens=12, lr=lr, warmup=0.1, precision="no", save_minutes=0.0005)
    return Loop(config, model, [1 + i % 5 for i in range(40)], loss, out)


if __name__ == "__main__":
    make_loop(Path(sys.argv[1]), float(sys.argv[2])).run("--resume" in sys.argv)
