"""Proximal policy optimisation (Schulman et al. 2017), multimodal; TRL has no PPO any more.

    python -m train.ppo --config train/configs/ppo_mini.yaml [--key=value ...] [--resume] [--dry-run]

One step of the loop: the policy writes completions, a reward model or function scores them, each token costs beta times
its log-ratio to the reference, a value head on the policy's own states says what was to be expected, and the clipped
objective is followed ``updates`` times. The value head reads the states without sending a gradient back: what it learns
does not move the policy.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn

from multimood_core.model import MultiMoodForConditionalGeneration
from multimood_core.registry import Checkpoint
from train.config import load_config, run_command
from train.loop import Batch
from train.plan_rounds import plan_rounds
from train.policy import PolicyConfig, Rewarder, mean_parts, reference, totals
from train.rollouts import Branches, Situations, Writer, line_divergence, log_probabilities
from train.rounds import Built, run_stage


@dataclass(frozen=True, slots=True)
class PpoConfig(PolicyConfig):
    """Settings of PPO."""

    out: Path = field(default=Path("runs/ppo"), metadata={"help": "folder of the run"})
    updates: int = field(default=4, metadata={"help": "optimizer steps on the same completions"})
    beta: float = field(default=0.05, metadata={"help": "price of a token's log-ratio to the reference"})
    discount: float = field(default=1.0, metadata={"help": "of the next token's value"})
    trace: float = field(default=0.95, metadata={"help": "lambda of generalised advantage estimation"})
    value_lr: float = field(default=1e-3, metadata={"help": "peak learning rate of the value head"})
    value_weight: float = field(default=0.1, metadata={"help": "of the value's loss"})


def value_head(width: int) -> nn.Sequential:
    """What is to be expected after a state of ``width`` numbers; 0 to begin with."""
    last = nn.Linear(width, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.Tanh(), last)


class Actor(nn.Module):
    """The policy and a value head on its states."""

    def __init__(self, model: MultiMoodForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        self.value = value_head(model.config.llm_size)

    def values(self, states: Tensor) -> Tensor:
        """What is to be expected after each state (n, D_llm): (n,)."""
        with torch.autocast(states.device.type, enabled=False):
            return self.value(states.detach().float())[:, 0]


@dataclass(frozen=True, slots=True)
class Rollout:
    """A group's completions with what was known when they were written; each tensor has one entry a token (n,)."""

    branches: Branches
    old: Tensor
    values: Tensor
    advantages: Tensor
    lines: Tensor
    """(lead, D_llm) the reference's states over the labels' lines."""
    kept: Tensor
    """False where the completion's reward is missing: nothing is learnt from it."""

    @property
    def returns(self) -> Tensor:
        return self.advantages + self.values


def advantages_of(rewards: Tensor, values: Tensor, discount: float, trace: float) -> Tensor:
    """Generalised advantage estimates (T,) of one completion (Schulman et al. 2016, eq. 16); nothing follows its end.

    Args:
        rewards: (T,) of each token.
        values: (T,) expected before each token.
        discount: gamma.
        trace: lambda.
    """
    found, value_after, ahead = torch.zeros_like(rewards), rewards.new_zeros(()), rewards.new_zeros(())
    for t in reversed(range(len(rewards))):
        surprise = rewards[t] + discount * value_after - values[t]
        ahead = surprise + discount * trace * ahead
        found[t], value_after = ahead, values[t]
    return found


