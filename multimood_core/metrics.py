"""Scores of classifications, with n beside each; a missing prediction counts as wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import confusion_matrix, f1_score, recall_score

_NONE = "(none)"


@dataclass(frozen=True, slots=True)
class ClassificationScores:
    """Fractions in [0, 1]. ``uar``: recall averaged over the classes that occur in the truth (unweighted average recall)."""

    n: int
    n_missing: int
    accuracy: float
    weighted_f1: float
    macro_f1: float
    uar: float
    recall: Mapping[str, float]
    confusion: Mapping[str, Mapping[str, int]]


def classification_scores(truth: Sequence[str], predicted: Sequence[str | None]) -> ClassificationScores:
    """Score predictions against the truth; None is a prediction that is absent, and wrong.

    Raises:
        ValueError: lengths differ, or there is nothing to score.
    """
    if len(truth) != len(predicted) or not truth:
        raise ValueError(f"expected as many predictions as labels and at least one, got {len(predicted)} and {len(truth)}")
    answers = [p if p is not None else _NONE for p in predicted]
    classes = sorted(set(truth))
    names = sorted(set(truth) | set(answers))
    recalls = recall_score(truth, answers, labels=classes, average=None, zero_division=0)
    table = confusion_matrix(truth, answers, labels=names)
    return ClassificationScores(
        n=len(truth),
        n_missing=sum(p is None for p in predicted),
        accuracy=float(np.mean([t == a for t, a in zip(truth, answers, strict=True)])),
        weighted_f1=float(f1_score(truth, answers, average="weighted", zero_division=0)),
        macro_f1=float(f1_score(truth, answers, labels=classes, average="macro", zero_division=0)),
        uar=float(np.mean(recalls)),
        recall=dict(zip(classes, map(float, recalls), strict=True)),
        confusion={
            t: dict(zip(names, map(int, row), strict=True)) for t, row in zip(names, table, strict=True) if t in classes
        },
    )


def expected_calibration_error(confidence: Sequence[float], correct: Sequence[bool], bins: int = 10) -> float:
    """Gap between confidence and accuracy, averaged over equally wide bins of confidence (Guo et al. 2017, eq. 3)."""
    conf, right = np.asarray(confidence), np.asarray(correct, dtype=float)
    index = np.minimum((conf * bins).astype(int), bins - 1)
    gaps = [abs(conf[index == b].mean() - right[index == b].mean()) * (index == b).sum() for b in np.unique(index)]
    return float(sum(gaps) / len(conf))


def bootstrap_interval(correct: Sequence[bool], samples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of a mean over items, by resampling the items."""
    values = np.asarray(correct, dtype=float)
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (samples, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def majority_class(labels: Sequence[str]) -> str:
    """The label that occurs most often; of several the first in alphabetical order."""
    counts = Counter(labels)
    return min(counts, key=lambda label: (-counts[label], label))
