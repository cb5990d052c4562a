"""GRPO: media reach the loss, advantages are the paper's, a missing reward teaches nothing, and a toy policy learns."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from torch import Tensor

from multimood_core.errors import DataError, ModelError
from multimood_core.rewards import Reward
from tests.train.policies import share_of_letter, toy_policy
from train.grpo import GrpoConfig, MultiMoodGRPOTrainer
from train.policy import REFERENCE, reference
from train.rounds import Rounds

BATCH = [1, 3]  # items with a history


def make(tmp_path: Path, reward: Any = share_of_letter, **settings: Any) -> MultiMoodGRPOTrainer:
    policy, situations = toy_policy()
    defaults = {"out": tmp_path / "run", "precision": "no", "prompts": 2, "max_tokens": 8, "updates": 1}
    return MultiMoodGRPOTrainer(GrpoConfig(**(defaults | settings)), policy, situations, reward)


def gradient(trainer: MultiMoodGRPOTrainer) -> Tensor:
    """The loss's gradient on what was collected, flat."""
    model = trainer.writer.model
    model.zero_grad()
    trainer.loss(BATCH, random.Random(0))["loss"].backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


def test_the_private_methods_are_those_of_the_pinned_version() -> None:
    assert trl.__version__ == "1.16.0"
    pinned = (Path(__file__).resolve().parents[2] / "requirements.txt").read_text()
    assert "trl==1.16.0" in pinned


