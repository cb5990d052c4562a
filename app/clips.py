"""A turn's pictures and sound as files in memory, and pictures whose faces cannot be recognised: nothing touches the disk."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import av
import cv2
import numpy as np
import soundfile

from app.turn_buffer import Picture, decode_picture
from multimood_core.errors import MediaError
from multimood_core.face_detector import FaceDetector
from multimood_core.records import SAMPLE_RATE
from multimood_core.weights import weights_path

MARGIN: Final = 0.35  # of a face's box on each side: hair, ears and chin tell who it is as well
NEIGHBOURS: Final = 3  # pictures before and after in which a face is covered that the detector lost between them
BLOCKS: Final = 6  # squares across a covered face: too few for a person or a program to know it by
ROUNDS: Final = 4  # a picture in which a face is still found after so many is blurred whole
_MIN_SCORE: Final = 0.2  # of a face that is covered: below the detector's own, rather once too often
_CHECK_SCORE: Final = 0.4  # of a face that may not be found in what is handed out, as the app's detector counts it
_BIT_RATE: Final = 1_500_000
_MILLISECONDS: Final = 1000


def sound_file(samples: np.ndarray) -> bytes:
    """16 kHz samples (N,) as FLAC."""
    file = io.BytesIO()
    soundfile.write(file, samples.clip(-1.0, 1.0), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def picture_file(pictures: Sequence[Picture]) -> bytes:
    """A camera's pictures as a WebM without sound, each at its time.

    Raises:
        MediaError: a picture cannot be decoded.
    """
    return _encoded((decode_picture(p.data), p.seconds) for p in pictures)


class Blurrer:
    """Covers faces; one clip at a time.

    Args:
        detector: finds the faces; CenterFace with a low threshold where None.
    """

    def __init__(self, detector: FaceDetector | None = None, check: FaceDetector | None = None) -> None:
        self._detector = detector or FaceDetector(weights_path("face-detector"), _MIN_SCORE)
        self._check = check or FaceDetector(weights_path("face-detector"), _CHECK_SCORE)
        self._lock = threading.Lock()

    def __call__(self, clip: bytes) -> bytes:
        """The clip without a face that the detector finds, checked on what was encoded.

        Raises:
            MediaError: the clip cannot be decoded, or faces are found in it whatever is done.
        """
        with self._lock:
            frames = _decoded(clip)
            covered = self._covered([image for image, _ in frames])
            for _ in range(ROUNDS):
                made = _encoded(zip(covered, (seconds for _, seconds in frames), strict=True))
                seen = [i for i, (image, _) in enumerate(_decoded(made)) if self._check.detect(image)]
                if not seen:
                    return made
                for i in seen:
                    covered[i] = _whole(covered[i])
        raise MediaError("faces are found in this clip whatever is covered; it is not handed out")

    def _covered(self, images: list[np.ndarray]) -> list[np.ndarray]:
        boxes = [[face.box for face in self._detector.detect(image)] for image in images]
        found = []
        for i, image in enumerate(images):
            near = [box for at in boxes[max(0, i - NEIGHBOURS) : i + NEIGHBOURS + 1] for box in at]
            made = _cover(image, near)
            for _ in range(ROUNDS):
                left = [face.box for face in self._detector.detect(made)]
                if not left:
                    break
                made = _cover(made, left)
            else:
                made = _whole(made)
            found.append(made)
        return found


def _cover(image: np.ndarray, boxes: Iterable[tuple[float, float, float, float]]) -> np.ndarray:
    made = image.copy()
    for x, y, width, height in boxes:
        left, top = max(0, int(x - MARGIN * width)), max(0, int(y - MARGIN * height))
        right, bottom = (int(np.ceil(v)) for v in (x + (1 + MARGIN) * width, y + (1 + MARGIN) * height))
        part = made[top:bottom, left:right]
        if part.size:
            few = cv2.resize(part, (BLOCKS, BLOCKS), interpolation=cv2.INTER_AREA)
            made[top:bottom, left:right] = cv2.resize(few, part.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return made


def _whole(image: np.ndarray) -> np.ndarray:
    few = cv2.resize(image, (4, 3), interpolation=cv2.INTER_AREA)
    return cv2.resize(few, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def _encoded(frames: Iterable[tuple[np.ndarray, float]]) -> bytes:
    file, size, last = io.BytesIO(), None, -1
    with av.open(file, "w", format="webm") as container:
        stream = container.add_stream("libvpx", rate=_MILLISECONDS, options={"deadline": "realtime", "cpu-used": "8"})
        stream.pix_fmt, stream.bit_rate = "yuv420p", _BIT_RATE
        for image, seconds in frames:
            even = np.ascontiguousarray(image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2])
            if size is None:
                size = even.shape
                stream.height, stream.width = size[:2]
            if even.shape != size:
                continue  # a phone was turned: one clip has one shape
            frame = av.VideoFrame.from_ndarray(even, format="rgb24").reformat(format="yuv420p")
            last = frame.pts = max(last + 1, round(seconds * _MILLISECONDS))
            container.mux(stream.encode(frame))
        if size is None:
            raise MediaError("expected pictures to keep, got none")
        container.mux(stream.encode())
    return file.getvalue()


def _decoded(clip: bytes) -> list[tuple[np.ndarray, float]]:
    try:
        with av.open(io.BytesIO(clip), "r") as container:
            return [(frame.to_ndarray(format="rgb24"), float(frame.time or 0.0)) for frame in container.decode(video=0)]
    except (av.FFmpegError, IndexError) as cause:
        raise MediaError(f"expected a clip that was kept, got what cannot be decoded ({type(cause).__name__})") from cause


Blur = Callable[[bytes], bytes]
