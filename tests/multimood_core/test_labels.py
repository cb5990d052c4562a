"""Words of other corpora map onto the label sets; what lies outside is left out, and what nobody knows is refused."""

from __future__ import annotations

import pytest

from multimood_core.labels import EMOTIONS, MEDIA_EMOTIONS, STRATEGIES, emotion_in, emotion_of, strategy_in, strategy_of


def test_the_label_sets_are_those_of_the_paper() -> None:
    assert set(EMOTIONS) == {"anger", "sadness", "disgust", "depression", "neutral", "joy", "fear"}
    assert len(STRATEGIES) == len(set(STRATEGIES)) == 10
    assert set(EMOTIONS) - set(MEDIA_EMOTIONS) == {"depression"}


@pytest.mark.parametrize("label", EMOTIONS)
def test_a_label_is_itself_in_any_spelling(label: str) -> None:
    assert emotion_of(label) == emotion_of(f"  {label.upper()}\n") == label


@pytest.mark.parametrize(
    ("word", "label"),
    [("Happy", "joy"), ("calm", "neutral"), ("ANGRY", "anger"), ("anxiety", "fear"), ("HAP", "joy"), ("ｓａｄ", "sadness")],
)
def test_synonyms_of_other_corpora(word: str, label: str) -> None:
    assert emotion_of(word) == label


@pytest.mark.parametrize("word", ["surprise", "Surprised", "boredom", "contempt", "Excited", ""])
def test_an_emotion_outside_the_seven_is_none(word: str) -> None:
    assert emotion_of(word) is None


def test_an_unknown_emotion_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"anger.*got 'hungry'"):
        emotion_of("hungry")


def test_free_words_name_what_they_name_first() -> None:
    assert emotion_in("A mix of Sad and angry") == "sadness"
    assert emotion_in("not enough to say") is None
    assert strategy_in("open questions, then advisement") == "open question"
    assert strategy_in("see the other side") is None


@pytest.mark.parametrize("label", STRATEGIES)
def test_a_strategy_is_itself_in_any_spelling(label: str) -> None:
    assert strategy_of(f" {label.title()} ") == label


def test_strategies_have_other_spellings_and_none_for_undefined() -> None:
    assert strategy_of("Open questions") == "open question"
    assert strategy_of("self  disclosure") == "self-disclosure"
    assert strategy_of("Communication\tskill") == "communication skills"
    assert strategy_of("undefined") is None
    with pytest.raises(ValueError, match="got 'hypnosis'"):
        strategy_of("hypnosis")
