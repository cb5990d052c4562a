"""Scores of classifications, with n beside each; a missing prediction counts as wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import f1_score, recall_score

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
    table = Counter(zip(truth, answers, strict=True))
    return ClassificationScores(
        n=len(truth),
        n_missing=sum(p is None for p in predicted),
        accuracy=float(np.mean([t == a for t, a in zip(truth, answers, strict=True)])),
        weighted_f1=float(f1_score(truth, answers, average="weighted", zero_division=0)),
        macro_f1=float(f1_score(truth, answers, labels=classes, average="macro", zero_division=0)),
        uar=float(np.mean(recalls)),
        recall=dict(zip(classes, map(float, recalls), strict=True)),
        confusion={t: {name: table[t, name] for name in names} for t in classes},
    )


def expected_calibration_error(confidence: Sequence[float], correct: Sequence[bool], bins: int = 10) -> float:
    """Gap between confidence and accuracy, averaged over equally wide bins of confidence (Guo et al. 2017, eq. 3)."""
    conf, right = np.asarray(confidence), np.asarray(correct, dtype=float)
    index = np.minimum((conf * bins).astype(int), bins - 1)
    gaps = [abs(conf[index == b].mean() - right[index == b].mean()) * (index == b).sum() for b in np.unique(index)]
    return float(sum(gaps) / len(conf))


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The answers whose confidence lies in [``low``, ``high``): how many, how confident on average, how often right."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def reliability_bins(confidence: Sequence[float], correct: Sequence[bool], bins: int = 10) -> tuple[ReliabilityBin, ...]:
    """What a reliability diagram shows: the bins of ``expected_calibration_error`` that hold something."""
    conf, right = np.asarray(confidence), np.asarray(correct, dtype=float)
    index = np.minimum((conf * bins).astype(int), bins - 1)
    return tuple(
        ReliabilityBin(
            b / bins, (b + 1) / bins, int((index == b).sum()), float(conf[index == b].mean()), float(right[index == b].mean())
        )
        for b in map(int, np.unique(index))
    )


def brier_score(truth: Sequence[str], probabilities: Sequence[Mapping[str, float]]) -> float:
    """Squared distance of the probabilities from the truth, summed over the classes (Brier 1950, eq. 2): 0 to 2."""
    total = 0.0
    for label, row in zip(truth, probabilities, strict=True):
        known = dict.fromkeys([label], 0.0) | dict(row)
        total += sum((p - (name == label)) ** 2 for name, p in known.items())
    return total / len(truth)


@dataclass(frozen=True, slots=True)
class PreferenceBias:
    """How far the predicted labels' distribution leans from the reference's.

    ``distance`` is half the sum of the absolute leans (total variation): 0 where both are alike, 1 where they share
    nothing. ``lean`` has each label's predicted less its true share. Answers without a label lean towards none.
    """

    distance: float
    lean: Mapping[str, float]


def preference_bias(truth: Sequence[str], predicted: Sequence[str | None]) -> PreferenceBias:
    """The lean of each label that occurs on either side."""
    true, said = Counter(truth), Counter(p if p is not None else _NONE for p in predicted)
    lean = {name: (said[name] - true[name]) / len(truth) for name in sorted(set(true) | set(said))}
    return PreferenceBias(sum(map(abs, lean.values())) / 2, lean)


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
