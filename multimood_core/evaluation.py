"""Put a system through dialogues or labelled clips and score it, by a named protocol.

A table without its protocol says nothing here: gold labels in the history carry most of the next label.

- ``gold-history``: the annotators' labels stand in the history (the paper's way).
- ``self-history``: the system's own earlier predictions do, marked as guesses; a live session that nobody corrects. A
  checkpoint's configuration says whether guesses are written into the prompt at all.
- ``corrected-history``: as that, but each label was corrected by a person with probability ``rate``.

The words in the history are always those that were said, the therapist's included.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from threading import Lock
from typing import Any, Final, Literal, Protocol, get_args

from multimood_core.bootstrap import f1_of, interval, mean_of, resamples, uar_of
from multimood_core.decoding import LABELS, AnswerDecoder
from multimood_core.dialogues import Dialogue, Item, items_of
from multimood_core.engine import Engine
from multimood_core.errors import DataError
from multimood_core.metrics import (
    bootstrap_interval,
    brier_score,
    classification_scores,
    expected_calibration_error,
    preference_bias,
    reliability_bins,
)
from multimood_core.records import Context, HistoryTurn, LabelPrediction, Turn
from multimood_core.text_metrics import TokenMatcher, score_responses

HistoryProtocol = Literal["gold-history", "self-history", "corrected-history"]
PROTOCOLS: Final[tuple[str, ...]] = get_args(HistoryProtocol)


@dataclass(frozen=True, slots=True)
class Question:
    """One client turn as a system is asked about it. ``media`` is its clip, ``description`` a machine's words for it."""

    id: str
    dialogue: str
    client: str
    history: tuple[HistoryTurn, ...] = ()
    context: Context = field(default_factory=Context)
    description: str = ""
    media: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a system said. A label that could not be read from ``text`` is not among ``labels``.

    ``missing``: no answer came at all, as when a call failed. ``history_tokens`` is what the history takes as text, and
    ``kept_tokens`` what it took in the prompt.
    """

    labels: Mapping[str, LabelPrediction]
    response: str | None = None
    text: str = ""
    missing: bool = False
    history_tokens: int = 0
    kept_tokens: int = 0


class System(Protocol):
    """Anything that answers client turns: a checkpoint, a language model, an endpoint."""

    @property
    def name(self) -> str: ...

    def answer(self, question: Question) -> Answer: ...


@dataclass(frozen=True, slots=True)
class ItemResult:
    """One item's truth and answer. A task without a label in ``predicted`` counts as wrong."""

    id: str
    truth: Mapping[str, str]
    predicted: Mapping[str, LabelPrediction]
    seconds: float
    reference: str = ""
    response: str | None = None
    text: str = ""
    missing: bool = False
    history_tokens: int = 0
    kept_tokens: int = 0

    @property
    def dialogue(self) -> str:
        return self.id.rpartition("/")[0] or self.id

    def plain(self) -> dict[str, Any]:
        """In values that JSON knows."""
        return asdict(self)

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> ItemResult:
        """What ``plain`` gave."""
        predicted = {task: LabelPrediction(**label) for task, label in values["predicted"].items()}
        return cls(**(dict(values) | {"predicted": predicted}))

    def label(self, task: str) -> str | None:
        return self.predicted[task].label if task in self.predicted else None


