"""Text leaves this computer through one gate alone, that somebody opened, and that writes down what went through."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.audit import Audit, AuditError
from app.remote import Purpose, Remote, RemoteOffError
from multimood_core.endpoint import EndpointSettings
from multimood_core.errors import DataError
from tests.multimood_core.stub_endpoint import Answer, StubEndpoint, serve
from tests.test_architecture import REPOSITORY, imported

SAID = "the twins do not visit any more"


@pytest.fixture
def stub() -> Iterator[StubEndpoint]:
    with serve(lambda number, request: Answer("I hear you.")) as stub:
        yield stub


@pytest.fixture
def settings(tmp_path: Path, stub: StubEndpoint) -> EndpointSettings:
    return EndpointSettings("a-model", stub.url, retries=3, cache=tmp_path / "cache.sqlite3")


@pytest.fixture
def remote(tmp_path: Path, settings: EndpointSettings) -> Remote:
    """A model for Compare, none for studies."""
    return Remote(Audit(tmp_path / "audit.jsonl"), lambda purpose: settings if purpose == "compare" else None)


def on(remote: Remote) -> Remote:
    """As somebody has turned it on who saw the host."""
    (offer,) = remote.offers
    remote.turn_on(offer.host, "anna")
    return remote


def asked(remote: Remote, purpose: Purpose = "compare") -> list[str | None]:
    return remote.endpoint(purpose, "anna").ask([[{"role": "user", "content": SAID}]], [bool])


def test_it_is_off_until_somebody_turns_it_on_for_the_host_that_was_shown(remote: Remote, stub: StubEndpoint) -> None:
    assert Remote(remote._audit, lambda purpose: None).shown() == [], "nothing is configured by default"
    (shown,) = remote.shown()
    assert shown["host"] in stub.url
    assert not shown["on"]
    assert shown["uses"][0]["fields"] == ("client-words", "earlier-turns", "earlier-labels", "problem", "situation")
    with pytest.raises(RemoteOffError, match="no text goes there"):
        asked(remote)
    with pytest.raises(DataError, match="look again"):
        remote.turn_on("api.elsewhere.example", "anna")
    with pytest.raises(RemoteOffError):
        asked(remote)
    assert stub.requests == []
    assert asked(on(remote)) == ["I hear you."]
    assert SAID in json.dumps(stub.requests)


def test_each_host_has_a_switch_of_its_own_and_one_act_turns_all_off(tmp_path: Path, settings: EndpointSettings) -> None:
    with serve(lambda number, request: Answer("And I.")) as other:
        both = {"compare": settings, "study": replace(settings, base_url=other.url)}
        remote = Remote(Audit(tmp_path / "audit.jsonl"), lambda purpose: both[purpose])
        here, there = (one["host"] for one in remote.shown())
        remote.turn_on(here, "anna")
        assert asked(remote) == ["I hear you."]
        with pytest.raises(RemoteOffError):
            asked(remote, "study")
        remote.turn_on(there, "anna")
        assert asked(remote, "study") == ["And I."]
        remote.turn_off("anna")
        for purpose in both:
            with pytest.raises(RemoteOffError):
                asked(remote, purpose)  # type: ignore[arg-type]
        both["study"] = settings
        (one,) = remote.shown()
        assert [use["purpose"] for use in one["uses"]] == ["compare", "study"], "one host shows all that it is told"


def test_what_passes_is_written_down_without_its_words(remote: Remote, tmp_path: Path) -> None:
    asked(on(remote))
    remote.turn_off("anna")
    entries = remote._audit.entries()
    assert [e.what for e in entries] == ["remote.on", "remote.asked", "remote.off"]
    host = remote.offers[0].host
    assert (entries[0].about["host"], entries[0].about["purpose"]) == (host, "compare")
    assert str(entries[0].about["fields"]).startswith("client-words,")
    told = {"host": host, "model": "a-model", "purpose": "compare", "prompts": 1, "characters": len(SAID)}
    assert dict(entries[1].about) == told
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert SAID.encode() not in written


def test_an_endpoint_that_was_handed_out_closes_with_the_gate(remote: Remote, stub: StubEndpoint) -> None:
    endpoint = on(remote).endpoint("compare", "anna")
    remote.turn_off("anna")
    with pytest.raises(RemoteOffError):
        endpoint.ask([[{"role": "user", "content": SAID}]], [bool])
    assert stub.requests == []


def test_nothing_is_sent_again_once_it_is_off(tmp_path: Path) -> None:
    """Neither a retry of the call that runs nor the calls that wait behind it."""

    def respond(number: int, request: dict[str, object]) -> Answer:
        remote.turn_off("anna")
        return Answer(status=500, body=b"oops")

    with serve(respond) as stub:
        settings = EndpointSettings("a-model", stub.url, retries=3, concurrency=1)
        remote = on(Remote(Audit(tmp_path / "audit.jsonl"), {"compare": settings}.get))
        endpoint = remote.endpoint("compare", "anna")
        with pytest.raises(RemoteOffError):
            endpoint.ask([[{"role": "user", "content": SAID}]] * 5, [bool] * 5)
        assert len(stub.requests) == 1


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "image_url"}]},
        {"role": "user", "content": b"RIFF"},
        {"role": "user", "content": "a", "audio": "b"},
    ],
)
def test_only_text_passes(remote: Remote, stub: StubEndpoint, message: dict[str, object]) -> None:
    with pytest.raises(DataError, match="text alone"):
        on(remote).endpoint("compare", "anna").ask([[message]], [bool])  # type: ignore[list-item]
    assert stub.requests == []


def test_without_a_log_nothing_passes(remote: Remote, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    blocked = Remote(Audit(tmp_path / "file" / "audit.jsonl"), remote._settings)
    with pytest.raises(AuditError):
        on(blocked)
    assert not blocked.shown()[0]["on"]


def test_no_other_module_of_the_app_reaches_out() -> None:
    clients = {"openai", "httpx", "requests", "aiohttp", "urllib.request", "http.client", "websockets", "gradio_client"}
    broken = []
    for path in sorted((REPOSITORY / "app").rglob("*.py")):
        for line, module in imported(path):
            made = module == "multimood_core.endpoint.Endpoint"
            if (made and path.name != "remote.py") or any(module == c or module.startswith(c + ".") for c in clients):
                broken.append(f"{path.relative_to(REPOSITORY)}:{line} imports {module}")
    assert not broken, "\n".join(broken)
