"""MiniLM's states: the same alone and in a batch, and not computed twice."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from multimood_core.text_encoder import LastTexts, MiniLM, late_interaction


@pytest.fixture(scope="module")
def encoder() -> MiniLM:
    return MiniLM(max_length=16)


def test_a_text_has_the_same_states_alone_and_beside_a_longer_one(encoder: MiniLM) -> None:
    short, long = "It hurts.", "It has hurt ever since the day on which she left us."
    (alone,) = MiniLM(max_length=16)([short])
    together, _ = encoder([short, long])
    torch.testing.assert_close(together.pooled, alone.pooled, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together.tokens, alone.tokens, atol=1e-5, rtol=1e-5)
    assert together.tokens.shape == (3, 384)  # it, hurts and the point; no special token


def test_long_texts_are_cut_and_empty_ones_have_no_token(encoder: MiniLM) -> None:
    cut, empty = encoder(["word " * 50, ""])
    assert len(cut.tokens) == 14
    assert len(empty.tokens) == 0
    assert late_interaction(empty.tokens, cut.tokens) == 0.0


def test_what_means_the_same_lies_closer(encoder: MiniLM) -> None:
    plain, alike, other = encoder(["I cannot sleep at night.", "At night I lie awake.", "The bus to town was late."])
    assert plain.pooled @ alike.pooled > plain.pooled @ other.pooled + 0.2


def test_the_last_texts_are_kept_and_encoded_once() -> None:
    asked: list[str] = []

    def encode(texts: Sequence[str]) -> list[int]:
        asked.extend(texts)
        return [len(text) for text in texts]

    lengths = LastTexts(encode, kept=2, batch=2)
    assert lengths(["aaa", "b", "aaa", "cc"]) == [3, 1, 3, 2]
    assert sorted(asked) == ["aaa", "b", "cc"]
    assert lengths(["aaa"]) == [3]
    assert asked.count("aaa") == 1
    assert lengths(["dddd", "b"]) == [4, 1]
    assert asked.count("b") == 2  # it was the oldest of three, and two are kept
