"""Who speaks when, when a turn is over, and the words."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimood_core.errors import ModelError
from multimood_core.media import read_turn
from multimood_core.records import SAMPLE_RATE, Waveform
from multimood_core.speech import EndOfTurn, Transcriber, TurnEvent, VoiceActivity, is_silent, level_dbfs
from multimood_core.weights import manifest
from tests import synthetic


def _quiet(seconds: float) -> np.ndarray:
    """A room in which nobody speaks: noise at -60 dB of full scale."""
    return np.random.default_rng(1).normal(0, 0.001, int(seconds * SAMPLE_RATE)).astype(np.float32)


@pytest.fixture(scope="module")
def two_sentences() -> Waveform:
    """Speech from 1 to 3 s and from 4.5 to 6.5 s, in 9 s of sound."""
    speech = synthetic.spoken(2.0)
    return Waveform(np.concatenate([_quiet(1), speech, _quiet(1.5), speech, _quiet(2.5)]))


NO_SPEECH = {
    "nothing": np.zeros(0, np.float32),
    "silence": np.zeros(3 * SAMPLE_RATE, np.float32),
    "noise": np.random.default_rng(0).normal(0, 0.1, 3 * SAMPLE_RATE).astype(np.float32),
    "tone": synthetic.tone(3.0, rate=SAMPLE_RATE),
    "click": np.eye(1, 3 * SAMPLE_RATE, SAMPLE_RATE, dtype=np.float32)[0],
}


def test_the_level_is_that_of_the_loudest_tenth_of_a_second() -> None:
    tone = synthetic.tone(0.1, amplitude=1.0, rate=SAMPLE_RATE, hertz=100)
    assert level_dbfs(tone) == pytest.approx(-3.01, abs=0.01)  # a full-scale sine is 1/sqrt(2) RMS
    assert level_dbfs(np.concatenate([np.zeros(32_000, np.float32), tone / 10])) == pytest.approx(-23.01, abs=0.01)
    assert level_dbfs(np.zeros(0, np.float32)) == float("-inf")


def test_a_muted_microphone_is_silent_and_a_soft_voice_is_not() -> None:
    assert is_silent(Waveform(np.zeros(16_000, np.float32)))
    assert is_silent(Waveform(_quiet(1) / 10))
    assert not is_silent(Waveform(synthetic.spoken(1.0) / 50))


def test_speech_is_found_where_it_is(two_sentences: Waveform) -> None:
    spans = VoiceActivity().speech_spans(two_sentences)
    assert [(s.start, s.end) for s in spans] == [
        (pytest.approx(1.0, abs=0.25), pytest.approx(3.0, abs=0.5)),
        (pytest.approx(4.5, abs=0.25), pytest.approx(6.5, abs=0.5)),
    ]


@pytest.mark.parametrize("name", NO_SPEECH)
def test_no_speech_gives_no_span_and_no_words(name: str) -> None:
    waveform = Waveform(NO_SPEECH[name])
    assert VoiceActivity().speech_spans(waveform) == []
    transcript = Transcriber().transcribe(waveform)
    assert (transcript.text, transcript.language) == ("", None)


def test_probabilities_are_those_of_silero_itself(two_sentences: Waveform) -> None:
    import onnxruntime

    # The package's step-by-step model, as its own wrapper drives it: 64 samples of context, 512 of sound.
    (path,) = manifest()["silero-vad"].locate().values()
    stepwise = onnxruntime.InferenceSession(str(path.with_name("silero_vad_16k_op15.onnx")))
    state = np.zeros((2, 1, 128), np.float32)
    sound = np.pad(two_sentences.samples, (64, -len(two_sentences.samples) % 512))
    expected = []
    for start in range(0, len(sound) - 64, 512):
        feeds = {"input": sound[None, start : start + 576], "state": state, "sr": np.array(SAMPLE_RATE)}
        probability, state = stepwise.run(None, feeds)
        expected.append(probability.item())
    np.testing.assert_allclose(VoiceActivity().probabilities(two_sentences), expected, atol=1e-4)


def _events(waveform: Waveform, sizes: list[int], **options: float) -> list[TurnEvent]:
    detector, events, at = EndOfTurn(**options), [], 0
    while at < len(waveform.samples):
        for size in sizes:
            events += detector.push(waveform.samples[at : at + size])
            at += size
    return events


def test_a_turn_ends_after_the_silence_that_was_asked_for(two_sentences: Waveform) -> None:
    events = _events(two_sentences, [1600], silence=1.0)
    assert [event.kind for event in events] == ["speech_started", "turn_ended"] * 2
    # The synthetic voice fades before its end, so the ends are looser than the starts.
    assert [event.seconds for event in events[::2]] == [pytest.approx(t, abs=0.25) for t in (1.0, 4.5)]
    assert [event.seconds for event in events[1::2]] == [pytest.approx(t, abs=0.6) for t in (3.0, 6.5)]
    patient = _events(two_sentences, [1600], silence=2.0)
    assert [event.kind for event in patient] == ["speech_started", "turn_ended"]
    assert patient[1].seconds == pytest.approx(6.5, abs=0.6)


@settings(max_examples=15)
@given(st.lists(st.integers(1, 20_000), min_size=1, max_size=5))
def test_the_size_of_the_chunks_changes_nothing(two_sentences: Waveform, sizes: list[int]) -> None:
    if sum(sizes) < 500:
        sizes = [*sizes, 500]
    assert _events(two_sentences, sizes) == _events(two_sentences, [512])


def test_a_turn_that_goes_on_is_not_over(two_sentences: Waveform) -> None:
    detector = EndOfTurn()
    detector.push(two_sentences.samples[: 2 * SAMPLE_RATE])
    assert detector.speaking
    detector.reset()
    assert not detector.speaking
    assert detector.push(_quiet(2.0)) == []


def test_impossible_silences_are_refused() -> None:
    with pytest.raises(ValueError, match="silence > 0"):
        EndOfTurn(silence=0)


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(ModelError, match="'klingon'"):
        Transcriber(language="klingon").load()


def _words(text: str) -> list[str]:
    return re.sub(r"[^a-z ]", "", text.lower()).split()


def _word_errors(expected: list[str], got: list[str]) -> int:
    distances = list(range(len(got) + 1))
    for i, word in enumerate(expected, 1):
        before, distances[0] = distances[:], i
        for j, other in enumerate(got, 1):
            distances[j] = min(before[j] + 1, distances[j - 1] + 1, before[j - 1] + (word != other))
    return distances[-1]


def test_acted_sentences_are_written_down(data_dir: Path) -> None:
    rows = list(csv.DictReader((data_dir / "ravdess_video" / "labels.csv").open()))[::6]
    transcriber = Transcriber()
    errors = words = 0
    for row in rows:
        waveform = read_turn(data_dir / "ravdess_video" / row["file"]).waveform
        assert waveform is not None
        transcript = transcriber.transcribe(waveform)
        assert transcript.language == "en"
        assert transcript.seconds > 0
        expected = _words(row["statement"])
        errors += _word_errors(expected, _words(transcript.text))
        words += len(expected)
    assert errors / words < 0.15
