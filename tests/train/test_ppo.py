"""PPO: advantages by hand, the clipped objective by hand, media in it, and a toy policy learns with a value head."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from multimood_core.rewards import Reward
from tests.train.policies import share_of_letter, toy_policy
from train.policy import reference
from train.ppo import Actor, PpoConfig, PpoTask, advantages_of, build
from train.rounds import Rounds

BATCH = [1, 3]


def make(tmp_path: Path, reward: Any = share_of_letter, **settings: Any) -> tuple[PpoTask, Rounds]:
    policy, situations = toy_policy()
    defaults = {"out": tmp_path / "run", "precision": "no", "prompts": 2, "group": 2, "max_tokens": 8}
    config = PpoConfig(**(defaults | settings))
    parts = build(config, policy, situations, reward)
    assert isinstance(parts.task, PpoTask)
    return parts.task, Rounds(config, parts.model, len(situations), parts.task, config.out, parts.groups)


def test_advantages_are_the_discounted_sum_of_surprises() -> None:
    rewards, values = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.5, 0.25, 0.75])
    # surprises: 0 + 0.9 * 0.25 - 0.5 = -0.275; 0 + 0.9 * 0.75 - 0.25 = 0.425; 1 - 0.75 = 0.25; each step back: 0.9 * 0.8
    expected = torch.tensor([-0.275 + 0.72 * (0.425 + 0.72 * 0.25), 0.425 + 0.72 * 0.25, 0.25])
    torch.testing.assert_close(advantages_of(rewards, values, 0.9, 0.8), expected)


def test_without_discount_and_with_a_whole_trace_they_are_what_came_less_what_was_expected() -> None:
    rewards, values = torch.randn(7), torch.randn(7)
    left = rewards.flip(0).cumsum(0).flip(0)
    torch.testing.assert_close(advantages_of(rewards, values, 1.0, 1.0), left - values)


def test_the_end_earns_the_reward_and_each_token_pays_for_its_distance(tmp_path: Path) -> None:
    task, _ = make(tmp_path, beta=0.3, discount=1.0, trace=1.0)
    with torch.no_grad():
        for name, parameter in task.actor.model.named_parameters():
            if ".default." in name:
                parameter.mul_(1.1)
    found = task.collect(BATCH, 0)
    assert found["kl"] != 0
    costs = []
    for rollout in task.rollouts:
        branches = rollout.branches

        with torch.no_grad(), reference(task.actor.model):
            wanted = task._read(branches)[0]
        costs.append(rollout.old - wanted)
        for cost, back, tokens in zip(
            branches.split(costs[-1]), branches.split(rollout.returns), branches.split(branches.targets), strict=True
        ):
            score = task.writer.reply_of(tokens.tolist())
            expected = score.count("e") / max(1, len(score)) - 0.3 * cost.sum()
            torch.testing.assert_close(back[0], expected)  # all that is still to come, from the first token on
    assert found["kl"] == pytest.approx(float(torch.cat(costs).mean()))


def test_the_loss_is_the_clipped_objective_and_the_values(tmp_path: Path) -> None:
    task, _ = make(tmp_path, value_weight=0.5, clip=0.1)
    task.collect(BATCH, 0)
    with torch.no_grad():
        for name, parameter in task.actor.named_parameters():
            if ".default." in name or "value" in name:
                parameter.add_(0.02)
    found = task.loss(BATCH, random.Random(0))
    gains = torch.cat([rollout.advantages for rollout in task.rollouts])
    gains = (gains - gains.mean()) / (gains.std(correction=0) + 1e-4)
    with torch.no_grad():
        read = [task._read(rollout.branches) for rollout in task.rollouts]
    now, values = (torch.cat([one[part] for one in read]) for part in (0, 2))
    old, before, returns = (
        torch.cat([getattr(rollout, name) for rollout in task.rollouts]) for name in ("old", "values", "returns")
    )
    ratio = (now - old).exp()
    policy = -torch.min(ratio * gains, ratio.clamp(0.9, 1.1) * gains).mean()
    near = before + (values - before).clamp(-0.1, 0.1)
    value = torch.max((values - returns) ** 2, (near - returns) ** 2).mean() / 2
    torch.testing.assert_close(found["loss"], policy + 0.5 * value, atol=1e-5, rtol=1e-4)
    assert found["clipped"].item() == pytest.approx(float(((ratio - 1).abs() > 0.1).float().mean()))


def test_the_labels_lines_are_held_to_the_reference(tmp_path: Path) -> None:
    free, _ = make(tmp_path / "free", lines_beta=0.0)
    held, _ = make(tmp_path / "held", lines_beta=0.7)
    losses = []
    for task in (free, held):
        task.collect(BATCH, 0)
        with torch.no_grad():
            for name, parameter in task.actor.named_parameters():
                if ".default." in name:
                    parameter.mul_(1.3)
        losses.append(task.loss(BATCH, random.Random(0)))
    assert float(losses[1]["lines_kl"]) > 1e-3
    torch.testing.assert_close(losses[1]["loss"] - losses[0]["loss"], 0.7 * losses[1]["lines_kl"], atol=1e-5, rtol=1e-3)


def test_what_has_no_reward_teaches_nothing(tmp_path: Path) -> None:
    def partly(situations: Sequence[Any], replies: Sequence[str]) -> list[Reward]:
        return [Reward(value, {}) for value in (0.5, None, None, None)]

    task, _ = make(tmp_path, partly)
    found = task.collect(BATCH, 0)
    assert (found["reward"], found["part/missing"]) == (0.5, 0.75)
    first, second = task.rollouts
    tokens = first.branches.lengths[0]
    assert first.kept.sum() == tokens
    assert not second.kept.any()
    assert float(task.loss(BATCH, random.Random(0))["count"]) == tokens
    task.reward = lambda situations, replies: [Reward(None, {})] * len(replies)
    task.collect(BATCH, 1)
    loss = task.loss(BATCH, random.Random(0))["loss"]
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in task.actor.parameters())


def test_the_values_learning_leaves_the_policy_alone(tmp_path: Path) -> None:
    task, _ = make(tmp_path)
    task.collect(BATCH, 0)
    _, _, values, _ = task._read(task.rollouts[0].branches)
    values.sum().backward()
    assert all(p.grad is None for p in task.actor.model.parameters())
    assert any(p.grad is not None and p.grad.any() for p in task.actor.value.parameters())


@pytest.mark.parametrize("modality", ["video_features", "audio_features"])
def test_media_reach_the_completions_and_the_loss(tmp_path: Path, modality: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task, _ = make(tmp_path)
    task.collect(BATCH, 0)
    whole = [rollout.old for rollout in task.rollouts]
    draw = task.situations.draw

    def without(index: int, rng: random.Random) -> Any:
        prompt = draw(index, rng)
        prompt.media[modality].zero_()
        return prompt

    monkeypatch.setattr(task.situations, "draw", without)
    task.collect(BATCH, 0)
    for before, rollout in zip(whole, task.rollouts, strict=True):
        assert before.shape != rollout.old.shape or not torch.allclose(before, rollout.old, atol=1e-4)


def curve(out: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_toy_policy_learns_and_its_values_come_to_expect_it(tmp_path: Path) -> None:
    task, loop = make(tmp_path, lr=1e-2, epochs=8, beta=0.01, prompts=5, group=8, schedule="constant", updates=2)
    loop.run()
    rewards, values = curve(loop.out, "reward"), curve(loop.out, "value")
    assert sum(rewards[-6:]) / 6 > 2 * sum(rewards[:6]) / 6
    expected = torch.cat([rollout.values for rollout in task.rollouts]).mean()
    assert float(expected) == pytest.approx(rewards[-1], abs=0.15)
    assert all(value >= 0 for value in values)


def test_a_killed_run_resumes_into_the_same_curve(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 0.4, "lr": 1e-2, "updates": 3}
    _, whole = make(tmp_path / "whole", **settings)
    whole.run()
    task, stopped = make(tmp_path / "stopped", **settings)
    collect = task.collect

    def die_in_the_third(batch: Any, step: int) -> Any:
        stopped._save()
        if step == 3:
            raise KeyboardInterrupt
        return collect(batch, step)

    task.collect = die_in_the_third  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    _, again = make(tmp_path / "stopped", **settings)
    again.run(resume=True)
    for name in ("loss", "reward", "value", "kl"):
        assert curve(again.out, name) == pytest.approx(curve(whole.out, name), abs=1e-5)
    for name, value in whole.trained_state().items():
        torch.testing.assert_close(again.trained_state()[name], value)
    assert any("value" in name for name in whole.trained_state())


def test_an_actor_expects_nothing_at_first() -> None:
    policy, _ = toy_policy()
    states: Tensor = torch.randn(5, policy.model.config.llm_size)
    assert Actor(policy.model).values(states).tolist() == [0.0] * 5
