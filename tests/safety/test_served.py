"""The served app under several pages at once, and under requests that no page sends."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from app.build import Served, serving
from multimood_core.engine import Engine
from tests.soak import soak


@pytest.fixture(scope="module")
def small(engine: Engine) -> Iterator[Served]:
    """The app as it is served, on the tiny model."""
    with serving(engine, port=0) as served:
        yield served


@pytest.mark.usefixtures("brief")
def test_pages_at_once_lose_nothing_and_see_nothing_of_each_other(small: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """``make soak`` in small: three pages over HTTP, every acknowledged decision and note is in its session and in no other."""
    status = asyncio.run(soak(small.url, psutil.Process(), sessions=3, seconds=5.0))
    shown = capsys.readouterr().out
    assert status == 0, shown
    assert "3 sessions" in shown
    assert " 0 decisions" not in shown


def _paths() -> dict[str, Any]:
    """Our own requests as OpenAPI says it: what they take is bytes, and these are the answers that they may give."""
    text = {"schema": {"type": "string", "minLength": 1, "maxLength": 60}}
    token = {"name": "token", "in": "path", "required": True, **text}
    name = {"name": "name", "in": "path", "required": True, **text}
    binary = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
    plain = {"content": {"application/json": {"schema": {}}}}

    def answers(*codes: int) -> dict[str, Any]:
        return {str(code): {"description": "as the request deserves"} for code in codes}

    study = {"name": "study", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0, "maximum": 2**70}}
    own = {"name": "x-multimood", "in": "header", "required": True, "schema": {"enum": ["1", "0"]}}
    prefix = "/multimood/studies"
    refused = answers(400, 401, 403, 404, 409, 429)
    posted = {
        f"{prefix}/{path}": {"post": {"parameters": [own], "requestBody": plain, "responses": refused}}
        for path in ("sign-in", "accept", "sign-out", "password", "invite", "create")
    }
    asked = {
        f"{prefix}/study/{{study}}{path}": {"get": {"parameters": [study], "responses": answers(401, 404)}}
        for path in ("", "/preview", "/results", "/gold")
    }
    return {
        "/multimood/turn/{token}": {"post": {"parameters": [token], "requestBody": binary, "responses": answers(404, 405, 413)}},
        "/multimood/session/{token}/{name}": {"get": {"parameters": [token, name], "responses": answers(404, 405)}},
        f"{prefix}/me": {"get": {"responses": answers(200)}},
        "/multimood/static/{name}": {"get": {"parameters": [name], "responses": answers(200, 404, 405)}},
        **posted,
        **asked,
    }


def _send(url: str, operation: Any, tried: Counter[str]) -> None:
    """Requests that fit the operation, and, where it takes anything, as many that do not."""
    raw = operation.definition.raw
    takes = bool(raw.get("parameters")) or "requestBody" in raw
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)[: 1 + takes]:

        @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
        @given(operation.as_strategy(mode))
        def send(case: schemathesis.Case) -> None:
            answer = case.call(base_url=url, timeout=60)
            assert answer.status_code < 500, (case.as_curl_command(), answer.text[:300])
            assert "Traceback" not in answer.text
            tried[operation.label] += 1
            if mode is GenerationMode.POSITIVE:  # noqa: B023 - it runs before the next mode comes
                assert str(answer.status_code) in raw["responses"], (case, answer.status_code)

        send()


def test_our_own_requests_answer_anything_with_a_sentence(small: Served) -> None:
    """schemathesis: generated paths, headers, queries and bodies; no answer is a server's error or of another kind."""
    document = {"openapi": "3.0.3", "info": {"title": "MultiMood", "version": "1"}, "paths": _paths()}
    tried: Counter[str] = Counter()
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        _send(small.url.rstrip("/"), found.ok(), tried)
    assert len(tried) == len(_paths())
    assert tried.total() >= 200
