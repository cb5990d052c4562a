"""What camera and microphone have given of the turn that is being spoken: bounded memory, and no sample lost unnoticed."""

from __future__ import annotations

import io
import threading
import time
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from multimood_core.errors import MediaError
from multimood_core.media import sample_indices
from multimood_core.records import NUM_FRAMES, SAMPLE_RATE, Face, Frames, Turn, Waveform
from multimood_core.sound import LiveResampler

MAX_TURN_SECONDS: Final = 300.0  # five minutes of speech without a pause is no turn any more
MAX_FRAMES: Final = 1024  # two minutes at 8 frames/s; above it every other frame goes, evenly over the turn
MAX_FRAME_BYTES: Final = 2**20  # a JPEG of 640 x 480 has 30 to 80 KB
MAX_SIDE: Final = 1280  # pixels; as media.MAX_SIDE


@dataclass(frozen=True, slots=True)
class CaptureCounts:
    """What a turn's capture received: ``samples`` at ``rate`` Hz as they came, ``frames``, ``lost`` samples, seconds."""

    samples: int = 0
    rate: int = 0
    frames: int = 0
    lost: int = 0
    seconds: float = 0.0

    @property
    def sound_seconds(self) -> float:
        return self.samples / self.rate if self.rate else 0.0


@dataclass(slots=True, eq=False)
class Picture:
    """A camera's JPEG taken ``seconds`` after the turn began, the ``number``-th that came.

    Whoever searches it for faces leaves them in ``faces``, so that nobody has to again when the turn is over.
    """

    number: int
    seconds: float
    data: bytes
    faces: tuple[Face, ...] | None = None


def decode_picture(data: bytes) -> np.ndarray:
    """A camera's JPEG as (H, W, 3) uint8 RGB.

    Raises:
        MediaError: no picture, or one that no camera takes: larger, or built up in passes, whose number nothing bounds.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            if image.info.get("progressive"):
                raise MediaError("expected a camera's plain JPEG, got a progressive one; reload the page")
            if max(image.size) > MAX_SIDE:
                raise MediaError(f"expected pictures of at most {MAX_SIDE} pixels a side, got {image.size}; reload the page")
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise MediaError(f"expected a JPEG from the camera, got {len(data)} bytes that are none ({error})") from error


class TurnBuffer:
    """Collects one turn. Every method may be called from any thread; ``add_*`` only append."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = time.monotonic()
        self._last = self._begun
        self._pictures: list[Picture] = []
        self._every, self._seen = 1, 0
        self._sound: list[np.ndarray] = []
        self._samples = self._lost = self._rate = 0
        self._resampler: LiveResampler | None = None
        self._resampled = 0

    def add_picture(self, data: bytes, seconds: float) -> None:
        """Appends a JPEG that was taken ``seconds`` after the turn began.

        Raises:
            MediaError: more bytes than a camera picture has.
        """
        if len(data) > MAX_FRAME_BYTES:
            raise MediaError(f"expected camera pictures of at most {MAX_FRAME_BYTES:,} bytes, got {len(data):,}")
        with self._lock:
            self._last = time.monotonic()
            self._seen += 1
            if (self._seen - 1) % self._every == 0:
                self._pictures.append(Picture(self._seen, seconds, data))
            if len(self._pictures) >= MAX_FRAMES:
                del self._pictures[1::2]
                self._every *= 2

    def add_sound(self, samples: np.ndarray, rate: int, offset: int | None = None) -> int:
        """Appends mono samples (N,) at ``rate`` Hz.

        Args:
            samples: int16 or float in [-1, 1].
            rate: in Hz; the same for the whole turn.
            offset: the sender's number of the first of them. What has come before is left out, a gap is counted.

        Returns:
            How many samples the sender may count as received.

        Raises:
            MediaError: the rate changed within the turn, or is none of a microphone.
        """
        with self._lock:
            self._last = time.monotonic()
            if self._resampler is None:
                self._resampler, self._rate = LiveResampler(rate), rate
            if rate != self._rate:
                raise MediaError(f"the microphone changed from {self._rate} to {rate} Hz within a turn; start the turn again")
            if offset is not None:
                reached = self._samples + self._lost
                self._lost += max(0, offset - reached)
                samples = samples[max(0, reached - offset) :]
            if self._samples / rate < MAX_TURN_SECONDS:
                piece = self._resampler.push(samples)
                self._sound.append(piece)
                self._resampled += len(piece)
            self._samples += len(samples)
            return self._samples + self._lost

    @property
    def counts(self) -> CaptureCounts:
        with self._lock:
            return CaptureCounts(self._samples, self._rate, self._seen, self._lost, self._last - self._begun)

    @property
    def age(self) -> float:
        """Seconds since the last picture or sound came."""
        with self._lock:
            return time.monotonic() - self._last

    @property
    def pictures(self) -> list[Picture]:
        """The pictures that are kept in memory, as they came."""
        with self._lock:
            return list(self._pictures)

    def latest_picture(self) -> Picture | None:
        """The last kept picture, or None."""
        with self._lock:
            return self._pictures[-1] if self._pictures else None

    def sound_since(self, start: int) -> np.ndarray:
        """16 kHz samples (M,) from number ``start`` on."""
        with self._lock:
            return self._tail(self._resampled - start)

    def latest_sound(self, seconds: float) -> np.ndarray:
        """The last ``seconds`` of 16 kHz sound (M,), fewer where there are fewer."""
        with self._lock:
            return self._tail(round(seconds * SAMPLE_RATE))

    def _tail(self, count: int) -> np.ndarray:
        pieces: list[np.ndarray] = []
        for piece in reversed(self._sound):
            if count <= 0:
                break
            pieces.append(piece[-count:])
            count -= len(piece)
        return np.concatenate(pieces[::-1]) if pieces else np.zeros(0, np.float32)

    def turn(self) -> Turn:
        """The turn so far, as the engine takes it: frames chosen evenly, sound at 16 kHz.

        Raises:
            MediaError: a chosen picture cannot be decoded.
        """
        with self._lock:
            pictures, sound = list(self._pictures), list(self._sound)
            if self._resampler is not None:
                sound.append(self._resampler.finish())
                self._resampler = None
            seconds = self._last - self._begun
        frames = waveform = None
        if pictures:
            chosen = [pictures[int(i)] for i in sample_indices(len(pictures), min(NUM_FRAMES, len(pictures)))]
            images = [decode_picture(picture.data) for picture in chosen]
            same = [i for i, image in enumerate(images) if image.shape == images[-1].shape]  # a phone may be turned
            frames = Frames(
                np.stack([images[i] for i in same]),
                np.array([chosen[i].seconds for i in same]),
                tuple(chosen[i].faces for i in same),
            )
        if sound and sum(map(len, sound)):
            waveform = Waveform(np.concatenate(sound).clip(-1.0, 1.0))
        return Turn(frames=frames, waveform=waveform, seconds=seconds)
