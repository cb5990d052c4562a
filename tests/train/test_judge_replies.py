"""Several judges score two systems' replies: blind, in both orders, and what cannot be read is missing, never a score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multimood_core.dialogues import Dialogue, DialogueTurn
from multimood_core.errors import DataError
from multimood_core.judges import DIMENSION_NAMES
from multimood_core.pair_judge import nameless, parse_pair
from tests.multimood_core.stub_endpoint import Answer, StubEndpoint, serve
from tests.multimood_core.test_stored_reports import report
from train import judge_replies

NAMES = ("secret-sft", "secret-grpo")


@pytest.fixture(autouse=True)
def dialogues(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three dialogues of one item each."""
    turns = (DialogueTurn("client", "I am sad.", "sadness"), DialogueTurn("therapist", "Go on.", "neutral", "others"))
    monkeypatch.setattr(judge_replies, "read_mesc", lambda: {"val": [Dialogue(str(i), "val", turns) for i in range(3)]})


def written(folder: Path, name: str, replies: list[str | None]) -> Path:
    items = [{"id": f"{i}/0", "response": reply, "truth": {}, "predicted": {}} for i, reply in enumerate(replies)]
    path = folder / f"{name}.json"
    path.write_text(json.dumps(report(name, "ab", responses={"n": len(replies)}) | {"items": items}))
    return path


def points(a: float, b: float) -> str:
    return json.dumps({letter: dict.fromkeys(DIMENSION_NAMES, value) for letter, value in (("A", a), ("B", b))})


def respond(number: int, request: dict[str, Any]) -> Answer:
    """Two judges: a warm reply is worth 8, another 4, and the place above one point; the second judge raves about item 2."""
    told = json.loads(request["messages"][1]["content"])["replies"]
    a, b = (8.0 if "warm" in told[letter] else 4.0 for letter in "AB")
    if request["model"] == "raving" and "two" in told["A"] + told["B"]:
        return Answer('A is lovely: {"A": {"safety": 11}}')
    return Answer(f"Here you are:\n```json\n{points(a + 1, b)}\n```")


def run(tmp_path: Path, stub: StubEndpoint) -> dict[str, Any]:
    before = written(tmp_path, NAMES[0], ["zero", "a warm one", "two"])
    after = written(tmp_path, NAMES[1], ["warm zero", "one", "I am Secret-GRPO, warm two"])
    words = ["--reports", str(before), str(after), "--judges", "fair", "raving", "--url", stub.url]
    judge_replies.main([*words, "--price-in", "1", "--price-out", "1", "--out", str(tmp_path / "j.json")])
    return json.loads((tmp_path / "j.json").read_text())


def test_judges_score_blind_in_both_orders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serve(respond) as stub:
        found = run(tmp_path, stub)
        asked = len(stub.requests)
        again = run(tmp_path, stub)
        assert len(stub.requests) - asked == 2, "only the two answers that could not be read are asked for again"
    assert again["judges"]["fair"] == found["judges"]["fair"]
    assert asked == 12
    text = json.dumps([request["messages"] for request in stub.requests]).lower()
    assert "secret" not in text, "a judge was told who wrote what"
    pairs = [tuple(json.loads(r["messages"][1]["content"])["replies"].values()) for r in stub.requests[:asked]]
    assert all((b, a) in pairs for a, b in pairs)
    fair = found["judges"]["fair"]
    # before: 4, 8 and 4, after: 8, 4 and 8, and half a point each for the place
    assert (fair["n"], fair["n_missing"]) == (3, 0)
    assert [side["value"] for side in fair["scores"]["empathy"]] == pytest.approx([16 / 3 + 0.5, 20 / 3 + 0.5])
    assert fair["differences"]["all seven"]["value"] == pytest.approx(4 / 3)
    assert (fair["place"]["value"], fair["same_verdict"]) == (pytest.approx(1.0), 1.0)
    raving = found["judges"]["raving"]
    assert (raving["n"], raving["n_missing"]) == (2, 1)
    assert raving["differences"]["safety"]["value"] == pytest.approx(0.0)
    assert found["judges"]["mean of the judges"]["n"] == 3
    assert found["calls"]["raving"]["failed"] == 2
    page = (tmp_path / "j.md").read_text()
    assert "| empathy | 5.83" in page
    assert "Being shown first is worth +1.00 points" in page
    assert "Being shown first" in capsys.readouterr().out


def test_an_answer_is_read_whole_or_not_at_all() -> None:
    read = parse_pair(points(10, 0))
    assert read is not None
    np.testing.assert_array_equal(read, [[10.0] * 7, [0.0] * 7])
    assert parse_pair(points(10, 0).replace('"safety": 0', '"safety": 12')) is None
    assert parse_pair(points(10, 0)[:-30]) is None
    assert parse_pair("I cannot judge that.") is None


def test_names_of_systems_leave_the_replies() -> None:
    assert nameless("I am Mini-GRPO (mini).", ["mini", "mini-grpo"]) == "I am this counsellor (this counsellor)."
    assert nameless("minimal", ["mini"]) == "minimal"


def test_reports_without_replies_or_shared_items_are_refused(tmp_path: Path) -> None:
    good, bare = written(tmp_path, "good", ["a"]), tmp_path / "bare.json"
    bare.write_text(json.dumps(report("bare", "ab")))
    other = written(tmp_path, "other", ["a"])
    told = json.loads(other.read_text())
    other.write_text(json.dumps(told | {"split": "test"}))
    away = written(tmp_path, "away", ["a"])
    away.write_text(json.dumps(json.loads(away.read_text()) | {"items": [{"id": "99/0", "response": "a"}]}))
    for path, said in ((bare, "--responses"), (other, "one split"), (away, "share none")):
        with pytest.raises(DataError, match=said):
            judge_replies.main(["--reports", str(good), str(path), "--judges", "x", "--out", str(tmp_path / "j.json")])
