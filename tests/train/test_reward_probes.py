"""The probes answer every item, and the table shows means of what was scored."""

from __future__ import annotations

import numpy as np
import pytest

from multimood_core.dialogues import Dialogue, DialogueTurn, Item, items_of
from multimood_core.rewards import Reward
from train.reward_probes import BLIND, REAL, guard_product, mean_interval, measure, probes, table

THINGS = ("job", "sister", "exam", "dog", "flat", "boss", "garden", "train")
ASKED = ("What happened there?", "Since when does it trouble you?", "Whom did you tell?", "How did it end?")


def items() -> list[Item]:
    dialogues = []
    for i, thing in enumerate(THINGS):
        turns = []
        for asked in ASKED:
            turns.append(DialogueTurn("client", f"It is about my {thing} again."))
            turns.append(DialogueTurn("therapist", f"Your {thing}. {asked}"))
        dialogues.append(Dialogue(str(i), "val", tuple(turns)))
    return list(items_of(dialogues))


def test_every_probe_replies_to_every_item_and_none_is_the_real_reply() -> None:
    mine = items()
    found = probes(mine, mine)
    real = found.pop(REAL)
    assert real == [item.therapist.text for item in mine]
    for replies in found.values():
        assert len(replies) == len(mine)
        assert sum(reply == truth for reply, truth in zip(replies, real, strict=True)) <= len(mine) // 4


def test_the_real_replies_are_above_what_is_the_same_for_everybody_and_what_is_copied() -> None:
    mine = items()
    found = measure(mine, mine)
    assert (found["n"], found["dialogues"]) == (32, 8)
    rows = found["rows"]
    for probe in ("empty", "client's words", "one question ten times", "first three words of the reference"):
        assert rows[probe]["reward"]["high"] < rows[REAL]["reward"]["low"]
        assert found["real less probe"][probe]["low"] > 0
    assert rows[REAL]["r_sim/minilm"]["value"] == pytest.approx(1.0)
    assert rows["keywords"][BLIND]["value"] < rows["keywords"]["and without memory"]["value"]
    printed = table(rows)
    assert f"| {REAL} | {rows[REAL]['reward']['value']:.3f} (" in printed
    assert len(printed.splitlines()) == len(rows) + 2


def test_what_is_missing_is_left_out_of_the_mean() -> None:
    weights = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    found = mean_interval([1.0, None, 0.0], weights)
    assert (found["value"], found["low"], found["high"]) == (0.5, pytest.approx(0.025), pytest.approx(0.975))


def test_guards_multiply() -> None:
    assert guard_product(Reward(0.1, {"r_trust": 0.5, "guard/a": 0.5, "guard/b": 0.4})) == pytest.approx(0.2)
