"""Calls to an endpoint that stumbles: retried, counted, kept, and stopped; a failed call is never a score."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from multimood_core.endpoint import Endpoint, EndpointSettings
from multimood_core.errors import ModelError
from tests.multimood_core.stub_endpoint import Answer, serve

HELLO = [{"role": "user", "content": "hello"}]


def settings(url: str, **changes: object) -> EndpointSettings:
    return EndpointSettings("stub", url, **({"timeout": 10.0, "retries": 3} | changes))  # type: ignore[arg-type]


def prompts(count: int) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": str(i)}] for i in range(count)]


def anything(text: str) -> bool:
    return True


def test_busy_and_broken_servers_are_asked_again() -> None:
    def respond(number: int, request: dict[str, object]) -> Answer:
        return [Answer(status=429, body=b"{}"), Answer(status=500, body=b"oops"), Answer("fine")][number]

    with serve(respond) as stub:
        endpoint = Endpoint(settings(stub.url))
        assert endpoint.ask([HELLO], [anything]) == ["fine"]
        assert len(stub.requests) == 3
    assert (endpoint.usage.calls, endpoint.usage.failed) == (1, 0)


def test_what_fails_for_all_retries_is_none_and_counted() -> None:
    def respond(number: int, request: dict[str, object]) -> Answer:
        content = request["messages"][0]["content"]  # type: ignore[index]
        return Answer("fine") if content == "1" else Answer(status=500, body=b"oops")

    with serve(respond) as stub:
        endpoint = Endpoint(settings(stub.url, retries=1))
        assert endpoint.ask(prompts(3), [anything] * 3) == [None, "fine", None]
    assert (endpoint.usage.calls, endpoint.usage.failed) == (3, 2)


@pytest.mark.parametrize(
    "answer",
    [
        Answer("late", seconds=3.0),
        Answer(body=b'{"choices": [{"mess'),
        Answer(body=b'{"choices": []}'),
        Answer(body=b'{"choices": [{"message": null}]}'),
        Answer(body=b"<html>moved</html>"),
    ],
)
def test_time_outs_and_broken_bodies_are_failed_calls(answer: Answer) -> None:
    with serve(lambda number, request: answer) as stub:
        endpoint = Endpoint(settings(stub.url, retries=0, timeout=0.5))
        assert endpoint.ask([HELLO], [lambda text: bool(text)]) == [None]
    assert (endpoint.usage.calls, endpoint.usage.failed) == (1, 1)


def test_a_redirection_is_not_followed() -> None:
    with serve(lambda number, request: Answer("from elsewhere")) as other:
        moved = Answer(status=307, elsewhere=f"{other.url}/chat/completions")
        with serve(lambda number, request: moved) as stub:
            assert Endpoint(settings(stub.url)).ask([HELLO], [anything]) == [None]
        assert (len(stub.requests), other.requests) == (1, [])


def test_too_many_failures_stop_the_run_and_say_why() -> None:
    with serve(lambda number, request: Answer("gibberish")) as stub:
        endpoint = Endpoint(settings(stub.url, max_failure_rate=0.1))
        with pytest.raises(ModelError, match=r"of \d+ calls to 'stub' failed, more than 10%.*gibberish"):
            endpoint.ask(prompts(60), [lambda text: text != "gibberish"] * 60)
        assert len(stub.requests) < 60


def test_few_failures_do_not_stop_it() -> None:
    with serve(lambda number, request: Answer("bad" if number % 10 == 0 else "good")) as stub:
        endpoint = Endpoint(settings(stub.url, max_failure_rate=0.2, concurrency=1))
        answers = endpoint.ask(prompts(40), [lambda text: text == "good"] * 40)
    assert answers.count(None) == endpoint.usage.failed == 4


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_for_good_stops_at_once(status: int) -> None:
    with serve(lambda number, request: Answer(status=status, body=b'{"error": {"message": "no such model"}}')) as stub:
        with pytest.raises(ModelError, match="refused 'stub'"):
            Endpoint(settings(stub.url)).ask([HELLO], [anything])
        assert len(stub.requests) == 1


def test_answers_are_kept_on_disk_by_model_and_prompt(tmp_path: Path) -> None:
    with serve(lambda number, request: Answer(f"answer {number}")) as stub:
        first = settings(stub.url, cache=tmp_path / "deep" / "answers.sqlite", concurrency=1)
        assert Endpoint(first).ask(prompts(2), [anything] * 2) == ["answer 0", "answer 1"]
        again = Endpoint(first)
        assert again.ask(prompts(2), [anything] * 2) == ["answer 0", "answer 1"]
        assert (again.usage.calls, again.usage.cached, len(stub.requests)) == (0, 2, 2)
        warmer = EndpointSettings("stub", stub.url, temperature=0.5, cache=first.cache)
        assert Endpoint(warmer).ask(prompts(1), [anything]) == ["answer 2"]


def test_what_is_not_accepted_is_not_kept(tmp_path: Path) -> None:
    with serve(lambda number, request: Answer(["bad", "good"][number])) as stub:
        endpoint = Endpoint(settings(stub.url, cache=tmp_path / "answers.sqlite"))
        assert endpoint.ask([HELLO], [lambda text: text == "good"]) == [None]
        assert endpoint.ask([HELLO], [lambda text: text == "good"]) == ["good"]


def test_a_file_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    path.write_text("not a database at all, but long enough to be taken for one by its first page" * 20)
    with pytest.raises(ModelError, match="Delete the file"):
        Endpoint(settings("http://127.0.0.1:9/v1", cache=path))
    assert not isinstance(ModelError("x"), sqlite3.Error)


def test_tokens_and_cost_are_counted() -> None:
    with serve(lambda number, request: Answer("fine")) as stub:
        endpoint = Endpoint(settings(stub.url, price_in=2.0, price_out=10.0))
        endpoint.ask(prompts(3), [anything] * 3)
    # 3 calls of 100 tokens in and 10 out, in money per million tokens
    assert endpoint.report() == {
        "model": "stub", "calls": 3, "failed": 0, "cached": 0, "tokens_in": 300, "tokens_out": 30,
        "cost": pytest.approx((300 * 2 + 30 * 10) / 1e6),
    }  # fmt: skip


def test_calls_run_side_by_side_up_to_the_concurrency() -> None:
    with serve(lambda number, request: Answer("fine", seconds=0.2)) as stub:
        Endpoint(settings(stub.url, concurrency=4)).ask(prompts(12), [anything] * 12)
        assert 2 <= stub.most_at_once <= 4


def test_nothing_is_configured_unless_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL", "URL", "KEY", "CACHE"):
        monkeypatch.delenv(f"MULTIMOOD_JUDGE_{name}", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert EndpointSettings.from_environment() is None
    monkeypatch.setenv("MULTIMOOD_JUDGE_MODEL", "gpt-4o")
    found = EndpointSettings.from_environment()
    assert found is not None
    assert (found.model, found.base_url, found.api_key, found.cache) == ("gpt-4o", None, "secret", None)
    assert "secret" not in repr(found)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert found.address == "https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "https://other.example/v1")
    assert found.address == "https://other.example/v1", "where the client goes then"
    monkeypatch.setenv("MULTIMOOD_COMPARE_MODEL", "another")
    other = EndpointSettings.from_environment("MULTIMOOD_COMPARE")
    assert other is not None
    assert other.model == "another"
