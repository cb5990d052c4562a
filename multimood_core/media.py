"""Reads clips, pictures and sound into turns: FFmpeg through PyAV, nothing else touches a media file.

A browser's recording says neither how long it is nor how many frames it has, so every file is decoded to its end and
the frames are chosen afterwards. Memory stays bounded: small clips are decoded once and their frames are held until the
choice is made, larger ones are decoded a second time for the chosen frames alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition

from multimood_core.errors import MediaError
from multimood_core.records import NUM_FRAMES, Frames, Turn
from multimood_core.sound import SoundMixer

MAX_SECONDS: Final = 600.0  # a client turn is seconds to a few minutes; a whole session is another thing
MAX_PIXELS: Final = 8192 * 8192  # covers 8K video (7680 x 4320) and large photographs; FFmpeg refuses what is above
MAX_SIDE: Final = 1280  # pixels kept of the longer side: the towers take 384, the face detector 640
MAX_FRAME_RATE: Final = 240  # frames/s, a phone's slow motion; bounds the work for a header that lies about time
# What may be decoded of one file in all: a still picture of 8K that is repeated a hundred thousand times takes some kilobytes.
MAX_VIDEO_PIXELS: Final = 600 * 60 * 1920 * 1080  # ten minutes at 60 frames/s and 1080p, or the same work in other shapes
MAX_SOUND_VALUES: Final = 600 * 48_000 * 32  # samples of all channels: ten minutes of 32 at 48 kHz
MAX_PASSES: Final = 100  # over one JPEG: progressive ones have about ten, and each goes over the whole picture
HELD_BYTES: Final = 128 * 2**20  # undecided frames held in memory before the second decoding is the better way

# Demuxers that follow references into other files or draw text as pictures: none of them is a recording.
_NOT_RECORDINGS: Final = frozenset({"concat", "concatf", "dash", "hls", "imf", "rtsp", "sdp", "tty"})
# Containers whose header states the length from a table or a count. Others estimate it from the bit rate.
_STATE_LENGTH: Final = frozenset({"avi", "flac", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "wav"})


def sample_indices(n: int, k: int) -> np.ndarray:
    """Chooses ``k`` of ``n`` frames at the midpoints of ``k`` equal segments (paper, Experimental setup).

    The segment is ``(n - 1) / k`` frames long. Frames repeat where ``n < k``.

    Returns:
        (k,) int64, rising, each in [0, n).

    Raises:
        ValueError: ``n`` or ``k`` is not positive.
    """
    if n < 1 or k < 1:
        raise ValueError(f"expected at least one frame to choose from and one to choose, got n={n}, k={k}")
    segment = (n - 1) / k
    # VideoLLaMA2 rounds with this nudge, so that x.5 goes up.
    return np.round((np.arange(k) + 0.5) * segment + 1e-6).astype(np.int64)


def pad_to_square(image: np.ndarray, mean: Sequence[float]) -> np.ndarray:
    """Pads an image (H, W, 3) uint8 to (S, S, 3), S = max(H, W), centred, with the mean colour (three of 0..1)."""
    height, width, channels = image.shape
    side = max(height, width)
    square = np.empty((side, side, channels), image.dtype)
    square[:] = np.array([int(m * 255) for m in mean], image.dtype)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    return square


def read_turn(path: str | Path, *, num_frames: int = NUM_FRAMES, max_seconds: float = MAX_SECONDS) -> Turn:
    """Reads a clip, a picture or a sound file in any container and codec that FFmpeg decodes.

    Args:
        path: the file.
        num_frames: frames to choose; a picture or a very short clip repeats its frames.
        max_seconds: the longest turn accepted, in seconds.

    Returns:
        A turn without text. ``frames`` is None where the file has no picture, ``waveform`` where it has no sound;
        the frames are upright, with square pixels, and their longer side is at most ``MAX_SIDE`` pixels.

    Raises:
        MediaError: the file is absent, damaged, cut short, too long, too large, or holds neither picture nor sound.
    """
    path = Path(path)
    with _open(path) as container:
        _refuse_length(path, _stated_seconds(container), max_seconds)
        unstated = _stated_seconds(container) is None
    if unstated:
        _refuse_length(path, _scanned_seconds(path, max_seconds), max_seconds)
    pictures, sound = _FrameCollector(), SoundMixer()
    reached, pixels, values = 0.0, 0, 0
    with _open(path) as container:
        stated = _stated_seconds(container)
        is_picture = container.format.name == "image2" or container.format.name.endswith("_pipe")
        for stream in _streams(container):
            if stream.type == "video" and stream.sample_aspect_ratio:
                pictures.pixel_aspect = float(stream.sample_aspect_ratio)
        for packet in container.demux(_streams(container)):
            reached = max(reached, _packet_end(packet, container))
            _refuse_length(path, reached, max_seconds)
            _refuse_passes(path, packet)
            for frame in packet.decode():
                if isinstance(frame, av.VideoFrame):
                    pixels += frame.width * frame.height
                    pictures.push(frame)
                elif isinstance(frame, av.AudioFrame):
                    values += frame.samples * frame.layout.nb_channels
                    sound.push(frame)
                _refuse_work(path, pixels, values)
            if pictures.count > max_seconds * MAX_FRAME_RATE or sound.seconds > max_seconds:
                _refuse_length(path, np.inf, max_seconds)
    # Half a second covers codec padding and rounding; 1 % the clocks of long recordings.
    if stated is not None and reached < 0.99 * stated - 0.5:
        raise MediaError(
            f"{path.name} ends after {reached:.1f} s though its header states {stated:.1f} s: the file was cut short; "
            "copy or record it again"
        )
    with _told(path):
        waveform = sound.finish()
        if not pictures.count and waveform is None:
            raise MediaError(f"{path.name} holds no picture and no sound that can be decoded; record or export it again")
        start = min(x for x in (pictures.start, sound.start) if x is not None)
        frames = _choose(path, pictures, num_frames, start) if pictures.count else None
    seconds = 0.0 if is_picture else max(pictures.end - start, waveform.seconds if waveform else 0.0)
    return Turn(frames=frames, waveform=waveform, seconds=seconds)


def _choose(path: Path, pictures: _FrameCollector, num_frames: int, start: float) -> Frames:
    wanted = sample_indices(pictures.count, num_frames)
    times = np.array(pictures.times)[wanted] - start
    if pictures.held is not None:
        chosen = {int(i): pictures.held[i] for i in wanted}
        return _frames((chosen[int(i)] for i in wanted), pictures.pixel_aspect, times)
    return _frames(_decode_again(path, wanted), pictures.pixel_aspect, times)


def _decode_again(path: Path, wanted: np.ndarray) -> Iterator[av.VideoFrame]:
    targets = wanted.tolist()
    with _open(path) as container:
        (stream,) = (s for s in _streams(container) if s.type == "video")
        for index, frame in enumerate(container.decode(stream)):
            while targets and targets[0] == index:
                yield frame
                del targets[0]
            if not targets:
                return
    raise MediaError(f"{path.name} decoded to fewer frames the second time; was it written to while it was read?")


class _FrameCollector:
    """Counts and times video frames, and holds them as long as they fit ``HELD_BYTES``."""

    def __init__(self) -> None:
        self.held: list[av.VideoFrame] | None = []
        self.times: list[float] = []
        self.end = 0.0
        self.pixel_aspect = 1.0
        self._bytes = 0

    @property
    def count(self) -> int:
        return len(self.times)

    @property
    def start(self) -> float | None:
        return self.times[0] if self.times else None

    def push(self, frame: av.VideoFrame) -> None:
        # Raw streams have no clock: their frames follow each other at 25 frames/s, FFmpeg's own assumption.
        time = frame.time if frame.time is not None else self.end
        length = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.04
        self.times.append(time)
        self.end = max(self.end, time + length)
        if self.held is not None:
            self._bytes += sum(plane.buffer_size for plane in frame.planes)
            self.held.append(frame)
            if self._bytes > HELD_BYTES:
                self.held = None


@contextmanager
def _open(path: Path) -> Iterator[InputContainer]:
    """Opens a recording."""
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        raise MediaError(f"expected a video, picture or sound file, found none at {path}")
    # An open file and no protocol: a playlist cannot send FFmpeg to other files or the network.
    with (
        _told(path),
        path.open("rb") as file,
        av.open(file, "r", options={"protocol_whitelist": "none"}, metadata_errors="replace") as container,
    ):
        if container.format.name in _NOT_RECORDINGS:
            raise MediaError(f"{path.name} is a {container.format.name} file, no recording; choose a clip")
        for stream in _streams(container):
            if stream.codec_context is None:
                raise ValueError(f"no decoder for its {stream.type} stream")
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            stream.codec_context.thread_type = "AUTO"
        yield container


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turns whatever FFmpeg says inside the block into one sentence."""
    try:
        yield
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        words = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise MediaError(
            f"{path.name} ({path.stat().st_size:,} bytes) cannot be read as a clip, picture or sound "
            f"(FFmpeg: {words}); check that it plays, or record or export it again"
        ) from error


