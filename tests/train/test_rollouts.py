"""What the policy writes is what it would say in the app, and its likelihood is that of each completion alone."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from typing import Any

import pytest
import torch

from multimood_core.decoding import LABELS, AnswerDecoder, Sampling
from multimood_core.errors import DataError
from multimood_core.prompts import CLIENT_LINE, RESPONSE_LINE, Piece
from multimood_core.reward_scores import situation_of
from tests.multimood_core.tiny import CALIBRATION
from tests.train.policies import toy_task
from train.mixture import SftTask
from train.rollouts import Branches, Group, Prompt, Situations, Writer, label_lines, log_probabilities


@pytest.fixture(scope="module")
def task() -> SftTask:
    return toy_task()


@pytest.fixture(scope="module")
def prompts(task: SftTask) -> list[Prompt]:
    """Items of different lengths, each with a voice, a face and, the odd ones, a history."""
    return [Situations(task).draw(i, random.Random(i)) for i in range(4)]


def writer(task: SftTask, **settings: Any) -> Writer:
    return Writer(task.model, task.processor, CALIBRATION, **settings)


def greedy(task: SftTask, prompt: Prompt, tokens: int) -> tuple[dict[str, str], str]:
    """Labels and reply as the app's decoder gives them."""
    decoder = AnswerDecoder(task.model, task.processor, CALIBRATION, torch.tensor([prompt.ids]), prompt.media)
    labels = {name: decoder.label(name).label for name in LABELS}
    return labels, "".join(decoder.reply(Sampling(repetition_penalty=1, max_tokens=tokens)))


def test_a_cold_writer_says_what_the_decoder_says(task: SftTask, prompts: list[Prompt]) -> None:
    groups = writer(task, temperature=1e-4, max_tokens=12).write(prompts, 2, ["a", "b", "c", "d"])
    for prompt, group in zip(prompts, groups, strict=True):
        labels, reply = greedy(task, prompt, 12)
        assert group.labels == labels
        assert group.completions[0] == group.completions[1]
        # The decoder holds half a character back.
        assert group.replies[0].rstrip("\ufffd") == reply.strip().rstrip("\ufffd")


def test_a_prompts_completions_follow_from_its_seed_alone(task: SftTask, prompts: list[Prompt]) -> None:
    one = writer(task)
    together = one.write(prompts, 3, ["a", "b", "c", "d"])
    alone = one.write(prompts[2:3], 3, ["c"])
    assert together[2].completions == alone[0].completions
    assert one.write(prompts[2:3], 3, ["e"])[0].completions != alone[0].completions
    assert len({completion for group in together for completion in group.completions}) > 6


def test_completions_are_drawn_as_often_as_they_are_likely(task: SftTask, prompts: list[Prompt]) -> None:
    one = writer(task, max_tokens=1, temperature=0.7)
    (group,) = one.write(prompts[:1], 4000, ["many"])
    seen = Counter(completion[0] for completion in group.completions)
    for token, count in seen.most_common(4):
        (found, _) = likelihoods(task, dataclasses.replace(group, completions=((token,),)), temperature=0.7)
        assert count / 4000 == pytest.approx(float(found[0].detach().exp()), abs=0.03)


