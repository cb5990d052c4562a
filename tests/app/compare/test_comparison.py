"""Several systems on one turn: the same seed the same text, each as if alone, and nobody's turn waits for them."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.compare import comparison
from app.compare.api import PREFIX, CompareApi
from app.compare.comparison import Comparison
from app.compare.systems import Choice, Moment
from app.compare.votes import KEYS
from app.remote import COMPARE
from app.session import Session
from app.worker import Job
from multimood_core.base_model import NAME as BASE
from multimood_core.decoding import Sampling
from multimood_core.engine import Finished
from multimood_core.records import Turn
from tests.app.compare.conftest import OTHER, TINY, Ask, body, cheap_rewards, ended, text_of
from tests.app.conftest import settled
from tests.multimood_core.stub_endpoint import Answer, serve

WARM = {"temperature": 1.2, "top_p": 0.95, "seed": 7, "max_tokens": 12}


def alone(api: CompareApi, choice: Choice, sampling: Sampling, words: str = "Nobody calls any more.") -> str:
    """A checkpoint's reply without any other beside it."""
    engine = api.catalogue.engine(choice)
    moment = api.sources.moment(body()["source"])
    for event in engine.begin(moment.turn, moment.history, moment.context, engine.memory(), 0.0).events(sampling):
        if isinstance(event, Finished):
            return event.prediction.response.strip()
    raise AssertionError("no answer")


def test_each_answers_as_alone_and_the_same_seed_gives_the_same_text(api: CompareApi, ask: Ask) -> None:
    found = [ended(ask, ask("start", body(sampling=WARM | {"seed": seed}))["id"]) for seed in (7, 7, 8)]
    texts = [[text_of(column) for column in one["columns"]] for one in found]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]
    sampling = Sampling(1.2, 0.95, 7, max_tokens=12)
    assert texts[0] == [alone(api, Choice("checkpoint", name), sampling) for name in ("tiny", OTHER)]
    assert [column["name"] for column in found[0]["columns"]] == ["tiny", OTHER]
    assert all(len(column["labels"]) == 3 and column["labels"]["strategy"]["shares"] for column in found[0]["columns"])
    assert all(column["reward"]["parts"]["r_sim"] is None for column in found[0]["columns"]), "there is no reference"
    assert all("r_trust/empathy" in column["reward"]["parts"] for column in found[0]["columns"])


