"""The small typed records that pass from capture to the view (style: one direction, no loose dicts)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

SAMPLE_RATE: Final = 16_000  # Hz; every tower, the VAD and the ASR take 16 kHz mono
NUM_FRAMES: Final = 16  # frames a turn, uniformly sampled (paper, Experimental setup)

Speaker = Literal["client", "therapist"]
VideoMode = Literal["used", "missing", "no_face"]
AudioMode = Literal["used", "missing", "silent"]
TextMode = Literal["given", "transcribed", "missing"]


@dataclass(frozen=True, slots=True)
class Face:
    """A face in a picture: ``box`` x, y, width, height in pixels, ``score`` in [0, 1], and five points of it.

    ``landmarks`` (5, 2) float32 are x, y in pixels of: the eye left in the picture, the right one, the nose's tip, the
    left and the right corner of the mouth.
    """

    box: tuple[float, float, float, float]
    score: float
    landmarks: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        x, y, w, h = self.box
        return np.array([x + w / 2, y + h / 2])

    @property
    def area(self) -> float:
        return self.box[2] * self.box[3]

    @property
    def roll(self) -> float:
        """Degrees by which the line of the eyes turns clockwise from the picture's horizontal."""
        across, down = self.landmarks[1] - self.landmarks[0]
        return float(np.degrees(np.arctan2(down, across)))


@dataclass(frozen=True, slots=True)
class Frames:
    """Pictures of a turn: ``images`` (T, H, W, 3) uint8 RGB and their ``times`` (T,) in seconds from the turn's start.

    ``faces`` are those that were found while the turn was captured: one tuple a picture, None where nobody searched;
    empty when nothing was searched.
    """

    images: np.ndarray
    times: np.ndarray
    faces: tuple[tuple[Face, ...] | None, ...] = ()

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, slots=True)
class Waveform:
    """Mono sound: ``samples`` (N,) float32 in [-1, 1] at ``rate`` Hz."""

    samples: np.ndarray
    rate: int = SAMPLE_RATE

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


@dataclass(frozen=True, slots=True)
class Turn:
    """One client turn as captured, from a live stream or from files: whatever of the three modalities there is."""

    frames: Frames | None = None
    waveform: Waveform | None = None
    text: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class HistoryTurn:
    """An earlier turn of the dialogue.

    Each label is confirmed where a person set or accepted it (gold, a clinician's correction), and else a guess: the
    model's own earlier prediction. The two are never written alike into the history.
    """

    speaker: Speaker
    text: str
    emotion: str | None = None
    strategy: str | None = None
    emotion_confirmed: bool = True
    strategy_confirmed: bool = True

    def without_guesses(self) -> HistoryTurn:
        """The turn with its confirmed labels alone."""
        return HistoryTurn(
            self.speaker,
            self.text,
            self.emotion if self.emotion_confirmed else None,
            self.strategy if self.strategy_confirmed else None,
        )


@dataclass(frozen=True, slots=True)
class Context:
    """What stands around the turns of a session (MESC ``problem_type`` and ``situation``); either may be unknown."""

    problem: str = ""
    situation: str = ""


@dataclass(frozen=True, slots=True)
class LabelPrediction:
    """A label with a calibrated probability for each class of its set (sums to 1)."""

    label: str
    probabilities: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Modalities:
    """What of a turn reached the model, and why not where it did not."""

    video: VideoMode
    audio: AudioMode
    text: TextMode


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of the history as text and as ``<MEM>`` states, of the whole prompt, and of the reply."""

    history_text: int
    history_compressed: int
    prompt: int
    response: int


@dataclass(frozen=True, slots=True)
class Seconds:
    """Wall-clock seconds: how long ``media``, ``asr`` and ``towers`` took, and how long after the turn's end the
    ``labels``, the reply's ``first_token`` and all of it (``total``) were there."""

    media: float
    asr: float
    towers: float
    labels: float
    first_token: float
    total: float


@dataclass(frozen=True, slots=True)
class CheckpointId:
    """Which weights answered: the registry's name and the SHA-256 over the checkpoint's files."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class TurnPrediction:
    """Everything that the model says of one turn (the JSON of ``python -m multimood_core predict``)."""

    client_emotion: LabelPrediction
    therapist_emotion: LabelPrediction
    strategy: LabelPrediction
    response: str
    transcript: str
    modalities: Modalities
    tokens: TokenCounts
    seconds: Seconds
    checkpoint: CheckpointId
    expressions: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Probabilities read from one modality alone (``voice``, ``face``), where it was used."""
