"""The capture stream and the live read-out, without a browser."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.testclient import TestClient

from app.demo import demo_turn, draw_face
from app.glance import Glance, Glancer
from app.session import Phase, Session
from app.sessions import Sessions
from app.stream import Stream
from app.turn_buffer import TurnBuffer
from multimood_core.engine import Engine
from multimood_core.errors import MultiMoodError
from multimood_core.labels import MEDIA_EMOTIONS
from tests.app.conftest import settled
from tests.app.test_turn_buffer import jpeg


@pytest.fixture
def glancer(engine: Engine, sessions: Sessions) -> Iterator[Glancer]:
    glancer = Glancer(engine, sessions)
    yield glancer
    glancer.close()


@pytest.fixture
def stream(sessions: Sessions, glancer: Glancer) -> Stream:
    return Stream(sessions, glancer)


@pytest.fixture
def client(stream: Stream) -> TestClient:
    return TestClient(Starlette(routes=stream.routes))


def body(head: dict[str, Any], picture: bytes = b"", at: int = 0, sound: np.ndarray | None = None) -> bytes:
    line = json.dumps({**head, "pictures": [[len(picture), at]] if picture else []}).encode() + b"\n"
    return line + picture + (b"" if sound is None else sound.astype("<i2").tobytes())


def test_a_turn_flows_in_and_the_readout_flows_back(client: TestClient, session: Session) -> None:
    address = f"/multimood/turn/{session.token}"
    assert client.post(address, content=body({"do": "begin"})).json()["open"]
    spoken = demo_turn(0).waveform
    assert spoken is not None
    voice = (spoken.samples[: 3 * 16_000] * 32767).astype(np.int16)
    found: dict[str, Any] = {}
    for index, start in enumerate(range(0, len(voice), 1600)):
        picture = jpeg(draw_face(0.5, 0.0, index / 10))
        head = {"do": "data", "first": index, "rate": 16_000, "offset": start}
        for _ in range(1 + index % 2):  # the page did not hear the answer, and sends the same once more
            found = client.post(address, content=body(head, picture, 100 * index, voice[start : start + 1600])).json()
        assert found["received"] == min(len(voice), start + 1600)
        time.sleep(0.02)
    deadline = time.monotonic() + 30
    while not (found["face"] and found["voice"]) and time.monotonic() < deadline:
        found = client.post(address, content=body({"do": "data"})).json()
        time.sleep(0.05)
    assert found["face"][0] in MEDIA_EMOTIONS
    assert found["voice"][0] in MEDIA_EMOTIONS
    assert found["people"] == 1
    session.end_capture()
    current = settled(session).current
    assert current is not None
    assert current.capture is not None
    assert current.modalities is not None
    assert (current.capture.samples, current.capture.frames, current.capture.lost) == (len(voice), 30, 0)
    assert (current.modalities.video, current.modalities.audio) == ("used", "used")
    assert set(current.expressions) == {"face", "voice"}
    assert not client.post(address, content=body({"do": "data"})).json()["open"]


def test_a_pause_ends_the_turn(engine: Engine, sessions: Sessions, glancer: Glancer) -> None:
    buffer, glance = TurnBuffer(), Glance()
    spoken = demo_turn(0).waveform
    assert spoken is not None
    buffer.add_sound(spoken.samples[: 2 * 16_000], 16_000)
    glancer.look(buffer, glance)
    assert (glance.speaking, glance.ended) == (True, False)
    buffer.add_sound(np.zeros(2 * 16_000, np.float32), 16_000)
    glancer.look(buffer, glance)
    assert (glance.speaking, glance.ended) == (False, True)


def test_a_picture_without_a_face_says_so(glancer: Glancer) -> None:
    buffer, glance = TurnBuffer(), Glance()
    buffer.add_picture(jpeg(np.full((240, 320, 3), 128, np.uint8)), 0.0)
    glancer.look(buffer, glance)
    assert (glance.face, glance.people, glance.looks) == (None, 0, 1)


def test_a_stranger_gets_nothing(client: TestClient, session: Session) -> None:
    answer = client.post("/multimood/turn/guessed", content=body({"do": "begin"}))
    assert (answer.status_code, session.phase) == (404, Phase.READY)
    assert client.get("/multimood/session/guessed/session.json").status_code == 404


def test_a_second_begin_is_refused_with_a_sentence(client: TestClient, session: Session) -> None:
    address = f"/multimood/turn/{session.token}"
    client.post(address, content=body({"do": "begin"}))
    answer = client.post(address, content=body({"do": "begin"}))
    assert (answer.status_code, answer.json()["error"]) == (409, "A turn is open already; end it first.")
    assert client.post(address, content=body({"do": "cancel"})).json() == {"open": False}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_no_body_breaks_the_stream(stream: Stream, session: Session, data: bytes) -> None:
    if session.phase is Phase.READY:
        session.begin_capture()
    with contextlib.suppress(MultiMoodError):  # any other error fails the test
        stream.take(session, data)
    assert session.phase in (Phase.READY, Phase.LISTENING)


@pytest.mark.parametrize(
    "head",
    [
        {"do": "data", "pictures": [[10**9, 0]]},
        {"do": "data", "pictures": [[3, 0]]},
        {"do": "data", "pictures": [3]},
        {"do": "data", "pictures": [[0, 0]] * 99},
        {"do": "data", "pictures": {}},
        {"do": "data", "first": "none"},
        {"do": "data", "rate": 1},
        {"do": "data", "rate": 48_000, "offset": -1},
        {"do": "data", "rate": "48000"},
        {"do": "sing"},
    ],
)
def test_a_head_that_fits_nothing_is_refused(stream: Stream, session: Session, head: dict[str, Any]) -> None:
    session.begin_capture()
    with pytest.raises(MultiMoodError, match=r"Expected"):
        stream.take(session, json.dumps(head).encode() + b"\n")


def test_a_body_without_end_is_cut_off(client: TestClient, session: Session) -> None:
    assert client.post(f"/multimood/turn/{session.token}", content=bytes(9 * 2**20)).status_code == 413


def test_an_abandoned_turn_is_closed(
    monkeypatch: pytest.MonkeyPatch, sessions: Sessions, glancer: Glancer, session: Session
) -> None:
    monkeypatch.setattr("app.glance.STALE", 0.2)
    session.begin_capture()
    with session.changed:
        assert session.changed.wait_for(lambda: session.phase is Phase.READY, 30)


def test_no_script_may_run_in_the_printed_report(client: TestClient, session: Session) -> None:
    answer = client.get(f"/multimood/session/{session.token}/report.html")
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"] == "default-src 'none'; style-src 'unsafe-inline'"
