"""Media made on the spot, so that every test knows what is in its clip."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

RATE = 48_000  # Hz, what browsers record


def tone(seconds: float, *, hertz: float = 440.0, amplitude: float = 0.5, rate: int = RATE) -> np.ndarray:
    """A sine (N,) float32."""
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def spectrum_peak(samples: np.ndarray, rate: int = 16_000) -> float:
    """The loudest frequency in Hz."""
    return float(np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples))


def moving_pattern(count: int, *, width: int = 320, height: int = 240) -> list[np.ndarray]:
    """Pictures (H, W, 3) uint8 whose red channel is 4 x their index, with a white upper left corner."""
    images = []
    for index in range(count):
        image = np.zeros((height, width, 3), np.uint8)
        image[..., 0] = min(255, 4 * index)
        image[: height // 4, : width // 4] = 255
        images.append(image)
    return images


def spoken(seconds: float, *, rate: int = 16_000, seed: int = 0) -> np.ndarray:
    """A voice-like sound (N,) float32: a buzz of moving pitch through the formants of changing vowels, in syllables."""
    from scipy.signal import lfilter

    random = np.random.default_rng(seed)
    n = int(seconds * rate)
    t = np.arange(n) / rate
    drift = random.standard_normal(n).cumsum() / np.sqrt(np.arange(1, n + 1))
    pitch = 125 + 20 * np.sin(2 * np.pi * 0.6 * t) + 3 * drift
    source = np.diff(np.floor(np.cumsum(pitch) / rate), prepend=0.0) + 0.003 * random.standard_normal(n)
    vowels = [(730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (660, 1720, 2410)]
    out = np.zeros(n)
    step = int(0.18 * rate)
    for start in range(0, n, step):
        piece = source[start : start + step]
        for formant in vowels[int(random.integers(len(vowels)))]:
            radius = np.exp(-np.pi * 90 / rate)
            piece = lfilter([1 - radius], [1, -2 * radius * np.cos(2 * np.pi * formant / rate), radius**2], piece)
        out[start : start + step] = piece * np.hanning(len(piece)) ** 0.5
    return (0.3 * out / np.abs(out).max()).astype(np.float32)


class _Pipe(io.RawIOBase):
    """A file that cannot be gone back in, which is how a browser's recorder writes."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        self._file.close()
        super().close()


def write_clip(
    path: Path,
    *,
    images: Sequence[np.ndarray] | None = None,
    sound: np.ndarray | None = None,
    video: str = "libx264",
    audio: str = "aac",
    fps: int = 25,
    times: Sequence[float] | None = None,
    rate: int = RATE,
    layout: str = "mono",
    aspect: Fraction | None = None,
    streamed: bool = False,
    options: dict[str, str] | None = None,
) -> Path:
    """Writes pictures at ``fps`` or at ``times`` (s), and sound (N,) or (N, channels), in the format of the suffix.

    ``streamed`` writes without going back to the header, so that a WebM has neither a duration nor a frame count.
    """
    target: Any = _Pipe(path) if streamed else str(path)
    with av.open(target, "w", format=path.suffix[1:] if streamed else None, options=options or {}) as container:
        streams: list[tuple[Any, Any]] = []
        if images is not None:
            stream = container.add_stream(video, rate=fps)
            stream.height, stream.width = images[0].shape[:2]
            stream.pix_fmt = "yuvj420p" if video == "mjpeg" else "rgb24" if video == "png" else "yuv420p"
            if times is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            if aspect is not None:
                stream.codec_context.sample_aspect_ratio = aspect
            frames = [av.VideoFrame.from_ndarray(image, format="rgb24") for image in images]
            for frame, moment in zip(frames, times or [], strict=False):
                frame.pts, frame.time_base = round(moment * 1000), Fraction(1, 1000)
            streams.append((stream, frames))
        if sound is not None:
            stream = container.add_stream(audio, rate=rate, layout=layout)
            channels = sound.reshape(len(sound), -1)
            whole = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(channels.reshape(1, -1)), format="flt", layout=layout
            )
            whole.sample_rate, whole.pts = rate, 0
            streams.append((stream, [whole]))
        for stream, frames in streams:
            for frame in frames:
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    if streamed:
        target.close()
    return path
