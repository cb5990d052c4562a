"""The tests reach this machine and nothing else, also from a child process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import network_guard
import pytest

OUTSIDE = ("192.0.2.1", 9)  # TEST-NET-1: routed nowhere, should the guard ever fail


@pytest.fixture(autouse=True)
def own_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """These attempts are meant: they go to a log of their own and do not fail the session."""
    log = tmp_path / "attempts"
    monkeypatch.setenv(network_guard.LOG, str(log))
    return log


def test_a_connection_to_another_machine_is_refused_and_written_down(own_log: Path) -> None:
    with socket.socket() as client, pytest.raises(network_guard.NetworkBlockedError):
        client.connect(OUTSIDE)
    with socket.socket() as client, pytest.raises(network_guard.NetworkBlockedError):
        client.connect_ex(OUTSIDE)
    with socket.socket(socket.AF_INET6) as client, pytest.raises(network_guard.NetworkBlockedError):
        client.connect(("2001:db8::1", 9, 0, 0))
    with socket.socket(type=socket.SOCK_DGRAM) as client, pytest.raises(network_guard.NetworkBlockedError):
        client.sendto(b"x", OUTSIDE)
    assert len(own_log.read_text().splitlines()) == 4


def test_a_name_is_not_looked_up() -> None:
    with pytest.raises(network_guard.NetworkBlockedError):
        socket.getaddrinfo("example.invalid", 443)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen("http://example.invalid/", timeout=5)


def test_a_child_process_is_refused_too(own_log: Path) -> None:
    code = f"import socket; socket.create_connection({OUTSIDE!r}, 5)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert child.returncode != 0
    assert "NetworkBlockedError" in child.stderr
    assert "192.0.2.1" in own_log.read_text()


def test_loopback_and_unix_sockets_work(tmp_path: Path) -> None:
    servers = [socket.create_server(("127.0.0.1", 0))]
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "s"))
    unix.listen()
    for server in [*servers, unix]:
        with server, socket.socket(server.family) as client:
            answer = threading.Thread(target=lambda server=server: server.accept()[0].sendall(b"hello"))
            answer.start()
            client.connect(server.getsockname())
            assert client.recv(5) == b"hello"
            answer.join()


def test_the_hub_and_analytics_are_off() -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
