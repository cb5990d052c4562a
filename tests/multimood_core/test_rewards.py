"""A reward is the weighted mean of what can be said of a reply, and guards only take from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from multimood_core.errors import ModelError
from multimood_core.guards import LengthGuard
from multimood_core.rewards import PartedScore, ReplySituation, RewardFunction, RewardTerm, embedded_rewards

SITUATION = ReplySituation("I cannot sleep since my father died.", reference="That is hard. How long has it been?")


@dataclass(frozen=True)
class Says:
    """A term that says the same of every reply."""

    name: str
    value: float | None

    def __call__(self, situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[float | None]:
        return [self.value] * len(replies)


@dataclass(frozen=True)
class SaysInParts(Says):
    def parted(self, situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[PartedScore]:
        return [PartedScore(self.value, {"empathy": 0.5, "safety": None})] * len(replies)


def total(*terms: tuple[RewardTerm, float], reply: str = "I hear you.") -> float | None:
    return RewardFunction(terms)([SITUATION], [reply])[0].total


def test_terms_are_averaged_by_weight() -> None:
    assert total((Says("a", 0.2), 1), (Says("b", 0.8), 1)) == pytest.approx(0.5)
    assert total((Says("a", 0.2), 3), (Says("b", 0.8), 1)) == pytest.approx(0.35)


def test_a_missing_term_is_left_out_and_not_zero() -> None:
    assert total((Says("a", 0.8), 1), (Says("b", None), 1)) == pytest.approx(0.8)
    assert total((Says("a", None), 1)) is None
    assert total((Says("a", 0.8), 1), (Says("b", 0.0), 1)) == pytest.approx(0.4)


def test_parts_are_named_after_their_term() -> None:
    reward = RewardFunction([(SaysInParts("r_trust", 0.5), 1)], [LengthGuard(2)])([SITUATION], ["I hear you now."])[0]
    assert reward.parts == {"r_trust": 0.5, "r_trust/empathy": 0.5, "r_trust/safety": None, "guard/length": 0.5}
    assert reward.total == pytest.approx(0.25)


def test_terms_without_weight_and_lists_that_do_not_match_are_refused() -> None:
    with pytest.raises(ModelError, match="weights above 0"):
        RewardFunction([])
    with pytest.raises(ModelError, match="weights above 0"):
        RewardFunction([(Says("a", 1.0), 0)])
    with pytest.raises(ModelError, match="got 1 and 2"):
        RewardFunction([(Says("a", 1.0), 1)])([SITUATION], ["a", "b"])


def test_the_embedded_rewards_prefer_the_reference_and_take_everything_from_the_empty_and_the_copied() -> None:
    rewards = embedded_rewards()
    replies = [str(SITUATION.reference), "It sounds hard. How long ago was that?", "Kevin?", "", SITUATION.client]
    same, close, other, empty, copied = [r.total for r in rewards([SITUATION] * 5, replies)]
    assert same is not None
    assert close is not None
    assert other is not None
    assert same > close > other
    assert (empty, copied) == (0.0, 0.0)