def truth_of(item: Item) -> dict[str, str]:
    """The gold labels of the three classifications."""
    labels = (item.client.emotion, item.therapist.emotion, item.therapist.strategy)
    return {task: label or "" for task, label in zip(LABELS, labels, strict=True)}


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a system is given.

    Args:
        protocol: which labels stand in the history.
        rate: probability that a person corrected an earlier label (``corrected-history``).
        context: give problem and situation.
        descriptions: give the data set's words for what is seen.
        history_turns: only so many turns before; all when None.
        seed: of the corrections.
    """

    protocol: HistoryProtocol = "gold-history"
    rate: float = 0.0
    context: bool = True
    descriptions: bool = False
    history_turns: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise DataError(f"Expected a protocol of {', '.join(PROTOCOLS)}, got {self.protocol!r}.")


def evaluate_dialogues(
    system: System,
    dialogues: Sequence[Dialogue],
    conditions: Conditions | None = None,
    known: Mapping[str, ItemResult] | None = None,
    workers: int = 1,
    done: Callable[[ItemResult], object] = lambda result: None,
) -> list[ItemResult]:
    """Ask about every item of the dialogues.

    Args:
        system: who is asked.
        dialogues: of one split.
        conditions: what it is given.
        known: results by id of items that were asked before; they are taken as they are.
        workers: items at a time. Where answers stand in the history, one dialogue's items come one after another.
        done: called after each item that was asked, for progress; never by two threads at a time.

    Returns:
        A result for each item, in order.
    """
    conditions, known, lock = conditions or Conditions(), known or {}, Lock()

    def tell(result: ItemResult) -> None:
        with lock:
            done(result)

    runs = [list(items_of([dialogue])) for dialogue in dialogues]
    if workers <= 1:
        return [r for items in runs for r in _evaluate_items(system, items, conditions, known, tell)]
    if conditions.protocol == "gold-history":
        runs = [[item] for items in runs for item in items]
    with ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(_evaluate_items, system, items, conditions, known, tell) for items in runs]
        try:
            for finished in as_completed(waiting):
                finished.result()  # the first error ends it, whichever dialogue had it
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [result for finished in waiting for result in finished.result()]


def _evaluate_items(
    system: System,
    items: Sequence[Item],
    conditions: Conditions,
    known: Mapping[str, ItemResult],
    tell: Callable[[ItemResult], object],
) -> list[ItemResult]:
    """Items of one dialogue in order: all of them, unless gold labels make each independent of the answers before."""
    results: list[ItemResult] = []
    rng = random.Random(f"{conditions.seed}/{items[0].dialogue.id}" if items else None)
    written: dict[int, HistoryTurn] = {}  # turn index -> how the turn stands in the history
    for item in items:
        history = item.history()
        if conditions.protocol != "gold-history":
            history = tuple(written.get(i, HistoryTurn(turn.speaker, turn.text)) for i, turn in enumerate(history))
        if conditions.history_turns is not None:
            history = history[max(0, len(history) - conditions.history_turns) :]
        if item.id in known:
            result = known[item.id]
        else:
            result = _ask(system, item, history, conditions)
            tell(result)
        results.append(result)
        if conditions.protocol != "gold-history":
            written |= _own_history(item, result, conditions.rate, rng)
    return results


def _ask(system: System, item: Item, history: tuple[HistoryTurn, ...], conditions: Conditions) -> ItemResult:
    question = Question(
        item.id,
        item.dialogue.id,
        item.client.text,
        history,
        item.dialogue.context if conditions.context else Context(),
        item.client.description if conditions.descriptions else "",
        item.client.media,
    )
    started = time.monotonic()
    answer = system.answer(question)
    return ItemResult(
        item.id,
        truth_of(item),
        answer.labels,
        time.monotonic() - started,
        item.therapist.text,
        answer.response,
        answer.text,
        answer.missing,
        answer.history_tokens,
        answer.kept_tokens,
    )


def _own_history(item: Item, result: ItemResult, rate: float, rng: random.Random) -> dict[int, HistoryTurn]:
    client = HistoryTurn("client", item.client.text, result.label("client_emotion"), emotion_confirmed=False)
    therapist = HistoryTurn(
        "therapist",
        item.therapist.text,
        result.label("therapist_emotion"),
        result.label("strategy"),
        emotion_confirmed=False,
        strategy_confirmed=False,
    )
    if rng.random() < rate:
        client = HistoryTurn("client", item.client.text, item.client.emotion)
    if rng.random() < rate:
        therapist = HistoryTurn("therapist", item.therapist.text, item.therapist.emotion, item.therapist.strategy)
    return {item.index: client, item.index + 1: therapist}


def predict_labels(
    engine: Engine, ids: Any, media: dict[str, Any], tasks: Iterable[str] = LABELS
) -> dict[str, LabelPrediction]:
    """The labels of one prompt."""
    decoder = AnswerDecoder(engine.model, engine.processor, engine.checkpoint.calibration, ids, media)
    return {task: decoder.label(task) for task in tasks}


def evaluate_turn(engine: Engine, turn: Turn, transcribe: bool = False) -> LabelPrediction:
    """The client's emotion from one labelled clip without a dialogue; words only where ``transcribe`` asks for them."""
    text = engine.hear(turn).text if transcribe else ""
    ids, media = engine.prompt(text, engine.encode(turn), (), None, engine.memory())
    return predict_labels(engine, ids, media, ("client_emotion",))["client_emotion"]


