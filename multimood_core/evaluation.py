"""Run a checkpoint over dialogues or labelled clips and score it, by a named protocol.

A table without its protocol says nothing here: gold labels in the history carry most of the next label.

- ``gold-history``: the annotators' labels stand in the history (the paper's way).
- ``self-history``: the model's own earlier predictions do, marked as guesses; a live session that nobody corrects. The
  checkpoint's configuration says whether guesses are written into the prompt at all.
- ``corrected-history``: as that, but each label was corrected by a person with probability ``rate``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from multimood_core.decoding import LABELS, AnswerDecoder
from multimood_core.dialogues import Dialogue, Item, items_of
from multimood_core.engine import Engine, TurnFeatures
from multimood_core.errors import DataError
from multimood_core.metrics import bootstrap_interval, classification_scores, expected_calibration_error
from multimood_core.records import Context, HistoryTurn, LabelPrediction, Turn

Protocol = Literal["gold-history", "self-history", "corrected-history"]
PROTOCOLS: Final[tuple[str, ...]] = get_args(Protocol)
_WORDS_ALONE: Final = TurnFeatures(None, "missing", None, "missing")


@dataclass(frozen=True, slots=True)
class ItemResult:
    """One item's truth and prediction for each task."""

    id: str
    truth: Mapping[str, str]
    predicted: Mapping[str, LabelPrediction]
    seconds: float


def truth_of(item: Item) -> dict[str, str]:
    """The gold labels of the three classifications."""
    labels = (item.client.emotion, item.therapist.emotion, item.therapist.strategy)
    return {task: label or "" for task, label in zip(LABELS, labels, strict=True)}


def evaluate_dialogues(
    engine: Engine,
    dialogues: Sequence[Dialogue],
    protocol: Protocol,
    rate: float = 0.0,
    recent_turns: int | None = None,
    context: bool = True,
    seed: int = 0,
    done: Callable[[ItemResult], object] = lambda result: None,
) -> list[ItemResult]:
    """Predict every item of the dialogues in order.

    Args:
        engine: the loaded checkpoint.
        dialogues: of one split.
        protocol: which labels stand in the history.
        rate: probability that a person corrected an earlier label (``corrected-history``).
        recent_turns: turns as text beside ``<history>``; the checkpoint's own setting when None.
        context: give problem and situation to the model.
        seed: of the corrections.
        done: called after each item, for progress.

    Raises:
        DataError: no such protocol.
    """
    if protocol not in PROTOCOLS:
        raise DataError(f"Expected a protocol of {', '.join(PROTOCOLS)}, got {protocol!r}.")
    results = []
    for dialogue in dialogues:
        memory, rng = engine.memory(), random.Random(f"{seed}/{dialogue.id}")
        written: dict[int, HistoryTurn] = {}  # turn index -> how the turn stands in the history
        for item in items_of([dialogue]):
            gold = item.history()
            history = gold if protocol == "gold-history" else tuple(
                written.get(i, HistoryTurn(turn.speaker, turn.text)) for i, turn in enumerate(gold)
            )
            started = time.monotonic()
            about = item.dialogue.context if context else Context()
            ids, media = engine.prompt(item.client.text, _WORDS_ALONE, history, about, memory, recent_turns)
            predicted = predict_labels(engine, ids, media)
            results.append(ItemResult(item.id, truth_of(item), predicted, time.monotonic() - started))
            done(results[-1])
            if protocol != "gold-history":
                written |= _own_history(item, predicted, rate, rng)
    return results


def _own_history(
    item: Item, predicted: Mapping[str, LabelPrediction], rate: float, rng: random.Random
) -> dict[int, HistoryTurn]:
    client = HistoryTurn("client", item.client.text, predicted["client_emotion"].label, emotion_confirmed=False)
    therapist = HistoryTurn(
        "therapist",
        item.therapist.text,
        predicted["therapist_emotion"].label,
        predicted["strategy"].label,
        emotion_confirmed=False,
        strategy_confirmed=False,
    )
    if rng.random() < rate:
        client = HistoryTurn("client", item.client.text, item.client.emotion)
    if rng.random() < rate:
        therapist = HistoryTurn("therapist", item.therapist.text, item.therapist.emotion, item.therapist.strategy)
    return {item.index: client, item.index + 1: therapist}


def predict_labels(engine: Engine, ids: Any, media: dict[str, Any], tasks: Iterable[str] = LABELS) -> dict[str, LabelPrediction]:
    """The labels of one prompt."""
    decoder = AnswerDecoder(engine.model, engine.processor, engine.checkpoint.calibration, ids, media)
    return {task: decoder.label(task) for task in tasks}


def evaluate_turn(engine: Engine, turn: Turn, transcribe: bool = False) -> LabelPrediction:
    """The client's emotion from one labelled clip without a dialogue; words only where ``transcribe`` asks for them."""
    text = engine.hear(turn).text if transcribe else ""
    ids, media = engine.prompt(text, engine.encode(turn), (), None, engine.memory())
    return predict_labels(engine, ids, media, ("client_emotion",))["client_emotion"]


def score_tasks(results: Sequence[ItemResult]) -> dict[str, dict[str, Any]]:
    """Scores of each classification as plain values, with a 95 % interval of the accuracy and the calibration error."""
    tasks = {}
    for task in results[0].predicted:
        truth = [result.truth[task] for result in results]
        labels = [result.predicted[task].label for result in results]
        right = [t == label for t, label in zip(truth, labels, strict=True)]
        scores = classification_scores(truth, labels)
        confidence = [max(result.predicted[task].probabilities.values()) for result in results]
        tasks[task] = {
            "accuracy": scores.accuracy,
            "accuracy_interval": bootstrap_interval(right),
            "weighted_f1": scores.weighted_f1,
            "macro_f1": scores.macro_f1,
            "uar": scores.uar,
            "ece": expected_calibration_error(confidence, right),
            "n_missing": scores.n_missing,
            "recall": dict(scores.recall),
            "confusion": {t: dict(row) for t, row in scores.confusion.items()},
        }
    return tasks
