"""The way of every request: who may ask, how much is read, and what becomes of what goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.testclient import TestClient

from app.studies.errors import AbsentError
from app.studies.store import StoreError
from app.web import HEADER, STATIC, STATIC_PREFIX, anybody, json_of, route, static_route
from multimood_core.errors import DataError, MediaError, ModelError

SECRET = "what somebody said"
ERRORS = {AbsentError: 404, DataError: 409, MediaError: 409, ModelError: 503, StoreError: 503, KeyError: 500}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    def fails(request: Request, data: bytes) -> Any:
        raise next(error for error in ERRORS if error.__name__ == request.path_params["name"])(SECRET)

    routes = [
        route("POST", "/told", lambda request, data: {"told": json_of(data)}, most=64),
        route("GET", "/open", lambda request, data: {"n": len(data)}, anybody),
        route("POST", "/fails/{name}", fails),
        static_route(),
    ]
    app = Starlette(routes=routes)
    with TestClient(app, headers={HEADER: "1"}, raise_server_exceptions=False) as client:  # one event loop for all requests
        yield client


def test_what_changes_something_comes_from_our_own_page_and_is_bounded(client: TestClient) -> None:
    assert client.post("/told", json={"a": 1}).json() == {"told": {"a": 1}}
    assert client.post("/told", json={"a": 1}, headers={HEADER: ""}).status_code == 403
    assert client.get("/open", headers={HEADER: ""}).json() == {"n": 0}
    assert client.post("/told", content=b" " * 65).status_code == 413
    assert client.post("/told", headers={HEADER: ""}, content=b" " * 65).status_code == 403, "refused before it is read"
    for body in (b"[]", b"{", b"\xff", b'{"a": "\\ud800"}', b"[" * 60):
        answer = client.post("/told", content=body)
        assert (answer.status_code, answer.json()["error"][:22]) == (400, "Expected a JSON object"), body


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_is_a_sentence_and_one_of_our_own_tells_nothing(client: TestClient, error: type[Exception]) -> None:
    answer = client.post(f"/fails/{error.__name__}")
    assert (answer.status_code, answer.headers["cache-control"]) == (ERRORS[error], "no-store")
    assert (SECRET in answer.json()["error"]) == (error is not KeyError)


def test_the_pages_files_are_given_out_and_no_other(client: TestClient) -> None:
    for path in STATIC.iterdir():
        assert client.get(f"{STATIC_PREFIX}/{path.name}").content == path.read_bytes()
    for name in ("../web.py", "..%2Fweb.py", "%2e%2e/web.py", "web.py", str(STATIC / "live.js"), ".", ".."):
        assert client.get(f"{STATIC_PREFIX}/{name}").status_code == 404, name
