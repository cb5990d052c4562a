"""What goes into a turn from a file or a microphone."""

from __future__ import annotations

import os
import struct
import time
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multimood_core import media
from multimood_core.errors import MediaError
from multimood_core.records import Turn
from tests import synthetic

# Sixteen of 50 frames: segments of 49/16 frames, midpoints 1.53, 4.59, 7.66 ... 47.47, rounded (by hand).
OF_FIFTY = [2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35, 38, 41, 44, 47]


def test_frames_are_the_midpoints_of_equal_segments() -> None:
    assert media.sample_indices(50, 16).tolist() == OF_FIFTY
    assert media.sample_indices(17, 16).tolist() == list(range(1, 17))  # 0.5, 1.5 ... round up
    assert media.sample_indices(1, 4).tolist() == [0, 0, 0, 0]


@given(st.integers(1, 100_000), st.integers(1, 64))
def test_chosen_frames_exist_rise_and_lie_within_half_a_frame_of_the_midpoint(n: int, k: int) -> None:
    chosen = media.sample_indices(n, k)
    assert chosen.shape == (k,)
    assert (np.diff(chosen) >= 0).all()
    assert chosen.min() >= 0
    assert chosen.max() < n
    assert np.abs(chosen - (np.arange(k) + 0.5) * (n - 1) / k).max() <= 0.5 + 1e-5


def test_no_frames_cannot_be_sampled() -> None:
    with pytest.raises(ValueError, match="n=0"):
        media.sample_indices(0, 16)


def test_padding_to_a_square_centres_the_picture_in_the_mean_colour() -> None:
    image = np.full((2, 6, 3), 9, np.uint8)
    square = media.pad_to_square(image, (0.5, 0.0, 1.0))
    assert square.shape == (6, 6, 3)
    assert (square[2:4] == 9).all()
    assert (square[:2] == [127, 0, 255]).all()
    assert (square[4:] == [127, 0, 255]).all()
    assert media.pad_to_square(image.swapaxes(0, 1), (0, 0, 0)).shape == (6, 6, 3)


def _reds(turn: Turn) -> np.ndarray:
    assert turn.frames is not None
    return turn.frames.images[:, -5, -5, 0].astype(int)


@pytest.mark.parametrize("clip", ["moving_clip", "browser_clip"])
def test_a_clip_gives_its_sampled_frames_their_times_and_its_sound(clip: str, request: pytest.FixtureRequest) -> None:
    turn = media.read_turn(request.getfixturevalue(clip))
    assert turn.frames is not None
    assert turn.frames.images.shape == (16, 240, 320, 3)
    assert turn.frames.images.dtype == np.uint8
    assert np.abs(_reds(turn) - 4 * np.array(OF_FIFTY)).max() <= 12  # what lossy colour leaves of the index
    np.testing.assert_allclose(turn.frames.times, np.array(OF_FIFTY) / 25, atol=0.03)
    assert turn.waveform is not None
    assert turn.waveform.rate == 16_000
    assert turn.waveform.seconds == pytest.approx(2.0, abs=0.05)
    assert turn.seconds == pytest.approx(2.0, abs=0.05)
    assert turn.text is None


def test_the_browser_clip_states_no_length_so_it_is_read_to_its_end(browser_clip: Path) -> None:
    with av.open(str(browser_clip)) as container:
        assert container.duration is None
        assert container.streams.video[0].frames == 0


