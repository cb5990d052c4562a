"""Intervals and paired differences by resampling whole dialogues: turns of one dialogue are no independent draws.

A resample is a row of weights, how often each item occurs in it. A statistic takes all rows at once, so that two systems
can be compared on the very same resamples (paired bootstrap; Efron and Tibshirani 1993, chapters 8 and 16).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

SAMPLES: Final = 2000
LEVEL: Final = 0.95
Statistic = Callable[[np.ndarray], np.ndarray]
"""Weights (samples, items) -> the statistic of each resample (samples,)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A statistic with its 95 % interval; NaN where it is not defined, as a correlation of what does not vary."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """First less second system, with 95 % interval and the two-sided p of there being none.

    ``n`` items in ``groups`` dialogues. With one group nothing can be resampled: then the interval is the value and says
    nothing, and ``p`` is 1.
    """

    value: float
    low: float
    high: float
    p: float
    n: int
    groups: int


def resamples(groups: Sequence[str], samples: int = SAMPLES, seed: int = 0) -> np.ndarray:
    """Weights (samples, items) of resamples that draw whole groups with replacement.

    Args:
        groups: the group, such as the dialogue, of each item.
        samples: how many resamples.
        seed: of the draws.

    Raises:
        ValueError: there is no item.
    """
    if not groups:
        raise ValueError("expected at least one item to resample, got none")
    names, owner = np.unique(np.asarray(groups), return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), samples)
    return drawn[:, owner].astype(float)


def interval(statistic: Statistic, weights: np.ndarray) -> Interval:
    """The statistic on all items and its percentile interval over ``weights`` (samples, items)."""
    value = float(statistic(np.ones((1, weights.shape[1])))[0])
    values = statistic(weights)
    if np.isnan(values).all():
        return Interval(value, np.nan, np.nan)
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def paired_difference(
    first: Statistic, second: Statistic, groups: Sequence[str], samples: int = SAMPLES, seed: int = 0
) -> Difference:
    """How far two systems lie apart on the same items.

    Args:
        first: statistic of the one system.
        second: of the other, items in the same order.
        groups: the group of each item.
        samples: how many resamples.
        seed: of the draws.
    """
    weights, everything = resamples(groups, samples, seed), np.ones((1, len(groups)))
    value = float((first(everything) - second(everything))[0])
    count = len(set(groups))
    if count < 2:
        return Difference(value, value, value, 1.0, len(groups), count)
    gaps = first(weights) - second(weights)
    low, high = np.nanquantile(gaps, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    # One more resample that shows no difference: p is never 0 (Davison and Hinkley 1997, eq. 4.11).
    sides = [(1 + int((gaps <= 0).sum())) / (samples + 1), (1 + int((gaps >= 0).sum())) / (samples + 1)]
    return Difference(value, float(low), float(high), min(1.0, 2 * min(sides)), len(groups), count)


def mean_of(values: Sequence[float] | Sequence[bool] | np.ndarray) -> Statistic:
    """Mean over items; of right and wrong answers, the accuracy."""
    column = np.asarray(values, dtype=float)
    return lambda weights: weights @ column / weights.sum(1)


def f1_of(truth: Sequence[str], predicted: Sequence[str | None], average: Literal["weighted", "macro"]) -> Statistic:
    """F1 averaged over the classes of the truth, by their share or evenly; None is wrong."""
    right, support, named = _counts(truth, predicted)

    def statistic(weights: np.ndarray) -> np.ndarray:
        tp, true, said = weights @ right, weights @ support, weights @ named
        scores = 2 * tp / np.maximum(true + said, 1)
        shares = true if average == "weighted" else (true > 0).astype(float)
        return (scores * shares).sum(1) / shares.sum(1)

    return statistic


def uar_of(truth: Sequence[str], predicted: Sequence[str | None]) -> Statistic:
    """Recall averaged over the classes of the truth; None is wrong."""
    right, support, _ = _counts(truth, predicted)

    def statistic(weights: np.ndarray) -> np.ndarray:
        tp, true = weights @ right, weights @ support
        return (tp / np.maximum(true, 1)).sum(1) / (true > 0).sum(1)

    return statistic


def _counts(truth: Sequence[str], predicted: Sequence[str | None]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether each item is right, true and said of each class, (items, classes) each."""
    classes = np.array(sorted(set(truth)))
    support = np.asarray(truth)[:, None] == classes
    named = np.asarray([p if p is not None else "" for p in predicted])[:, None] == classes
    return (support & named).astype(float), support.astype(float), named.astype(float)