def _streams(container: InputContainer) -> list[Any]:
    """The first stream of pictures and the first of sound; cover art is neither."""
    video = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    chosen = [*video[:1], *container.streams.audio[:1]]
    if not chosen:
        raise ValueError("no stream of pictures or sound")
    return chosen


def _stated_seconds(container: InputContainer) -> float | None:
    if container.format.name not in _STATE_LENGTH:
        return None
    lengths = [float(s.duration * s.time_base) for s in _streams(container) if s.duration and s.time_base]
    if lengths:
        return max(lengths)
    return container.duration / av.time_base if container.duration else None


def _packet_end(packet: av.Packet, container: InputContainer) -> float:
    """Seconds from the recording's start to the end of a packet; 0 for one without a clock."""
    stamp = packet.pts if packet.pts is not None else packet.dts
    if stamp is None or packet.time_base is None:
        return 0.0
    start = (container.start_time or 0) / av.time_base
    return float((stamp + (packet.duration or 0)) * packet.time_base) - start


def _scanned_seconds(path: Path, limit: float) -> float:
    """The length found by reading packets, which costs far less than decoding them; stops above ``limit``."""
    reached = 0.0
    with _open(path) as container:
        for packet in container.demux(_streams(container)):
            reached = max(reached, _packet_end(packet, container))
            if reached > limit:
                break
    return reached


