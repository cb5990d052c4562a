"""How far a judge agrees with people: rank correlation, quadratic kappa and accuracy, with intervals over whole groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from multimood_core.bootstrap import Interval, Statistic, interval, mean_of, resamples


@dataclass(frozen=True, slots=True)
class HumanAgreement:
    """Of a judge with people on ``n`` things; ``majority`` is the accuracy of always saying the commonest level."""

    n: int
    spearman: Interval
    kappa: Interval
    accuracy: Interval
    majority: float


def human_agreement(
    human: Sequence[int] | np.ndarray,
    judged: Sequence[int] | np.ndarray,
    score: Sequence[float] | np.ndarray,
    groups: Sequence[str],
    samples: int = 2000,
) -> HumanAgreement:
    """Compare levels that people gave with the judge's levels and its finer score.

    Args:
        human: level, 0 and up.
        judged: the judge's level.
        score: the judge's score, of which the order alone counts.
        groups: what is drawn as a whole in a resample, such as the post.
        samples: how many resamples.
    """
    truth, said = np.asarray(human), np.asarray(judged)
    weights = resamples(groups, samples)
    return HumanAgreement(
        n=len(truth),
        spearman=interval(spearman(truth, np.asarray(score)), weights),
        kappa=interval(quadratic_kappa(truth, said), weights),
        accuracy=interval(mean_of(truth == said), weights),
        majority=float(np.bincount(truth).max() / len(truth)),
    )


def quadratic_kappa(first: np.ndarray, second: np.ndarray) -> Statistic:
    """Cohen's kappa with quadratic weights (Cohen 1968): 1 less the squared distance over that of chance."""
    squares = (first - second).astype(float) ** 2
    levels = np.arange(max(first.max(), second.max()) + 1)
    ones, others = (np.equal.outer(labels, levels).astype(float) for labels in (first, second))
    apart = np.subtract.outer(levels, levels).astype(float) ** 2

    def statistic(weights: np.ndarray) -> np.ndarray:
        total = weights.sum(1)
        chance = np.einsum("sa,ab,sb->s", weights @ ones, apart, weights @ others) / total**2
        return 1 - (weights @ squares / total) / chance

    return statistic


def spearman(human: np.ndarray, score: np.ndarray) -> Statistic:
    """Correlation of the ranks, ties sharing their mean rank."""

    def one(row: np.ndarray) -> float:
        drawn = np.repeat(np.arange(len(row)), row.astype(int))
        return float(np.corrcoef(rankdata(human[drawn]), rankdata(score[drawn]))[0, 1])

    return lambda weights: np.array([one(row) for row in weights])


def auc(positive: np.ndarray, score: np.ndarray) -> Statistic:
    """Chance that a positive thing scores above another, ties counting half (Mann and Whitney 1947)."""
    order, place = np.unique(score, return_inverse=True)
    at = np.equal.outer(place, np.arange(len(order)))

    def statistic(weights: np.ndarray) -> np.ndarray:
        yes, no = ((weights * flag) @ at for flag in (positive, ~positive))
        below = np.cumsum(no, 1) - no / 2
        return (yes * below).sum(1) / (yes.sum(1) * no.sum(1))

    return statistic
