"""What breaks beside a session does not break the session: the worker, the disk, memory over many turns."""

from __future__ import annotations

import ctypes
import gc
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from app import vault
from app.consent import read_text
from app.keeper import Keeper
from app.privacy_api import PREFIX, PrivacyApi
from app.remote import Remote
from app.retention import Retention
from app.session import Phase, Session
from app.sessions import Sessions
from app.vault_keys import VARIABLE, new_key
from app.worker import UNEXPECTED, BusyError, Job, Worker
from multimood_core.errors import DataError
from multimood_core.records import Turn
from tests.app.conftest import settled

REPOSITORY = Path(__file__).resolve().parents[2]


def _job(done: list[str], name: str, error: BaseException | None = None) -> Job:
    def run() -> None:
        if error is not None:
            raise error
        done.append(name)

    return Job(run, lambda sentence: done.append(f"{name}: {sentence}"), lambda place: None)


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), RecursionError(), SystemExit(1), KeyboardInterrupt()])
def test_no_error_of_a_turn_ends_the_worker(worker: Worker, error: BaseException) -> None:
    done: list[str] = []
    finished = threading.Event()
    worker.submit(_job(done, "first", error))
    worker.submit(Job(finished.set, done.append, lambda place: None))
    assert finished.wait(20)
    assert done == [f"first: {UNEXPECTED}"]


def test_a_session_that_cannot_be_told_keeps_nobody_from_an_answer(worker: Worker) -> None:
    def broken(news: object) -> None:
        raise RuntimeError(str(news))

    gate, begun, finished = threading.Event(), threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        gate.wait(20)

    worker.submit(Job(wait, broken, lambda place: None))
    assert begun.wait(20)
    with pytest.raises(RuntimeError):
        worker.submit(Job(lambda: None, broken, broken))  # its place could not be told: it does not stand in the queue
    calls = iter([None, RuntimeError("gone")])

    def moved(place: int) -> None:
        if (error := next(calls)) is not None:
            raise error

    def failing() -> None:
        raise DataError("refused")

    worker.submit(Job(failing, broken, lambda place: None))
    worker.submit(Job(finished.set, broken, moved))
    gate.set()
    assert finished.wait(20)


def test_a_thread_that_is_told_to_end_goes_on(worker: Worker) -> None:
    """What CPython offers to end a thread from outside is raised where it waits, and where it works."""
    for busy in (False, True):
        begun, gate, finished, told = threading.Event(), threading.Event(), threading.Event(), threading.Event()

        def work(begun: threading.Event = begun, gate: threading.Event = gate) -> None:
            begun.set()
            gate.wait(20)

        if busy:
            worker.submit(Job(work, lambda sentence, told=told: told.set(), lambda place: None))  # type: ignore[misc]
            assert begun.wait(20)
        number = ctypes.c_ulong(worker._thread.ident or 0)
        assert ctypes.pythonapi.PyThreadState_SetAsyncExc(number, ctypes.py_object(SystemExit)) == 1
        gate.set()
        worker.submit(Job(finished.set, lambda sentence: None, lambda place: None))
        assert finished.wait(20)
        if busy:
            assert told.wait(20), "the turn that was cut off is told so"


def test_the_queue_is_bounded_and_says_who_comes_when(sessions: Sessions) -> None:
    """Three sessions at a worker that takes two more than it works on: the last is told to come back, and can."""
    gate = threading.Event()
    opened = [sessions.open() for _ in range(4)]
    for session in opened:
        session.acknowledge()

    def read(number: int) -> Turn:
        if number == 0:
            gate.wait(30)
        return Turn(text=f"I am number {number}.")

    for number, session in enumerate(opened[:3]):
        session.take(lambda number=number: read(number), "typed")  # type: ignore[misc]
        deadline = time.monotonic() + 20
        while opened[0].phase is Phase.WAITING and time.monotonic() < deadline:
            time.sleep(0.01)
    assert [session.place for session in opened[:3]] == [0, 1, 2]
    with pytest.raises(BusyError, match="2 turns are waiting already, at most 2 may; try again in a moment"):
        opened[3].type_turn("I am number 3.")
    assert opened[3].phase is Phase.READY
    gate.set()
    for number, session in enumerate(opened[:3]):
        assert settled(session).exchanges[0].words == f"I am number {number}."
    opened[3].type_turn("I am number 3.")
    assert settled(opened[3]).exchanges[0].words == "I am number 3."