def test_frames_that_do_not_fit_in_memory_are_the_same_frames(
    moving_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = media.read_turn(moving_clip).frames
    monkeypatch.setattr(media, "HELD_BYTES", 0)
    again = media.read_turn(moving_clip).frames
    assert held is not None
    assert again is not None
    np.testing.assert_array_equal(held.images, again.images)
    np.testing.assert_array_equal(held.times, again.times)


# Display matrix (a, b, c, d) -> where the white upper left corner must appear: (bottom?, right?)
ROTATIONS = {
    "upright": ((1, 0, 0, 1), (0, 0)),
    "clockwise": ((0, 1, -1, 0), (0, 1)),
    "counter-clockwise": ((0, -1, 1, 0), (1, 0)),
    "upside down": ((-1, 0, 0, -1), (1, 1)),
    "mirrored": ((-1, 0, 0, 1), (0, 1)),
    "mirrored and turned": ((0, 1, 1, 0), (0, 0)),
}


@pytest.mark.parametrize("name", ROTATIONS)
def test_a_phone_clip_comes_out_the_way_it_was_held(name: str, tmp_path: Path) -> None:
    (a, b, c, d), (bottom, right) = ROTATIONS[name]
    path = synthetic.write_clip(tmp_path / "phone.mp4", images=synthetic.moving_pattern(5))
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44  # the track header's matrix, 16.16 fixed point (ISO 14496-12)
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    frames = media.read_turn(path).frames
    assert frames is not None
    assert frames.images.shape[1:3] == ((240, 320) if a else (320, 240))
    green = frames.images[0][..., 1]
    corners = {(y, x): green[-5 if y else 5, -5 if x else 5] > 128 for y in (0, 1) for x in (0, 1)}
    assert [place for place, white in corners.items() if white] == [(bottom, right)]


def test_a_clip_of_uneven_frame_rate_keeps_its_own_times(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.15, 1.0, 1.05, 3.0]
    path = synthetic.write_clip(tmp_path / "uneven.mkv", images=synthetic.moving_pattern(6), times=times)
    frames = media.read_turn(path, num_frames=6).frames
    assert frames is not None
    np.testing.assert_allclose(frames.times, np.array(times)[media.sample_indices(6, 6)], atol=0.002)


def test_pixels_come_out_square(tmp_path: Path) -> None:
    path = synthetic.write_clip(
        tmp_path / "wide.mp4", images=synthetic.moving_pattern(5, width=160, height=120), aspect=Fraction(4, 3)
    )
    frames = media.read_turn(path).frames
    assert frames is not None
    assert frames.images.shape[1:3] == (120, 213)


def test_an_8k_picture_is_read_and_made_smaller(tmp_path: Path) -> None:
    image = np.full((4320, 7680, 3), 200, np.uint8)
    turn = media.read_turn(synthetic.write_clip(tmp_path / "8k.jpg", images=[image], video="mjpeg"))
    assert turn.frames is not None
    assert turn.frames.images.shape == (16, 720, 1280, 3)
    assert turn.frames.images.mean() == pytest.approx(200, abs=2)


def test_more_pixels_than_the_limit_are_refused_by_ffmpeg(moving_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "MAX_PIXELS", 320 * 240 - 1)
    with pytest.raises(MediaError, match="FFmpeg"):
        media.read_turn(moving_clip)


def test_a_picture_is_a_turn_of_no_length_whose_frames_repeat(tmp_path: Path) -> None:
    (image,) = synthetic.moving_pattern(1)
    written = synthetic.write_clip(tmp_path / "face.png", images=[image], video="png")
    # To FFmpeg, a name with %d is a pattern for a sequence of pictures.
    turn = media.read_turn(written.rename(tmp_path / "face %d.png"))
    assert turn.frames is not None
    assert turn.waveform is None
    assert turn.seconds == 0
    for read in turn.frames.images:
        np.testing.assert_array_equal(read, image)


def test_sound_alone_keeps_its_pitch_level_and_length(tone_clip: Path) -> None:
    turn = media.read_turn(tone_clip)
    assert turn.frames is None
    assert turn.waveform is not None
    assert len(turn.waveform.samples) == 32_000
    assert turn.waveform.samples.dtype == np.float32
    assert synthetic.spectrum_peak(turn.waveform.samples) == pytest.approx(440, abs=1)
    assert np.abs(turn.waveform.samples[1000:-1000]).max() == pytest.approx(0.5, abs=0.005)


def test_stereo_becomes_the_mean_of_its_channels(tmp_path: Path) -> None:
    left = synthetic.tone(1.0)
    for right, level in ((left, 0.5), (0 * left, 0.25), (-left, 0.0)):
        path = synthetic.write_clip(
            tmp_path / "s.wav", sound=np.stack([left, right], 1), audio="pcm_s16le", layout="stereo"
        )
        waveform = media.read_turn(path).waveform
        assert waveform is not None
        assert np.abs(waveform.samples[1000:-1000]).max() == pytest.approx(level, abs=0.005)


def test_thirty_channels_are_mixed(tmp_path: Path) -> None:
    path = tmp_path / "array.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(30)
        file.setsampwidth(2)
        file.setframerate(16_000)
        mono = (synthetic.tone(1.0, rate=16_000) * 32767).astype("<i2")
        file.writeframes(np.repeat(mono[:, None], 30, 1).tobytes())
    waveform = media.read_turn(path).waveform
    assert waveform is not None
    np.testing.assert_allclose(waveform.samples, mono / 32768, atol=1e-4)


def test_a_clip_without_sound_has_no_waveform(tmp_path: Path) -> None:
    turn = media.read_turn(synthetic.write_clip(tmp_path / "mute.mp4", images=synthetic.moving_pattern(5)))
    assert turn.waveform is None
    assert turn.frames is not None


def test_a_three_hour_recording_is_refused_at_once_and_the_limit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "session.wav"
    size = 3 * 3600 * 8000  # bytes of 8-bit mono at 8 kHz; the file is sparse, only its header is on the disk
    form = (b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, 1, 8000, 8000, 1, 8, b"data", size)
    header = struct.pack("<4sI4s4sIHHIIHH4sI", *form)
    path.write_bytes(header)
    os.truncate(path, len(header) + size)
    begun = time.perf_counter()
    with pytest.raises(MediaError, match=r"at most 600 s.*10800 s"):
        media.read_turn(path)
    assert time.perf_counter() - begun < 5


def test_a_clip_of_unstated_length_is_refused_without_decoding_it(
    browser_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media._FrameCollector, "push", lambda *_: pytest.fail("decoded before the length was known"))
    with pytest.raises(MediaError, match="at most 1.5 s"):
        media.read_turn(browser_clip, max_seconds=1.5)


BROKEN = {
    "words.mp4": b"this is a text, not a clip\n" * 40,
    "empty.mp4": b"",
    "list.m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nother.ts\n#EXT-X-ENDLIST\n",
    "list.ffconcat": b"ffconcat version 1.0\nfile moving.mp4\n",
    "notes.txt": b"only words\n" * 40,
    "noise.webm": bytes(range(256)) * 20,
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_recording_is_refused_in_one_sentence(name: str, media_dir: Path, moving_clip: Path) -> None:
    path = media_dir / name
    path.write_bytes(BROKEN[name])
    with pytest.raises(MediaError) as refusal:
        media.read_turn(path)
    text = str(refusal.value)
    assert text.startswith(name)
    assert "\n" not in text
    assert "FFmpeg: " in text or "no recording" in text


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.mp4", tmp_path):
        with pytest.raises(MediaError, match="found none at"):
            media.read_turn(path)


@pytest.mark.parametrize("kept", [0.9, 0.5])
@pytest.mark.parametrize("kind", ["moov at the end", "moov at the start", "webm"])
def test_a_clip_that_was_cut_short_is_refused(kind: str, kept: float, tmp_path: Path) -> None:
    path = synthetic.write_clip(
        tmp_path / ("clip.webm" if kind == "webm" else "clip.mp4"),
        images=synthetic.moving_pattern(250, width=64, height=48),
        video="libvpx" if kind == "webm" else "libx264",
        options={"movflags": "faststart"} if kind == "moov at the start" else {},
    )
    assert media.read_turn(path).seconds == pytest.approx(10, abs=0.1)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(MediaError, match="FFmpeg: |cut short"):
        media.read_turn(path)


def test_a_codec_that_ffmpeg_does_not_know_is_named(tmp_path: Path) -> None:
    path = synthetic.write_clip(tmp_path / "odd.mp4", images=synthetic.moving_pattern(5))
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(MediaError, match="no decoder for its video stream"):
        media.read_turn(path)


def test_cover_art_is_no_face(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=48_000, layout="mono")
        art = container.add_stream("mjpeg")
        art.width, art.height, art.pix_fmt = 32, 32, "yuvj420p"
        art.disposition = av.stream.Disposition.attached_pic
        for packet in art.encode(av.VideoFrame(32, 32, "yuvj420p")):
            packet.pts = packet.dts = 0
            container.mux(packet)
        container.mux(art.encode())
        frame = av.AudioFrame.from_ndarray(synthetic.tone(1.0)[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts = 48_000, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    turn = media.read_turn(path)
    assert turn.frames is None
    assert turn.waveform is not None


@pytest.fixture(scope="module", params=["mp4", "webm", "wav", "png"])
def small_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Path]:
    path = tmp_path_factory.mktemp("fuzz") / f"clip.{request.param}"
    images = synthetic.moving_pattern(1 if request.param == "png" else 8, width=64, height=48)
    sound = synthetic.tone(0.3)
    if request.param == "wav":
        synthetic.write_clip(path, sound=sound, audio="pcm_s16le")
    elif request.param == "png":
        synthetic.write_clip(path, images=images, video="png")
    elif request.param == "webm":
        synthetic.write_clip(path, images=images, sound=sound, video="libvpx", audio="libopus")
    else:
        synthetic.write_clip(path, images=images, sound=sound)
    return path.read_bytes(), path


@settings(max_examples=60, deadline=10_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_gives_a_turn_or_a_media_error_in_bounded_time(
    small_file: tuple[bytes, Path], data: st.DataObject
) -> None:
    whole, path = small_file
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)), label="kept")])
    changes = st.tuples(st.integers(0, max(0, len(damaged) - 1)), st.integers(0, 255))
    for at, value in data.draw(st.lists(changes, max_size=12), label="changed"):
        if damaged:
            damaged[at] = value
    path.write_bytes(damaged)
    try:
        turn = media.read_turn(path)
    except MediaError:
        return
    assert turn.frames is not None or turn.waveform is not None
    if turn.waveform is not None:
        assert np.isfinite(turn.waveform.samples).all()
        assert np.abs(turn.waveform.samples).max() <= 1


def test_the_research_data_reads(data_dir: Path) -> None:
    clips = [*sorted(data_dir.glob("ravdess_video/*/*.mp4"))[::9], *data_dir.glob("clips_unlabelled/*.*")]
    assert clips
    for path in clips:
        turn = media.read_turn(path)
        assert turn.frames is not None, path
        assert turn.waveform is not None or path.parent.name == "clips_unlabelled", path
    for folder, suffix in (("emodb", "wav"), ("ravdess_speech", "flac")):
        for path in sorted(data_dir.glob(f"{folder}/**/*.{suffix}"))[::40]:
            assert media.read_turn(path).waveform is not None, path
