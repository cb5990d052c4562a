"""The command that starts the app, and what its answers carry."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from starlette.testclient import TestClient

from app.build import HEADERS, web_app
from app.glance import Glancer
from app.sessions import Sessions
from multimood_core.engine import Engine


@pytest.fixture(scope="module")
def command() -> ModuleType:
    spec = importlib.util.spec_from_file_location("app_command", Path(__file__).resolve().parents[2] / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.2", "example.org", "::"])
def test_only_this_computer_is_served(command: ModuleType, host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--host", host]) == 2
    said = capsys.readouterr().err
    assert host in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_loopback_is_this_computer(command: ModuleType, host: str) -> None:
    assert command.is_loopback(host)


@pytest.mark.parametrize(
    ("options", "asked"),
    [([], False), (["--host", "::1"], False), (["--accounts"], True), (["--name", "clinic.example"], True)],
)
def test_accounts_are_asked_for_where_others_can_reach_the_app(command: ModuleType, options: list[str], asked: bool) -> None:
    assert command.everybody_signs_in(command.arguments(options)) == asked
    assert command.everybody_signs_in(command.arguments([*options, "--host", "192.0.2.7"]))


def test_an_absent_checkpoint_is_one_sentence(command: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--checkpoint", "no-such-checkpoint"]) == 1
    assert "no-such-checkpoint" in capsys.readouterr().err


def test_every_answer_keeps_the_page_to_itself(engine: Engine, sessions: Sessions) -> None:
    glancer = Glancer(engine, sessions)
    try:
        with TestClient(web_app(sessions, glancer, "127.0.0.1", 7860, "browser"), base_url="http://127.0.0.1") as client:
            page = client.get("/")
            config = client.get("/config").json()
    finally:
        glancer.close()
    assert page.status_code == 200
    assert {name: page.headers[name] for name in HEADERS} == HEADERS
    assert config["analytics_enabled"] is False
    assert not [d["api_name"] for d in config["dependencies"] if d.get("api_visibility") == "public"]
