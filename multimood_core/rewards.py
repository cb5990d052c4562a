"""The reward of a reply (paper, eq. 5-7): terms in [0, 1] with weights, and guards against replies that only look good.

A term that cannot say anything is missing, never 0: it is left out and the others' weights are renormalised. Guards
multiply what is left, so that they can take from a reward and never add to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from multimood_core.errors import ModelError
from multimood_core.records import Context, HistoryTurn
from multimood_core.weights import REPOSITORY

EMBEDDED: Final = REPOSITORY / "assets" / "judges" / "mini"


@dataclass(frozen=True, slots=True)
class ReplySituation:
    """What a reply answers."""

    client: str
    history: tuple[HistoryTurn, ...] = ()
    context: Context = field(default_factory=Context)
    reference: str | None = None
    """The therapist's real reply, where a data set has one."""
    next_client: str | None = None
    """The client's real next turn, where there is one."""


class RewardTerm(Protocol):
    """Scores replies: one value in [0, 1] each, None where it cannot say."""

    @property
    def name(self) -> str: ...

    def __call__(self, situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[float | None]: ...


@dataclass(frozen=True, slots=True)
class PartedScore:
    """A term's value with what it is made of, by name."""

    value: float | None
    parts: Mapping[str, float | None] = field(default_factory=dict)


@runtime_checkable
class PartedTerm(Protocol):
    """A term that can also say what its value is made of, such as the dimensions of a judge."""

    @property
    def name(self) -> str: ...

    def parted(self, situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[PartedScore]: ...


class Guard(Protocol):
    """A factor in [0, 1] for each reply; 1 where there is nothing to object to."""

    @property
    def name(self) -> str: ...

    def __call__(self, situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[float]: ...


@dataclass(frozen=True, slots=True)
class Reward:
    """A reply's reward. ``total`` is None when every term is missing.

    ``parts`` holds each term under its name, what a term is made of as ``term/part``, and guards as ``guard/name``.
    """

    total: float | None
    parts: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class RewardFunction:
    """The weighted mean of the terms that are there (paper, eq. 7: equal weights), times the guards.

    Args:
        terms: each with its weight, above 0.
        guards: factors of the total.
    """

    terms: Sequence[tuple[RewardTerm, float]]
    guards: Sequence[Guard] = ()

    def __post_init__(self) -> None:
        if not self.terms or any(weight <= 0 for _, weight in self.terms):
            raise ModelError(f"Expected terms with weights above 0, got {[(t.name, w) for t, w in self.terms]}.")

    def __call__(self, situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[Reward]:
        """The reward of each reply to the situation at its place.

        Raises:
            ModelError: there are not as many situations as replies.
        """
        if len(situations) != len(replies):
            raise ModelError(f"Expected a situation for each reply, got {len(situations)} and {len(replies)}.")
        if not replies:
            return []
        scored = [(term, weight, _parted(term, situations, replies)) for term, weight in self.terms]
        factors = [(guard.name, guard(situations, replies)) for guard in self.guards]
        rewards = []
        for i in range(len(replies)):
            parts: dict[str, float | None] = {}
            total = weights = 0.0
            for term, weight, scores in scored:
                parts[term.name] = scores[i].value
                parts |= {f"{term.name}/{name}": value for name, value in scores[i].parts.items()}
                if (value := scores[i].value) is not None:
                    total, weights = total + weight * value, weights + weight
            mean = total / weights if weights else None
            for name, values in factors:
                parts[f"guard/{name}"] = values[i]
                mean = None if mean is None else mean * values[i]
            rewards.append(Reward(mean, parts))
        return rewards


def _parted(term: RewardTerm, situations: Sequence[ReplySituation], replies: Sequence[str]) -> Sequence[PartedScore]:
    if isinstance(term, PartedTerm):
        return term.parted(situations, replies)
    return [PartedScore(value) for value in term(situations, replies)]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where real replies lie, which scales the rewards: measured by ``train.reward_bounds``, written with its origin.

    ``similarity_floor``: mean score of replies to other clients. The others are 99th percentiles of real replies:
    ``longest`` in words, ``repeated`` and ``copied`` as shares of a reply.
    """

    similarity_floor: float
    longest: int
    repeated: float
    copied: float
    origin: str

    @classmethod
    def load(cls, path: Path) -> Bounds:
        """Read ``bounds.json``.

        Raises:
            ModelError: the file is absent or holds something else.
        """
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as cause:
            raise ModelError(
                f"Expected the bounds of the rewards in {path}: {cause}. Run `python -m train.reward_bounds`."
            ) from cause


def embedded_rewards(folder: Path = EMBEDDED, device: str = "cpu") -> RewardFunction:
    """The rewards that need no network: MiniLM's stand-in for r_sim, and the guards.

    Args:
        folder: with ``bounds.json``.
        device: where MiniLM runs.

    Raises:
        ModelError: MiniLM's weights or the folder's files are absent.
    """
    # Both build on this module's records.
    from multimood_core.guards import CopyGuard, LengthGuard, RepetitionGuard
    from multimood_core.similarity import MiniLMSimilarity, SimilarityReward
    from multimood_core.text_encoder import MiniLM

    bounds = Bounds.load(folder / "bounds.json")
    encoder = MiniLM(device=device)
    similarity = SimilarityReward(MiniLMSimilarity(encoder), bounds.similarity_floor)
    guards = LengthGuard(bounds.longest), RepetitionGuard(bounds.repeated), CopyGuard(bounds.copied)
    return RewardFunction([(similarity, 1.0)], guards)
