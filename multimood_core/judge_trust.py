"""Whether a judge may stand in for people: agreement, bias and rank correlation of two raters on ordinal scores.

Agreement is the intraclass correlation of single ratings in the two-way model (Shrout and Fleiss 1979; names of McGraw
and Wong 1996): ICC(C,1) asks whether both order the items alike and forgives a constant gap between them, ICC(A,1) forgives
none. Far apart, they say that a judge ranks like people and is systematically milder or harsher. A high ICC needs items
that differ: where nearly all are rated alike it is low even if the raters hardly ever disagree, so the bias and the share
of exact agreement stand beside it. Intervals resample whole conversations.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from scipy.stats import rankdata

from multimood_core.bootstrap import Interval, Statistic, interval, mean_of, resamples
from multimood_core.errors import DataError

ATTRIBUTES: Final = ("Guidance", "Informativeness", "Relevance", "Safety", "Empathy", "Helpfulness", "Understanding")
LOWEST, HIGHEST = 1, 5
_SAMPLES: Final = 1000


@dataclass(frozen=True, slots=True)
class Intraclass:
    """Intraclass correlations of single ratings (``..._1``) and of the mean of all raters (``..._k``)."""

    consistency_1: float
    agreement_1: float
    consistency_k: float
    agreement_k: float


@dataclass(frozen=True, slots=True)
class JudgeTrust:
    """A judge against people in one attribute, or in the mean of all.

    ``bias`` is the judge's mean less the people's, in points of the scale. ``exact`` is the share of equal ratings.
    ``n`` ratings of ``conversations`` count; ``n_missing`` have no usable score on one side or the other.
    """

    consistency: Interval
    agreement: Interval
    spearman: Interval
    bias: Interval
    exact: Interval
    n: int
    n_missing: int
    conversations: int


def intraclass(ratings: np.ndarray) -> Intraclass:
    """The correlations of a complete table (items, raters).

    Raises:
        ValueError: fewer than two items or raters.
    """
    if ratings.ndim != 2 or min(ratings.shape) < 2:
        raise ValueError(f"expected at least two items and two raters, got a table of {ratings.shape}")
    everything = np.ones((1, len(ratings)))
    rows, columns, rest = _mean_squares(ratings, everything)
    return Intraclass(
        float(_icc_c(ratings)(everything)[0]),
        float(_icc_a(ratings)(everything)[0]),
        float(((rows - rest) / rows)[0]),
        float(((rows - rest) / (rows + (columns - rest) / len(ratings)))[0]),
    )


def _mean_squares(ratings: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean squares (samples,) between items, between raters and of the rest, for items that count ``weights`` times."""
    raters, n = ratings.shape[1], weights.sum(1)
    centred = ratings - ratings.mean()  # the sums below would otherwise cancel
    columns = (weights @ centred) / n[:, None]
    grand = columns.mean(1)
    correction = n * raters * grand**2
    between = weights @ (centred.sum(1) ** 2) / raters - correction
    judges = n * (columns**2).sum(1) - correction
    rest = weights @ (centred**2).sum(1) - correction - between - judges
    return between / (n - 1), judges / (raters - 1), rest / ((n - 1) * (raters - 1))


def _icc_c(ratings: np.ndarray) -> Statistic:
    def statistic(weights: np.ndarray) -> np.ndarray:
        rows, _, rest = _mean_squares(ratings, weights)
        return _ratio(rows - rest, rows + (ratings.shape[1] - 1) * rest)

    return statistic


def _icc_a(ratings: np.ndarray) -> Statistic:
    def statistic(weights: np.ndarray) -> np.ndarray:
        rows, columns, rest = _mean_squares(ratings, weights)
        raters = ratings.shape[1]
        return _ratio(rows - rest, rows + (raters - 1) * rest + raters * (columns - rest) / weights.sum(1))

    return statistic


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN where nothing varies and the correlation is not defined."""
    with np.errstate(all="ignore"):
        return np.where(np.abs(below) > 1e-12, above / below, np.nan)


def spearman_of(first: np.ndarray, second: np.ndarray) -> Statistic:
    """Rank correlation with mean ranks for ties, on any resample. Few levels are meant: a table of them is counted."""
    levels, codes = zip(*(np.unique(values, return_inverse=True) for values in (first, second)), strict=True)
    sizes = tuple(map(len, levels))
    cells = np.zeros((len(first), sizes[0] * sizes[1]))
    cells[np.arange(len(first)), codes[0] * sizes[1] + codes[1]] = 1

    def statistic(weights: np.ndarray) -> np.ndarray:
        counts = (weights @ cells).reshape(-1, *sizes)
        n = counts.sum((1, 2))
        a, b = (_centred_ranks(counts.sum(axis), n) for axis in (2, 1))
        together = np.einsum("sij,si,sj->s", counts, a, b)
        alone = np.einsum("sij,si->s", counts, a**2) * np.einsum("sij,sj->s", counts, b**2)
        return _ratio(together, np.sqrt(alone))

    return statistic


def _centred_ranks(counts: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Mean rank of each level (samples, levels), less the mean of all ranks."""
    return counts.cumsum(1) - (counts - 1) / 2 - ((n + 1) / 2)[:, None]