def likelihoods(task: SftTask, group: Group, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    branches = Branches.of(group.prefix, group.completions, task.model.get_input_embeddings())
    states = branches.states(task.model)
    return log_probabilities(task.model.lm_head, states, branches.targets, task.processor.media_token_ids, temperature)


@pytest.mark.parametrize("completion", ["reply", "answer"])
def test_a_completion_is_as_likely_in_its_group_as_alone(
    task: SftTask, prompts: list[Prompt], completion: str
) -> None:
    groups = writer(task, completion=completion, max_tokens=9).write(prompts, 3, ["a", "b", "c", "d"])
    for prompt, group in zip(prompts, groups, strict=True):
        values, entropies = likelihoods(task, group)
        begin = 0
        for tokens in group.completions:
            ids = [*prompt.ids, *before(task, group), *tokens]
            with torch.no_grad():
                logits = task.model(input_ids=torch.tensor([ids]), **prompt.media).logits[0, -len(tokens) - 1 : -1]
            logits[:, task.processor.media_token_ids] = -torch.inf
            every = logits.log_softmax(-1)
            expected = every[range(len(tokens)), list(tokens)]
            torch.testing.assert_close(values[begin : begin + len(tokens)], expected, atol=1e-4, rtol=1e-4)
            entropy = torch.distributions.Categorical(logits=logits).entropy()
            torch.testing.assert_close(entropies[begin : begin + len(tokens)], entropy, atol=1e-4, rtol=1e-4)
            begin += len(tokens)


def before(task: SftTask, group: Group) -> list[int]:
    """What stands between prompt and completion, tokenised in one piece."""
    text = "\n".join(f"{line} {group.labels[name]}" for name, (line, _) in LABELS.items() if group.labels)
    return task.processor.encode_pieces([Piece(f"{text}\n{RESPONSE_LINE}" if text else CLIENT_LINE)])


def test_the_lines_before_the_reply_are_those_that_were_learnt(task: SftTask) -> None:
    sample = task.encode(0, random.Random(0))
    item = task.items[0]
    gold = (item.client.emotion or "", item.therapist.emotion or "", item.therapist.strategy or "")
    labels = dict(zip(LABELS, gold, strict=True))
    prompt = Situations(task).draw(0, random.Random(0))
    assert [*prompt.ids, *label_lines(task.processor, labels)] == sample.ids[: sample.lines.index(3)]


def test_what_a_group_shares_is_computed_once(
    task: SftTask, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, calls = task.model.model, Counter[str]()
    for name in ("project_video", "project_audio", "compress"):
        original = getattr(base, name)
        monkeypatch.setattr(
            base, name, lambda *a, _name=name, _call=original, **k: calls.update([_name]) or _call(*a, **k)
        )
    (group,) = writer(task).write(prompts[1:2], 5, ["a"])
    likelihoods(task, group)
    assert calls == {"project_video": 1, "project_audio": 1, "compress": 1}


def test_media_placeholders_are_never_drawn(task: SftTask, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch) -> None:
    placeholders = set(task.processor.media_token_ids)
    head = task.model.lm_head.forward

    def eager(states: torch.Tensor) -> torch.Tensor:
        logits = head(states)
        logits[..., list(placeholders)] += 50
        return logits

    monkeypatch.setattr(task.model.lm_head, "forward", eager)
    groups = writer(task, max_tokens=6).write(prompts, 4, ["a", "b", "c", "d"])
    assert not placeholders & {token for group in groups for completion in group.completions for token in completion}


def test_a_reply_is_read_out_of_a_whole_answer(task: SftTask) -> None:
    one = writer(task, completion="answer")
    answer = f" sadness\nTherapist's emotion: neutral\nTherapist's strategy: others\n{RESPONSE_LINE} I am here.<|im_end|>"
    ids = task.processor.tokenizer(answer, add_special_tokens=False).input_ids
    assert one.reply_of(ids) == "I am here."
    assert one.reply_of(ids[:8]) == ""


def test_the_test_split_is_refused() -> None:
    with pytest.raises(DataError, match=r"30 are of the test split \(0/0, 0/2, 1/0\)"):
        Situations(toy_task(split="test"))
    mixed = toy_task()
    mixed.items[3] = dataclasses.replace(mixed.items[3], dialogue=dataclasses.replace(mixed.items[3].dialogue, split="test"))
    with pytest.raises(DataError, match=r"1 are of the test split \(1/2\)"):
        Situations(mixed)


def test_a_situation_holds_what_was_said_and_what_came_next(task: SftTask) -> None:
    first, second = situation_of(task.items[0]), situation_of(task.items[1])
    assert (first.client, first.reference, first.next_client) == ("I feel alone", "Since when?", task.items[1].client.text)
    assert second.next_client is None
    assert [turn.text for turn in second.history] == ["I feel alone", "Since when?"]


@pytest.mark.parametrize("settings", [{"completion": "lines"}, {"temperature": 0.0}])
def test_settings_that_make_no_sense_are_refused(task: SftTask, settings: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="Expected completion to be one of reply, answer and temperature above 0"):
        writer(task, **settings)
