"""No sample is lost unnoticed, and memory stays bounded."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app import turn_buffer
from app.turn_buffer import CaptureCounts, TurnBuffer, decode_picture
from multimood_core.errors import MediaError
from multimood_core.records import NUM_FRAMES, Face
from multimood_core.sound import resample
from tests import synthetic


def jpeg(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=95)
    return out.getvalue()


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=30), st.data())
def test_pieces_that_come_twice_or_overlap_count_once(sizes: list[int], data: st.DataObject) -> None:
    sound = (synthetic.tone(2.0)[: sum(sizes)] * 32767).astype(np.int16)
    buffer, sent = TurnBuffer(), 0
    for size in sizes:
        again = data.draw(st.integers(0, sent))  # the answer was lost: older samples come once more
        received = buffer.add_sound(sound[sent - again : sent + size], synthetic.RATE, sent - again)
        sent = min(len(sound), sent + size)
        assert received == sent
    assert buffer.counts.samples == len(sound)
    assert buffer.counts.lost == 0
    waveform = buffer.turn().waveform
    heard = waveform.samples if waveform else np.zeros(0)  # a sample or two at 48 kHz are none at 16 kHz
    np.testing.assert_allclose(heard, resample(sound, synthetic.RATE).samples, atol=1e-6)


def test_a_gap_is_counted_as_lost() -> None:
    buffer = TurnBuffer()
    buffer.add_sound(np.zeros(480, np.int16), 48_000, 0)
    assert buffer.add_sound(np.zeros(480, np.int16), 48_000, 1480) == 1960
    assert (buffer.counts.samples, buffer.counts.lost) == (960, 1000)


def test_a_microphone_that_changes_is_an_error() -> None:
    buffer = TurnBuffer()
    buffer.add_sound(np.zeros(480, np.int16), 48_000)
    with pytest.raises(MediaError, match="48000 to 44100 Hz"):
        buffer.add_sound(np.zeros(480, np.int16), 44_100)


def test_sound_can_be_followed_and_its_end_heard() -> None:
    buffer, sound = TurnBuffer(), synthetic.tone(1.0, rate=16_000)
    for start in range(0, len(sound), 1000):
        buffer.add_sound(sound[start : start + 1000], 16_000)
    np.testing.assert_array_equal(buffer.sound_since(4000), sound[4000:])
    np.testing.assert_array_equal(buffer.latest_sound(0.25), sound[-4000:])
    np.testing.assert_array_equal(buffer.latest_sound(9.0), sound)
    assert len(buffer.sound_since(len(sound))) == 0


def test_a_turn_holds_frames_spread_over_it() -> None:
    buffer = TurnBuffer()
    for index, image in enumerate(synthetic.moving_pattern(50)):
        buffer.add_picture(jpeg(image), index / 10)
    frames = buffer.turn().frames
    assert frames is not None
    assert frames.images.shape == (NUM_FRAMES, 240, 320, 3)
    assert np.all(np.diff(frames.times) > 0)
    # The red of frame i is 4 i, wherever no white corner is.
    np.testing.assert_allclose(frames.images[:, 200, 200, 0], 4 * np.round(frames.times * 10), atol=6)


def test_a_long_turn_keeps_a_bounded_number_of_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_buffer, "MAX_FRAMES", 64)
    picture = jpeg(np.zeros((8, 8, 3), np.uint8))
    buffer = TurnBuffer()
    for index in range(1000):
        buffer.add_picture(picture, float(index))
        assert len(buffer._pictures) <= 64
    assert buffer.counts.frames == 1000
    times = [picture.seconds for picture in buffer._pictures]
    assert times[0] == 0
    assert times[-1] > 900
    assert len(set(np.diff(times))) == 1


def test_sound_beyond_the_longest_turn_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_buffer, "MAX_TURN_SECONDS", 1.0)
    buffer = TurnBuffer()
    for _ in range(30):
        buffer.add_sound(np.zeros(1600, np.float32), 16_000)
    waveform = buffer.turn().waveform
    assert waveform is not None
    assert waveform.seconds == pytest.approx(1.0)
    assert buffer.counts.samples == 48_000


def test_an_empty_turn_is_empty() -> None:
    turn = TurnBuffer().turn()
    assert (turn.frames, turn.waveform, turn.text) == (None, None, None)
    assert CaptureCounts().sound_seconds == 0


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\xff\xd8\xff\xe0 cut short"])
def test_what_is_no_jpeg_is_refused(data: bytes) -> None:
    with pytest.raises(MediaError, match="expected a JPEG"):
        decode_picture(data)


def test_a_picture_larger_than_a_cameras_is_refused() -> None:
    with pytest.raises(MediaError, match="at most 1280 pixels"):
        decode_picture(jpeg(np.zeros((8, 2000, 3), np.uint8)))
    with pytest.raises(MediaError, match="bytes"):
        TurnBuffer().add_picture(bytes(2**20 + 1), 0.0)


def test_faces_found_while_the_client_speaks_come_with_the_turn() -> None:
    buffer = TurnBuffer()
    face = Face((10.0, 10.0, 20.0, 20.0), 0.9, np.zeros((5, 2), np.float32))
    for number in range(3):
        buffer.add_picture(jpeg(np.zeros((48, 64, 3), np.uint8)), float(number))
        latest = buffer.latest_picture()
        assert latest is not None
        if number != 1:
            latest.faces = (face,) if number else ()
    frames = buffer.turn().frames
    assert frames is not None
    assert frames.faces == ((), None, (face,))
