"""The reward model reads a reply alone, and learns to prefer the real one."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from multimood_core.errors import ModelError
from multimood_core.records import HistoryTurn
from multimood_core.reward_scores import situation_of
from multimood_core.rewards import ReplySituation
from tests.train.policies import toy_policy
from train.loop import Loop
from train.mixture import SftConfig
from train.reward_model import (
    RewardModel,
    RewardModelConfig,
    RewardModelTerm,
    RewardTask,
    standardise,
)
from train.reward_pairs import Pairs


def toy_reward_task(tmp_path: Path, **settings: Any) -> RewardTask:
    """Real replies against a constant other one."""
    policy, situations = toy_policy()
    config = RewardModelConfig(**({"out": tmp_path / "run", "precision": "no", "batch_tokens": 400} | settings))
    answered = {i: situation_of(item) for i, item in enumerate(situations.task.items)}
    pairs = [Pairs(i, item.id, ("alone alone", "tired")) for i, item in enumerate(situations.task.items)]
    return RewardTask(config, RewardModel(policy.model, policy.processor), answered, pairs)


def test_a_score_is_that_of_the_reply_alone(tmp_path: Path) -> None:
    model = toy_reward_task(tmp_path).model
    torch.nn.init.normal_(model.head.weight)
    history = (HistoryTurn("client", "I feel alone", "sadness"), HistoryTurn("therapist", "Since when?", "neutral"))
    situation = ReplySituation("so tired today", history)
    replies = ["and nobody listens", "Since when?", "a"]
    together = model.scores(situation, replies)
    for reply, score in zip(replies, together, strict=True):
        ids = model.prompt(situation) + model.reply(reply)[:-1]
        units = [token for turn in history for token in model.processor.encode_history_turn(turn)]
        state = model.model.model(input_ids=torch.tensor([ids]), history_ids=torch.tensor([units])).last_hidden_state[0, -1]
        torch.testing.assert_close(score, model.head(state)[0], atol=1e-4, rtol=1e-4)
    assert (together - model.scores(ReplySituation("so tired today"), replies)).abs().min() > 1e-4  # the history is read


def test_labels_of_this_turn_are_not_in_the_prompt(tmp_path: Path) -> None:
    task = toy_reward_task(tmp_path)
    text = task.model.processor.tokenizer.decode(task.model.prompt(task.situations[1]))
    assert text.endswith("Therapist's response:")
    assert "Client's emotion:" not in text
    assert "restatement" not in text


def test_it_learns_to_prefer_the_real_reply_and_says_so(tmp_path: Path) -> None:
    task = toy_reward_task(tmp_path, lr=1e-2, epochs=10.0, schedule="constant")
    before = task.measure()
    assert before["accuracy"] == 0  # nothing is preferred at first
    Loop(task.config, task.model.train(), task.lengths, task.loss, task.config.out).run()
    task.model.eval()
    report = task.measure()
    assert report["accuracy"] == 1.0
    assert report["accuracy_interval"] == (1.0, 1.0)
    assert (report["items"], report["pairs"]) == (30, 60)
    # "Since when?" is as long as one of the two and longer than the other; "and nobody listens to you" longer than both
    assert report["accuracy_of_the_longer"] == pytest.approx((0.75 + 1.0) / 2)
    standardise(task)
    term = RewardModelTerm(task.model)
    situations = [task.situations[0]] * 2 + [task.situations[1]] * 2
    values = term(situations, ["Since when?", "tired", "and nobody listens to you", "alone alone"])
    assert values[0] > 0.9 > values[1]
    assert values[2] > 0.9 > values[3]
    own = torch.cat([task.leads(one)[1][1:] for one in task.pairs]).detach()
    torch.testing.assert_close((task.model.centre, task.model.spread), (own.mean(), own.std()), atol=1e-4, rtol=1e-4)


def test_the_loss_is_the_lead_in_bits_of_logistic_regression(tmp_path: Path) -> None:
    task = toy_reward_task(tmp_path, pull=0.1)
    torch.nn.init.normal_(task.model.head.weight)
    found = task.loss([0, 1], random.Random(0))
    losses = []
    for index in (0, 1):
        _, scores = task.leads(task.pairs[index])
        chosen, rejected = scores[0], scores[1:]
        losses.append(torch.log1p((rejected - chosen).exp()).mean() + 0.1 * (scores**2).mean())
    torch.testing.assert_close(found["loss"], torch.stack(losses).mean())


def test_a_folder_without_a_reward_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"Expected a reward model .* Train one with python -m train.reward_model"):
        RewardModelTerm.load(tmp_path, SftConfig())