def test_the_base_language_model_answers_from_the_same_weights(
    api: CompareApi, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tiny tokenizer has few words, so that the prompt takes more tokens than the tiny model says that it reads.
    monkeypatch.setattr(api.catalogue.base().model.config, "max_position_embeddings", 16_384)
    three = [*TINY, {"kind": "base", "name": BASE}]
    found = [ended(ask, ask("start", body(systems=three, sampling=WARM))["id"])["columns"][2] for _ in range(2)]
    assert found[0]["name"] == BASE
    assert not found[0]["problem"]
    assert text_of(found[0])
    assert text_of(found[0]) == text_of(found[1])
    first = api.catalogue.engines.first.checkpoint
    held = {p.untyped_storage().data_ptr() for p in first.model.parameters()}  # type: ignore[attr-defined]
    assert {p.untyped_storage().data_ptr() for p in api.catalogue.base().model.parameters()} <= held


def test_systems_take_turns_and_other_work_comes_between(api: CompareApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "SLICE", 0.02)
    order: list[str] = []
    between = threading.Event()
    choices = [Choice("checkpoint", "tiny"), Choice("checkpoint", OTHER)]
    made = Comparison(api.catalogue, api._worker, cheap_rewards, Moment(Turn(text="So quiet.")), choices, Sampling(max_tokens=60))
    step = made._step

    def watched(column: Any, events: Any) -> bool:
        order.append(column.key)
        if len(order) == 8:
            api._worker.submit(Job(lambda: (order.append("live"), between.set())[0], lambda s: None, lambda p: None))
        return step(column, events)

    made._step = watched  # type: ignore[method-assign]
    made.start()
    assert between.wait(60)
    made._thread.join(60)
    assert order[:8] == ["A", "B"] * 4
    assert made.columns[0].done
    assert order.index("live") < len(order) - 1, "a live turn has waited for the whole comparison"


def test_a_data_set_item_brings_its_history_and_the_real_reply(ask: Ask) -> None:
    data = next(one for one in ask("choices")["data"] if one["name"] == "made/test")
    shown = ask(f"data/{data['id']}/2")
    assert (shown["n"], shown["id"], shown["turns"]) == (4, "test-0/2", 2)
    found = ended(ask, ask("start", body(source={"kind": "item", "data": data["id"], "number": 2}))["id"])
    assert [turn["text"] for turn in found["turn"]["history"]] == ["The house is so quiet now.", "It was full of voices before."]
    assert found["turn"]["reference"] == "What do you hear in it?"
    assert all(column["reward"]["parts"]["r_sim"] is not None for column in found["columns"])
    ask(f"data/{data['id']}/5", status=409)


def test_the_live_turn_and_a_clip_are_compared(ask: Ask, session: Session, moving_clip: Path) -> None:
    live = {"kind": "live", "session": session.token}
    assert "no turn in the live session" in ask("start", body(source=live), status=409)["error"]
    session.type_turn("I cannot sleep.")
    settled(session)
    session.accept()
    session.type_turn("Not even today.")
    settled(session)
    found = ended(ask, ask("start", body(source=live))["id"])
    assert found["turn"]["words"] == "Not even today."
    assert [turn["speaker"] for turn in found["turn"]["history"]] == ["client", "therapist"]
    assert session.current is not None
    session.current.withheld = "risk"
    assert "withheld for safety" in ask("start", body(source=live), status=409)["error"]
    clip = ask("clip?name=moving.mp4", moving_clip.read_bytes())["clip"]
    found = ended(ask, ask("start", body(source={"kind": "clip", "clip": clip, "words": "Look."}))["id"])
    assert found["turn"]["heard"] == ["picture", "sound", "words"]
    assert all(text_of(column) for column in found["columns"])
    assert "clip.mp4" in ask("clip?name=x.mp4", b"no clip", status=409)["error"]


def test_a_system_that_fails_leaves_the_others(api: CompareApi, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    real = api.catalogue.events

    def broken(choice: Choice, moment: Moment, sampling: Sampling) -> Any:
        if choice.name == OTHER:
            return iter(_raising())
        return real(choice, moment, sampling)

    monkeypatch.setattr(api.catalogue, "events", broken)
    found = ended(ask, ask("start", body())["id"])
    assert text_of(found["columns"][0])
    assert "mistake of its own" in found["columns"][1]["problem"]


def _raising() -> Any:
    raise RuntimeError("broken")
    yield


def test_nothing_is_sent_before_its_host_was_turned_on(api: CompareApi, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    said = (
        "Client's emotion: sadness\nTherapist's emotion: neutral\nTherapist's strategy: restatement\n"
        "Therapist's response: So quiet."
    )
    assert ask("choices")["remote"] == []
    with serve(lambda number, request: Answer(said)) as stub:
        monkeypatch.setenv(f"{COMPARE}_MODEL", "far-model")
        monkeypatch.setenv(f"{COMPARE}_URL", stub.url)
        (remote,) = ask("choices")["remote"]
        assert remote["host"] in stub.url
        assert not remote["on"]
        asked = body(systems=[TINY[0], {"kind": "remote", "name": "far-model"}])
        assert remote["host"] in ask("start", asked, status=409)["error"]
        assert stub.requests == []
        api.catalogue.remote.turn_on(remote["host"], "anna")
        found = ended(ask, ask("start", asked)["id"])["columns"][1]
        assert (text_of(found), found["labels"]["strategy"]["label"]) == ("So quiet.", "restatement")
        (sent,) = stub.requests
        assert set(sent) == {"model", "messages", "temperature", "max_tokens"}
        assert all(isinstance(message["content"], str) for message in sent["messages"])
        assert "Nobody calls any more." in sent["messages"][1]["content"]
        api.catalogue.remote.turn_off("anna")
        ask("start", asked, status=409)
        assert len(stub.requests) == 1


def test_what_is_asked_wrongly_is_said(ask: Ask, client: TestClient) -> None:
    for more, says in (
        ({"systems": TINY[:1]}, "2 to 4 different systems"),
        ({"systems": [TINY[0], TINY[0]]}, "2 to 4 different systems"),
        ({"systems": [{"kind": "checkpoint", "name": "none"}]}, "got 'none'"),
        ({"source": {"kind": "words", "words": " "}}, "client's words"),
        ({"source": {"kind": "clip", "clip": "x"}}, "choose it again"),
        ({"sampling": {"temperature": 9}}, "temperature from 0 to 2"),
        ({"sampling": {"seed": 0.5}}, "whole number"),
    ):
        assert says in ask("start", body(**more), status=409)["error"]
    assert client.get(f"{PREFIX}/choices", headers={"X-MultiMood": ""}).status_code == 403


# -- blind -------------------------------------------------------------------------------------------------------------


def all_first(letters: str = "AB") -> dict[str, dict[str, int]]:
    return {key: {letter: place for place, letter in enumerate(letters, 1)} for key in KEYS}


def test_a_blind_comparison_tells_no_name_before_its_vote_is_locked(api: CompareApi, client: TestClient, ask: Ask) -> None:
    started = client.post(f"{PREFIX}/start", json=body(blind=True))
    bodies, identifier = [started.text], started.json()["id"]
    while True:
        answer = client.get(f"{PREFIX}/comparison/{identifier}")
        bodies.append(answer.text)
        if not answer.json()["running"]:
            break
    told = "tiny"
    assert not [text for text in bodies if told in text]
    for covered in json.loads(bodies[-1])["columns"]:
        assert set(covered) == {"key", "done", "reply", "problem"}
        assert text_of(covered)
    open_row = {"ranks": {"fluency": {"A": 1, "B": 2}, "identification": {"A": 1, "B": 1}}}
    assert "Comfort is still open" in ask(f"comparison/{identifier}/vote", open_row, 409)["error"]
    assert told not in client.get(f"{PREFIX}/comparison/{identifier}").text
    assert api.votes.all() == []
    opened = ask(f"comparison/{identifier}/vote", {"ranks": all_first(), "keep": True})
    assert {column["name"] for column in opened["columns"]} == {"tiny", OTHER}
    assert ask(f"comparison/{identifier}")["columns"] == opened["columns"], "a reload shows the names again"
    assert "its vote already" in ask(f"comparison/{identifier}/vote", {"ranks": all_first()}, 409)["error"]
    (vote,) = api.votes.all()
    assert [one["name"] for one in vote.systems] == [column["name"] for column in opened["columns"]]
    ranked = ask("ranking")
    assert (ranked["votes"], [row["key"] for row in ranked["criteria"]]) == (1, list(KEYS))
    assert "never won or tied" in ranked["criteria"][0]["why"]
    (line,) = ask("votes/preferences.jsonl").splitlines()
    pair = json.loads(line)
    assert set(pair) == {
        "item", "context", "history", "client", "chosen", "rejected", "chosen_system", "rejected_system", "criterion",
    }  # fmt: skip
    assert vote.words is not None
    assert (pair["chosen_system"], pair["chosen"]) == (opened["columns"][0]["name"], vote.words["replies"][0])


def test_a_vote_on_a_live_turn_keeps_no_words_of_the_session(ask: Ask, api: CompareApi, session: Session) -> None:
    session.type_turn("Nobody in the choir speaks to me.")
    settled(session)
    started = ask("start", body(source={"kind": "live", "session": session.token}, blind=True))
    path, vote = f"comparison/{ended(ask, started['id'])['id']}/vote", {"ranks": all_first()}
    assert "by the client's consent alone" in ask(path, vote | {"keep": True}, 409)["error"]
    assert api.votes.all() == []
    ask(path, vote)
    (kept,) = api.votes.all()
    assert (kept.source, kept.words) == ("live", None)
    assert "choir" not in api.votes.path.read_text()


def test_the_order_is_drawn_and_an_open_comparison_takes_no_vote(api: CompareApi, ask: Ask) -> None:
    choices = [Choice("checkpoint", "tiny"), Choice("checkpoint", OTHER)]
    moment, seen = Moment(Turn(text="x")), set[str]()
    for _ in range(64):
        made = Comparison(api.catalogue, api._worker, cheap_rewards, moment, choices, Sampling(), blind=True)
        seen.add(made.columns[0].choice.name)
    assert seen == {"tiny", OTHER}
    found = ended(ask, ask("start", body())["id"])
    assert "blind comparisons alone" in ask(f"comparison/{found['id']}/vote", {"ranks": all_first()}, 409)["error"]