def _refuse_passes(path: Path, packet: av.Packet) -> None:
    # Inside a JPEG's data the marker's first byte is always followed by a zero: what is counted are passes.
    if packet.stream.codec_context.name == "mjpeg" and bytes(packet).count(b"\xff\xda") > MAX_PASSES:
        raise MediaError(f"expected a JPEG of at most {MAX_PASSES} passes, {path.name} has more; save the picture again")


def _refuse_work(path: Path, pixels: int, values: int) -> None:
    if pixels > MAX_VIDEO_PIXELS or values > MAX_SOUND_VALUES:
        raise MediaError(
            f"expected at most {MAX_VIDEO_PIXELS:,} pixels and {MAX_SOUND_VALUES:,} sound samples in all frames together, "
            f"{path.name} has more; export it with a smaller picture or fewer channels"
        )


def _refuse_length(path: Path, seconds: float | None, limit: float) -> None:
    if seconds is not None and seconds > limit:
        length = f"{seconds:.0f} s" if np.isfinite(seconds) else "more"
        raise MediaError(f"expected a turn of at most {limit:g} s, {path.name} has {length}; cut it into turns")


def _frames(frames: Iterable[av.VideoFrame], pixel_aspect: float, times: np.ndarray) -> Frames:
    """Upright RGB pictures of one size: the first frame decides it, should the resolution change on the way."""
    images: list[np.ndarray] = []
    size: tuple[int, int] | None = None
    previous: av.VideoFrame | None = None
    for frame in frames:
        if frame is previous:
            images.append(images[-1])
            continue
        if size is None:
            width, height = frame.width * pixel_aspect, float(frame.height)
            scale = min(1.0, MAX_SIDE / max(width, height))
            size = max(1, round(width * scale)), max(1, round(height * scale))
        rgb = frame.reformat(width=size[0], height=size[1], format="rgb24", interpolation="AREA")
        images.append(_upright(rgb.to_ndarray(), frame))
        previous = frame
    return Frames(np.stack(images), times.astype(np.float64))


def _upright(image: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Applies the display matrix by which a phone says how it was held (16.16 fixed point, row vectors)."""
    try:
        side_data: Any = frame.side_data
        data = side_data["DISPLAYMATRIX"]
    except KeyError:
        return image
    except ValueError:
        # PyAV cannot list side data newer than its table (a photograph's EXIF); the angle it does know.
        return np.rot90(image, round(frame.rotation / 90))
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5]
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return image.swapaxes(0, 1)[:: -1 if b < 0 else 1, :: -1 if c < 0 else 1]
