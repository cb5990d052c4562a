"""What people preferred in a study of the app trains the reward model, and what is no such file says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from app.studies import export
from app.studies.people import People
from app.studies.store import Store
from multimood_core.errors import DataError
from multimood_core.records import Context, HistoryTurn
from tests.app.studies.scene import Scene
from tests.app.studies.test_results import judged_study
from tests.train.policies import WORDS, toy_policy
from train import reward_model
from train.preferences import read_preferences
from train.reward_model import HEAD


def line(item: str = "a", **changes: Any) -> dict[str, Any]:
    turns = [{"speaker": "client", "text": "hello", "emotion": "fear", "strategy": None},
             {"speaker": "therapist", "text": "hi", "emotion": "neutral", "strategy": "approval"}]  # fmt: skip
    client = {"speaker": "client", "text": f"so {WORDS[0]}", "emotion": None, "strategy": None}
    made = {"item": item, "context": {"problem": "work", "situation": None}, "history": turns, "client": client}
    made |= {"chosen": "Since when?", "rejected": "alone alone", "criterion": "overall"}
    return made | {"chosen_system": "one", "rejected_system": "two"} | changes


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_a_pair_is_a_situation_with_the_preferred_reply_and_the_other(tmp_path: Path) -> None:
    rows = line("12/4"), line(criterion="comfort"), line("b", chosen=" Tell me. ")
    first, second = read_preferences(write(tmp_path / "pairs.jsonl", *rows))
    assert first.situation.reference == "Since when?"
    assert first.rejected == "alone alone"
    assert first.situation.context == Context("work", "")
    assert first.situation.history == (
        HistoryTurn("client", "hello", "fear"), HistoryTurn("therapist", "hi", "neutral", "approval")
    )  # fmt: skip
    assert first.situation.client == "so alone"
    assert (first.item, second.item) == ("12/4", "b/0")  # the dialogue, by which pairs are split, is what precedes the place
    assert second.situation.reference == "Tell me."


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("{", "line 2: expected an object with item"),
        ("[1]", "line 2"),
        (line(chosen="alone alone"), "two replies with words"),
        (line(rejected=" "), "two replies with words"),
        (line(client={"speaker": "therapist", "text": "x"}), "a client's turn"),
        ({"criterion": "overall", "item": "a"}, "line 2: .*'chosen'"),
    ],
)
def test_a_line_that_is_no_pair_is_named(tmp_path: Path, row: Any, why: str) -> None:
    with pytest.raises(DataError, match=why):
        read_preferences(write(tmp_path / "pairs.jsonl", line(), row))


def test_an_absent_file_and_an_absent_criterion_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"preference pairs .*none\.jsonl"):
        read_preferences(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="no pair chosen by 'comfort', but by: overall"):
        read_preferences(write(tmp_path / "pairs.jsonl", line()), "comfort")


def test_a_study_of_the_app_trains_the_reward_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(f"sqlite:///{tmp_path}/studies.sqlite3")
    try:
        scene = Scene(store, People(store, hasher=PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)))
        number = judged_study(scene, items=8, raters=3)
        with store.read() as connection:
            exported = export.preference_pairs(connection, number)
    finally:
        store.close()
    path = tmp_path / "pairs.jsonl"
    path.write_text(exported)
    rows = [json.loads(text) for text in exported.splitlines()]
    pairs = read_preferences(path)
    assert [(p.situation.reference, p.rejected) for p in pairs] == [(row["chosen"], row["rejected"]) for row in rows]
    policy, _ = toy_policy()
    monkeypatch.setattr(reward_model, "load_parent", lambda parent, mixture: policy)
    out = tmp_path / "run"
    words = [f"--preferences={path}", f"--out={out}", "--precision=no", "--held_out=0.3", "--lr=0.01", "--epochs=2"]
    reward_model.main([*words, "--dry-run"])
    said = capsys.readouterr().out
    assert f"{round(0.7 * len(pairs)):,} samples an epoch" in said
    assert "0 replies are written before" in said
    reward_model.main(words)
    report = json.loads((out / "final/report.json").read_text())
    assert 0 < report["pairs"] < len(pairs)
    assert report["accuracy_interval"][0] <= report["accuracy"] <= report["accuracy_interval"][1]
    assert (out / "final" / HEAD).is_file()
    assert not list(out.glob("pairs-*.jsonl"))  # nothing was written by the policy
    with pytest.raises(DataError, match=r"held out, got \d+ and 0 items"):
        reward_model.main([*words, "--held_out=0", f"--out={tmp_path / 'other'}"])
