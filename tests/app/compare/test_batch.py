"""A batch stopped at any moment goes on where it was; its table, its files, and what is wrong with an upload."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from app.compare import batch, tables
from app.compare.api import CompareApi
from app.compare.batch import Batches
from app.remote import COMPARE
from multimood_core.dialogues import write_dialogues
from tests.app.compare.conftest import OTHER, TINY, Ask, cheap_rewards, ended, made_dialogues
from tests.multimood_core.stub_endpoint import Answer, serve


@pytest.fixture(autouse=True)
def no_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores that need an encoder's weights are left out here; they have tests of their own."""
    monkeypatch.setattr(tables, "token_matchers", list)


def asked(ask: Ask, **more: object) -> dict[str, object]:
    data = next(one["id"] for one in ask("choices")["data"] if one["name"] == "made/test")
    about = {"systems": TINY, "data": data, "protocol": "gold-history", "sampling": {"max_tokens": 8}}
    return about | more


def test_a_batch_is_cancelled_goes_on_after_a_restart_and_asks_nothing_twice(
    api: CompareApi, ask: Ask, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, calls = api._batches.batches, list[str]()
    real = batch._OnWorker.answer

    def counted(self: batch._OnWorker, question: object) -> object:
        if len(calls) == 3 and not stopped:
            stopped.append(True)
            batches._stopped.set()  # cancelled while the fourth of eight is about to be asked
        answer = real(self, question)  # type: ignore[arg-type]
        calls.append(f"{self.name} {question.id}")  # type: ignore[attr-defined]
        return answer

    stopped: list[bool] = []
    monkeypatch.setattr(batch._OnWorker, "answer", counted)
    made = str(ask("batch", asked(ask))["id"])
    found = ended(ask, made, "batch")
    assert (found["done"], found["wanted"], found["scored"], found["problem"]) == (3, 8, False, "")
    journal = kept / "batches" / made / "0.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])  # the machine went down while the third was written
    api._batches._made = Batches(kept / "batches", api.catalogue, api._worker, cheap_rewards)
    ask(f"batch/{made}", {"do": "run"})
    found = ended(ask, made, "batch")
    assert (found["done"], found["scored"], found["problem"]) == (8, True, "")
    assert len(calls) == 9, "one was lost with its line and asked again"
    assert len(set(calls)) == 8
    table = found["table"]
    assert table["n"] == 4
    assert table["header"][:4] == [
        "system", "client's emotion: accuracy / weighted F1", "therapist's emotion: accuracy / weighted F1",
        "strategy: accuracy / weighted F1",
    ]  # fmt: skip
    assert [row["cells"][0] for row in table["rows"] if not row["baseline"]] == ["tiny", OTHER]
    grey = {row["cells"][0] for row in table["rows"] if row["baseline"]}
    assert {"majority", "copy the previous gold label", "constant response"} <= grey
    copied = next(row for row in table["rows"] if row["cells"][0] == "constant response")
    assert copied["cells"][1] == ""
    rows = list(csv.DictReader(io.StringIO(ask(f"batch/{made}/items.csv"))))
    assert [(row["system"], row["item"]) for row in rows][:2] == [("tiny", "test-0/0"), ("tiny", "test-0/2")]
    assert rows[0]["client_emotion_truth"] == "sadness"
    everything = json.loads(json.dumps(ask(f"batch/{made}/results.json")))
    assert len(everything["systems"][1]["items"]) == 4
    assert everything["plan"]["protocol"] == "gold-history"
    right = [row["client_emotion_truth"] == row["client_emotion_predicted"] for row in rows[:4]]
    assert everything["systems"][0]["tasks"]["client_emotion"]["accuracy"] == sum(right) / 4
    for line in ask(f"batch/{made}/preferences.jsonl").splitlines():
        pair = json.loads(line)
        assert {pair["chosen_system"], pair["rejected_system"]} == {"tiny", OTHER}
        assert pair["criterion"] == "reward"
    ask(f"batch/{made}", {"do": "delete"})
    assert ask("batches") == []


def test_turning_the_host_off_ends_a_running_batch_before_its_next_item(
    api: CompareApi, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = api.catalogue.remote

    def respond(number: int, request: dict[str, object]) -> Answer:
        if number == 1:
            remote.turn_off("anna")
        return Answer("Therapist's response: So quiet.")

    with serve(respond) as stub:
        monkeypatch.setenv(f"{COMPARE}_MODEL", "far-model")
        monkeypatch.setenv(f"{COMPARE}_URL", stub.url)
        about, host = asked(ask, systems=[{"kind": "remote", "name": "far-model"}]), remote.offers[0].host
        ask("batch", about, status=409)
        remote.turn_on(host, "anna")
        made = ask("batch", about)["id"]
        found = ended(ask, made, "batch")
        assert (found["done"], len(stub.requests)) == (2, 2)
        assert f"{host} is off" in found["problem"]
        assert f"{host} is off" in ask(f"batch/{made}", {"do": "run"}, status=409)["error"]
        remote.turn_on(host, "anna")
        ask(f"batch/{made}", {"do": "run"})
        assert ended(ask, made, "batch")["scored"]
        assert len(stub.requests) == 4, "nothing was asked twice"


def test_an_upload_that_is_wrong_is_told_with_its_line(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    write_dialogues(path, made_dialogues(2))
    good = path.read_bytes()
    found = ask("upload?name=mine.jsonl", good)
    assert (found["dialogues"], found["items"]) == (2, 4)
    for data, says in (
        (good + b"{broken\n", "mine.jsonl, line 3"),
        (b'{"id": "x", "split": "test"}\n', "mine.jsonl, line 1"),
        (b'{"id": "x", "split": "test", "turns": []}\n', "none of its turns"),
    ):
        error = ask("upload?name=mine.jsonl", data, status=409)["error"]
        assert says in error
        assert str(tmp_path) not in error
    ask("batch", asked(ask, data="", upload="gone"), status=409)


def test_a_slice_and_an_upload_are_run_and_what_is_asked_wrongly_is_said(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    write_dialogues(path, made_dialogues(2))
    upload = ask("upload?name=mine.jsonl", path.read_bytes())["upload"]
    one = [TINY[0]]
    made = ask("batch", asked(ask, data="", upload=upload, systems=one, first=2, count=1, protocol="self-history"))
    assert made["name"] == "mine.jsonl, dialogues 2 to 2"
    found = ended(ask, made["id"], "batch")
    assert (found["done"], found["wanted"], found["problem"]) == (2, 2, "")
    assert not [row for row in found["table"]["rows"] if row["baseline"]]
    assert "No training split" in found["table"]["note"]
    for more, says in (({"protocol": "none"}, "a protocol of"), ({"first": 3}, "first from 1 to 2"), ({"systems": []}, "1 to 4")):
        assert says in ask("batch", asked(ask, **more), status=409)["error"]
    assert "got 'x'" in ask(f"batch/{made['id']}/x", status=409)["error"]
