"""Pairwise preference: win, tie and loss tables, Bradley-Terry strengths, position bias.

A comparison is ``(left, right, verdict)``: ``win`` where the left one was better, ``loss`` where the right one was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.stats import binomtest

Verdict = Literal["win", "tie", "loss"]
VERDICTS: Final[tuple[Verdict, ...]] = get_args(Verdict)
SAMPLES: Final = 1000
_STEPS: Final = 200  # Newton steps; about ten are needed


@dataclass(frozen=True, slots=True)
class WinTieLoss:
    """How often the left system won, tied and lost; ``p`` of a two-sided sign test over what was no tie (None without any)."""

    wins: int
    ties: int
    losses: int
    p: float | None

    @property
    def n(self) -> int:
        return self.wins + self.ties + self.losses

    def share(self, verdict: Verdict) -> float | None:
        """Fraction of ``verdict``; None without comparisons."""
        count = {"win": self.wins, "tie": self.ties, "loss": self.losses}[verdict]
        return count / self.n if self.n else None


@dataclass(frozen=True, slots=True)
class Strength:
    """A system's Bradley-Terry strength (natural log of the odds, the mean system at 0) with its 95 % interval."""

    system: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class BradleyTerry:
    """Strengths, strongest first, or none of them with the reason in ``why``."""

    strengths: tuple[Strength, ...]
    n: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class PositionBias:
    """How often the response shown first was preferred among ``n`` verdicts that were no tie."""

    n: int
    share: float | None
    low: float | None
    high: float | None
    p: float | None


def swapped(verdict: Verdict) -> Verdict:
    """The verdict as seen from the other side."""
    return VERDICTS[2 - VERDICTS.index(verdict)]


def majority(verdicts: Sequence[str]) -> str | None:
    """The verdict that occurs more often than any other; None where several do, or there is none."""
    ranked = Counter(verdicts).most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def win_tie_loss(verdicts: Iterable[str]) -> WinTieLoss:
    """Count the verdicts of one pair of systems."""
    counts = Counter(verdicts)
    unknown = set(counts) - set(VERDICTS)
    if unknown:
        raise ValueError(f"expected verdicts of {', '.join(VERDICTS)}, got {sorted(unknown)}")
    wins, losses = counts["win"], counts["loss"]
    p = float(binomtest(wins, wins + losses).pvalue) if wins + losses else None
    return WinTieLoss(wins, counts["tie"], losses, p)


def position_bias(first_preferred: int, second_preferred: int) -> PositionBias:
    """Whether the place decides: share, 95 % interval (Wilson) and two-sided binomial test against one half."""
    n = first_preferred + second_preferred
    if n == 0:
        return PositionBias(0, None, None, None, None)
    test = binomtest(first_preferred, n)
    interval = test.proportion_ci(method="wilson")
    return PositionBias(n, first_preferred / n, float(interval.low), float(interval.high), float(test.pvalue))


