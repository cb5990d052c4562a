"""A turn of whatever there is becomes events in order; earlier turns are compressed once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from multimood_core.decoding import LABELS, Sampling
from multimood_core.engine import Engine, Finished, Labelled, Perceived, ReplyPart, Transcribed
from multimood_core.errors import MediaError, ModelError
from multimood_core.history_memory import HistoryMemory
from multimood_core.labels import MEDIA_EMOTIONS
from multimood_core.records import (
    SAMPLE_RATE,
    CheckpointId,
    Context,
    Frames,
    HistoryTurn,
    Modalities,
    Turn,
    TurnPrediction,
    Waveform,
)
from multimood_core.registry import Checkpoint
from tests.multimood_core.tiny import tiny_model
from tests.synthetic import moving_pattern, spoken

VOICE = Waveform(spoken(1.5))
SILENCE = Waveform(np.zeros(SAMPLE_RATE, np.float32))
BARS = Frames(np.stack(moving_pattern(4)), np.arange(4) / 25)
HISTORY = [
    HistoryTurn("client", "I feel alone", "sadness"),
    HistoryTurn("therapist", "Since when?", "neutral", "open question"),
    HistoryTurn("client", "For weeks", "depression", emotion_confirmed=False),
]


def faces(count: int) -> Frames:
    """Pictures as small as a face data set's, which are taken for the face themselves."""
    rng = np.random.default_rng(0)
    return Frames(rng.integers(0, 255, (count, 48, 48, 3), dtype=np.uint8), np.arange(count) / 10)


@pytest.fixture(scope="module")
def engine() -> Engine:
    model, processor = tiny_model(seed=3)
    return Engine(Checkpoint(CheckpointId("tiny", "0" * 64), Path(), model, processor))


def predict(engine: Engine, turn: Turn, history: list[HistoryTurn] | None = None) -> TurnPrediction:
    *_, last = engine.predict(turn, history or [], Context("grief", ""), sampling=Sampling(max_tokens=4))
    assert isinstance(last, Finished)
    return last.prediction


@pytest.mark.parametrize(
    ("turn", "expected", "shown"),
    [
        (Turn(text=" nobody listens "), Modalities("missing", "missing", "given"), set()),
        (Turn(text="nobody listens", waveform=SILENCE), Modalities("missing", "silent", "given"), set()),
        (Turn(text="nobody listens", frames=BARS), Modalities("no_face", "missing", "given"), set()),
        (Turn(text="nobody listens", waveform=VOICE), Modalities("missing", "used", "given"), {"voice"}),
        (Turn(text="nobody listens", frames=faces(1)), Modalities("used", "missing", "given"), {"face"}),
        (Turn(text="nobody listens", frames=faces(5), waveform=VOICE), Modalities("used", "used", "given"), {"voice", "face"}),
        (Turn(frames=faces(2), waveform=SILENCE), Modalities("used", "silent", "missing"), {"face"}),
    ],
)
def test_each_turn_is_answered_from_what_there_is(
    engine: Engine, turn: Turn, expected: Modalities, shown: set[str]
) -> None:
    prediction = predict(engine, turn, HISTORY)
    assert prediction.modalities == expected
    assert prediction.transcript == ("nobody listens" if turn.text else "")
    assert set(prediction.expressions) == shown
    for probabilities in prediction.expressions.values():
        assert set(probabilities) == set(MEDIA_EMOTIONS)
        assert sum(probabilities.values()) == pytest.approx(1)
    for label in (prediction.client_emotion, prediction.therapist_emotion, prediction.strategy):
        assert sum(label.probabilities.values()) == pytest.approx(1)
        assert label.probabilities[label.label] == max(label.probabilities.values())


@pytest.mark.parametrize(
    ("turn", "why"),
    [
        (Turn(), "video: missing, audio: missing"),
        (Turn(text=" \n"), "video: missing, audio: missing"),
        (Turn(frames=BARS, waveform=SILENCE), "video: no face, audio: silent"),
        (Turn(frames=Frames(np.zeros((0, 4, 4, 3), np.uint8), np.zeros(0)), waveform=Waveform(np.zeros(0, np.float32))),
         "video: missing, audio: missing"),
    ],
)  # fmt: skip
def test_nothing_at_all_says_what_to_do(engine: Engine, turn: Turn, why: str) -> None:
    with pytest.raises(MediaError, match=rf"{why}.*Speak, look at the camera, or type"):
        predict(engine, turn)