def test_a_full_disk_loses_nothing_that_was_acknowledged_and_passes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.safety.full_disk", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kept"], "room for nothing is no test"
    assert told["refusal"][0] == 503
    assert "nothing was stored" in told["refusal"][1]
    assert told["after"] == 200
    assert told["listed"] == [*told["kept"], told["new"]["study"]]


def test_a_vault_that_goes_away_is_missed_and_comes_back_without_a_loss(
    sessions: Sessions, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moved, then a copy in its place, then held by another process: each is told, and none takes what was kept."""
    monkeypatch.setenv(VARIABLE, new_key().text)
    monkeypatch.setattr(vault, "BUSY_SECONDS", 0.2)
    (tmp_path / "records").mkdir()
    keeper = Keeper(sessions, read_text, tmp_path / "records")
    retention = Retention(keeper)
    api = PrivacyApi(sessions, keeper, retention, Remote(keeper.audit), read_text)
    client = TestClient(Starlette(routes=api.routes), headers={"x-multimood": "1"})

    def asked(path: str, status: int = 200, **body: object) -> dict[str, Any]:
        answer = client.post(f"{PREFIX}/{path}", json=body)
        assert answer.status_code == status, answer.text
        return dict(answer.json())

    keep = {"session": session.token, "person": "Person Nine", "parts": ["transcript"], "by": "client"}
    try:
        number = asked("keep", **keep)["live"]["id"]
        path = keeper.vault.path
        copy, moved = path.with_name("copy"), path.with_name("moved")
        shutil.copyfile(path, copy)
        path.rename(moved)
        found = asked("state")
        assert (found["kept"], "gone from its place" in found["problem"]) == ([], True)
        assert "gone from its place" in asked("keep", 409, **keep | {"parts": ["audio"]})["error"]
        assert "gone from its place" in asked("delete", 409, id=number)["error"]
        assert not path.exists(), "no empty one was put in its place"
        moved.rename(path)
        assert [one["id"] for one in asked("state")["kept"]] == [number]
        path.rename(moved)
        with closing(sqlite3.connect(moved)) as one, closing(sqlite3.connect(path)) as other:
            one.backup(other)
            other.execute("UPDATE part SET key = 'anothers'")
            other.commit()
        for _ in range(2):
            assert "bring the right key back" in asked("state")["problem"]
        copy.replace(path)
        assert [one["id"] for one in asked("keep", **keep | {"parts": ["audio"]})["kept"]] == [number]
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            assert "try again" in asked("state")["problem"]
        assert [one["id"] for one in asked("state")["kept"]] == [number]
    finally:
        retention.close()
        keeper.close()


@pytest.mark.benchmark
@pytest.mark.usefixtures("brief")
def test_memory_stays_flat_over_many_turns(session: Session) -> None:
    """Typed turns, each accepted: the slope of memory over turns, after the first ones. ``memory_over_turns.py`` takes 1,000."""
    held: list[float] = []
    process = psutil.Process()
    for number in range(60):
        session.type_turn(f"This is turn number {number} of this session.")
        settled(session).edit("Go on.")
        if number % 5 == 4:
            gc.collect()
            held.append(process.memory_info().rss / 2**20)
    slope = float(np.polyfit(np.arange(len(held) - 4) * 5, held[4:], 1)[0])
    assert slope < 0.5, f"{1000 * slope:.0f} MB in a thousand turns: {held}"


def test_hostile_files_are_refused_within_limited_memory_and_time() -> None:
    """All of ``hostile.py`` and of what fuzzing found, in a process of limited address space."""
    command = [sys.executable, "-m", "tests.safety.hostile"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1500:]
    assert "FAILED" not in done.stdout
    assert done.stdout.count("\n") >= 10