class PpoTask:
    """A round of PPO.

    Args:
        config: the run's settings.
        policy: with a reference adapter (``train.policy.add_reference``).
        actor: the policy's model with its value head.
        situations: the prompts.
        reward: scores the replies.
    """

    def __init__(
        self, config: PpoConfig, policy: Checkpoint, actor: Actor, situations: Situations, reward: Rewarder
    ) -> None:
        self.config, self.actor, self.situations, self.reward = config, actor, situations, reward
        self.writer = Writer(
            policy.model, policy.processor, policy.calibration, config.completion, config.max_tokens, config.temperature
        )
        self.rollouts: list[Rollout] = []
        self._centre, self._spread = 0.0, 1.0  # of the round's advantages, over all processes

    @torch.no_grad()
    def collect(self, batch: Batch, step: int) -> Mapping[str, float]:
        """Completions of a batch of items with rewards, values and advantages."""
        names = [f"{self.config.seed}/{step}/{index}" for index in batch]
        prompts = [self.situations.draw(i, random.Random(name)) for i, name in zip(batch, names, strict=True)]
        groups = self.writer.write(prompts, self.config.group, [f"{name}/replies" for name in names])
        rewards = self.reward(
            [group.prompt.situation for group in groups for _ in group.replies],
            [reply for group in groups for reply in group.replies],
        )
        scores = iter(totals(rewards))
        self.rollouts, costs = [], []
        for group in groups:
            embedding = self.actor.model.get_input_embeddings()
            branches = Branches.of(group.prefix, group.completions, embedding, group.lead)
            old, _, values, _ = self._read(branches)
            with reference(self.actor.model):
                wanted, _, _, lines = self._read(branches)
            costs.append(old - wanted)
            gains, kept = [], []
            for cost, value in zip(branches.split(old - wanted), branches.split(values), strict=True):
                score = next(scores)
                earned = -self.config.beta * cost
                earned[-1] += score or 0.0
                gains.append(advantages_of(earned, value, self.config.discount, self.config.trace))
                kept.append(torch.full_like(value, score is not None, dtype=torch.bool))
            self.rollouts.append(Rollout(branches, old, values, torch.cat(gains), lines, torch.cat(kept)))
        self._measure_advantages()
        known = [reward.total for reward in rewards if reward.total is not None]
        lengths = [len(completion) for group in groups for completion in group.completions]
        found = {f"part/{name}": value for name, value in mean_parts(rewards).items()}
        found |= {"kl": float(torch.cat(costs).mean()), "length": sum(lengths) / len(lengths)}
        return found | ({"reward": sum(known) / len(known)} if known else {})

    def _measure_advantages(self) -> None:
        mine = torch.cat([one.advantages[one.kept] for one in self.rollouts]).double()
        sums = [(len(mine), float(mine.sum()), float(mine.square().sum()))]
        every = gather_object(sums) if PartialState().num_processes > 1 else sums
        count, total, squares = (sum(column) for column in zip(*every, strict=True))
        self._centre = total / max(1, count)
        self._spread = max(squares / max(1, count) - self._centre**2, 0.0) ** 0.5 + 1e-4

    def _read(self, branches: Branches) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-probability, entropy and value (n,) of the completions' tokens, and the states over the labels' lines."""
        lead, states = branches.read(self.actor.model)
        found = log_probabilities(
            self.actor.model.lm_head, states, branches.targets, self.writer.barred, self.config.temperature
        )
        return *found, self.actor.values(states), lead

    def loss(self, batch: Batch, rng: random.Random) -> Mapping[str, Tensor]:
        """The clipped objective (Schulman et al. 2017, eq. 7) and the value's loss: means over the round's tokens."""
        clip, parts, drifts = self.config.clip, [], []
        for one in self.rollouts:
            now, entropy, values, lines = self._read(one.branches)
            drifts.append(line_divergence(self.actor.model.lm_head, one.lines, lines))
            gain = (one.advantages - self._centre) / self._spread
            ratio = (now - one.old).exp()
            policy = -torch.min(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)
            near = one.values + (values - one.values).clamp(-clip, clip)
            value = torch.max((values - one.returns).square(), (near - one.returns).square()) / 2
            parts.append(torch.stack([policy, value, entropy, ((ratio - 1).abs() > clip).float()]) * one.kept)
        count = sum(int(one.kept.sum()) for one in self.rollouts)
        policy, value, entropy, clipped = torch.cat(parts, 1).sum(1) / max(1, count)
        drift = torch.stack(drifts).mean()
        loss = policy + self.config.value_weight * value + self.config.lines_beta * drift
        found = {"loss": loss, "policy": policy, "value": value, "lines_kl": drift.detach()}
        return found | {"entropy": entropy, "clipped": clipped, "count": policy.new_tensor(count)}


def build(config: PpoConfig, policy: Checkpoint, situations: Situations, reward: Rewarder) -> Built:
    """The parts of PPO for its loop: the value head learns at a rate of its own."""
    torch.manual_seed(config.seed)
    actor = Actor(policy.model)
    groups = [
        {"params": [p for p in policy.model.parameters() if p.requires_grad], "lr": config.lr},
        {"params": list(actor.value.parameters()), "lr": config.value_lr},
    ]
    return Built(actor, PpoTask(config, policy, actor, situations, reward), groups)


def main(argv: Sequence[str] | None = None) -> None:
    config, args = load_config(PpoConfig, argv, __doc__ or "")
    if args.dry_run:
        print(plan_rounds("ppo", config, args, readings=2, head=value_head).table())
        return
    run_stage("ppo", config, lambda *parts: build(config, *parts), args)


if __name__ == "__main__":
    run_command(main)