@pytest.mark.parametrize(
    "dropped", [("video_features", "video_frames"), ("audio_features", "audio_mask"), ("history_ids", "history_mask")]
)
def test_every_modality_reaches_the_loss(
    tmp_path: Path, dropped: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same completions: where a modality is emptied, likelihoods and gradient change."""
    trainer = make(tmp_path, beta=0.5)
    trainer.collect(BATCH, 0)
    whole, before = gradient(trainer), trainer._collected["ref_per_token_logps"]
    emptied = []
    for group in trainer._groups:
        media = {k: (0 * v if k == dropped[0] and v.is_floating_point() else v) for k, v in group.prompt.media.items()}
        if dropped[0] == "history_ids":  # another history of the same length
            ids, memory = media["history_ids"], trainer.writer.model.config.memory_token_id
            media["history_ids"] = torch.where(ids == memory, ids, (ids + 7) % 300 + 50)
        with torch.no_grad():
            embeds = trainer.writer.model.model.embed(torch.tensor([group.prompt.ids]), **media)[0]
        assert not torch.equal(embeds, group.prefix[: len(embeds)])
        emptied.append(dataclasses.replace(group, prefix=torch.cat([embeds, group.prefix[len(embeds) :]])))
    monkeypatch.setattr(trainer, "_groups", emptied)
    assert (gradient(trainer) - whole).norm() > 1e-3 * whole.norm()
    ids, mask = torch.zeros(8, 8, dtype=torch.long), torch.ones(8, 8, dtype=torch.long)
    width = before.shape[1]
    after, _, _ = trainer._get_per_token_logps_and_entropies("reference", ids, mask, width)
    assert (after - before).abs().max() > 1e-3


def test_advantages_are_deviations_from_the_groups_mean(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    found = trainer.collect(BATCH, 0)
    replies = [reply for group in trainer._groups for reply in group.replies]
    rewards = torch.tensor([reply.count("e") / max(1, len(reply)) for reply in replies]).view(2, 4)
    expected = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    torch.testing.assert_close(trainer._collected["advantages"], expected.flatten())
    assert found["reward"] == pytest.approx(float(rewards.mean()))
    assert found["part/letters"] == pytest.approx(float(rewards.mean()))


def test_a_missing_reward_is_left_out_of_its_group(tmp_path: Path) -> None:
    def partly(situations: Sequence[Any], replies: Sequence[str]) -> list[Reward]:
        values = [0.2, 0.4, None, 0.9, None, None, None, None]
        return [Reward(value, {"judge": value}) for value in values]

    trainer = make(tmp_path, partly)
    found = trainer.collect(BATCH, 0)
    known = torch.tensor([0.2, 0.4, 0.9])
    expected = (known - known.mean()) / (known.std() + 1e-4)
    advantages = trainer._collected["advantages"]
    torch.testing.assert_close(advantages[[0, 1, 3]], expected)
    assert advantages[[2, 4, 5, 6, 7]].tolist() == [0] * 5
    assert found["reward"] == found["part/judge"] == pytest.approx(0.5)
    assert found["part/missing"] == pytest.approx(5 / 8)


def test_the_loss_is_the_papers(tmp_path: Path) -> None:
    """Eq. 5-12 by hand, from likelihoods of each completion alone, with a policy that has left its reference."""
    trainer = make(tmp_path, beta=1.12, updates=2, clip=0.1)
    trainer.collect(BATCH, 0)
    model = trainer.writer.model
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".default." in name:
                parameter.mul_(1.05)
    found = trainer.loss(BATCH, random.Random(0))
    total, kls, row = [], [], 0
    for group in trainer._groups:
        for tokens in group.completions:
            now = alone(trainer, group.prefix, tokens)
            with reference(model):
                wanted = alone(trainer, group.prefix, tokens)
            old = trainer._collected["old_per_token_logps"][row, : len(tokens)]
            ratio, gain = (now - old).exp(), trainer._collected["advantages"][row]
            objective = torch.min(ratio * gain, ratio.clamp(0.9, 1.1) * gain)
            kl = (wanted - now).exp() - (wanted - now) - 1
            total.append((-objective + 1.12 * kl).mean())
            kls.append(kl)
            row += 1
    torch.testing.assert_close(found["loss"], torch.stack(total).mean(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["kl"], torch.cat(kls).mean(), atol=1e-4, rtol=1e-4)
    assert 0 < float(found["clipped"]) < 1


def alone(trainer: MultiMoodGRPOTrainer, prefix: Tensor, tokens: Sequence[int]) -> Tensor:
    model = trainer.writer.model
    with torch.no_grad():
        words = model.get_input_embeddings()(torch.tensor(tokens))
        logits = model(inputs_embeds=torch.cat([prefix, words])[None]).logits[0, -len(tokens) - 1 : -1]
    logits[:, trainer.writer.barred] = -torch.inf
    return logits.log_softmax(-1)[range(len(tokens)), list(tokens)]


def test_the_reference_stays_and_is_no_second_model(tmp_path: Path) -> None:
    trainer = make(tmp_path, lr=3e-2, epochs=0.2, beta=0.0)
    model = trainer.writer.model
    frozen = {name: value.clone() for name, value in model.state_dict().items() if ".default." not in name}
    before = {name: value.clone() for name, value in model.state_dict().items() if ".default." in name}
    assert {name for name, p in model.named_parameters() if p.requires_grad} == set(before)
    rounds(trainer).run()
    torch.testing.assert_close({n: v for n, v in model.state_dict().items() if n in frozen}, frozen, rtol=0, atol=0)
    for name, value in before.items():
        twin = name.replace(".default.", f".{REFERENCE}.")
        assert torch.equal(frozen[twin], value)
        assert not torch.equal(model.state_dict()[name], value)


def rounds(trainer: MultiMoodGRPOTrainer) -> Rounds:
    return Rounds(trainer.config, trainer.writer.model, len(trainer.situations), trainer, trainer.config.out)


def curve(out: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_toy_policy_learns_what_is_rewarded_and_the_log_says_how(tmp_path: Path) -> None:
    trainer = make(tmp_path, lr=3e-2, epochs=6, beta=0.01, prompts=5, group=8, schedule="constant")
    rounds(trainer).run()
    rewards = curve(trainer.config.out, "reward")
    assert sum(rewards[-6:]) / 6 > 2 * sum(rewards[:6]) / 6
    last = json.loads((trainer.config.out / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"reward", "part/letters", "kl", "length", "entropy", "clipped", "loss", "lr"} <= set(last)
    assert last["kl"] > 0.01
    assert list((trainer.config.out / "tensorboard").iterdir())


def test_a_larger_beta_stays_nearer_to_the_reference(tmp_path: Path) -> None:
    # A rate at which beta's pull does not overshoot: there the distances differ six times and more, whatever the seed.
    far = make(tmp_path / "far", lr=3e-3, epochs=2, beta=0.0, prompts=5)
    near = make(tmp_path / "near", lr=3e-3, epochs=2, beta=5.0, prompts=5)
    for trainer in (far, near):
        rounds(trainer).run()

    def distance(trainer: MultiMoodGRPOTrainer) -> float:
        trainer.beta, trainer.ref_model = 1.0, "reference"
        trainer.collect(BATCH, 0)
        return float(trainer.loss(BATCH, random.Random(0))["kl"])

    assert distance(near) < 0.5 * distance(far)


def test_the_labels_lines_are_held_to_the_reference(tmp_path: Path) -> None:
    """The divergence by hand from the whole prefix read alone; its gradient is added with its weight and no other."""
    trainer = make(tmp_path, beta=0.1, lines_beta=0.7)
    trainer.collect(BATCH, 0)
    assert float(trainer.loss(BATCH, random.Random(0))["lines_kl"]) == pytest.approx(0, abs=1e-6)  # nothing was learnt yet
    model = trainer.writer.model
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".default." in name:
                parameter.mul_(1.3)
    found = trainer.loss(BATCH, random.Random(0))
    held = []
    for group in trainer._groups:
        assert group.lead > len(group.labels)
        with torch.no_grad():
            now = model(inputs_embeds=group.prefix[None]).logits[0, -group.lead - 1 : -1].log_softmax(-1)
            with reference(model):
                wanted = model(inputs_embeds=group.prefix[None]).logits[0, -group.lead - 1 : -1].log_softmax(-1)
        held.append((wanted.exp() * (wanted - now)).sum())
    assert float(found["lines_kl"]) > 1e-3
    torch.testing.assert_close(found["lines_kl"], torch.stack(held).mean(), atol=1e-4, rtol=1e-3)
    trainer.config = dataclasses.replace(trainer.config, lines_beta=0.0)
    free = trainer.loss(BATCH, random.Random(0))
    assert "lines_kl" not in free
    torch.testing.assert_close(found["loss"] - free["loss"], 0.7 * found["lines_kl"], atol=1e-5, rtol=1e-3)
    with pytest.raises(DataError, match="beta above 0"):
        make(tmp_path / "none", beta=0.0, lines_beta=0.7)


def test_a_stopped_run_resumes_into_the_curve_of_one_that_was_not(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 0.4, "prompts": 2, "updates": 2, "lr": 1e-2}
    whole = make(tmp_path / "whole", **settings)
    rounds(whole).run()
    stopped = make(tmp_path / "stopped", **settings)
    loop, calls = rounds(stopped), []

    def stop_in_the_third(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        loop._save()
        return collect(*args)

    collect = stopped.collect
    loop.task.collect = stop_in_the_third  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    again = make(tmp_path / "stopped", **settings)
    rounds(again).run(resume=True)
    for name in ("loss", "reward", "kl", "step"):
        assert curve(again.config.out, name) == pytest.approx(curve(whole.config.out, name), abs=1e-5)


def test_what_is_no_number_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(tmp_path / "loss")
    monkeypatch.setattr(trainer, "_compute_loss", lambda model, inputs: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(ModelError, match="The loss is nan at step 0. Lower lr"):
        rounds(trainer).run()
    endless = make(tmp_path / "reward", lambda s, replies: [Reward(float("inf"), {"judge": 1.0})] * len(replies))
    with pytest.raises(ModelError, match="Expected finite rewards, got inf from {'judge': 1.0}"):
        rounds(endless).run()


def test_prompts_that_the_processes_cannot_share_are_refused(tmp_path: Path) -> None:
    for settings in ({"prompts": 31}, {"accumulate": 2}):
        with pytest.raises(DataError, match="Expected prompts to be a multiple of the 1 processes and at most the 30 items"):
            rounds(make(tmp_path, **settings))


def test_no_telemetry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda *a, **k: sent.append(a))
    make(tmp_path)
    assert not sent


