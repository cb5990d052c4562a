"""A report names its protocol, stands beside trivial baselines, and counts what could not be read or was left out."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from multimood_core.dialogues import Dialogue, DialogueTurn, items_of
from multimood_core.engine import Engine
from multimood_core.records import CheckpointId, Context
from multimood_core.registry import Checkpoint
from tests import synthetic
from tests.multimood_core.tiny import tiny_model
from train import evaluate
from train.evaluate import evaluate_folder, evaluate_mesc, mesc_baselines

pytestmark = pytest.mark.filterwarnings("ignore:A single label was found")


def dialogue(number: int) -> Dialogue:
    sad = number % 2 == 0
    emotion = "sadness" if sad else "joy"
    turns = []
    for _ in range(2):
        turns += [
            DialogueTurn("client", "I feel sad alone" if sad else "a happy good day", emotion),
            DialogueTurn("therapist", "Go on.", "neutral" if sad else "joy", "open question" if sad else "approval"),
        ]
    return Dialogue(str(number), "train", tuple(turns), Context())


@pytest.fixture
def engine() -> Engine:
    model, processor = tiny_model(seed=3)
    return Engine(Checkpoint(CheckpointId("tiny", "0" * 64), Path(), model, processor))


def test_baselines_of_a_case_computed_by_hand() -> None:
    train = list(items_of([dialogue(i) for i in (0, 2, 4, 1, 3)]))
    test = list(items_of([dialogue(6), dialogue(7)]))  # two sad items, two happy ones
    found = mesc_baselines(train, test, gold_history=True)
    assert found["majority"]["client_emotion"]["accuracy"] == 0.5
    assert found["majority"]["client_emotion"]["uar"] == 0.5
    # first items: nothing to copy, so the majority (sadness) is right once; second items: always right
    assert found["copy the previous gold label"]["client_emotion"]["accuracy"] == 0.75
    for task in ("client_emotion", "therapist_emotion", "strategy"):
        assert found["logistic regression on TF-IDF"][task]["accuracy"] == 1
    assert "copy the previous gold label" not in mesc_baselines(train, test, gold_history=False)


def test_a_report_of_dialogues_says_how_it_was_made(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    splits = {"train": [dialogue(i) for i in range(5)], "val": [], "test": [dialogue(6), dialogue(7)]}
    monkeypatch.setattr(evaluate, "read_mesc", lambda: splits)
    monkeypatch.setattr(evaluate, "Engine", lambda name: engine)
    out = tmp_path / "report.json"
    evaluate.main(["--data", "mesc", "--protocol", "corrected-history", "--rate", "0.5", "--limit", "1", "--out", str(out)])
    report = json.loads(out.read_text())
    assert (report["protocol"], report["rate"], report["split"], report["n"]) == ("corrected-history", 0.5, "test", 2)
    assert report["checkpoint"] == {"name": "tiny", "sha256": "0" * 64}
    assert [item["id"] for item in report["items"]] == ["6/0", "6/2"]
    right = sum(item["predicted"]["strategy"]["label"] == item["truth"]["strategy"] for item in report["items"])
    assert report["tasks"]["strategy"]["accuracy"] == right / 2
    shown = capsys.readouterr().out
    assert "mesc, corrected-history, n = 2" in shown
    assert "majority" in shown


def test_a_report_of_clips_counts_what_was_left_out_and_unreadable(engine: Engine, tmp_path: Path) -> None:
    synthetic.write_clip(tmp_path / "a.wav", sound=synthetic.spoken(0.6), rate=16_000, audio="pcm_s16le")
    (tmp_path / "b.wav").write_text("no sound")
    (tmp_path / "labels.csv").write_text("file,emotion,speaker\na.wav,happy,1\nb.wav,angry,2\na.wav,surprised,1\n")
    args = argparse.Namespace(data=str(tmp_path), held_out=False, limit=None, transcribe=False)
    report = evaluate_folder(args, engine)
    assert (report["n"], report["n_left_out"]) == (2, {"surprised": 1})
    assert sum(report["n_unreadable"].values()) == 1
    scores = report["tasks"]["client_emotion"]
    assert scores["n_missing"] == 1
    assert scores["recall"]["anger"] == 0  # what cannot be read counts as wrong
    assert report["items"][1]["predicted"] is None
    assert json.loads(json.dumps(report))["items"][0]["truth"] == "joy"


def test_the_protocol_decides_about_the_copying_baseline(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {"train": [dialogue(i) for i in range(5)], "val": [dialogue(6)], "test": []}
    monkeypatch.setattr(evaluate, "read_mesc", lambda: splits)
    args = argparse.Namespace(
        split="val", protocol="gold-history", rate=0.0, recent_turns=0, no_context=True, seed=0, limit=None
    )
    report = evaluate_mesc(args, engine)
    assert (report["recent_turns"], report["context"], report["rate"]) == (0, False, None)
    assert "copy the previous gold label" in report["baselines"]
