"""Agreement of raters on nominal labels: percent agreement, Cohen's and Fleiss' kappa, Krippendorff's alpha.

Labels stand in a matrix (units, raters) of small integers, ``MISSING`` where a rater did not judge a unit. Each statistic
comes with a bootstrap interval over the units. All of them depend only on how many units show which pattern of labels,
and patterns are few, so a resample of the units is one multinomial draw over the patterns: exact, and independent of the
number of units.

A statistic that is not defined has no value and says why; it is never replaced by 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

MISSING: Final = -1
SAMPLES: Final = 1000  # resamples for one interval
LEVEL: Final = 0.95
# Landis and Koch 1977, table on p. 165: upper bounds of each word.
_WORDS: Final = ((0.0, "poor"), (0.2, "slight"), (0.4, "fair"), (0.6, "moderate"), (0.8, "substantial"), (1.0, "almost perfect"))
_ONE_CATEGORY: Final = "every judgment chose the same category, so agreement beyond chance is not defined"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic with its 95 % interval, or None with the reason in ``why``.

    ``n`` counts the units that it rests on. ``undefined_resamples`` is the share of resamples in which the statistic was
    not defined; the interval rests on the others, and is None where they are fewer than half.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    why: str = ""
    undefined_resamples: float = 0.0

    @property
    def word(self) -> str:
        """Landis and Koch's word for the value, or ``not defined``."""
        return "not defined" if self.value is None else strength_word(self.value)


@dataclass(frozen=True, slots=True)
class Agreement:
    """All statistics of one criterion; ``pairs`` has Cohen's kappa of each two raters who share units."""

    fleiss: Estimate
    alpha: Estimate
    percent: Estimate
    pairs: Mapping[tuple[int, int], Estimate]


def strength_word(value: float) -> str:
    """What Landis and Koch call a kappa of ``value``; alpha is read on the same scale."""
    if value < 0:
        return "poor"
    return next((word for bound, word in _WORDS[1:] if value <= bound + 1e-12), _WORDS[-1][1])


def category_counts(ratings: np.ndarray, categories: int) -> np.ndarray:
    """How many raters put each unit into each category, (units, categories)."""
    return np.stack([(ratings == c).sum(1) for c in range(categories)], 1)


def cohen_kappa(first: Sequence[int] | np.ndarray, second: Sequence[int] | np.ndarray, categories: int, samples: int = SAMPLES,
                seed: int = 0) -> Estimate:  # fmt: skip
    """Cohen's kappa (1960) of two raters on the units that both judged.

    Args:
        first: labels (units,), ``MISSING`` where there is none.
        second: as ``first``.
        categories: number of categories.
        samples: resamples for the interval; 0 gives none.
        seed: of the resamples.
    """
    a, b = np.asarray(first), np.asarray(second)
    if a.shape != b.shape:
        raise ValueError(f"expected labels of the same units from both raters, got {len(a)} and {len(b)}")
    both = (a != MISSING) & (b != MISSING)
    cells = np.bincount(a[both].astype(np.int64) * categories + b[both], minlength=categories**2)
    same = np.eye(categories).ravel()
    rows, columns = np.divmod(np.arange(categories**2), categories)
    in_row, in_column = np.eye(categories)[rows], np.eye(categories)[columns]

    def statistic(weights: np.ndarray) -> np.ndarray:
        n = weights.sum(1)
        expected = ((weights @ in_row) * (weights @ in_column)).sum(1) / n**2
        return _beyond_chance(weights @ same / n, expected)

    return _estimate(statistic, cells, samples, seed, "no unit was judged by both raters")


def fleiss_kappa(ratings: np.ndarray, categories: int, raters: int, samples: int = SAMPLES, seed: int = 0) -> Estimate:
    """Fleiss' kappa (1971) over the units with exactly ``raters`` labels; who gave them may differ from unit to unit.

    Args:
        ratings: (units, raters of the study).
        categories: number of categories.
        raters: labels that a unit must have to count.
        samples: resamples for the interval; 0 gives none.
        seed: of the resamples.
    """
    if raters < 2:
        return Estimate(None, None, None, 0, "each unit has one rater, so there is nobody to agree with")
    counts = category_counts(ratings, categories)
    patterns, frequency = _patterns(counts[counts.sum(1) == raters])
    within = (patterns**2).sum(1) - raters

    def statistic(weights: np.ndarray) -> np.ndarray:
        n = weights.sum(1)
        observed = weights @ within / (n * raters * (raters - 1))
        shares = weights @ patterns / (n * raters)[:, None]
        return _beyond_chance(observed, (shares**2).sum(1))

    return _estimate(statistic, frequency, samples, seed, f"no unit has {raters} labels yet")