def bradley_terry(
    comparisons: Iterable[tuple[str, str, str]],
    samples: int = SAMPLES,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> BradleyTerry:
    """Maximum-likelihood strengths (Bradley and Terry 1952); a tie counts as half a win for each side.

    Args:
        comparisons: left system, right system, verdict.
        samples: resamples for the intervals.
        seed: of the resamples.
        groups: the group, such as the vote, of each comparison; whole groups are drawn. Each is its own when None.
    """
    comparisons = list(comparisons)
    cells = Counter(comparisons)
    unknown = {verdict for *_, verdict in cells} - set(VERDICTS)
    if unknown:
        raise ValueError(f"expected verdicts of {', '.join(VERDICTS)}, got {sorted(unknown)}")
    if any(left == right for left, right, _ in cells):
        raise ValueError("expected two different systems in a comparison, got one against itself")
    names = sorted({name for left, right, _ in cells for name in (left, right)})
    n = sum(cells.values())
    if not cells:
        return BradleyTerry((), 0, "there are no comparisons yet")
    keys = sorted(cells)
    frequency = np.array([cells[key] for key in keys])
    scores = _score_cells(keys, names)
    wins = np.tensordot(frequency, scores, 1)
    (strengths,) = _fit(wins[None])
    if np.isnan(strengths).any():
        return BradleyTerry((), n, _why_unbounded(wins, names))
    fitted = _fit(np.tensordot(_draws(comparisons, keys, groups, samples, seed), scores, 1))
    fitted = fitted[~np.isnan(fitted).any(1)]
    low: list[float] | list[None] = [None] * len(names)
    high = low
    # As with kappas, an interval from a minority of resamples would mislead; and of one kind of comparison, or one group, all
    # resamples are alike: their interval would be a point.
    if samples and len(fitted) >= samples / 2 and np.ptp(fitted, axis=0).max() > 0:
        low, high = np.quantile(fitted, [0.025, 0.975], axis=0).tolist()
    found = [Strength(name, float(v), a, b) for name, v, a, b in zip(names, strengths, low, high, strict=True)]
    return BradleyTerry(tuple(sorted(found, key=lambda s: -s.value)), n)


def _draws(
    comparisons: Sequence[tuple[str, str, str]],
    keys: Sequence[tuple[str, str, str]],
    groups: Sequence[str] | None,
    samples: int,
    seed: int,
) -> np.ndarray:
    """How often each kind of comparison is in each resample of the groups, (samples, kinds)."""
    owner = range(len(comparisons)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    held = np.zeros((max(owner) + 1, len(keys)), dtype=int)
    places = {key: i for i, key in enumerate(keys)}
    for group, comparison in zip(owner, comparisons, strict=True):
        held[group, places[comparison]] += 1
    drawn = np.random.default_rng(seed).multinomial(len(held), np.full(len(held), 1 / len(held)), samples)
    return drawn @ held


def _score_cells(keys: Sequence[tuple[str, str, str]], names: Sequence[str]) -> np.ndarray:
    """What one comparison of each kind adds to the wins of row over column, (kinds, systems, systems)."""
    scores = np.zeros((len(keys), len(names), len(names)))
    for k, (left, right, verdict) in enumerate(keys):
        i, j = names.index(left), names.index(right)
        gain = {"win": 1.0, "tie": 0.5, "loss": 0.0}[verdict]
        scores[k, i, j] += gain
        scores[k, j, i] += 1 - gain
    return scores


def _fit(wins: np.ndarray) -> np.ndarray:
    """Newton's method on the log-likelihood of each sample at once.

    Args:
        wins: of row over column (samples, systems, systems).

    Returns:
        Strengths (samples, systems); NaN where the maximum lies at infinity (Ford 1957).
    """
    count, systems = len(wins), wins.shape[1]
    patterns, which = np.unique((wins > 0).reshape(count, -1), axis=0, return_inverse=True)
    bounded = np.array([_is_strong(pattern.reshape(systems, systems)) for pattern in patterns], dtype=bool)[which.ravel()]
    wins = wins[bounded]
    total, beta = wins + wins.transpose(0, 2, 1), np.zeros((len(wins), systems))
    for _ in range(_STEPS if len(wins) else 0):
        p = 1 / (1 + np.exp(beta[:, None, :] - beta[:, :, None]))  # row beats column
        gradient = (wins - total * p).sum(2)
        information = total * p * (1 - p)
        # The last term holds the mean at 0.
        hessian = np.eye(systems) * information.sum(2)[:, :, None] - information + 1 / systems
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        beta = beta + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-10:
            break
    found = np.full((count, systems), np.nan)
    found[bounded] = beta - beta.mean(1, keepdims=True)
    return found


def _is_strong(beats: np.ndarray) -> bool:
    """Whether each system has a way of wins and ties to each other one."""
    return bool(connected_components(beats, connection="strong")[0] == 1)


def _why_unbounded(wins: np.ndarray, names: Sequence[str]) -> str:
    if connected_components(wins + wins.T > 0, directed=False)[0] != 1:
        return "the systems fall into groups that were never compared with each other"
    never = [name for name, row in zip(names, wins, strict=True) if not row.any()]
    always = [name for name, column in zip(names, wins.T, strict=True) if not column.any()]
    if never or always:
        told = [f"{name} never won or tied" for name in never] + [f"{name} never lost or tied" for name in always]
        return f"{'; '.join(told)}: its strength has no finite estimate"
    return "one group of systems won every comparison with the others: their strengths have no finite estimate"