def test_events_come_in_order_and_add_up(engine: Engine) -> None:
    events = list(engine.predict(Turn(text="nobody listens"), HISTORY, sampling=Sampling(max_tokens=6), media_seconds=0.5))
    kinds = [type(event) for event in events]
    parts = kinds.count(ReplyPart)
    assert kinds == [Transcribed, Perceived, Labelled, Labelled, Labelled, *[ReplyPart] * parts, Finished]
    assert [event.task for event in events if isinstance(event, Labelled)] == list(LABELS)
    last = events[-1]
    assert isinstance(last, Finished)
    prediction = last.prediction
    assert parts > 0
    assert prediction.response == "".join(event.text for event in events if isinstance(event, ReplyPart))
    found = {event.task: event.prediction for event in events if isinstance(event, Labelled)}
    assert found == {task: getattr(prediction, task) for task in LABELS}
    seconds = prediction.seconds
    assert seconds.media == 0.5
    assert 0 <= seconds.asr + seconds.towers < seconds.labels < seconds.first_token <= seconds.total
    tokens = prediction.tokens
    assert tokens.history_compressed == len(HISTORY)
    assert tokens.history_text == engine.processor.history_text_tokens(HISTORY) > len(HISTORY)
    assert tokens.response > 0
    assert tokens.prompt > len(engine.processor.encode_prompt("nobody listens"))
    assert prediction.checkpoint == CheckpointId("tiny", "0" * 64)


def test_each_modality_and_the_history_change_the_labels(engine: Engine) -> None:
    plain = predict(engine, Turn(text="nobody listens"))
    for other in (
        predict(engine, Turn(text="nobody listens", waveform=VOICE)),
        predict(engine, Turn(text="nobody listens", frames=faces(4))),
        predict(engine, Turn(text="nobody listens"), HISTORY),
        predict(engine, Turn(text="everybody listens")),
    ):
        assert other.client_emotion.probabilities != plain.client_emotion.probabilities


def test_another_reply_may_be_asked_for_under_other_labels(engine: Engine) -> None:
    run = engine.begin(Turn(text="nobody listens"))
    with pytest.raises(ModelError, match="go through events"):
        _ = run.decoder
    first = list(run.events(Sampling(max_tokens=4)))[-1]
    assert isinstance(first, Finished)
    assert "".join(run.decoder.reply(Sampling(max_tokens=4))) == first.prediction.response
    run.decoder.label("client_emotion", "joy")
    with pytest.raises(ModelError, match="has not been chosen"):
        list(run.decoder.reply())
    for task in LABELS:
        run.decoder.label(task)
    assert "".join(run.decoder.reply(Sampling(max_tokens=4))) == first.prediction.response


def long_history(count: int) -> list[HistoryTurn]:
    return [HistoryTurn("client" if i % 2 == 0 else "therapist", f"turn {i}", "joy") for i in range(count)]


def tokens_of(engine: Engine, turns: list[HistoryTurn]) -> int:
    return sum(len(engine.processor.encode_history_turn(turn)) for turn in turns)


def test_each_turn_is_folded_once(engine: Engine) -> None:
    memory, history = engine.memory(), long_history(6)
    assert memory.rows([]).shape == (0, engine.model.config.llm_size)
    for end in range(1, 7):
        assert len(memory.rows(history[:end])) == end
        assert len(memory.rows(history[:end])) == end
    assert memory.folded == tokens_of(engine, history)


def test_a_corrected_label_folds_from_there_on_and_equals_a_fresh_memory(engine: Engine) -> None:
    memory, history = engine.memory(), long_history(6)
    before = memory.rows(history)
    cost = memory.folded
    corrected = [*history[:3], replace(history[3], emotion="anger"), *history[4:]]
    after = memory.rows(corrected)
    assert memory.folded - cost == tokens_of(engine, corrected[3:])
    torch.testing.assert_close(after, engine.memory().rows(corrected), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after[:3], before[:3], rtol=0, atol=0)
    assert not torch.allclose(after[3:], before[3:], atol=1e-3)
    unconfirmed = [*corrected[:3], replace(corrected[3], emotion_confirmed=False), *corrected[4:]]
    assert not torch.allclose(memory.rows(unconfirmed)[3:], after[3:], atol=1e-3)