def krippendorff_alpha(ratings: np.ndarray, categories: int, samples: int = SAMPLES, seed: int = 0) -> Estimate:
    """Krippendorff's alpha (2011) for nominal labels; units with one label or none carry no information and are left out."""
    counts = category_counts(ratings, categories)
    patterns, frequency = _patterns(counts[counts.sum(1) >= 2])
    sizes = patterns.sum(1)
    agreeing = (patterns * (patterns - 1)).sum(1) / np.maximum(sizes - 1, 1)

    def statistic(weights: np.ndarray) -> np.ndarray:
        shares = weights @ patterns
        n = weights @ sizes
        # alpha = 1 - D_o / D_e with D_o = (n - sum o_cc) / n and D_e = (n^2 - sum n_c^2) / (n (n - 1))
        expected = n**2 - (shares**2).sum(1)
        with np.errstate(all="ignore"):
            return np.where(expected > 0, 1 - (n - 1) * (n - weights @ agreeing) / expected, np.nan)

    return _estimate(statistic, frequency, samples, seed, "no unit has two labels yet")


def percent_agreement(ratings: np.ndarray, categories: int, samples: int = SAMPLES, seed: int = 0) -> Estimate:
    """Share of agreeing pairs of labels among all pairs on the same unit."""
    counts = category_counts(ratings, categories)
    patterns, frequency = _patterns(counts[counts.sum(1) >= 2])
    sizes = patterns.sum(1)
    agreeing, pairs = (patterns * (patterns - 1)).sum(1), sizes * (sizes - 1)
    return _estimate(lambda w: (w @ agreeing) / (w @ pairs), frequency, samples, seed, "no unit has two labels yet")


def agreement(ratings: np.ndarray, categories: int, raters: int, samples: int = SAMPLES, pair_samples: int = SAMPLES,
              seed: int = 0) -> Agreement:  # fmt: skip
    """Every statistic of one criterion.

    Args:
        ratings: (units, raters of the study) of category numbers or ``MISSING``.
        categories: number of categories.
        raters: labels that each unit is meant to have (Fleiss).
        samples: resamples for the intervals over all raters.
        pair_samples: resamples for each pair of raters.
        seed: of the resamples.
    """
    ratings = np.asfortranarray(ratings, dtype=np.int16)  # a rater's labels beside each other: 190 pairs read them
    known = ratings != MISSING
    shared = known.T.astype(np.int32) @ known.astype(np.int32)
    pairs = {
        (i, j): cohen_kappa(ratings[:, i], ratings[:, j], categories, pair_samples, seed)
        for i in range(ratings.shape[1])
        for j in range(i + 1, ratings.shape[1])
        if shared[i, j]
    }
    return Agreement(
        fleiss_kappa(ratings, categories, raters, samples, seed),
        krippendorff_alpha(ratings, categories, samples, seed),
        percent_agreement(ratings, categories, samples, seed),
        pairs,
    )


def _patterns(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of ``counts`` that differ, (patterns, categories), and how often each stands there, (patterns,)."""
    if not len(counts):
        return np.zeros((0, counts.shape[1])), np.zeros(0, dtype=np.int64)
    base = int(counts.max()) + 1
    code = counts @ base ** np.arange(counts.shape[1])
    _, index, frequency = np.unique(code, return_index=True, return_counts=True)
    return counts[index].astype(float), frequency


def _beyond_chance(observed: np.ndarray, expected: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.where(expected < 1 - 1e-12, (observed - expected) / (1 - expected), np.nan)


def _estimate(
    statistic: Callable[[np.ndarray], np.ndarray], frequency: np.ndarray, samples: int, seed: int, empty: str
) -> Estimate:
    n = int(frequency.sum())
    if n == 0:
        return Estimate(None, None, None, 0, empty)
    value = float(statistic(frequency[None].astype(float))[0])
    if np.isnan(value):
        return Estimate(None, None, None, n, _ONE_CATEGORY)
    if samples == 0:
        return Estimate(value, None, None, n)
    seen = np.flatnonzero(frequency)  # absent patterns can never be drawn
    drawn = np.zeros((samples, len(frequency)))
    drawn[:, seen] = np.random.default_rng(seed).multinomial(n, frequency[seen] / n, samples)
    values = statistic(drawn)
    undefined = float(np.isnan(values).mean())
    if undefined > 0.5:
        return Estimate(value, None, None, n, "most resamples have one category only: no interval", undefined)
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high), n, "", undefined)
