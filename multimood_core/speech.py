"""Hears speech: who is speaking when (Silero VAD), when a turn is over, and the words (Whisper through CTranslate2).

Whisper invents sentences for silence and noise. So nothing reaches it that the voice-activity detector does not call
speech, and what it says of that is dropped where it doubts itself.
"""

from __future__ import annotations

import functools
import threading
import time
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from multimood_core.errors import ModelError
from multimood_core.records import SAMPLE_RATE, Waveform
from multimood_core.weights import weights_path

SILENCE_DBFS: Final = -60.0  # below it in its loudest tenth of a second, a microphone is muted or unplugged
WINDOW: Final = 512  # samples, 32 ms at 16 kHz: what one step of Silero VAD hears
CONTEXT: Final = 64  # samples of the window before that it hears again
SPEECH: Final = 0.5  # probability from which a window is speech (Silero's own default)
QUIET: Final = 0.35  # and below which speech has ended; between the two it goes on
SPAN_SILENCE: Final = 0.3  # seconds of quiet that part two spans
SPAN_MINIMUM: Final = 0.1  # seconds below which a span is a click or a breath
SPAN_PAD: Final = 0.1  # seconds kept around a span, for soft consonants

# Whisper's own limits for a segment that it should not have written (whisper.transcribe).
NO_SPEECH: Final = 0.6
LOG_PROBABILITY: Final = -1.0
COMPRESSION: Final = 2.4


@dataclass(frozen=True, slots=True)
class SpeechSpan:
    """A stretch of speech, in seconds from the start of the sound."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class TurnEvent:
    """What the end-of-turn detector heard, and when: seconds of sound since it was made or reset."""

    kind: Literal["speech_started", "turn_ended"]
    seconds: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """The words of a turn, empty without speech; the language's code, or None without words; wall-clock seconds."""

    text: str
    language: str | None
    seconds: float


def level_dbfs(samples: np.ndarray) -> float:
    """The level of the loudest tenth of a second of sound (N,), RMS in dB of full scale; -inf for none."""
    size = SAMPLE_RATE // 10
    if not len(samples):
        return float("-inf")
    blocks = np.pad(samples.astype(np.float64), (0, -len(samples) % size)).reshape(-1, size)
    power = float(np.square(blocks).mean(axis=1).max())
    return 10 * float(np.log10(power)) if power > 0 else float("-inf")


def is_silent(waveform: Waveform) -> bool:
    """Whether there is nothing to hear at all: a muted microphone, not a person who says nothing in a room."""
    return level_dbfs(waveform.samples) < SILENCE_DBFS


