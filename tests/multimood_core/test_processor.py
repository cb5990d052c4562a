"""The prompt holds each placeholder once whatever a person types, and stays bounded; padding and counts are right."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimood_core.config import MultiMoodConfig
from multimood_core.errors import ModelError
from multimood_core.processor import MAX_TURN_TOKENS, MAX_UTTERANCE_TOKENS
from multimood_core.prompts import AUDIO_TOKEN, HISTORY_TOKEN, MEDIA_TOKENS, MEMORY_TOKEN, VIDEO_TOKEN
from multimood_core.records import Context, HistoryTurn
from tests.multimood_core.tiny import tiny_processor

PROCESSOR = tiny_processor()
IDS = dict(zip(MEDIA_TOKENS, PROCESSOR.media_token_ids, strict=True))


@settings(max_examples=50)
@given(st.text(max_size=40), st.sampled_from([*MEDIA_TOKENS, "<|im_end|>", "\n[OUTPUT FORMAT]"]))
def test_typed_words_never_become_special_tokens(text: str, forged: str) -> None:
    typed = text + forged + text
    ids = PROCESSOR.encode_prompt(typed, [HistoryTurn("client", typed)], Context(typed, typed), typed)
    for token in (VIDEO_TOKEN, AUDIO_TOKEN, HISTORY_TOKEN):
        assert ids.count(IDS[token]) == 1
    assert IDS[MEMORY_TOKEN] not in ids
    plain = PROCESSOR.encode_prompt("a", [HistoryTurn("client", "a")], Context("a", "a"), "a")
    end = PROCESSOR.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ids.count(end) == plain.count(end)


def test_long_words_keep_their_end_and_the_prompt_its_size() -> None:
    long = "nothing " * 20_000 + "but this"
    ids = PROCESSOR.encode_prompt(long, [HistoryTurn("client", long)] * 5, Context(long, long))
    shown = PROCESSOR.tokenizer.decode(ids)
    assert shown.count("but this") == 2 + PROCESSOR.recent_turns + 1  # context, recent turns, utterance
    assert len(ids) < 2 * MAX_UTTERANCE_TOKENS + PROCESSOR.recent_turns * (MAX_TURN_TOKENS + 10) + 200
    assert len(PROCESSOR.encode_history_turn(HistoryTurn("client", long))) <= MAX_TURN_TOKENS + 20


@pytest.mark.parametrize(("guesses", "expected"), [(False, "client: alone <MEM>"), (True, "client [sadness?]: alone <MEM>")])
def test_a_history_turn_is_closed_by_one_memory_token_and_a_guess_stands_marked_or_not_at_all(
    guesses: bool, expected: str
) -> None:
    processor = tiny_processor(guesses=guesses)
    turn = HistoryTurn("client", "alone <MEM>", "sadness", emotion_confirmed=False)
    ids = processor.encode_history_turn(turn)
    assert ids[-1] == IDS[MEMORY_TOKEN]
    assert ids.count(IDS[MEMORY_TOKEN]) == 1
    assert processor.tokenizer.decode(ids[:-1]) == expected
    assert processor.history_text_tokens([turn, turn]) == 2 * (len(ids) - 1)
    assert expected in processor.tokenizer.decode(processor.encode_prompt("now", [turn]))


@given(st.booleans(), st.booleans())
def test_what_a_person_confirmed_always_stands_in_the_history(emotion: bool, strategy: bool) -> None:
    turn = HistoryTurn("therapist", "Since when?", "neutral", "open question", emotion, strategy)
    shown = PROCESSOR.tokenizer.decode(PROCESSOR.encode_history_turn(turn))
    assert ("neutral" in shown, "open question" in shown) == (emotion, strategy)


def test_the_turns_that_stand_as_text_are_the_last_ones() -> None:
    history = [HistoryTurn("client", f"turn {i}") for i in range(4)]
    shown = PROCESSOR.tokenizer.decode(PROCESSOR.encode_prompt("now", history))
    assert [f"turn {i}" in shown for i in range(4)] == [False, False, True, True]
    shown = PROCESSOR.tokenizer.decode(PROCESSOR.encode_prompt("now", history, recent_turns=0))
    assert "turn" not in shown


def test_placeholders_are_repeated_for_their_features() -> None:
    ids = PROCESSOR.encode_prompt("now")
    more = PROCESSOR.expand(ids, {VIDEO_TOKEN: 5, AUDIO_TOKEN: 1, HISTORY_TOKEN: 2})
    assert len(more) == len(ids) + 5
    at = more.index(IDS[VIDEO_TOKEN])
    assert more[at : at + 5] == [IDS[VIDEO_TOKEN]] * 5


def test_a_template_that_loses_a_placeholder_is_refused() -> None:
    processor = tiny_processor()
    processor.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(ModelError, match=r"<video> once.*0 times"):
        processor.encode_prompt("now")


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_masked(side: str) -> None:
    ids, mask = PROCESSOR.pad([[5, 6, 7], [8]], side)
    fill = PROCESSOR.tokenizer.pad_token_id
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1] if side == "left" else [1, 0, 0]]
    assert ids.tolist() == [[5, 6, 7], [fill, fill, 8] if side == "left" else [8, fill, fill]]


def test_a_configuration_without_token_ids_says_how_to_get_them() -> None:
    config = MultiMoodConfig()
    with pytest.raises(ModelError, match=r"video_token_id, audio_token_id.*processor\.register"):
        _ = config.media_token_ids
    PROCESSOR.register(config)
    assert config.media_token_ids == tuple(IDS.values())
