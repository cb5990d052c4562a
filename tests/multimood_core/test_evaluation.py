"""Each protocol puts into the history exactly what its name says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from multimood_core.dialogues import Dialogue, DialogueTurn, items_of
from multimood_core.engine import Engine
from multimood_core.errors import DataError
from multimood_core.evaluation import ItemResult, evaluate_dialogues, evaluate_turn, score_tasks, truth_of
from multimood_core.labels import EMOTIONS
from multimood_core.records import CheckpointId, Context, HistoryTurn, LabelPrediction, Turn
from multimood_core.registry import Checkpoint
from tests.multimood_core.tiny import tiny_model

DIALOGUE = Dialogue(
    "4",
    "test",
    (
        DialogueTurn("therapist", "Welcome.", "joy", "structuring the therapy"),
        DialogueTurn("client", "I can't sleep.", "fear"),
        DialogueTurn("therapist", "Since when?", "neutral", "open question"),
        DialogueTurn("client", "For weeks.", "sadness"),
        DialogueTurn("therapist", "That is long.", "sadness", "restatement"),
        DialogueTurn("client", "Yes.", "neutral"),
        DialogueTurn("therapist", "What helps?", "neutral", "open question"),
    ),
    Context("insomnia", "works at night"),
)


@pytest.fixture
def engine() -> Engine:
    model, processor = tiny_model(seed=3)
    return Engine(Checkpoint(CheckpointId("tiny", "0" * 64), Path(), model, processor))


@pytest.fixture
def prompts(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each prompt was made of, in order."""
    seen: list[dict[str, Any]] = []
    prompt = engine.prompt

    def spy(text: str, features: Any, history: Any, context: Any, memory: Any, recent_turns: Any = None) -> Any:
        seen.append({"text": text, "history": tuple(history), "context": context, "memory": memory, "recent": recent_turns})
        return prompt(text, features, history, context, memory, recent_turns)

    monkeypatch.setattr(engine, "prompt", spy)
    return seen


def test_gold_history_gives_the_annotators_labels(engine: Engine, prompts: list[dict[str, Any]]) -> None:
    done: list[ItemResult] = []
    results = evaluate_dialogues(engine, [DIALOGUE], "gold-history", done=done.append)
    items = list(items_of([DIALOGUE]))
    assert done == results
    assert [r.id for r in results] == ["4/1", "4/3", "4/5"]
    assert [p["text"] for p in prompts] == [item.client.text for item in items]
    assert [p["history"] for p in prompts] == [item.history() for item in items]
    assert all(p["context"] == DIALOGUE.context for p in prompts)
    assert results[1].truth == {"client_emotion": "sadness", "therapist_emotion": "sadness", "strategy": "restatement"}


def test_self_history_gives_the_models_own_unconfirmed_predictions(engine: Engine, prompts: list[dict[str, Any]]) -> None:
    results = evaluate_dialogues(engine, [DIALOGUE], "self-history", recent_turns=1, context=False)
    expected = [HistoryTurn("therapist", "Welcome.")]  # no item, so nobody predicted it and no label leaks in
    for seen, result, item in zip(prompts, results, items_of([DIALOGUE]), strict=True):
        assert seen["history"] == tuple(expected)
        assert (seen["context"], seen["recent"]) == (Context(), 1)
        said = {task: prediction.label for task, prediction in result.predicted.items()}
        expected += [
            HistoryTurn("client", item.client.text, said["client_emotion"], emotion_confirmed=False),
            HistoryTurn("therapist", item.therapist.text, said["therapist_emotion"], said["strategy"], False, False),
        ]
    assert len({id(seen["memory"]) for seen in prompts}) == 1


def test_corrected_history_gives_confirmed_gold_as_often_as_its_rate(engine: Engine, prompts: list[dict[str, Any]]) -> None:
    evaluate_dialogues(engine, [DIALOGUE], "corrected-history", rate=1.0)
    last = list(items_of([DIALOGUE]))[-1]
    assert prompts[-1]["history"] == (HistoryTurn("therapist", "Welcome."), *last.history()[1:])
    prompts.clear()
    evaluate_dialogues(engine, [DIALOGUE], "corrected-history", rate=0.0)
    assert not any(turn.emotion_confirmed for turn in prompts[-1]["history"][1:])
    prompts.clear()
    many = [Dialogue(str(i), "test", DIALOGUE.turns) for i in range(12)]
    evaluate_dialogues(engine, many, "corrected-history", rate=0.5, seed=1)
    marks = [turn.emotion_confirmed for p in prompts if p["text"] == "Yes." for turn in p["history"][1:]]
    assert 0.3 < sum(marks) / len(marks) < 0.7
    once = [p["history"] for p in prompts]
    prompts.clear()
    evaluate_dialogues(engine, many, "corrected-history", rate=0.5, seed=1)
    assert [p["history"] for p in prompts] == once


def test_an_unknown_protocol_is_refused(engine: Engine) -> None:
    with pytest.raises(DataError, match="gold-history, self-history, corrected-history, got 'no-history'"):
        evaluate_dialogues(engine, [DIALOGUE], "no-history")  # type: ignore[arg-type]


def test_a_single_turn_is_labelled_without_dialogue(engine: Engine, prompts: list[dict[str, Any]]) -> None:
    prediction = evaluate_turn(engine, Turn(text="I can't sleep."))
    assert (prompts[0]["text"], prompts[0]["history"]) == ("", ())  # its words are not given unless asked for
    assert set(prediction.probabilities) == set(EMOTIONS)
    evaluate_turn(engine, Turn(text="I can't sleep."), transcribe=True)
    assert prompts[1]["text"] == "I can't sleep."


@pytest.mark.filterwarnings("ignore:A single label was found")
def test_scores_stand_beside_their_interval_and_calibration() -> None:
    item = next(items_of([DIALOGUE]))
    truth = truth_of(item)
    right = {task: LabelPrediction(label, {label: 0.9}) for task, label in truth.items()}
    wrong = right | {"client_emotion": LabelPrediction("joy", {"joy": 0.8})}
    tasks = score_tasks([ItemResult("a", truth, right, 0.1), ItemResult("b", truth, wrong, 0.1)])
    assert tasks["strategy"]["accuracy"] == 1
    assert tasks["client_emotion"]["accuracy"] == 0.5
    assert tasks["client_emotion"]["accuracy_interval"] == (0.0, 1.0)
    assert tasks["client_emotion"]["ece"] == pytest.approx((0.1 + 0.8) / 2)
    assert tasks["client_emotion"]["confusion"] == {"fear": {"fear": 1, "joy": 1}}
