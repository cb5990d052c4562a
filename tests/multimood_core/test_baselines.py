"""Baselines of cases computed by hand."""

from __future__ import annotations

from multimood_core.baselines import (
    CONSTANT,
    COPY,
    MAJORITY,
    NEAREST,
    REGRESSION,
    central_reply,
    label_baselines,
    reply_baselines,
)
from multimood_core.dialogues import Dialogue, DialogueTurn, items_of


def dialogue(number: int) -> Dialogue:
    sad = number % 2 == 0
    emotion = "sadness" if sad else "joy"
    turns = []
    for _ in range(2):
        turns += [
            DialogueTurn("client", "I feel sad alone" if sad else "a happy good day", emotion),
            DialogueTurn("therapist", "Go on." if sad else "Good to hear.", "neutral" if sad else "joy",
                         "open question" if sad else "approval"),
        ]  # fmt: skip
    return Dialogue(str(number), "train", tuple(turns))


TRAIN = list(items_of([dialogue(i) for i in (0, 2, 4, 1, 3)]))
TEST = list(items_of([dialogue(6), dialogue(7)]))  # two sad items, two happy ones


def test_labels() -> None:
    found = label_baselines(TRAIN, TEST, gold_history=True)
    assert found[MAJORITY]["client_emotion"] == ["sadness"] * 4
    # first items: nothing to copy, so the majority; second items: the label before
    assert found[COPY] == {"client_emotion": ["sadness", "sadness", "sadness", "joy"]}
    assert found[REGRESSION]["strategy"] == ["open question"] * 2 + ["approval"] * 2
    assert COPY not in label_baselines(TRAIN, TEST, gold_history=False)


def test_replies() -> None:
    found = reply_baselines(TRAIN, TEST)
    assert found[CONSTANT] == ["Go on."] * 4  # six of ten training replies
    assert found[NEAREST] == ["Go on."] * 2 + ["Good to hear."] * 2


def test_the_central_reply_answers_most_of_the_others() -> None:
    # "a b c" shares the pair a-b with the first and b-c with the third; no other reply shares pairs with two
    assert central_reply(["a b x", "a b c", "y b c", "a c b", "e"]) == "a b c"
    # sums over all three: 1 + e^(1 - 4/2) + e^(1 - 5/2) = 1.59, 2/4 + 1 + e^(1 - 5/4) = 2.28, 2/5 + 4/5 + 1 = 2.2
    assert central_reply(["a b", "a b c d", "a b c d e"]) == "a b c d"
