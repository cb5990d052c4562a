"""A sentence has its reply's level where it holds the words that annotators marked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from multimood_core.errors import DataError
from multimood_core.local_judge import SCALES
from tests.train.rated_replies import write_data, write_table
from train.empathy_data import read_epitome, twice_rated

REPLY = "Dear me. I am sorry for you, really. Why did he go? Bye."
FILES = dict(zip(SCALES, ("emotional-reactions", "interpretations", "explorations"), strict=True))


def write_one(root: Path, **marked: tuple[int, str]) -> None:
    for scale, name in FILES.items():
        level, rationales = marked.get(scale.split()[0], (0, ""))
        row = {"sp_id": "p", "rp_id": "r", "seeker_post": "He left.", "response_post": REPLY}
        write_table(root / "epitome_empathy" / f"{name}-reddit.csv", [row | {"level": level, "rationales": rationales}])


@pytest.mark.parametrize(
    ("rationales", "expected"),
    [
        ("I am sorry for you, really.|", (0, 2, 0, 0)),
        ("sorry for you|", (0, 2, 0, 0)),
        ("Why did he go? Bye.|", (0, 0, 2, 2)),
        ("Dear me.|Bye.|", (2, 0, 0, 2)),
        ("sorry for you, really. Why|", (0, 2, 0, 0)),  # a word of the next sentence is not half of anything
    ],
)
def test_marked_words_give_their_sentence_the_level(tmp_path: Path, rationales: str, expected: tuple[int, ...]) -> None:
    write_one(tmp_path, emotional=(2, rationales))
    (reply,) = read_epitome(tmp_path)
    assert reply.sentences == ("Dear me.", "I am sorry for you, really.", "Why did he go?", "Bye.")
    assert reply.sentence_levels["emotional reaction"] == expected
    assert reply.sentence_levels["exploration"] == (0, 0, 0, 0)
    assert reply.levels == {"emotional reaction": 2, "interpretation": 0, "exploration": 0}


def test_a_level_whose_words_are_not_found_teaches_nothing(tmp_path: Path) -> None:
    write_one(tmp_path, emotional=(2, "Words that are not there.|"), exploration=(1, ""))
    (reply,) = read_epitome(tmp_path)
    assert set(reply.sentence_levels) == {"interpretation"}
    assert reply.levels["emotional reaction"] == 2


def test_a_post_is_in_one_split_and_every_split_is_there(tmp_path: Path) -> None:
    replies = read_epitome(write_data(tmp_path / "data", posts=300))
    assert len(replies) == 300
    shares = Counter(reply.split for reply in replies)
    assert shares["train"] > 180
    assert min(shares["val"], shares["test"]) > 20
    again = {reply.post_id: reply.split for reply in read_epitome(tmp_path / "data")}
    assert all(again[reply.post_id] == reply.split for reply in replies)


def test_the_first_of_two_ratings_counts_and_the_second_tells_how_far_people_agree(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data", posts=5)
    first = next(reply for reply in read_epitome(root) if reply.post_id == "p0")
    assert 1 not in first.levels.values()
    assert twice_rated(root)["exploration"] == {"n": 1, "equal": 0.0}


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="emotional-reactions"):
        read_epitome(tmp_path)
    write_table(tmp_path / "epitome_empathy" / "emotional-reactions-reddit.csv", [{"post": "x"}])
    with pytest.raises(DataError, match="got post"):
        read_epitome(tmp_path)
