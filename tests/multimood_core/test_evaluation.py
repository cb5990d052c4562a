"""Each protocol puts into the history exactly what its name says."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from multimood_core.decoding import Sampling
from multimood_core.dialogues import Dialogue, DialogueTurn, items_of
from multimood_core.engine import Engine
from multimood_core.errors import DataError, ModelError
from multimood_core.evaluation import (
    Answer,
    Conditions,
    ItemResult,
    Question,
    evaluate_dialogues,
    evaluate_turn,
    score_replies,
    score_tasks,
    token_reduction,
    truth_of,
)
from multimood_core.labels import EMOTIONS
from multimood_core.records import CheckpointId, Context, HistoryTurn, LabelPrediction, Turn
from multimood_core.registry import Checkpoint
from multimood_core.systems import CheckpointSystem
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

    def spy(
        text: str, features: Any, history: Any, context: Any, memory: Any, recent: Any = None, described: str = ""
    ) -> Any:
        row = {"text": text, "history": tuple(history), "context": context, "memory": memory, "recent": recent}
        seen.append(row | {"described": described})
        return prompt(text, features, history, context, memory, recent, described)

    monkeypatch.setattr(engine, "prompt", spy)
    return seen


def test_gold_history_gives_the_annotators_labels(engine: Engine, prompts: list[dict[str, Any]]) -> None:
    done: list[ItemResult] = []
    results = evaluate_dialogues(CheckpointSystem(engine), [DIALOGUE], done=done.append)
    items = list(items_of([DIALOGUE]))
    assert done == results
    assert [r.id for r in results] == ["4/1", "4/3", "4/5"]
    assert [p["text"] for p in prompts] == [item.client.text for item in items]
    assert [p["history"] for p in prompts] == [item.history() for item in items]
    assert all(p["context"] == DIALOGUE.context for p in prompts)
    assert results[1].truth == {"client_emotion": "sadness", "therapist_emotion": "sadness", "strategy": "restatement"}


def test_self_history_gives_the_models_own_unconfirmed_predictions(engine: Engine, prompts: list[dict[str, Any]]) -> None:
    results = evaluate_dialogues(
        CheckpointSystem(engine, recent_turns=1), [DIALOGUE], Conditions("self-history", context=False)
    )
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
    system = CheckpointSystem(engine)
    evaluate_dialogues(system, [DIALOGUE], Conditions("corrected-history", rate=1.0))
    last = list(items_of([DIALOGUE]))[-1]
    assert prompts[-1]["history"] == (HistoryTurn("therapist", "Welcome."), *last.history()[1:])
    prompts.clear()
    evaluate_dialogues(system, [DIALOGUE], Conditions("corrected-history", rate=0.0))
    assert not any(turn.emotion_confirmed for turn in prompts[-1]["history"][1:])
    prompts.clear()
    many = [Dialogue(str(i), "test", DIALOGUE.turns) for i in range(12)]
    evaluate_dialogues(system, many, Conditions("corrected-history", rate=0.5, seed=1))
    marks = [turn.emotion_confirmed for p in prompts if p["text"] == "Yes." for turn in p["history"][1:]]
    assert 0.3 < sum(marks) / len(marks) < 0.7
    once = [p["history"] for p in prompts]
    prompts.clear()
    evaluate_dialogues(system, many, Conditions("corrected-history", rate=0.5, seed=1))
    assert [p["history"] for p in prompts] == once


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(DataError, match="gold-history, self-history, corrected-history, got 'no-history'"):
        Conditions("no-history")  # type: ignore[arg-type]


class Parrot:
    """Answers with what it is asked, so that a test sees what reached it; says no strategy."""

    name = "parrot"

    def __init__(self) -> None:
        self.asked: list[Question] = []

    def answer(self, question: Question) -> Answer:
        self.asked.append(question)
        return Answer({"client_emotion": LabelPrediction("joy", {})}, question.client, "Client's emotion: joy")


def test_what_an_ablation_takes_away_does_not_reach_the_system() -> None:
    turns = tuple(replace(turn, description=f"seen {i}") for i, turn in enumerate(DIALOGUE.turns))
    dialogue, parrot = replace(DIALOGUE, turns=turns), Parrot()
    evaluate_dialogues(parrot, [dialogue], Conditions(descriptions=True, history_turns=2))
    assert [q.description for q in parrot.asked] == ["seen 1", "seen 3", "seen 5"]
    assert [len(q.history) for q in parrot.asked] == [1, 2, 2]
    assert parrot.asked[2].history == list(items_of([dialogue]))[2].history()[-2:]
    bare = Parrot()
    evaluate_dialogues(bare, [dialogue], Conditions(context=False, history_turns=0))
    assert [(q.history, q.context, q.description) for q in bare.asked] == [((), Context(), "")] * 3


def test_a_label_that_could_not_be_read_leaves_none_in_the_own_history_and_is_wrong() -> None:
    parrot = Parrot()
    results = evaluate_dialogues(parrot, [DIALOGUE], Conditions("self-history"))
    assert [turn.strategy for turn in parrot.asked[-1].history] == [None] * 5
    tasks = score_tasks(results)
    assert (tasks["strategy"]["accuracy"], tasks["strategy"]["n_unparsed"], tasks["strategy"]["n"]) == (0, 3, 3)
    assert "ece" not in tasks["client_emotion"]  # it gave no probabilities
    replies = score_replies([r.reference for r in results], [r.response for r in results], [r.dialogue for r in results])
    assert (replies["n"], replies["n_unparsed"], len(replies["items"]["rouge_l"])) == (3, 0, 3)


def test_what_was_asked_before_is_not_asked_again() -> None:
    first, again = Parrot(), Parrot()
    many = [replace(DIALOGUE, id=str(i)) for i in range(5)]
    results = evaluate_dialogues(first, many, Conditions("self-history"))
    known = {r.id: ItemResult.from_plain(json.loads(json.dumps(r.plain()))) for r in results[:7]}
    done: list[ItemResult] = []
    resumed = evaluate_dialogues(again, many, Conditions("self-history"), known, workers=3, done=done.append)
    assert [r.id for r in resumed] == [r.id for r in results]
    assert {q.id for q in again.asked} == {r.id for r in results[7:]} == {r.id for r in done}
    assert [replace(r, seconds=0.0) for r in resumed] == [replace(r, seconds=0.0) for r in results]


def test_items_of_one_dialogue_are_asked_at_once_where_gold_labels_make_them_independent() -> None:
    together = threading.Barrier(3, timeout=20)

    class Meeting(Parrot):
        def answer(self, question: Question) -> Answer:
            together.wait()  # never passed, if one waited for the answer before
            return super().answer(question)

    asked = evaluate_dialogues(Meeting(), [DIALOGUE], workers=3)
    alone = evaluate_dialogues(Parrot(), [DIALOGUE])
    assert [replace(r, seconds=0.0) for r in asked] == [replace(r, seconds=0.0) for r in alone]


def test_an_error_in_one_of_several_dialogues_ends_all() -> None:
    class Broken(Parrot):
        def answer(self, question: Question) -> Answer:
            raise ModelError("refused")

    with pytest.raises(ModelError, match="refused"):
        evaluate_dialogues(Broken(), [replace(DIALOGUE, id=str(i)) for i in range(4)], workers=2)


def test_a_checkpoint_writes_replies_and_counts_what_its_history_takes(engine: Engine) -> None:
    system = CheckpointSystem(engine, recent_turns=0, responses=Sampling(max_tokens=4, min_tokens=2))
    results = evaluate_dialogues(system, [DIALOGUE])
    assert all(r.response is not None for r in results)
    assert [r.reference for r in results] == ["Since when?", "That is long.", "What helps?"]
    assert [r.kept_tokens for r in results] == [1, 3, 5]  # one state a turn, no turn as text
    tokens = engine.processor.history_text_tokens(list(items_of([DIALOGUE]))[2].history())
    assert results[2].history_tokens == tokens
    saved = token_reduction(results)
    assert saved is not None
    assert saved["reduction"] == pytest.approx(1 - 9 / sum(r.history_tokens for r in results))
    assert evaluate_dialogues(system, [DIALOGUE])[2].response == results[2].response  # greedy


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
    # right: (1 - 0.9)^2; wrong: 0.8^2 for joy and 1 for the truth, which it gave nothing
    assert tasks["client_emotion"]["brier"] == pytest.approx((0.01 + 0.64 + 1) / 2)
    assert tasks["client_emotion"]["intervals"]["weighted_f1"] == [0.0, 1.0]
    assert tasks["client_emotion"]["preference_bias"] == 0.5
    assert (tasks["client_emotion"]["n"], tasks["client_emotion"]["n_missing"]) == (2, 0)
    gone = score_tasks([ItemResult("a", truth, right, 0.1), ItemResult("b", truth, {}, 0.1, missing=True)])
    assert (gone["strategy"]["accuracy"], gone["strategy"]["n_missing"], gone["strategy"]["n_unparsed"]) == (0.5, 1, 0)
    assert tasks["client_emotion"]["confusion"] == {"fear": {"fear": 1, "joy": 1}}
