"""The reward of a reply (paper, eq. 5-7): terms in [0, 1] with weights, and guards against replies that only look good.

A term that has nothing to go by is missing, never 0: it is left out and the others' weights are renormalised. Where it is
missing for one reply to a situation and there for another, as after a failed call, the first has no total: it would be on
another scale than what it is compared with. Guards multiply, so that they can take from a reward and never add to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from multimood_core.errors import ModelError
from multimood_core.records import Context, HistoryTurn
from multimood_core.weights import REPOSITORY

if TYPE_CHECKING:
    from multimood_core.judges import Judge
    from multimood_core.similarity import Similarity

EMBEDDED: Final = REPOSITORY / "assets" / "judges" / "mini"
WINDOW: Final = 256  # situations that the guard against templates remembers in training


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


@runtime_checkable
class Remembers(Protocol):
    """A guard whose factors hang on what it has seen."""

    def state(self) -> Any: ...

    def restore(self, state: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Reward:
    """A reply's reward. ``total`` is None when every term is missing, or one that another reply to the situation has.

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
        scorable = [
            {situation for situation, score in zip(situations, scores, strict=True) if score.value is not None}
            for _, _, scores in scored
        ]
        rewards = []
        for i, situation in enumerate(situations):
            parts: dict[str, float | None] = {}
            total = weights = 0.0
            failed = False
            for (term, weight, scores), elsewhere in zip(scored, scorable, strict=True):
                parts[term.name] = scores[i].value
                parts |= {f"{term.name}/{name}": value for name, value in scores[i].parts.items()}
                if (value := scores[i].value) is not None:
                    total, weights = total + weight * value, weights + weight
                failed |= value is None and situation in elsewhere
            mean = total / weights if weights and not failed else None
            for name, values in factors:
                parts[f"guard/{name}"] = values[i]
                mean = None if mean is None else mean * values[i]
            rewards.append(Reward(mean, parts))
        return rewards

    def state(self) -> dict[str, Any]:
        """What the guards remember, in plain values, for the state of a training run."""
        return {guard.name: guard.state() for guard in self.guards if isinstance(guard, Remembers)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` gave; with an empty one, forget."""
        for guard in self.guards:
            if isinstance(guard, Remembers):
                guard.restore(state.get(guard.name, []))


def _parted(term: RewardTerm, situations: Sequence[ReplySituation], replies: Sequence[str]) -> Sequence[PartedScore]:
    if isinstance(term, PartedTerm):
        return term.parted(situations, replies)
    return [PartedScore(value) for value in term(situations, replies)]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where real replies lie, which scales the rewards: measured by ``train.reward_bounds``, written with its origin.

    ``similarity_floor``: mean score of replies to other clients. ``follow_up_spread``: standard deviation of what a reply
    adds to the likelihood of the client's next turn, in nats a token. The others are 99th percentiles of real replies:
    ``longest`` in words; ``repeated``, ``copied`` and ``shared`` with other clients as shares of a reply.
    """

    similarity_floor: float
    longest: int
    repeated: float
    copied: float
    shared: float
    follow_up_spread: float
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


def embedded_rewards(
    folder: Path = EMBEDDED, device: str = "cpu", follow_up: bool = False, window: int = 0
) -> RewardFunction:
    """The rewards that need no network: (r_trust + r_sim) / 2 with the local judge and MiniLM's stand-in, and the guards.

    Args:
        folder: with ``bounds.json`` and the local judge.
        device: where the models run.
        follow_up: whether the follow-up likelihood joins them, with the same weight.
        window: situations that the guard against templates remembers. With 0 there is no such guard: right where replies
            are measured, as a reward then hangs on nothing that was scored before. In training ``WINDOW``, with
            ``RewardFunction.state`` in the run's state.

    Raises:
        ModelError: the weights or the folder's files are absent.
    """
    # All of them build on this module's records.
    from multimood_core.judges import TrustReward
    from multimood_core.local_judge import LocalJudge
    from multimood_core.similarity import MiniLMSimilarity, SimilarityReward
    from multimood_core.text_encoder import MiniLM

    bounds, encoder = Bounds.load(folder / "bounds.json"), MiniLM(device=device)
    similarity = SimilarityReward(MiniLMSimilarity(encoder), bounds.similarity_floor)
    terms: list[tuple[RewardTerm, float]] = [(TrustReward(LocalJudge.from_folder(folder, encoder)), 1.0), (similarity, 1.0)]
    if follow_up:
        from multimood_core.follow_up import FollowUpReward

        terms.append((FollowUpReward.embedded(bounds.follow_up_spread, device), 1.0))
    return RewardFunction(terms, _guards(bounds, window))


def paper_rewards(
    similarity: Similarity, judge: Judge, references: Sequence[str], folder: Path = EMBEDDED, window: int = 0
) -> RewardFunction:
    """(r_trust + r_sim) / 2 with the paper's models, BGE-M3 and a language model that judges, and the same guards.

    Args:
        similarity: ``bge_m3.BgeSimilarity`` of the hub's folder.
        judge: ``endpoint_judge.EndpointJudge`` of an endpoint; calling it may cost money.
        references: real replies of the training split, from which the similarity's floor is measured.
        folder: with ``bounds.json``, which the guards go by.
        window: as for ``embedded_rewards``.

    Raises:
        ModelError: ``bounds.json`` is absent.
    """
    from multimood_core.judges import TrustReward
    from multimood_core.similarity import SimilarityReward, random_pair_mean

    floor = random_pair_mean(similarity, references)
    terms: list[tuple[RewardTerm, float]] = [(TrustReward(judge), 1.0), (SimilarityReward(similarity, floor), 1.0)]
    return RewardFunction(terms, _guards(Bounds.load(folder / "bounds.json"), window))


def _guards(bounds: Bounds, window: int) -> list[Guard]:
    from multimood_core.guards import CopyGuard, EndingGuard, LengthGuard, RepetitionGuard, TemplateGuard

    plain = LengthGuard(bounds.longest), EndingGuard(), RepetitionGuard(bounds.repeated), CopyGuard(bounds.copied)
    return [*plain, TemplateGuard(bounds.shared, window)] if window else list(plain)
