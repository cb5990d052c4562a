"""Votes that were acknowledged are there, whatever happens afterwards; what a reply says of its writer is taken out."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from app.compare.differences import marked, scrubbed
from app.compare.votes import KEYS, Vote, Votes, preference_pairs, ranking
from multimood_core.errors import DataError


def vote(identifier: str, first: str, second: str, ranks: tuple[int, int] = (1, 2)) -> Vote:
    systems = tuple({"kind": "checkpoint", "name": name, "sha256": "0" * 64} for name in (first, second))
    words = {"context": {}, "history": [], "client": {"text": "Hm."}, "replies": [f"{first} says", f"{second} says"]}
    return Vote(identifier, 1.0, systems, {key: list(ranks) for key in KEYS}, {"seed": 0}, "words", words=words)


def test_a_torn_line_costs_no_vote_before_or_after_it(tmp_path: Path) -> None:
    votes = Votes(tmp_path / "votes.jsonl")
    votes.add(vote("one", "a", "b"))
    whole = votes.path.read_bytes()
    votes.path.write_bytes(whole + whole[: len(whole) // 2])  # the power went while a second one was written
    votes.add(vote("three", "a", "b"))
    assert [one.id for one in Votes(votes.path).all()] == ["one", "three"]
    assert votes.all()[0] == replace(vote("one", "a", "b"), ranks={key: [1, 2] for key in KEYS})
    with pytest.raises(DataError, match="already"):
        votes.add(vote("one", "a", "b"))


def test_votes_at_the_same_time_are_all_there(tmp_path: Path) -> None:
    paths = [Votes(tmp_path / "votes.jsonl") for _ in range(4)]

    def work(place: int) -> None:
        for number in range(5):
            paths[place].add(vote(f"{place}-{number}", "a", "b"))

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.id for one in paths[0].all()}) == 20


def test_a_disk_that_refuses_is_told_and_nothing_counts(tmp_path: Path) -> None:
    votes = Votes(tmp_path / "absent" / "votes.jsonl")
    with pytest.raises(DataError, match="could not be written"):
        votes.add(vote("one", "a", "b"))
    assert votes.all() == []


def test_the_ranking_follows_the_votes_and_says_why_where_there_is_none() -> None:
    given = [vote(str(i), "strong", "weak") for i in range(6)]
    given += [vote("x", "weak", "strong"), vote("y", "weak", "strong", (1, 1))]
    for row in ranking(given):
        assert [one["system"] for one in row["strengths"]] == ["strong", "weak"]
        assert row["n"] == 8
        (pair,) = row["pairs"]
        assert (pair["left"], pair["wins"], pair["ties"], pair["losses"]) == ("strong", 6, 1, 1)
        # half a win each for a tie: 6.5 against 1.5, and strengths lie symmetrically around 0
        assert row["strengths"][0]["value"] == pytest.approx(0.5 * 1.466337, abs=1e-4)
    assert "never won or tied" in ranking([vote("one", "a", "b")])[0]["why"]
    systems = ({"name": "strong", "sha256": "1" * 64}, {"name": "weak", "sha256": "0" * 64})
    other = replace(vote("z", "strong", "weak"), systems=systems)
    assert "strong (11111111)" in str(ranking([*given, other])), "one name, two sets of weights"


def test_pairs_leave_out_ties_and_votes_without_words() -> None:
    given = [vote("1", "a", "b"), vote("2", "a", "b", (2, 1)), vote("3", "a", "b", (1, 1)), vote("4", "a", "b")]
    found = preference_pairs([*given[:3], replace(given[3], words=None)])
    assert [pair["chosen_system"] for pair in found] == ["a", "b"]
    assert [(pair["chosen"], pair["rejected"]) for pair in found] == [("a says", "b says"), ("b says", "a says")]
    with pytest.raises(DataError, match="fluency"):
        preference_pairs([], "beauty")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("As an AI language model developed by OpenAI, I hear you.", "[model], I hear you."),
        ("I'm an assistant. I am mini-grpo-2.", "[model]. I am [model]."),
        ("ChatGPT-4 and gpt-4o-mini and Llama-3.1-8B say so.", "[model] and [model] and [model] say so."),
        ("A farm of llamas is calm, and Claudette agrees.", "A farm of llamas is calm, and Claudette agrees."),
    ],
)  # fmt: skip
def test_self_naming_is_taken_out(text: str, shown: str) -> None:
    assert scrubbed(text, ["mini-grpo-2"]) == shown


def test_words_that_no_other_reply_has_are_marked() -> None:
    found = marked(["You miss her.", "you miss HIM, don't you?", "You miss"])
    assert found[0] == [("You miss ", False), ("her", True), (".", False)]
    assert found[1] == [("you miss ", False), ("HIM", True), (", ", False), ("don't", True), (" you?", False)]
    assert found[2] == [("You miss", False)]
    assert marked(["alone here"]) == [[("alone here", False)]]
