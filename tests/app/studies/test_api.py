"""The requests themselves: the role is checked in each, whatever the page shows, and nothing leaks to a rater."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import re
import signal
import socket
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from argon2 import PasswordHasher
from sqlalchemy import select
from starlette.applications import Starlette
from starlette.testclient import TestClient

from app.audit import Audit
from app.remote import Remote
from app.studies import schema
from app.studies import store as store_module
from app.studies.api import StudyApi
from app.studies.people import ROLES
from app.studies.requests import PREFIX
from app.studies.store import Store
from app.web import HEADER
from app.worker import Worker
from tests.app.studies.scene import KEYS, PASSWORD, Scene, line
from tests.app.studies.serve import no_model, serve

OWN = {HEADER: "1"}
APPLICATION = "multimood-away"  # by which the server knows the connections of one test


@pytest.fixture
def api(database: str, scene: Scene, worker: Worker, quick_hasher: PasswordHasher) -> Iterator[StudyApi]:
    made = StudyApi(worker, no_model, Remote(Audit()), database, quick_hasher)
    yield made
    made.close()


def client_of(api: StudyApi, name: str | None = None, base: str = "http://127.0.0.1") -> TestClient:
    """A browser without the page; signed in where a name is given."""
    client = TestClient(Starlette(routes=api.routes), base_url=base, headers=OWN)
    if name is not None:
        answer = client.post(f"{PREFIX}/sign-in", json={"name": name, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
    return client


def test_every_request_refuses_every_other_role(api: StudyApi, scene: Scene) -> None:
    number = scene.study(items=2)
    names = {"admin": "admin", "researcher": "rita"}
    for role in ("annotator", "clinician"):
        names[role] = scene.person(role, f"the-{role}").name
    clients = {role: client_of(api, name) for role, name in names.items()}
    stranger = client_of(api)
    tried = 0
    with scene.store.read() as connection:
        before = [connection.execute(select(table)).all() for table in schema.metadata.sorted_tables]
    for endpoint in api.endpoints:
        path = PREFIX + endpoint.path.replace("{study:int}", str(number)).replace("{name}", "bundle.zip")
        path = re.sub(r"\{\w+:int\}", "1", path)
        if endpoint.roles is None:
            continue
        assert stranger.request(endpoint.method, path, json={} if endpoint.method == "POST" else None).status_code == 401, path
        for role in set(ROLES) - set(endpoint.roles):
            answer = clients[role].request(endpoint.method, path, json={} if endpoint.method == "POST" else None)
            assert answer.status_code == 403, f"{role} {endpoint.method} {path}: {answer.text}"
            tried += 1
    assert tried > 50
    with scene.store.read() as connection:
        after = [connection.execute(select(table)).all() for table in schema.metadata.sorted_tables]
    assert before == after, "a refused request changes nothing"


def test_only_four_requests_are_open_to_strangers(api: StudyApi) -> None:
    assert {e.path for e in api.endpoints if e.roles is None} == {"/me", "/first", "/sign-in", "/accept"}


def test_a_researcher_sees_no_other_researcher_s_study(api: StudyApi, scene: Scene) -> None:
    number = scene.study(items=1)
    scene.person("researcher", "rob")
    other = client_of(api, "rob")
    assert other.get(f"{PREFIX}/list").json() == []
    for endpoint in api.endpoints:
        if "{study:int}" in endpoint.path and "researcher" in (endpoint.roles or ()):
            path = PREFIX + endpoint.path.replace("{study:int}", str(number)).replace("{name}", "bundle.zip")
            path = re.sub(r"\{\w+:int\}", "1", path)
            body: Any = {"run": True, "state": "closed", "do": "remove", "account": 1, "pair": 1, "names": [], "verdicts": {}}
            body["criteria"] = [{"key": "a", "name": "a", "definition": "a"}]
            if endpoint.path.endswith("settings"):
                body = {}
            query = "?kind=official&count=1" if endpoint.path.endswith("sample") else ""
            file = json.dumps({"id": "d", "split": "x", "turns": [{"speaker": "client", "text": "a"},
                                                                  {"speaker": "therapist", "text": "b"}]})  # fmt: skip
            content = file if endpoint.file else json.dumps(body)
            answer = other.request(endpoint.method, path + query, content=content if endpoint.method == "POST" else None)
            assert answer.status_code == 404, f"{endpoint.method} {path}: {answer.status_code} {answer.text}"


def test_a_rater_s_browser_is_never_told_a_system_a_stage_or_gold(api: StudyApi, scene: Scene) -> None:
    number = scene.study(items=3, systems=("secret-alpha", "secret-beta"), attention_every=1)
    with scene.store.write() as connection:  # texts of the scene name their system
        connection.execute(schema.response.update().values(text="A reply of five plain words."))
    rater = scene.person("annotator", "anna")
    scene.studies.add_rater(scene.researcher, number, rater.id)
    client = client_of(api, "anna")
    seen = ""
    for _ in range(8):
        answer = client.post(f"{PREFIX}/work/{number}/next", json={})
        seen += answer.text
        task = answer.json()["task"]
        if task is None:
            break
        body = {"assignment": task["assignment"], "verdicts": dict.fromkeys(KEYS, "a"), "seconds": 3.0, "key": uuid.uuid4().hex}
        seen += client.post(f"{PREFIX}/work/{number}/judge", json=body).text
        seen += client.get(f"{PREFIX}/work/{number}/previous").text
    seen += client.get(f"{PREFIX}/list").text
    for word in ("secret", "attention", "stage", "gold", "sha256", "left_first"):
        assert word not in seen.replace("last_gate", ""), word


def test_another_site_s_page_cannot_act_for_who_is_signed_in(api: StudyApi, scene: Scene) -> None:
    client = client_of(api, "rita")
    body = {"name": "x", "settings": {}}
    assert client.post(f"{PREFIX}/create", json=body, headers={HEADER: ""}).status_code == 403
    assert client.post(f"{PREFIX}/create", json=body).status_code == 200
    cookie = client.post(f"{PREFIX}/sign-in", json={"name": "rita", "password": PASSWORD}).headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


def test_the_first_account_is_made_under_this_computer_s_own_name_alone(
    database: str, worker: Worker, quick_hasher: PasswordHasher
) -> None:
    api = StudyApi(worker, no_model, Remote(Audit()), database, quick_hasher)
    body = {"name": "admin", "password": PASSWORD}
    assert client_of(api, base="http://rebound.example").post(f"{PREFIX}/first", json=body).status_code == 403
    assert client_of(api).get(f"{PREFIX}/me").json() == {"state": "first"}
    assert client_of(api, base="http://localhost").post(f"{PREFIX}/first", json=body).status_code == 200
    assert client_of(api).post(f"{PREFIX}/first", json=body).status_code == 403
    api.close()


def test_who_never_opens_the_tab_has_no_database(tmp_path: Path, worker: Worker) -> None:
    path = tmp_path / "studies.sqlite3"
    api = StudyApi(worker, no_model, Remote(Audit()), f"sqlite:///{path}")
    client = client_of(api)
    assert not path.exists()
    assert client.get(f"{PREFIX}/me").status_code == 200
    assert path.exists()
    api.close()


BROKEN = (
    b"[",
    b"[]",
    b"\xff",
    b'{"name": 1}',
    b'{"name": "x", "settings": {"overlap": "two"}}',
    b'{"name": "x", "settings": {"overlap": 9}}',
    b'{"name": "x", "settings": {"other": 1}}',
)


def test_a_broken_request_is_a_sentence_and_changes_nothing(api: StudyApi, scene: Scene) -> None:
    client = client_of(api, "rita")
    for content in BROKEN:
        answer = client.post(f"{PREFIX}/create", content=content)
        assert answer.status_code == 400, content
        assert answer.json()["error"].startswith("Expected"), content
    assert client.get(f"{PREFIX}/list").json() == []


def test_half_a_character_is_refused_in_a_request_and_in_a_file(api: StudyApi, scene: Scene) -> None:
    client = client_of(api, "rita")
    answer = client.post(f"{PREFIX}/create", content=b'{"name": "x\\ud83d"}')
    assert (answer.status_code, answer.json()["error"][:8]) == (400, "Expected")
    number = scene.study(items=1, opened=False)
    raw = line("i", {"one": "Half \ud83d of it.", "two": "All of it."})
    answer = client.post(f"{PREFIX}/study/{number}/upload", content=raw.encode())
    assert (answer.status_code, answer.json()["error"][:6]) == (400, "Line 1")


def test_a_mistake_of_our_own_shows_no_traceback(api: StudyApi, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(api, "rita")
    monkeypatch.setattr(api.parts.people, "listed", lambda roles: 1 / 0)
    answer = client.get(f"{PREFIX}/people")
    assert answer.status_code == 500
    assert "division" not in answer.text
    assert "try again" in answer.json()["error"]


@contextmanager
def away(database: str) -> Iterator[None]:
    """The database is not there for a while: its file was moved, or its server lets nobody in and ends who is in."""
    if database.startswith("sqlite"):
        path = Path(database.removeprefix("sqlite:///"))
        moved = path.rename(path.with_name("moved.sqlite3"))
        yield
        assert not path.exists(), "no empty one was put in its place"
        moved.rename(path)
        return
    other = database.removesuffix("postgres") + "template1"
    with psycopg.connect(other, autocommit=True, application_name="control") as control:
        control.execute("ALTER DATABASE postgres ALLOW_CONNECTIONS false")
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
        try:
            control.execute(query, [APPLICATION])
            yield
        finally:
            control.execute("ALTER DATABASE postgres ALLOW_CONNECTIONS true")


def test_a_database_that_goes_away_is_told_of_and_comes_back_without_a_loss(
    api: StudyApi, scene: Scene, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGAPPNAME", APPLICATION)
    scene.store.close()
    client = client_of(api, "rita")
    kept = [client.post(f"{PREFIX}/create", json={"name": "before"}).json()["study"]]
    with away(database):
        for answer in (client.post(f"{PREFIX}/create", json={"name": "meanwhile"}), client.get(f"{PREFIX}/me")):
            assert (answer.status_code, "nothing was stored" in answer.json()["error"]) == (503, True)
    kept.append(client.post(f"{PREFIX}/create", json={"name": "after"}).json()["study"])
    assert sorted(one["id"] for one in client.get(f"{PREFIX}/list").json()) == sorted(kept)
    assert [one["name"] for one in client.get(f"{PREFIX}/list").json() if one["name"] == "meanwhile"] == []


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_copy_that_takes_the_place_of_a_lost_database_is_taken_and_an_empty_one_is_not(
    api: StudyApi, scene: Scene, database: str
) -> None:
    scene.store.close()
    client, path = client_of(api, "rita"), Path(database.removeprefix("sqlite:///"))
    kept = client.post(f"{PREFIX}/create", json={"name": "before"}).json()["study"]
    with sqlite3.connect(path) as connection:
        connection.execute("VACUUM INTO ?", [str(path.with_name("copy"))])
    connection.close()
    path.unlink()
    assert client.get(f"{PREFIX}/me").status_code == 503
    path.touch()
    assert client.get(f"{PREFIX}/me").status_code == 503, "nobody becomes admin because a file was lost"
    path.with_name("copy").replace(path)
    assert [one["id"] for one in client.get(f"{PREFIX}/list").json()] == [kept]
    assert client.post(f"{PREFIX}/create", json={"name": "after"}).status_code == 200


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_database_that_another_process_holds_is_not_waited_for_for_ever(
    api: StudyApi, scene: Scene, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "BUSY_SECONDS", 0.2)
    client = client_of(api, "rita")
    with closing(sqlite3.connect(database.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = client.post(f"{PREFIX}/create", json={"name": "x"})
        assert (answer.status_code, "try again" in answer.json()["error"]) == (503, True)
        assert client.get(f"{PREFIX}/list").json() == [], "who reads does not wait"
        other.execute("ROLLBACK")
    assert client.post(f"{PREFIX}/create", json={"name": "x"}).status_code == 200


def test_a_process_that_is_killed_loses_no_acknowledged_judgment(database: str, scene: Scene) -> None:
    number = scene.study(items=60)
    raters = scene.raters(number, 6)
    tokens = []
    for person in raters:  # sessions written directly: signing in is not what is tested
        tokens.append(token := uuid.uuid4().hex)
        values = {"token_sha256": hashlib.sha256(token.encode()).hexdigest(), "account_id": person.id, "created": time.time()}
        with scene.store.write() as connection:
            connection.execute(schema.web_session.insert().values(values | {"expires": time.time() + 3600}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scene.store.close()  # no open database may go along into another process
    process = multiprocessing.get_context("fork").Process(target=serve, args=(database, port), daemon=True)
    process.start()
    assert process.pid is not None
    base, enough = f"http://127.0.0.1:{port}{PREFIX}", threading.Event()
    acknowledged: list[tuple[int, str]] = []

    def work(token: str, index: int) -> None:
        rng = random.Random(index)
        with httpx.Client(headers=OWN, cookies={"multimood_person": token}, timeout=60) as client:
            try:
                while True:
                    task = client.post(f"{base}/work/{number}/next", json={}).json()["task"]
                    key = uuid.uuid4().hex
                    verdicts = {k: rng.choice(["a", "tie", "b"]) for k in KEYS}
                    body = {"assignment": task["assignment"], "verdicts": verdicts, "seconds": 1.0, "key": key}
                    answer = client.post(f"{base}/work/{number}/judge", json=body)
                    if answer.status_code == 200:
                        acknowledged.append((answer.json()["judgment"], key))
                        if len(acknowledged) > 30:
                            enough.set()
            except (httpx.HTTPError, OSError):
                return

    threads = [threading.Thread(target=work, args=(token, i)) for i, token in enumerate(tokens)]
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        for thread in threads:
            thread.start()
        assert enough.wait(120), "no load came about"
        time.sleep(random.random() * 0.1)  # at any moment, another one in each run
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
    for thread in threads:
        thread.join(60)
    reopened = Store(database)
    with reopened.read() as connection:
        kept = {row.id: row.key for row in connection.execute(select(schema.judgment.c.id, schema.judgment.c.key))}
        if reopened.is_sqlite:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    reopened.close()
    assert len(acknowledged) > 30
    assert [pair for pair in acknowledged if kept.get(pair[0]) != pair[1]] == []
    task = scene.take(raters[0], number).task
    assert task is not None, "the study goes on"
    scene.judge(raters[0], number, task)
