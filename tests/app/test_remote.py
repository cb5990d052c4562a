"""Text leaves this computer through one gate alone, that somebody opened, and that writes down what went through."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from app.audit import Audit
from app.remote import Remote, RemoteOffError
from multimood_core.endpoint import EndpointSettings
from multimood_core.errors import DataError
from tests.test_architecture import REPOSITORY, imported

SAID = "the twins do not visit any more"


class Model(BaseHTTPRequestHandler):
    """An OpenAI-compatible server on this computer that keeps what it was sent."""

    got: list[str] = []

    def do_POST(self) -> None:
        Model.got.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "I hear you."}}
        body = json.dumps(
            {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[EndpointSettings]:
    Model.got = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield EndpointSettings(
        "a-model", f"http://127.0.0.1:{server.server_port}/v1", retries=0, cache=tmp_path / "cache.sqlite3"
    )
    server.shutdown()
    server.server_close()


@pytest.fixture
def remote(tmp_path: Path, settings: EndpointSettings) -> Remote:
    return Remote(Audit(tmp_path / "audit.jsonl"), lambda: settings)


def asked(remote: Remote) -> list[str | None]:
    return remote.endpoint("compare", "anna").ask([[{"role": "user", "content": SAID}]], [bool])


def test_it_is_off_until_somebody_turns_it_on_for_the_host_that_was_shown(remote: Remote) -> None:
    assert Remote(remote._audit, lambda: None).offer is None, "nothing is configured by default"
    assert (remote.is_on, Model.got) == (False, [])
    with pytest.raises(RemoteOffError, match="no text leaves"):
        asked(remote)
    offer = remote.offer
    assert offer is not None
    assert offer.fields == ("client-words", "therapist-words", "labels", "problem", "situation")
    with pytest.raises(DataError, match="look again"):
        remote.turn_on("api.elsewhere.example", "anna")
    assert not remote.is_on
    remote.turn_on(offer.host, "anna")
    assert asked(remote) == ["I hear you."]
    assert SAID in Model.got[0]


def test_what_passes_is_written_down_without_its_words(remote: Remote, tmp_path: Path) -> None:
    offer = remote.offer
    assert offer is not None
    remote.turn_on(offer.host, "anna")
    asked(remote)
    remote.turn_off("anna")
    entries = remote._audit.entries()
    assert [e.what for e in entries] == ["remote.on", "remote.asked", "remote.off"]
    assert entries[0].about["host"] == offer.host
    told = {"host": offer.host, "model": "a-model", "purpose": "compare", "prompts": 1, "characters": len(SAID)}
    assert dict(entries[1].about) == told
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert SAID.encode() not in written


def test_an_endpoint_that_was_handed_out_closes_with_the_gate(remote: Remote) -> None:
    offer = remote.offer
    assert offer is not None
    remote.turn_on(offer.host, "anna")
    endpoint = remote.endpoint("compare", "anna")
    remote.turn_off("anna")
    with pytest.raises(RemoteOffError):
        endpoint.ask([[{"role": "user", "content": SAID}]], [bool])
    assert Model.got == []


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "image_url"}]},
        {"role": "user", "content": b"RIFF"},
        {"role": "user", "content": "a", "audio": "b"},
    ],
)
def test_only_text_passes(remote: Remote, message: dict[str, object]) -> None:
    offer = remote.offer
    assert offer is not None
    remote.turn_on(offer.host, "anna")
    with pytest.raises(DataError, match="text alone"):
        remote.endpoint("compare", "anna").ask([[message]], [bool])  # type: ignore[list-item]
    assert Model.got == []


def test_without_a_log_nothing_passes(remote: Remote, tmp_path: Path) -> None:
    offer = remote.offer
    assert offer is not None
    (tmp_path / "file").write_text("")
    blocked = Remote(Audit(tmp_path / "file" / "audit.jsonl"), remote._settings)
    with pytest.raises(DataError):
        blocked.turn_on(offer.host, "anna")
    assert not blocked.is_on


def test_no_other_module_of_the_app_reaches_out() -> None:
    clients = {"openai", "httpx", "requests", "aiohttp", "urllib.request", "http.client", "websockets", "gradio_client"}
    broken = []
    for path in sorted((REPOSITORY / "app").rglob("*.py")):
        for line, module in imported(path):
            made = module == "multimood_core.endpoint.Endpoint"
            if (made and path.name != "remote.py") or any(module == c or module.startswith(c + ".") for c in clients):
                broken.append(f"{path.relative_to(REPOSITORY)}:{line} imports {module}")
    assert not broken, "\n".join(broken)
