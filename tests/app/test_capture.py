"""This computer's own devices: absent, in use, and there."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from app import capture
from app.capture import LocalCapture
from app.session import Session
from app.sessions import Sessions
from app.turn_buffer import TurnBuffer
from multimood_core.errors import MediaError


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