@functools.cache
def _session(path: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class _SpeechProbabilities:
    """Silero VAD over one stream of sound: keeps its recurrent state and the samples of an unfinished window."""

    def __init__(self) -> None:
        self._run = _session(str(weights_path("silero-vad"))).run
        self._h = np.zeros((1, 1, 128), np.float32)
        self._c = np.zeros((1, 1, 128), np.float32)
        self._context = np.zeros(CONTEXT, np.float32)
        self._rest = np.zeros(0, np.float32)

    def push(self, samples: np.ndarray) -> np.ndarray:
        """The speech probability (T,) of every window that samples (N,) float32 at 16 kHz complete."""
        sound = np.concatenate([self._rest, samples.astype(np.float32)])
        count = len(sound) // WINDOW
        self._rest = sound[count * WINDOW :]
        if not count:
            return np.zeros(0, np.float32)
        windows = sound[: count * WINDOW].reshape(count, WINDOW)
        before = np.concatenate([self._context[None], windows[:-1, -CONTEXT:]])
        self._context = windows[-1, -CONTEXT:].copy()
        heard = np.concatenate([before, windows], axis=1)
        probabilities, self._h, self._c = self._run(None, {"input": heard, "h": self._h, "c": self._c})
        return np.asarray(probabilities)

    def finish(self) -> np.ndarray:
        """The probability of the last window, filled up with silence; (0,) where none is open."""
        return self.push(np.zeros(-len(self._rest) % WINDOW, np.float32))


class VoiceActivity:
    """Finds speech in a finished piece of sound (Silero VAD, embedded)."""

    def probabilities(self, waveform: Waveform) -> np.ndarray:
        """The speech probability (T,) of each 32 ms window."""
        stream = _SpeechProbabilities()
        return np.concatenate([stream.push(waveform.samples), stream.finish()])

    def speech_spans(self, waveform: Waveform) -> list[SpeechSpan]:
        """The stretches of speech, in order and apart from each other."""
        seconds = WINDOW / SAMPLE_RATE
        spans: list[tuple[float, float]] = []
        start: float | None = None
        quiet_since: float | None = None
        probabilities = self.probabilities(waveform)
        for index, probability in enumerate(probabilities):
            now = index * seconds
            if probability >= SPEECH:
                start = now if start is None else start
                quiet_since = None
            elif probability < QUIET and start is not None:
                quiet_since = now if quiet_since is None else quiet_since
                if now + seconds - quiet_since >= SPAN_SILENCE:
                    spans.append((start, quiet_since))
                    start = quiet_since = None
        if start is not None:
            spans.append((start, len(probabilities) * seconds if quiet_since is None else quiet_since))
        # Spans lie SPAN_SILENCE apart, more than two pads: padding never joins them.
        return [
            SpeechSpan(max(0.0, a - SPAN_PAD), min(waveform.seconds, b + SPAN_PAD))
            for a, b in spans
            if b - a >= SPAN_MINIMUM
        ]


class EndOfTurn:
    """Listens to a live microphone and tells when a turn of speech starts and when it is over.

    Args:
        silence: seconds without speech after which the turn is over.
        speech: seconds of speech within the turn before a silence can end it; a cough is no turn.
    """

    def __init__(self, *, silence: float = 1.0, speech: float = 0.25) -> None:
        if silence <= 0 or speech < 0:
            raise ValueError(f"expected silence > 0 s and speech >= 0 s, got {silence} s and {speech} s")
        self._silence, self._speech = silence, speech
        self.reset()

    def reset(self) -> None:
        """Forgets the stream; its seconds start again at 0."""
        self._stream = _SpeechProbabilities()
        self._windows = 0
        self._heard = 0.0
        self._started: float | None = None
        self._quiet_since: float | None = None

    @property
    def speaking(self) -> bool:
        """Whether a turn has started and is not over."""
        return self._started is not None

    def push(self, samples: np.ndarray) -> list[TurnEvent]:
        """Takes the next samples (N,) float32 at 16 kHz, any number of them.

        Returns:
            What happened within them, in order. ``turn_ended`` carries the moment the last speech ended.
        """
        events: list[TurnEvent] = []
        length = WINDOW / SAMPLE_RATE
        for probability in self._stream.push(samples):
            now = self._windows * length
            self._windows += 1
            if probability >= SPEECH or (
                self._started is not None and self._quiet_since is None and probability >= QUIET
            ):
                if self._started is None:
                    self._started = now
                    events.append(TurnEvent("speech_started", now))
                self._heard += length
                self._quiet_since = None
            elif self._started is not None:
                self._quiet_since = now if self._quiet_since is None else self._quiet_since
                if now + length - self._quiet_since >= self._silence:
                    if self._heard >= self._speech:
                        events.append(TurnEvent("turn_ended", self._quiet_since))
                    self._started, self._quiet_since, self._heard = None, None, 0.0
        return events


class Transcriber:
    """Writes down speech with the embedded Whisper tiny (int8, CPU).

    Args:
        language: a language's code such as ``"en"``; None lets the model decide for each turn.
        threads: CPU threads; 0 leaves it to CTranslate2.
    """

    def __init__(self, *, language: str | None = None, threads: int = 0) -> None:
        self.language = language
        self._threads = threads
        self._model: Any = None
        self._lock = threading.Lock()
        self._activity = VoiceActivity()

    def load(self) -> None:
        """Loads the model ahead of the first turn.

        Raises:
            ModelError: the weights are not prepared, or the language is not one that the model knows.
        """
        with self._lock:
            if self._model is not None:
                return
            from faster_whisper import WhisperModel

            model = WhisperModel(
                str(weights_path("whisper")),
                device="cpu",
                compute_type="int8",
                cpu_threads=self._threads,
                local_files_only=True,
            )
            if self.language is not None and self.language not in model.supported_languages:
                raise ModelError(
                    f"expected a language code such as {', '.join(sorted(model.supported_languages)[:6])}, "
                    f"got {self.language!r}"
                )
            self._model = model

    def transcribe(self, waveform: Waveform) -> Transcript:
        """Writes down a turn's words.

        Raises:
            ModelError: see ``load``.
        """
        self.load()
        begun = time.perf_counter()
        spans = [] if is_silent(waveform) else self._activity.speech_spans(waveform)
        if not spans:
            return Transcript("", None, time.perf_counter() - begun)
        first, last = (int(x * SAMPLE_RATE) for x in (spans[0].start, spans[-1].end))
        with self._lock:
            segments, info = self._model.transcribe(
                waveform.samples[first:last],
                language=self.language,
                beam_size=5,
                # Later attempts at a higher temperature are random, and mostly where the words are doubtful anyway.
                temperature=0.0,
                condition_on_previous_text=False,
                without_timestamps=False,
            )
            kept = [segment.text.strip() for segment in segments if _is_credible(segment)]
        text = " ".join(filter(None, kept))
        return Transcript(text, info.language if text else None, time.perf_counter() - begun)


def _is_credible(segment: Any) -> bool:
    doubtful = segment.avg_logprob < LOG_PROBABILITY
    return not (segment.compression_ratio > COMPRESSION or (doubtful and segment.no_speech_prob > NO_SPEECH))
