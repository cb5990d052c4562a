"""The loop of GRPO and PPO: in each step the policy writes completions, and then learns from them, once or several times.

Between two steps nothing is left that a resumed run would need but what the reward's guards remember, which goes into the
state: completions follow from the seed, the step and the policy.
"""

from __future__ import annotations

import json
import random
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from accelerate.utils import gather_object
from torch import Tensor, nn

from multimood_core.errors import DataError
from multimood_core.registry import Checkpoint, save
from multimood_core.rewards import RewardFunction
from train.config import dump_config
from train.lineage import lineage
from train.loop import Batch, Loop
from train.mixture import CORPUS, build_task
from train.paper_reward import PAPER, paper_reward, usage_of
from train.policy import WHOLE_MODEL, PolicyConfig, Rewarder, load_policy, parents_of, read_mixture, rewarder_of
from train.rollouts import Situations
from train.turns import data_hash

_ASKED: Final = ("calls", "failed", "cached", "tokens_in", "tokens_out", "cost")


class RoundTask(Protocol):
    """What a stage does in a step of the loop, and the reward that it goes by."""

    reward: Rewarder

    def collect(self, batch: Batch, step: int) -> Mapping[str, float]:
        """Write completions for a batch of items, judge them and keep them; returns what to log of them."""

    def loss(self, batch: Batch, rng: random.Random) -> Mapping[str, Tensor]:
        """The loss on what was collected, as the loop takes it."""


class Rounds(Loop):
    """A loop whose step is one round of ``task``: ``collect`` once, then ``updates`` steps of the optimizer.

    Args:
        config: the stage's settings.
        model: holds the trained parameters.
        items: that there are prompts of.
        task: collects and computes the loss.
        out: folder of the run.
        groups: parameter groups for AdamW; one group of everything trainable when None.

    Raises:
        DataError: a step's prompts cannot be shared equally by the processes, there are fewer items than one step takes,
            gradients are to be accumulated, which a round does not do, or the processes split the model.
    """

    def __init__(
        self,
        config: PolicyConfig,
        model: nn.Module,
        items: int,
        task: RoundTask,
        out: Path,
        groups: list[dict[str, Any]] | None = None,
    ) -> None:
        whole = items - items % config.prompts  # every step has as many prompts as any other
        super().__init__(replace(config, batch_tokens=config.prompts), model, [1] * whole, task.loss, out, groups)
        self.task, self.updates = task, config.updates
        self._found: Mapping[str, float] = {}
        processes = self.accelerator.num_processes
        if not whole or config.prompts % processes or config.accumulate != 1:
            raise DataError(
                f"Expected prompts to be a multiple of the {processes} processes and at most the {items} items, and "
                f"accumulate 1, got prompts {config.prompts} and accumulate {config.accumulate}."
            )
        if self.sharded:
            raise DataError(WHOLE_MODEL)

    def _collect(self, batch: Batch, rng: random.Random) -> dict[str, Tensor]:
        self._found = self.task.collect(batch, self.step)
        return {}

    def memory(self) -> Any:
        """What the guards of each process's reward remember: each has seen its own share of the replies."""
        reward = self.task.reward
        mine = [reward.state() if isinstance(reward, RewardFunction) else {}]
        return gather_object(mine) if self.accelerator.num_processes > 1 else mine

    def remember(self, memory: Any) -> None:
        reward, process = self.task.reward, self.accelerator.process_index
        if isinstance(reward, RewardFunction):
            reward.restore(memory[process] if memory and process < len(memory) else {})

    def _train_on(self, batch: Batch) -> tuple[dict[str, float], bool, bool]:
        step, processes = self.step, self.accelerator.num_processes
        self.measure(self._collect, batch[self.accelerator.process_index :: processes], random.Random(0))
        updates = []
        for _ in range(self.updates):
            self.step = step
            numbers, late, stop = super()._train_on(batch)
            updates.append(numbers)
        usage = usage_of(self.task.reward)
        # Their mean over the processes, as of the other measures, is the sum of what the processes asked.
        asked = {f"judge/{name}": usage[name] * processes for name in _ASKED if usage.get(name) is not None}
        mine = dict(self._found) | asked
        found = gather_object([mine]) if processes > 1 else [mine]
        return _means(updates) | _means(found), late, stop


def _means(rows: list[Any]) -> dict[str, float]:
    """The mean of each value over the rows that have it."""
    names = {name: None for row in rows for name in row}
    values = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: sum(known) / len(known) for name, known in values.items()}


@dataclass(frozen=True, slots=True)
class Built:
    """A stage's parts for its loop: what holds the trained parameters, the task, and the optimizer's groups."""

    model: nn.Module
    task: RoundTask
    groups: list[dict[str, Any]] | None = None


def run_stage(
    stage: str, config: PolicyConfig, build: Callable[[Checkpoint, Situations, Rewarder], Built], args: Namespace
) -> None:
    """Build a stage from its settings, run it and write the checkpoint.

    Args:
        stage: its name in the lineage.
        config: the stage's settings.
        build: makes its parts from the policy, the prompts and the reward.
        args: the command line's ``resume``.
    """
    mixture = read_mixture(config.mixture, config.root)
    policy = load_policy(config.parent, mixture)
    situations = Situations(build_task(mixture, policy.model, policy.processor))
    reward: Rewarder
    if config.reward == PAPER:
        reward = paper_reward(config, config.out, [item.therapist.text for item in situations.task.items])
    else:
        reward = rewarder_of(config.reward, mixture, config.window)
    parts = build(policy, situations, reward)
    loop = Rounds(config, parts.model, len(situations), parts.task, config.out, parts.groups)
    policy.model.train()
    try:
        loop.run(args.resume)
    finally:
        if usage := usage_of(reward):
            print(f"The judge, asked by process {loop.accelerator.process_index}: {json.dumps(usage)}")
    parents = parents_of(policy)
    if (Path(config.reward) / "lineage.json").is_file():
        parents["reward"] = Path(config.reward)
    told = lineage(stage, config, parents, data_hash([CORPUS], "train", mixture.data), loop.step)

    def fill(folder: Path) -> None:
        save(folder, policy.model, policy.calibration, told)
        dump_config(config, folder / "config.yaml")

    loop.finish(config.out / "final", fill)
