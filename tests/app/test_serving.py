"""Where the app may be reached, and what it leaves on the disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from app.live import _take_clip
from app.session import Session
from tests.app.conftest import settled

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


@pytest.mark.parametrize("whole", [True, False])
def test_the_copy_of_an_upload_is_gone_once_it_was_read(session: Session, moving_clip: Path, tmp_path: Path, whole: bool) -> None:
    copy = tmp_path / "upload.mp4"
    copy.write_bytes(moving_clip.read_bytes() if whole else b"no clip")
    _take_clip(session, str(copy))
    settled(session)
    assert not copy.exists()
    assert bool(session.exchanges) == whole
