"""A reward is the weighted mean of what can be said of a reply, and guards only take from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from multimood_core.bge_m3 import BgeSimilarity
from multimood_core.endpoint import Endpoint, EndpointSettings
from multimood_core.endpoint_judge import EndpointJudge
from multimood_core.errors import ModelError
from multimood_core.guards import LengthGuard
from multimood_core.judges import DIMENSION_NAMES
from multimood_core.rewards import (
    WINDOW,
    Bounds,
    PartedScore,
    ReplySituation,
    RewardFunction,
    RewardTerm,
    embedded_rewards,
    paper_rewards,
)
from tests.multimood_core.bge_folder import write_folder
from tests.multimood_core.stub_endpoint import Answer, scores_text, serve

SITUATION = ReplySituation("I cannot sleep since my father died.", reference="That is hard. How long has it been?")


@dataclass(frozen=True)
class Says:
    """A term that says the same of every reply."""

    name: str
    value: float | None

    def __call__(self, situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[float | None]:
        return [self.value] * len(replies)


@dataclass(frozen=True)
class SaysWhere:
    """A term that can say something of some replies."""

    name: str
    values: Mapping[str, float]

    def __call__(self, situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[float | None]:
        return [self.values.get(reply) for reply in replies]


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


def test_a_term_that_failed_for_one_reply_leaves_it_without_a_total() -> None:
    other = ReplySituation("It is my birthday.")
    function = RewardFunction([(Says("a", 0.8), 1), (SaysWhere("b", {"fine": 0.2}), 1)])
    fine, failed, alone = function([SITUATION, SITUATION, other], ["fine", "failed", "failed"])
    assert fine.total == pytest.approx(0.5)
    assert (failed.total, failed.parts) == (None, {"a": 0.8, "b": None})
    assert alone.total == pytest.approx(0.8)  # nothing it could be compared with has the term either


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


@pytest.fixture(scope="module")
def embedded() -> RewardFunction:
    return embedded_rewards(window=WINDOW)


def test_the_embedded_rewards_prefer_the_reference_and_take_everything_from_the_empty_and_the_copied(
    embedded: RewardFunction,
) -> None:
    embedded.restore({})
    replies = [str(SITUATION.reference), "It sounds hard. How long ago was that?", "Kevin?", "", SITUATION.client]
    same, close, other, empty, copied = [r.total for r in embedded([SITUATION] * 5, replies)]
    assert same is not None
    assert close is not None
    assert other is not None
    assert same > close > other
    assert (empty, copied) == (0.0, 0.0)


def test_the_embedded_rewards_are_trust_and_similarity_in_equal_parts(embedded: RewardFunction) -> None:
    embedded.restore({})
    (reward,) = embedded([SITUATION], ["It sounds hard. How long ago was that?"])
    trust, similar = reward.parts["r_trust"], reward.parts["r_sim/minilm"]
    assert trust is not None
    assert similar is not None
    assert reward.total == pytest.approx((trust + similar) / 2)
    assert {"r_trust/empathy", "guard/length", "guard/repetition", "guard/copying", "guard/template"} <= set(reward.parts)
    (unseen,) = embedded([replace(SITUATION, reference=None)], ["It sounds hard. How long ago was that?"])
    assert unseen.parts["r_sim/minilm"] is None
    assert unseen.total == pytest.approx(trust)


def test_what_guards_remember_can_be_taken_up_and_forgotten(embedded: RewardFunction) -> None:
    embedded.restore({})
    clients = [ReplySituation(f"This is client {i}.") for i in range(40)]
    embedded(clients, ["I am so sorry to hear that."] * 40)
    state = json.loads(json.dumps(embedded.state()))
    new = ReplySituation("Somebody new.")
    (remembered,) = embedded([new], ["I am so sorry to hear that."])
    embedded.restore({})
    (forgotten,) = embedded([new], ["I am so sorry to hear that."])
    embedded.restore(state)
    assert embedded([new], ["I am so sorry to hear that."]) == [remembered]
    assert remembered.parts["guard/template"] < 0.5 < forgotten.parts["guard/template"] == 1.0  # type: ignore[operator]


def test_without_a_window_a_reward_hangs_on_nothing_scored_before() -> None:
    plain = embedded_rewards()
    first = plain([SITUATION], ["It sounds hard."])
    plain([ReplySituation(f"This is client {i}.") for i in range(20)], ["It sounds hard."] * 20)
    assert plain([SITUATION], ["It sounds hard."]) == first
    assert plain.state() == {}


def test_the_papers_rewards_have_its_names(tmp_path: Path) -> None:
    similarity = BgeSimilarity(write_folder(tmp_path))
    with serve(lambda number, request: Answer(scores_text(10, 1))) as stub:
        judge = EndpointJudge(Endpoint(EndpointSettings("stub", stub.url)))
        rewards = paper_rewards(similarity, judge, ["since when", "my cat sings", "i cannot sleep"])
        (reward,) = rewards([SITUATION], [str(SITUATION.reference)])
    assert reward.parts["r_sim"] == pytest.approx(1.0)
    assert reward.parts["r_trust"] == pytest.approx(0.5)
    assert {f"r_trust/{name}" for name in DIMENSION_NAMES} <= set(reward.parts)
    assert reward.total == pytest.approx(0.75)


def test_bounds_that_are_absent_or_of_an_older_form_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"train\.reward_bounds"):
        Bounds.load(tmp_path / "bounds.json")
    (tmp_path / "bounds.json").write_text('{"longest": 83}')
    with pytest.raises(ModelError, match=r"train\.reward_bounds"):
        Bounds.load(tmp_path / "bounds.json")
