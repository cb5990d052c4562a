"""What needs no model of ours, to stand beside every result: for the labels and for the replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from scipy.sparse import hstack
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from multimood_core.decoding import LABELS
from multimood_core.dialogues import Item
from multimood_core.evaluation import truth_of
from multimood_core.metrics import majority_class
from multimood_core.text_metrics import tokens_of

MAJORITY: Final = "majority"
REGRESSION: Final = "logistic regression on TF-IDF"
COPY: Final = "copy the previous gold label"
CONSTANT: Final = "constant response"
NEAREST: Final = "response of the nearest training turn"
_WORD: Final = r"(?u)\b\w+\b"


def label_baselines(train: Sequence[Item], test: Sequence[Item], gold_history: bool) -> dict[str, dict[str, list[str]]]:
    """Baseline -> task -> a label for each item of ``test``.

    Args:
        train: items to learn from.
        test: items to label.
        gold_history: earlier gold labels are given, so that they can be copied and learnt from.
    """
    learnt, found = [truth_of(item) for item in train], dict[str, dict[str, list[str]]]()
    words, marks = TfidfVectorizer(min_df=2, sublinear_tf=True), DictVectorizer()
    features = hstack([words.fit_transform(_words(train)), marks.fit_transform(_marks(train, gold_history))])
    asked = hstack([words.transform(_words(test)), marks.transform(_marks(test, gold_history))])
    for task in LABELS:
        known = [t[task] for t in learnt]
        common = majority_class(known)
        found.setdefault(MAJORITY, {})[task] = [common] * len(test)
        classifier: Any = LogisticRegression(C=1.0, max_iter=1000)
        found.setdefault(REGRESSION, {})[task] = list(map(str, classifier.fit(features, known).predict(asked)))
        if gold_history and task == "client_emotion":
            found[COPY] = {task: [_previous(item) or common for item in test]}
    return found


def reply_baselines(train: Sequence[Item], test: Sequence[Item]) -> dict[str, list[str]]:
    """Baseline -> a reply for each item of ``test``: one reply for all, and that to the most similar client turn.

    The constant is chosen among the training replies by how it would do as an answer to all of them.
    """
    replies = [item.therapist.text for item in train]
    vectorizer = TfidfVectorizer(min_df=1, sublinear_tf=True, token_pattern=_WORD)
    known, asked = vectorizer.fit_transform(_words(train)), vectorizer.transform(_words(test))
    nearest = [int(np.argmax(row)) for row in (asked @ known.T).toarray()]
    return {
        CONSTANT: [central_reply(replies)] * len(test),
        NEAREST: [replies[place] for place in nearest],
    }


def central_reply(replies: Sequence[str]) -> str:
    """The reply that as an answer to everything scores highest in ``bleu2_released``, repeated words counted once.

    What wins is a long reply of common words: that metric's own weakness, which a table should show. A pair of words has
    to be shared, as without one that score is next to nothing; of several the first.

    Raises:
        ValueError: no reply has a word.
    """
    single, double = ([_grams(reply, n) for reply in replies] for n in (1, 2))
    types, pairs = (CountVectorizer(binary=True, analyzer=list, dtype=np.float32) for _ in range(2))
    words, bigrams = types.fit_transform(single), pairs.fit_transform(double)
    lengths = np.array([len(grams) for grams in single], dtype=np.float32)
    best, best_score = 0, -1.0
    for start in range(0, len(replies), 512):  # 512 rows at a time: the whole matrix would be large for larger sets
        rows = slice(start, start + 512)
        own = np.maximum(lengths[rows, None], 1)
        brevity = np.exp(np.minimum(0, 1 - lengths[None] / own))
        met = (bigrams[rows] @ bigrams.T).toarray() > 0
        scores = ((words[rows] @ words.T).toarray() / own * brevity * met).mean(1)
        if (top := float(scores.max())) > best_score:
            best, best_score = start + int(scores.argmax()), top
    return replies[best]


def _grams(text: str, n: int) -> list[str]:
    tokens = tokens_of(text)
    return [" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def _previous(item: Item) -> str | None:
    said = [turn.emotion for turn in item.history() if turn.speaker == "client" and turn.emotion]
    return said[-1] if said else None


def _words(items: Sequence[Item]) -> list[str]:
    return [item.client.text for item in items]


def _marks(items: Sequence[Item], gold_history: bool) -> list[Mapping[str, str]]:
    """The last three client emotions and two strategies of each history, where the protocol gives them."""
    rows: list[Mapping[str, str]] = []
    for item in items:
        history = item.history() if gold_history else ()
        emotions = [turn.emotion for turn in history if turn.speaker == "client" and turn.emotion][:-4:-1]
        strategies = [turn.strategy for turn in history if turn.strategy][:-3:-1]
        row = {f"emotion {i}": emotion for i, emotion in enumerate(emotions)}
        rows.append(row | {f"strategy {i}": strategy for i, strategy in enumerate(strategies)})
    return rows
