"""Guards take from replies that only look good, and nothing from what real replies do."""

from __future__ import annotations

import json

import pytest

from multimood_core.guards import CopyGuard, EndingGuard, LengthGuard, RepetitionGuard, TemplateGuard
from multimood_core.records import HistoryTurn
from multimood_core.rewards import Guard, ReplySituation

SITUATION = ReplySituation("I cannot sleep since my father died.", reference="That is hard. How long has it been?")


def factor(guard: Guard, reply: str, situation: ReplySituation = SITUATION) -> float:
    return guard([situation], [reply])[0]


def test_length_takes_from_the_empty_and_the_overlong() -> None:
    assert [factor(LengthGuard(4), text) for text in ("", " .?! ", "one two three four", "a b c d e f g h")] == [0, 0, 1, 0.5]


@pytest.mark.parametrize(
    ("reply", "share"),
    [("Since when?", 1.0), ('He said "go on."', 1.0), ("Since when", 0.0), ("", 0.0), ("...", 0.0), ("Yes. It was on the", 0.2)],
)
def test_what_breaks_off_is_no_sentence(reply: str, share: float) -> None:
    assert factor(EndingGuard(), reply) == pytest.approx(share)


def test_repetition_counts_word_pairs_that_come_again() -> None:
    assert factor(RepetitionGuard(0.0), "I see that this is hard") == 1.0
    # go on | on go | go on | on go | go on: two of five pairs are new
    assert factor(RepetitionGuard(0.0), "Go on, go on, go on.") == pytest.approx(0.4)
    assert factor(RepetitionGuard(0.2), "Go on, go on, go on.") == pytest.approx(0.5)
    assert factor(RepetitionGuard(0.6), "Go on, go on, go on.") == 1.0


def test_copying_sees_runs_of_the_dialogue_and_lets_a_restatement_pass() -> None:
    assert factor(CopyGuard(0.5), SITUATION.client.upper()) == 0.0
    # "since my father died" are four of eight words
    assert factor(CopyGuard(0.5), "So it began since my father died, yes") == 1.0
    assert factor(CopyGuard(0.25), "So it began since my father died, yes") == pytest.approx(1 - 0.25 / 0.75)
    assert factor(CopyGuard(0.5), "My father died too") == 1.0
    earlier = ReplySituation("Yes.", history=(HistoryTurn("therapist", "What brings you here today?"),))
    assert factor(CopyGuard(0.5), "What brings you here today?", earlier) == 0.0
    assert (factor(CopyGuard(0.5), "Yes", earlier), factor(CopyGuard(0.5), "No", earlier)) == (0.0, 1.0)


def clients(count: int) -> list[ReplySituation]:
    return [ReplySituation(f"This is client {i}.") for i in range(count)]


def test_what_is_said_to_every_client_loses_its_worth() -> None:
    guard = TemplateGuard(usual=0.0)
    constant = guard(clients(101), ["I am sorry to hear that."] * 101)
    # 100 other situations of 100, with 16 that count as having shared nothing
    assert constant == pytest.approx([1 - 100 / 116] * 101)
    assert guard(clients(102)[101:], ["Which of the two came first?"]) == [1.0]
    assert guard(clients(103)[102:], ["I am sorry to hear that."])[0] < 0.15


def test_only_the_shared_part_of_a_reply_counts() -> None:
    guard = TemplateGuard(usual=0.0)
    guard(clients(84), ["I am very sorry."] * 84)
    (half,) = guard(clients(85)[84:], ["I am very sorry. Which boat sank there?"])
    assert half == pytest.approx(1 - (84 / 100) * 4 / 8)


def test_replies_to_one_client_may_be_alike_and_so_may_a_second_epoch() -> None:
    guard = TemplateGuard(usual=0.0)
    situations = clients(1) * 4
    for _ in range(3):
        assert guard(situations, ["Shall we go on with that?"] * 4) == [1.0] * 4


def test_a_share_that_real_replies_have_is_free() -> None:
    guard = TemplateGuard(usual=0.2)
    assert guard(clients(4), ["Go on."] * 4) == [1.0] * 4  # 3 of 3 + 16


def test_the_memory_is_bounded_and_can_be_taken_up() -> None:
    guard = TemplateGuard(usual=0.0, window=8)
    everybody = clients(40)
    for situation in everybody:
        guard([situation], ["Shall we go on with that?"])
    assert len(guard.state()) == 8
    other = TemplateGuard(usual=0.0, window=8)
    other.restore(json.loads(json.dumps(guard.state())))
    new = ReplySituation("Somebody new.")
    assert other([new], ["Shall we go on?"]) == guard([new], ["Shall we go on?"])
    assert other([new], ["Shall we go on?"])[0] < 1.0