def test_a_shorter_history_and_another_one_are_followed(engine: Engine) -> None:
    memory, history = engine.memory(), long_history(5)
    memory.rows(history)
    cost = memory.folded
    torch.testing.assert_close(memory.rows(history[:2]), engine.memory().rows(history[:2]), atol=1e-4, rtol=1e-4)
    assert memory.folded == cost
    other = [HistoryTurn("client", "something else")]
    torch.testing.assert_close(memory.rows(other), engine.memory().rows(other), atol=1e-4, rtol=1e-4)


def test_one_pass_over_the_whole_history_gives_the_same_states(engine: Engine) -> None:
    history = long_history(4)
    units = [token for turn in history for token in engine.processor.encode_history_turn(turn)]
    with torch.no_grad():
        whole = engine.model.model.compress(torch.tensor([units])).memory
    torch.testing.assert_close(engine.memory().rows(history), whole, atol=1e-4, rtol=1e-4)


def test_the_states_kept_for_a_way_back_stay_few(engine: Engine) -> None:
    memory, history = engine.memory(), long_history(300)
    memory.rows(history)
    assert isinstance(memory, HistoryMemory)
    assert len(memory._states) <= 64 + 300 // 64
    cost = memory.folded
    early = [*history[:100], replace(history[100], emotion="fear"), *history[101:]]
    rows = memory.rows(early)
    assert memory.folded - cost == tokens_of(engine, early[64:])  # from the 64th, the last state before the change
    torch.testing.assert_close(rows, engine.memory().rows(early), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("style", ["ecot", "brief"])
@pytest.mark.parametrize("history", [[], HISTORY])
def test_a_prompt_read_beforehand_gives_the_same_answer(style: str, history: list[HistoryTurn]) -> None:
    model, processor = tiny_model(seed=3)
    processor.prompt = style
    engine = Engine(Checkpoint(CheckpointId("tiny", "0" * 64), Path(), model, processor))
    turn, context = Turn(text="nobody listens", frames=faces(4), waveform=VOICE), Context("grief", "")

    def answered(prepare: bool) -> tuple[TurnPrediction, int]:
        memory, read = engine.memory(), 0
        if prepare:
            engine.prepare(history, context, memory)
            read = len(memory._start[1].ids) if memory._start else 0
        run = engine.begin(turn, history, context, memory)
        *_, last = run.events(Sampling(max_tokens=6))
        assert isinstance(last, Finished)
        assert memory._start is None, "what was read is used up"
        return last.prediction, read

    (expected, _), (found, read) = answered(False), answered(True)
    assert 0 < read < found.tokens.prompt
    assert found.response == expected.response
    for task in LABELS:
        assert getattr(found, task).probabilities == pytest.approx(getattr(expected, task).probabilities, abs=1e-4)


@pytest.mark.parametrize(
    ("history", "context"),
    [
        ([*HISTORY[:2], replace(HISTORY[2], emotion="joy", emotion_confirmed=True)], Context("grief", "")),
        (HISTORY[:2], Context("grief", "")),
        (HISTORY, Context("work", "")),
    ],
)
def test_what_was_read_of_another_prompt_is_not_used(engine: Engine, history: list[HistoryTurn], context: Context) -> None:
    memory = engine.memory()
    engine.prepare(HISTORY, Context("grief", ""), memory)
    *_, found = engine.predict(Turn(text="nobody listens"), history, context, memory, Sampling(max_tokens=4))
    *_, expected = engine.predict(Turn(text="nobody listens"), history, context, None, Sampling(max_tokens=4))
    assert isinstance(found, Finished)
    assert isinstance(expected, Finished)
    assert found.prediction.client_emotion.probabilities == pytest.approx(
        expected.prediction.client_emotion.probabilities, abs=1e-5
    )


def test_preparing_twice_reads_once(engine: Engine) -> None:
    memory = engine.memory()
    engine.prepare(HISTORY, None, memory)
    kept = memory._start
    engine.prepare(HISTORY, None, memory)
    assert memory._start is kept
