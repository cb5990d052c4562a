"""This computer's own devices: absent, in use, and there."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from app import capture
from app.capture import LocalCapture
from app.demo import draw_face
from app.glance import Glancer
from app.session import Session
from app.sessions import Sessions
from app.stream import Stream
from app.turn_buffer import TurnBuffer
from multimood_core.engine import Engine
from multimood_core.errors import MediaError
from tests import synthetic
from tests.app.conftest import settled
from tests.app.test_stream import body


class Camera:
    """Stands where OpenCV's camera would, on a machine that has none."""

    released = False

    def read(self) -> tuple[bool, np.ndarray]:
        return True, np.full((480, 640, 3), 90, np.uint8)

    def release(self) -> None:
        self.released = True


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Camera:
    camera = Camera()

    def no_microphone(buffer: TurnBuffer) -> tuple[Any, str]:
        return None, "No microphone."

    monkeypatch.setattr(capture, "_open_camera", lambda number: (camera, ""))
    monkeypatch.setattr(capture, "_open_microphone", no_microphone)
    return camera


def test_without_devices_one_sentence_says_what_to_do(session: Session) -> None:
    session.begin_capture()
    with pytest.raises(MediaError, match=r"No camera 97 answers.*Type the client's words"):
        LocalCapture(camera=97).start(session)


def test_pictures_come_until_the_turn_ends_and_the_camera_closes(session: Session, camera: Camera) -> None:
    local = LocalCapture()
    buffer = session.begin_capture()
    local.start(session)
    deadline = time.monotonic() + 30
    while (buffer.counts.frames < 3 or local.preview(session) is None) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (local.preview(session) or "").startswith("data:image/jpeg;base64,")
    frames = buffer.turn().frames
    assert frames is not None
    assert frames.images.shape[1:] == (480, 640, 3)
    session.cancel_capture()
    while not camera.released and time.monotonic() < deadline:
        time.sleep(0.02)
    assert camera.released


def test_one_computer_serves_one_turn_at_a_time(sessions: Sessions, session: Session, camera: Camera) -> None:
    local, other = LocalCapture(), sessions.open()
    other.acknowledge()
    for person in (session, other):
        person.begin_capture()
    local.start(session)
    with pytest.raises(MediaError, match="in use by another session"):
        local.start(other)
    assert local.preview(other) is None
    session.cancel_capture()


RATE = 44_100  # Hz, what a sound card gives
BLOCK = 1024  # samples in one of PortAudio's calls


class Microphone:
    """Stands where PortAudio's stream would: calls back with blocks of a voice, one channel wide, and counts them."""

    def __init__(self, samplerate: int, channels: int, dtype: str, callback: Callable[..., None]) -> None:
        assert (samplerate, channels, dtype) == (RATE, 1, "float32")
        self.callback, self.given, self.closed = callback, 0, False
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.speak, daemon=True)
        Microphone.last = self

    last: Microphone

    def speak(self) -> None:
        voice = synthetic.spoken(3.0, rate=RATE)
        block = np.zeros((BLOCK, 1), np.float32)  # PortAudio's own, which it fills again for the next call
        for start in range(0, len(voice) - BLOCK, BLOCK):
            block[:, 0] = voice[start : start + BLOCK]
            self.callback(block, BLOCK, None, None)
            self.given += BLOCK
        self.ended.set()

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self.thread.join()

    def close(self) -> None:
        self.closed = True


def test_a_turn_from_this_computers_own_devices_is_answered_and_nothing_of_it_is_lost(
    engine: Engine, sessions: Sessions, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    face = cv2.cvtColor(draw_face(-0.6, 0.4, 0.0), cv2.COLOR_RGB2BGR)
    seeing = SimpleNamespace(isOpened=lambda: True, read=lambda: (True, face), release=lambda: None)
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: seeing)
    monkeypatch.setitem(
        sys.modules,
        "sounddevice",
        SimpleNamespace(
            query_devices=lambda kind: {"default_samplerate": float(RATE)}, InputStream=Microphone, PortAudioError=RuntimeError
        ),
    )
    monkeypatch.setattr(engine.transcriber, "transcribe", lambda waveform: SimpleNamespace(text="I feel lost."))
    glancer = Glancer(engine, sessions)
    try:
        stream = Stream(sessions, glancer, LocalCapture())
        assert stream.take(session, body({"do": "begin"}))["open"]
        microphone = Microphone.last
        assert microphone.ended.wait(60)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            shown = stream.take(session, body({"do": "data"}))
            if shown["preview"] and shown["looks"] and session.buffer and session.buffer.counts.frames >= 3:
                break
            time.sleep(0.05)
        assert shown["preview"].startswith("data:image/jpeg;base64,")
        assert shown["people"] == 1
        session.end_capture()
        current = settled(session).current
    finally:
        glancer.close()
    assert current is not None, session.problem
    assert current.capture is not None
    assert current.capture.samples == microphone.given > 2.9 * RATE
    assert current.capture.lost == 0
    assert current.modalities is not None
    assert (current.modalities.video, current.modalities.audio, current.words) == ("used", "used", "I feel lost.")
    while not microphone.closed and time.monotonic() < deadline:
        time.sleep(0.02)
    assert microphone.closed
