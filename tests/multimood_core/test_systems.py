"""Language models get the same prompt as text and are read leniently; clips reach the checkpoints that are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from multimood_core.engine import Engine
from multimood_core.evaluation import Question
from multimood_core.prompts import Piece
from multimood_core.records import CheckpointId, Context, HistoryTurn
from multimood_core.registry import Checkpoint
from multimood_core.systems import (
    CheckpointSystem,
    Expressions,
    Perception,
    SmesParts,
    SmesSystem,
    ZeroShotSystem,
    calls_of,
    described,
    label_in,
)
from multimood_core.text_models import Template
from tests import synthetic
from tests.multimood_core.tiny import tiny_model

FOUR_LINES = (
    "**Client's emotion:** [Fear]\nTherapist's emotion: neutral, I think\nTherapist's strategy: Open Questions\n"
    "Therapist's response: What keeps you awake?"
)
QUESTION = Question(
    "4/1", "4", "I can't sleep.", (HistoryTurn("therapist", "Welcome.", "joy"),), Context("insomnia", "nights"), "She frowns."
)


class Scripted:
    """A text model that says what it is told to, and keeps the prompts."""

    name = "scripted"

    def __init__(self, answers: Sequence[str | None]) -> None:
        self.answers, self.prompts = list(answers), list[str]()

    def complete(self, prompt: Callable[[Template], list[Piece]], max_tokens: int) -> str | None:
        pieces = prompt(lambda messages: "\n".join(m["content"] for m in messages))
        self.prompts.append("".join(piece.text for piece in pieces))
        return self.answers.pop(0)


def test_the_prompt_has_every_slot_in_words() -> None:
    model = Scripted([FOUR_LINES])
    answer = ZeroShotSystem(model).answer(QUESTION)
    prompt = model.prompts[0]
    for part in ("Problem: insomnia", "Video: not given", "Audio: not given", "Description: She frowns.", "I can't sleep."):
        assert part in prompt
    assert "Chat history: \ntherapist [joy]: Welcome." in prompt
    assert not any(token in prompt for token in ("<video>", "<audio>", "<history>"))
    assert {task: p.label for task, p in answer.labels.items()} == {
        "client_emotion": "fear", "therapist_emotion": "neutral", "strategy": "open question",
    }  # fmt: skip
    assert answer.response == "What keeps you awake?"
    assert answer.text == FOUR_LINES


def test_a_placeholder_that_a_client_typed_stays_as_it_is() -> None:
    model = Scripted([FOUR_LINES])
    ZeroShotSystem(model).answer(replace(QUESTION, client="is <video> on?"))
    assert "Client: is <video> on?" in model.prompts[0]


def test_smes_goes_step_by_step_on_what_it_found() -> None:
    model = Scripted(["Emotion: sad.", "I would choose restatement", "neutral", '"You lie awake."'])
    shown = {"face": {"joy": 0.2, "fear": 0.7}, "voice": {"anger": 0.9, "joy": 0.1}}
    answer = SmesSystem(model, lambda question: shown).answer(QUESTION)
    assert {task: p.label for task, p in answer.labels.items()} == {
        "client_emotion": "sadness", "strategy": "restatement", "therapist_emotion": "neutral",
    }  # fmt: skip
    assert answer.response == "You lie awake."
    emotion, strategy, system_emotion, reply = model.prompts
    assert "Description: She frowns. The face shows fear (70%) or joy (20%). The voice shows anger (90%)" in emotion
    assert "[FOUND SO FAR]\nnothing" in emotion
    assert "Client's emotion: sadness\n" in strategy
    assert "Therapist's strategy: restatement\n" in system_emotion
    assert "Therapist's emotion: neutral\n" in reply
    assert "[OUTPUT FORMAT]" not in reply


def test_an_ablation_of_smes_leaves_out_cues_and_steps() -> None:
    model = Scripted(["sad", "restatement", "neutral", "Yes."])
    shown = {"face": {"fear": 1.0}, "voice": {"anger": 1.0}}
    parts = SmesParts(visual=False, steps=("client_emotion", "therapist_emotion", "response"))
    answer = SmesSystem(model, lambda question: shown, parts).answer(QUESTION)
    assert answer.labels["strategy"].label == "restatement"  # asked for its own score
    assert not any("restatement\n" in prompt for prompt in model.prompts)  # and shown to no later step
    assert not any("frowns" in prompt or "face" in prompt for prompt in model.prompts)
    assert "The voice shows anger" in model.prompts[0]


def test_a_failed_step_of_smes_is_a_missing_answer() -> None:
    answer = SmesSystem(Scripted(["sad", None])).answer(QUESTION)
    assert answer.missing
    assert (set(answer.labels), answer.response) == ({"client_emotion"}, None)


@pytest.mark.parametrize(
    ("text", "task", "label"),
    [
        ("Client's emotion: Joy!", "client_emotion", "joy"),
        ("\n\nThe client is angry, or in fear", "client_emotion", "anger"),
        ("Open question", "strategy", "open question"),
        ("no idea", "strategy", None),
        ("", "client_emotion", None),
    ],
)
def test_labels_of_single_answers(text: str, task: str, label: str | None) -> None:
    assert label_in(text, task) == label


def test_a_model_without_calls_costs_nothing() -> None:
    assert calls_of(ZeroShotSystem(Scripted([]))) is None


def test_without_cues_nothing_is_described() -> None:
    assert described(replace(QUESTION, description=""), {}) == ""


# -- clips ---------------------------------------------------------------------------------------------------------------


def test_a_clip_reaches_the_towers_unless_an_ablation_takes_it(tmp_path: Path) -> None:
    synthetic.write_clip(tmp_path / "a.wav", sound=synthetic.spoken(0.8), rate=16_000, audio="pcm_s16le")
    model, processor = tiny_model(seed=3)
    engine = Engine(Checkpoint(CheckpointId("tiny", "0" * 64), Path(), model, processor))
    question = replace(QUESTION, media="a.wav")
    heard, deaf = Perception(engine, tmp_path), Perception(engine, tmp_path, audio=False)
    assert heard(question).audio_mode == "used"
    assert deaf(question).audio_mode == "missing"
    assert heard(QUESTION).audio_mode == "missing"  # no clip
    assert set(Expressions(heard)(question)) == {"voice"}
    first = CheckpointSystem(engine, perceive=heard).answer(question).labels["client_emotion"].probabilities
    second = CheckpointSystem(engine, perceive=deaf).answer(question).labels["client_emotion"].probabilities
    assert first != second
