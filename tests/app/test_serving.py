"""Where the app may be reached, and what it leaves on the disk."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import network_guard
import numpy as np
import psutil
import pytest

from app.build import Served
from app.demo import demo_turn, draw_face
from app.live import _take_clip
from app.session import Session
from tests.app.conftest import settled
from tests.app.test_stream import body
from tests.app.test_turn_buffer import jpeg

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "clinic.example"])
def test_the_app_serves_on_this_computer_alone(host: str) -> None:
    command = [sys.executable, "app.py", "--host", host, "--checkpoint", "none"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert f"got {host}" in done.stderr, "refused for its address, before a checkpoint is looked for"


def test_sharing_through_a_host_elsewhere_is_refused() -> None:
    command = [sys.executable, "app.py", "--share", "--checkpoint", "none"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert "expected no --share" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_hand_or_by_a_service_the_app_leaves_no_folder(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "app.py", "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True) as app:
        assert app.stdout is not None
        assert any("MultiMood is at http://127.0.0.1:" in line for line in app.stdout)
        assert list(tmp_path.glob("multimood-*"))
        app.send_signal(number)
        assert app.wait(60) == 0
    assert not list(tmp_path.glob("multimood-*"))


@pytest.mark.parametrize("whole", [True, False])
def test_the_copy_of_an_upload_is_gone_once_it_was_read(session: Session, moving_clip: Path, tmp_path: Path, whole: bool) -> None:
    copy = tmp_path / "upload.mp4"
    copy.write_bytes(moving_clip.read_bytes() if whole else b"no clip")
    _take_clip(session, str(copy))
    settled(session)
    assert not copy.exists()
    assert bool(session.exchanges) == whole


def test_the_served_app_answers_a_turn_and_reaches_for_no_other_machine(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Voice, face and words on the checkpoint that is shipped, in a process that may open no socket but loopback's."""
    log = tmp_path / "attempts"
    monkeypatch.setenv(network_guard.LOG, str(log))
    with pytest.raises(network_guard.NetworkBlockedError):  # the guard stands, and writes down whoever runs into it
        socket.create_connection(("192.0.2.1", 9))
    refused = log.read_text()
    spoken = demo_turn(0).waveform
    assert spoken is not None
    sound = (spoken.samples * 32767).astype(np.int16)
    session = served.sessions.open()
    session.acknowledge()
    with httpx.Client(base_url=served.url, timeout=60) as page:
        assert page.get("/").status_code == 200
        address = f"/multimood/turn/{session.token}"
        assert page.post(address, content=body({"do": "begin"})).json()["open"]
        for number in range(3):
            head = {"do": "data", "rate": spoken.rate, "offset": 0, "first": number}
            face = jpeg(draw_face(-0.6, 0.4, number / 10))
            assert page.post(address, content=body(head, face, 100 * number, sound)).json()["open"]
        session.end_capture()
        settled(session, 240)
        assert session.problem is None
        (turn,) = page.get(f"/multimood/session/{session.token}/session.json").json()["turns"]
        assert page.get(f"/multimood/session/{session.token}/report.html").status_code == 200
    assert turn["client"]["words"]
    assert set(turn["labels"]) == {"client_emotion", "therapist_emotion", "strategy"}
    assert turn["reply"]["suggested"] or turn["reply"]["withheld"]
    assert turn["modalities"]["audio"] == "used"
    assert log.read_text() == refused, "the app reached for another machine"
    there = [c.raddr.ip for c in psutil.Process().net_connections("inet") if c.raddr]
    assert all(map(network_guard.is_local, there)), there
    served.sessions.close(session.token)