def score_labels(
    truth: Sequence[str], predicted: Sequence[LabelPrediction | None], groups: Sequence[str], missing: int = 0
) -> dict[str, Any]:
    """Scores of one classification as plain values.

    ``accuracy_interval`` resamples items, ``intervals`` whole ``groups`` (dialogues). Calibration stands only where every
    answer that has a label has probabilities with it.

    Args:
        truth: gold labels.
        predicted: one for each; None is wrong.
        groups: the dialogue, or clip, of each item.
        missing: how many of those without a label are so because no answer came; the others could not be read.
    """
    labels = [None if p is None else p.label for p in predicted]
    right = [t == label for t, label in zip(truth, labels, strict=True)]
    scores = classification_scores(truth, labels)
    weights = resamples(groups)
    statistics = {
        "accuracy": mean_of(right),
        "weighted_f1": f1_of(truth, labels, "weighted"),
        "macro_f1": f1_of(truth, labels, "macro"),
        "uar": uar_of(truth, labels),
    }
    found = {name: interval(statistic, weights) for name, statistic in statistics.items()}
    bias = preference_bias(truth, labels)
    plain: dict[str, Any] = {
        "accuracy": scores.accuracy,
        "accuracy_interval": bootstrap_interval(right),
        "weighted_f1": scores.weighted_f1,
        "macro_f1": scores.macro_f1,
        "uar": scores.uar,
        "intervals": {name: [i.low, i.high] for name, i in found.items()},
        "n": scores.n,
        "n_missing": missing,
        "n_unparsed": scores.n_missing - missing,
        "recall": dict(scores.recall),
        "confusion": {t: dict(row) for t, row in scores.confusion.items()},
        "preference_bias": bias.distance,
        "lean": dict(bias.lean),
    }
    sure = [(t, p, r) for t, p, r in zip(truth, predicted, right, strict=True) if p is not None]
    if sure and all(p.probabilities for _, p, _ in sure):
        confidence, hits = [max(p.probabilities.values()) for _, p, _ in sure], [r for *_, r in sure]
        plain["ece"] = expected_calibration_error(confidence, hits)
        plain["brier"] = brier_score([t for t, *_ in sure], [p.probabilities for _, p, _ in sure])
        plain["reliability"] = [asdict(b) for b in reliability_bins(confidence, hits)]
    return plain


def score_tasks(results: Sequence[ItemResult]) -> dict[str, dict[str, Any]]:
    """Scores of each classification, see ``score_labels``."""
    groups, missing = [result.dialogue for result in results], sum(result.missing for result in results)
    return {
        task: score_labels([r.truth[task] for r in results], [r.predicted.get(task) for r in results], groups, missing)
        for task in results[0].truth
    }


def score_replies(
    references: Sequence[str],
    replies: Sequence[str | None],
    groups: Sequence[str],
    matchers: Sequence[TokenMatcher] = (),
    missing: int = 0,
) -> dict[str, Any]:
    """Scores of the fourth task as plain values, with intervals over whole ``groups`` and every item's scores."""
    scores = score_responses(references, replies, matchers)
    weights = resamples(groups)
    found = {name: interval(mean_of(list(values)), weights) for name, values in scores.items.items()}
    plain = scores.plain()
    plain["n_missing"], plain["n_unparsed"] = missing, plain.pop("n_empty") - missing
    plain["intervals"] = {name: [i.low, i.high] for name, i in found.items()}
    plain["items"] = {name: list(values) for name, values in scores.items.items()}
    return plain


def token_reduction(results: Sequence[ItemResult]) -> dict[str, float] | None:
    """Tokens of the history as text and as kept, on average over the items, and the share that was saved."""
    text, kept = sum(r.history_tokens for r in results), sum(r.kept_tokens for r in results)
    if not text:
        return None
    return {"text": text / len(results), "kept": kept / len(results), "reduction": 1 - kept / text}