def judge_trust(
    people: np.ndarray, judge: np.ndarray, conversations: Sequence[str], samples: int = _SAMPLES, seed: int = 0
) -> JudgeTrust:
    """A judge against people.

    Args:
        people: ratings (n,), NaN where there is none.
        judge: as ``people``, of the same items.
        conversations: to which each item belongs.
        samples: resamples for the intervals.
        seed: of the resamples.

    Raises:
        ValueError: fewer than two items were rated by both.
    """
    both = ~(np.isnan(people) | np.isnan(judge))
    if both.sum() < 2:
        raise ValueError(f"expected at least two items that both rated, got {int(both.sum())}")
    groups = [group for group, there in zip(conversations, both, strict=True) if there]
    table = np.stack([people[both], judge[both]], 1)
    weights = resamples(groups, samples, seed)
    return JudgeTrust(
        interval(_icc_c(table), weights),
        interval(_icc_a(table), weights),
        interval(spearman_of(table[:, 0], table[:, 1]), weights),
        interval(mean_of(table[:, 1] - table[:, 0]), weights),
        interval(mean_of(np.isclose(table[:, 0], table[:, 1])), weights),
        len(table),
        int((~both).sum()),
        len(set(groups)),
    )


def system_spearman(
    people: np.ndarray,
    judge: np.ndarray,
    conversations: Sequence[str],
    systems: Sequence[str],
    samples: int = _SAMPLES,
    seed: int = 0,
) -> Interval:
    """Rank correlation of the systems' mean ratings: would the judge have put the systems in the people's order?

    Args:
        people: ratings (n,), NaN where there is none.
        judge: as ``people``.
        conversations: to which each item belongs.
        systems: who wrote each item.
        samples: resamples for the interval.
        seed: of the resamples.
    """
    both = ~(np.isnan(people) | np.isnan(judge))
    names = sorted(set(systems))
    member = (np.asarray(systems)[:, None] == np.asarray(names)) & both[:, None]
    weights = resamples(conversations, samples, seed)

    def statistic(w: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            means = [w @ (member * np.nan_to_num(v)[:, None]) / (w @ member) for v in (people, judge)]
        ranks = [np.apply_along_axis(_ranks, 1, m) for m in means]
        centred = [r - r.mean(1, keepdims=True) for r in ranks]
        return _ratio((centred[0] * centred[1]).sum(1), np.sqrt((centred[0] ** 2).sum(1) * (centred[1] ** 2).sum(1)))

    return interval(statistic, weights)


def _ranks(values: np.ndarray) -> np.ndarray:
    return rankdata(values)


# -- ratings of MentalAlign's form (Badawi et al. 2025) -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ratings:
    """One rater's scores (items, attributes), NaN where there is no usable one; items are conversation by system."""

    scores: np.ndarray
    conversations: tuple[str, ...]
    systems: tuple[str, ...]


def read_ratings(path: Path) -> Ratings:
    """Read a table with ``ConvID`` and a column ``..._response_SYSTEM`` of JSON scores for each system.

    A score that is absent, no number or outside of 1 to 5 is missing, never filled in.

    Raises:
        DataError: the file cannot be read or has no such columns.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as cause:
        raise DataError(f"Expected a table of ratings at {path}: {cause}") from cause
    columns = [name for name in (rows[0] if rows else ()) if name and "_response_" in name]
    if not columns or "ConvID" not in rows[0]:
        raise DataError(
            f"{path}: expected columns ConvID and ..._response_SYSTEM, got {', '.join(rows[0]) if rows else 'none'}."
        )
    cells = [(row["ConvID"], name.split("_response_", 1)[1], row[name] or "") for row in rows for name in columns]
    scores = np.array([[_score(text, attribute) for attribute in ATTRIBUTES] for *_, text in cells])
    return Ratings(scores, tuple(cell[0] for cell in cells), tuple(cell[1] for cell in cells))


def _score(text: str, attribute: str) -> float:
    """One score of an answer, read from its JSON, or beside its name where the JSON is broken."""
    try:
        value = json.loads(text[text.index("{") : text.rindex("}") + 1])[attribute]
    except (ValueError, KeyError, TypeError):
        match = re.search(rf"{attribute}[\"”']?\s*:\s*(\d+(?:\.\d+)?)", text)
        value = float(match[1]) if match else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not LOWEST <= value <= HIGHEST:
        return float("nan")
    return float(value)


def trust_table(people: Ratings, judge: Ratings, samples: int = _SAMPLES, seed: int = 0) -> Mapping[str, JudgeTrust]:
    """The judge against people in each attribute, and in the ``mean`` of all where both sides have them all.

    Raises:
        DataError: the two did not rate the same items.
    """
    if (people.conversations, people.systems) != (judge.conversations, judge.systems):
        raise DataError("Expected ratings of the same items in the same order from people and judge, but they differ.")
    found = {
        name: judge_trust(people.scores[:, i], judge.scores[:, i], people.conversations, samples, seed)
        for i, name in enumerate(ATTRIBUTES)
    }
    return found | {
        "mean": judge_trust(people.scores.mean(1), judge.scores.mean(1), people.conversations, samples, seed)
    }
