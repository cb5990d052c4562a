"""What a client said stays out of logs and crash reports, wherever an error quotes it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import httpx
import pytest
from sqlalchemy import create_engine, text

from app.build import Served, serving
from app.logs import discreet, log, places
from app.session import Session
from app.stream import Stream
from app.worker import UNEXPECTED
from multimood_core.engine import Engine
from tests.app.conftest import settled

SAID = "nobody knows that I left the blue house in March"


@pytest.fixture(scope="module")
def tiny_served(engine: Engine) -> Iterator[Served]:
    """The whole app on the tiny model."""
    with serving(engine, port=0) as served:
        yield served


def raises(*_: Any, **__: Any) -> NoReturn:
    try:
        raise KeyError(SAID)
    except KeyError as cause:
        raise RuntimeError(f"could not parse {SAID!r}") from cause


def found(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> str:
    shown = capfd.readouterr()
    return shown.out + shown.err + caplog.text


def test_a_turn_that_breaks_leaves_its_place_in_the_log_and_none_of_its_words(
    tiny_served: Served, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    session = tiny_served.sessions.open()
    session.acknowledge()
    monkeypatch.setattr(Engine, "begin", raises)
    session.type_turn(SAID)
    assert settled(session).problem == UNEXPECTED
    written = found(capfd, caplog)
    assert "a turn failed" in written
    assert "test_logs.py" in written, "where it broke is told"
    assert "RuntimeError" in written
    assert "KeyError" in written
    assert SAID not in written
    assert SAID not in UNEXPECTED


def test_gradio_and_uvicorn_write_no_words_either(
    tiny_served: Served, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    session = tiny_served.sessions.open()
    monkeypatch.setattr(Session, "describe", raises)
    monkeypatch.setattr(Stream, "take", raises)
    turn = f"{tiny_served.url}multimood/turn/{session.token}"
    assert httpx.post(turn, content=b"{}", timeout=60).status_code == 500  # which ends its connection
    with httpx.Client(base_url=tiny_served.url, timeout=60) as client:
        answer = describe(client, session.token)
    assert '"success":false' in answer.replace(" ", "")
    written = found(capfd, caplog)
    assert written.count("RuntimeError") >= 2, "both are told"
    assert SAID not in written
    assert SAID not in answer, "nor does the page hear them"


def describe(client: httpx.Client, token: str) -> str:
    """Calls the event that keeps problem and situation as the page does; returns what Gradio sent."""
    config = client.get("/config").json()
    (field,) = (c["id"] for c in config["components"] if c["props"].get("elem_id") == "mm-situation")
    event = next(d for d in config["dependencies"] if any(t[0] == field for t in d["targets"]))
    hash_ = "logs" + token[:6]
    body = {"data": [token, SAID, SAID], "fn_index": event["id"], "session_hash": hash_, "event_data": None}
    assert client.post("/gradio_api/queue/join", json=body).status_code == 200
    heard = ""
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": hash_}) as answer:
        for line in answer.iter_lines():
            heard += line
            if "process_completed" in line:
                break
    return heard


def test_threads_tasks_and_databases_write_no_words_either(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def forgotten() -> None:
        asyncio.get_running_loop().create_task(asyncio.sleep(0)).add_done_callback(raises)
        asyncio.create_task(asyncio.to_thread(raises))  # noqa: RUF006
        await asyncio.sleep(0.1)

    with discreet():
        thread = threading.Thread(target=raises)
        thread.start()
        thread.join()
        asyncio.run(forgotten())
        try:
            create_engine("sqlite://", hide_parameters=True).connect().execute(text("SELECT :a FROM nowhere"), {"a": SAID})
        except Exception as error:
            log.exception("a database failed")
            log.warning("said in passing: %s", error)
            logging.getLogger("sqlalchemy").error("so %s", RuntimeError(SAID))
    written = found(capfd, caplog)
    assert written.count("RuntimeError") >= 3
    assert "OperationalError" in written
    assert SAID not in written


def test_the_guard_is_what_keeps_the_words_out(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    guard = logging.getLogRecordFactory()
    logging.setLogRecordFactory(logging.LogRecord)
    try:
        raises()
    except RuntimeError as error:
        log.exception("without the guard")
        shown = places(error)
    finally:
        logging.setLogRecordFactory(guard)
    assert SAID in found(capfd, caplog)
    assert SAID not in shown
