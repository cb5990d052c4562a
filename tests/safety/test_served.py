"""The served app under several pages at once, and under requests that no page sends."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import httpx
import psutil
import pytest
import schemathesis
from argon2 import PasswordHasher
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from starlette.routing import Route

from app import build
from app.build import Served, serving
from app.web import HEADER
from multimood_core.engine import Engine
from tests.soak import soak

ADMIN: Final = {"name": "ada", "password": "a long enough one"}
ANSWERS: Final = (200, 303, 400, 401, 403, 404, 405, 409, 413, 429)
# Fields that some request or other reads; with values of any kind they get further than names that nobody knows.
FIELDS: Final = (
    "blind", "by", "checkpoint", "comment", "criteria", "data", "days", "do", "host", "id", "items", "keep", "kind", "name",
    "number", "on", "parts", "password", "person", "preset", "ranks", "rate", "rater", "role", "sampling", "session", "size",
    "source", "state", "systems", "title", "token", "words",
)  # fmt: skip


@pytest.fixture(scope="module")
def web() -> list[FastAPI]:
    """The app's routes, once it is served."""
    return []


@pytest.fixture(scope="module")
def small(engine: Engine, web: list[FastAPI], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The app as it is served, on the tiny model."""
    made, quick = build.web_app, PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    with pytest.MonkeyPatch.context() as patched:
        folder = tmp_path_factory.mktemp("accounts")
        patched.setenv("MULTIMOOD_DATABASE_URL", f"sqlite:///{folder / 'studies.sqlite3'}")
        patched.setattr("app.studies.people.PasswordHasher", lambda: quick)
        patched.setattr(build, "web_app", lambda *arguments: (web.append(made(*arguments)), web[-1])[1])
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


def _paths(web: FastAPI) -> dict[str, Any]:
    """All of our own requests as OpenAPI says it, read from the routes, so that none is forgotten."""
    text = {"schema": {"type": "string", "minLength": 1, "maxLength": 60}}
    whole = {"schema": {"type": "integer", "minimum": 0, "maximum": 2**70}}
    own = {"name": HEADER, "in": "header", "required": True, "schema": {"enum": ["1", "0"]}}
    asked = {"name": "run", "in": "query", **text}
    fields = {"type": "object", "properties": {name: {} for name in FIELDS}}
    body = {"content": {"application/json": {"schema": fields}, "application/octet-stream": {"schema": {"format": "binary"}}}}
    answers = {str(code): {"description": "as the request deserves"} for code in ANSWERS}
    found: dict[str, Any] = {}
    for route in web.routes:
        if not isinstance(route, Route) or not route.path.startswith("/multimood/"):
            continue
        named = re.findall(r"{(\w+)(:int)?}", route.path)
        parameters = [{"name": name, "in": "path", "required": True, **(whole if kind else text)} for name, kind in named]
        for method in (route.methods or set()) - {"HEAD"}:
            operation = {"parameters": [*parameters, own, *([asked] if method == "GET" else [])], "responses": answers}
            if method == "POST":
                operation["requestBody"] = body
            found.setdefault(re.sub(r":int}", "}", route.path), {})[method.lower()] = operation
    return found


def _send(url: str, operation: Any, cookies: dict[str, str], tried: Counter[str]) -> None:
    """Requests that fit the operation, and as many that do not, in the name of somebody who may ask for everything."""
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

        @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
        @given(operation.as_strategy(mode))
        def send(case: schemathesis.Case) -> None:
            answer = case.call(base_url=url, timeout=60, cookies=cookies)
            told = (case.as_curl_command(), answer.status_code, answer.text[:300])
            assert answer.status_code in ANSWERS, told
            assert "Traceback" not in answer.text, told
            if answer.status_code >= 400 and "json" in answer.headers.get("content-type", ""):
                assert answer.json().get("error") or answer.json().get("detail"), told
            tried[operation.label] += 1

        send()


def test_our_own_requests_answer_anything_with_a_sentence(small: Served, web: list[FastAPI]) -> None:
    """schemathesis: generated paths, headers, queries and bodies; no answer is a server's error or of another kind."""
    paths = _paths(web[0])
    with httpx.Client(base_url=small.url, headers={HEADER: "1"}, timeout=60) as client:
        assert client.post("/multimood/studies/first", json=ADMIN).status_code == 200

        def signed_in() -> dict[str, str]:
            client.cookies.clear()
            assert client.post("/multimood/studies/sign-in", json=ADMIN).status_code == 200
            return dict(client.cookies)

        document = {"openapi": "3.0.3", "info": {"title": "MultiMood", "version": "1"}, "paths": paths}
        tried: Counter[str] = Counter()
        for found in schemathesis.openapi.from_dict(document).get_all_operations():
            _send(small.url.rstrip("/"), found.ok(), signed_in(), tried)
    assert len(tried) == sum(map(len, paths.values()))
    assert len(tried) >= 60
    assert tried.total() >= 10 * len(tried)
