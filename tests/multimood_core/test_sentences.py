"""A reply falls into the sentences that a reader would see, and no word is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimood_core.sentences import sentences_of, words_of


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("That is hard. Since when?", ["That is hard.", "Since when?"]),
        ("I saw Dr. Weston. He was kind!", ["I saw Dr. Weston.", "He was kind!"]),
        ('He said "Go." And you?', ['He said "Go."', "And you?"]),
        ("Well... you know, 3.5 hours", ["Well... you know, 3.5 hours"]),
        ("It hurts… Tell me more.", ["It hurts…", "Tell me more."]),
        ("Yes. ... No.", ["Yes. ...", "No."]),
        ("", []),
        (" ... ?! ", []),
    ],
)
def test_sentences_end_where_a_reader_sees_an_end(reply: str, expected: list[str]) -> None:
    assert sentences_of(reply) == expected


@given(st.lists(st.sampled_from(["Yes.", "Dr.", "It", "hurts", "you.", '"Go."', "...", "Why?", "3", "é!"]), max_size=12))
def test_no_word_is_lost_and_no_sentence_is_without_one(parts: list[str]) -> None:
    reply = " ".join(parts)
    found = sentences_of(reply)
    assert [word for sentence in found for word in words_of(sentence)] == words_of(reply)
    assert all(words_of(sentence) for sentence in found)


def test_words_keep_their_apostrophe_and_lose_the_rest() -> None:
    assert words_of("Don’t you SEE it -- _that_ one?") == ["don't", "you", "see", "it", "that", "one"]
