"""A report names its protocol, stands beside trivial baselines, and counts what could not be read or was left out."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from multimood_core import reports
from multimood_core.dialogues import Dialogue, DialogueTurn, write_dialogues
from multimood_core.engine import Engine
from multimood_core.errors import DataError
from multimood_core.evaluation import Question
from multimood_core.records import CheckpointId, Context
from multimood_core.registry import Checkpoint
from multimood_core.rewards import RewardFunction
from multimood_core.systems import CheckpointSystem
from tests import synthetic
from tests.multimood_core.stub_endpoint import Answer, serve
from tests.multimood_core.test_systems import FOUR_LINES
from tests.multimood_core.tiny import tiny_model
from train import evaluate, evaluate_clips
from train.ablations import ABLATIONS
from train.report import main as report_main

pytestmark = pytest.mark.filterwarnings("ignore:A single label was found")


def dialogue(number: int) -> Dialogue:
    sad = number % 2 == 0
    emotion = "sadness" if sad else "joy"
    turns = []
    for _ in range(2):
        turns += [
            DialogueTurn("client", "I feel sad alone" if sad else "a happy good day", emotion, description="A face."),
            DialogueTurn("therapist", "Go on.", "neutral" if sad else "joy", "open question" if sad else "approval"),
        ]
    return Dialogue(str(number), "train", tuple(turns), Context())


@pytest.fixture
def engine() -> Engine:
    model, processor = tiny_model(seed=3)
    return Engine(Checkpoint(CheckpointId("tiny", "0" * 64), Path(), model, processor))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """MESC of seven dialogues, a tiny checkpoint, and no encoder to be loaded."""
    splits = {"train": [dialogue(i) for i in range(5)], "val": [dialogue(6)], "test": [dialogue(6), dialogue(7)]}
    monkeypatch.setattr(evaluate, "read_mesc", lambda: splits)
    monkeypatch.setattr(evaluate, "Engine", lambda name: request.getfixturevalue("engine"))
    monkeypatch.setattr(evaluate, "token_matchers", list)


def run(*words: str, out: Path) -> dict[str, Any]:
    evaluate.main(["--data", "mesc", *words, "--out", str(out)])
    return json.loads(out.read_text())


def test_a_report_of_dialogues_says_how_it_was_made(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    report = run("--protocol", "corrected-history", "--rate", "0.5", "--limit", "1", out=tmp_path / "report.json")
    assert (report["protocol"], report["rate"], report["split"], report["n"]) == ("corrected-history", 0.5, "test", 2)
    assert report["checkpoint"] == {"name": "tiny", "sha256": "0" * 64}
    assert [item["id"] for item in report["items"]] == ["6/0", "6/2"]
    right = sum(item["predicted"]["strategy"]["label"] == item["truth"]["strategy"] for item in report["items"])
    assert report["tasks"]["strategy"]["accuracy"] == right / 2
    command = "python -m train.evaluate --data mesc --split test --protocol corrected-history --rate 0.5 --limit 1 --checkpoint"
    assert report["command"] == f"{command} mini-sft"
    assert "responses" not in report
    shown = capsys.readouterr().out
    assert "mesc, corrected-history, n = 2" in shown
    assert "majority" in shown
    assert "copy the previous gold label" not in shown  # the protocol does not give it


def test_the_protocol_decides_about_the_copying_baseline(tmp_path: Path) -> None:
    report = run("--split", "val", "--recent-turns", "0", "--no-context", out=tmp_path / "r.json")
    assert (report["recent_turns"], report["context"], report["rate"]) == (0, False, None)
    copied = report["baselines"]["copy the previous gold label"]["client_emotion"]
    assert copied["accuracy"] == 1  # nothing to copy at first, so the majority; then the label before; all are sad
    own = report["tasks"]["client_emotion"]["accuracy"]
    difference = report["differences"]["client_emotion"]["copy the previous gold label"]["accuracy"]
    assert difference["value"] == pytest.approx(own - 1)
    assert difference["p"] == 1  # one dialogue shows nothing


def test_replies_stand_beside_their_baselines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run("--responses", "--max-tokens", "5", out=tmp_path / "r.json")
    assert "--responses --max-tokens 5" in report["command"]
    baselines = report["responses"]["baselines"]
    assert baselines["constant response"]["rouge_l"] == 1  # every therapist says "Go on."
    assert report["responses"]["n"] == 4
    assert report["responses"]["n_unparsed"] == sum(not re.search(r"\w", item["response"]) for item in report["items"])
    assert len(report["responses"]["items"]["bleu2"]) == 4
    assert report["differences"]["response"]["constant response"]["rouge_l"]["value"] <= 0
    assert "bleu2_released" in capsys.readouterr().out
    assert report["token_reduction"]["text"] > 0


class HalfReward:
    """A term that cannot say anything of one item's reply."""

    name = "r_half"

    def __call__(self, situations: Any, replies: Any) -> list[float | None]:
        assert all(s.reference == "Go on." for s in situations)
        return [None if s.next_client is None else 0.5 for s in situations]


def test_rewards_are_shown_with_their_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "embedded_rewards", lambda: RewardFunction([(HalfReward(), 1.0)]))
    report = run("--responses", "--rewards", "--max-tokens", "3", out=tmp_path / "r.json")
    part = report["rewards"]["parts"]["r_half"]
    # each dialogue's last reply has no client's turn after it: missing, not 0
    assert (part["n"], part["n_missing"], part["mean"]) == (2, 2, 0.5)
    assert report["rewards"]["items"]["total"] == [0.5, None, 0.5, None]
    assert "| r_half | 2 | 2 | 0.500 | 0.500 | 0.500 |" in (tmp_path / "r.md").read_text()
    with pytest.raises(DataError, match="--responses"):
        evaluate.main(["--data", "mesc", "--rewards"])


def test_documents_stand_beside_the_report_and_ask_no_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = run("--responses", "--max-tokens", "5", out=tmp_path / "r.json")
    assert "58.60" not in (tmp_path / "r.md").read_text(), "four items are not the paper's"
    monkeypatch.setattr(reports, "PAPER_ITEMS", 4)
    report_main([str(tmp_path / "r.json")])
    for ending in (".md", ".html"):
        text = (tmp_path / f"r{ending}").read_text()
        assert report["command"] in text
        assert "BLEU-2 as released" in text
        assert "58.60" in text  # the paper's figure, as these are its items and protocol
        assert f"{100 * report['tasks']['strategy']['weighted_f1']:.2f}" in text
    page = (tmp_path / "r.html").read_text()
    addresses = set(re.findall(r'(?:href|src)="([^"]+)"', page)) | set(re.findall(r"url\(([^)]+)\)", page))
    assert all(address.startswith("#") for address in addresses)
    assert "<script" not in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert page.count("<figure>") >= 8
    figures = re.findall(r"\]\((r\.figures/[^)]+)\)", (tmp_path / "r.md").read_text())
    assert len(figures) == page.count("<figure>")
    assert all((tmp_path / name).is_file() for name in figures)
    (tmp_path / "r.html").unlink()
    report_main([str(tmp_path / "r.json")])
    assert (tmp_path / "r.html").read_text() == page


def test_a_stopped_run_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    answer = CheckpointSystem.answer

    def stopping(self: CheckpointSystem, question: Question) -> Any:
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(question.id)
        return answer(self, question)

    monkeypatch.setattr(CheckpointSystem, "answer", stopping)
    out = tmp_path / "r.json"
    with pytest.raises(KeyboardInterrupt):
        run("--protocol", "self-history", out=out)
    assert "the same command goes on" in capsys.readouterr().err
    assert not out.exists()
    with pytest.raises(DataError, match="another run"):
        run(out=out)  # another protocol
    asked.insert(0, "so that the next stop is never reached")
    del asked[1:]
    report = run("--protocol", "self-history", out=out)
    assert asked[1:] == ["7/2"]
    assert [item["id"] for item in report["items"]] == ["6/0", "6/2", "7/0", "7/2"]
    assert not list(tmp_path.glob("*.partial.jsonl"))
    asked.clear()
    monkeypatch.setattr(CheckpointSystem, "answer", answer)
    fresh = run("--protocol", "self-history", out=tmp_path / "s.json")
    assert fresh["tasks"] == report["tasks"]


def test_an_endpoint_is_evaluated_with_its_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serve(lambda n, request: Answer(FOUR_LINES)) as stub:
        words = ["--endpoint", "stub", "--url", stub.url, "--price-in", "2", "--price-out", "10", "--responses"]
        report = run(*words, out=tmp_path / "r.json")
        again = run(*words, out=tmp_path / "r.json")
    assert report["system"] == "stub, zero-shot"
    assert "checkpoint" not in report
    assert report["calls"]["all"]["calls"] == 4
    assert report["calls"]["all"]["cost"] == pytest.approx(4 * 300 / 1e6)
    assert (again["calls"]["all"]["calls"], again["calls"]["all"]["cached"]) == (0, 4)
    assert report["tasks"]["strategy"]["accuracy"] == 0.5
    assert "ece" not in report["tasks"]["strategy"]
    assert f"--url {stub.url}" in report["command"]
    assert "stub, zero-shot" in capsys.readouterr().out
    assert "cost 0.00" in (tmp_path / "r.html").read_text()


def test_the_papers_ablations_are_one_command(tmp_path: Path) -> None:
    report = run("--ablations", "table7", out=tmp_path / "r.json")
    assert set(report["variants"]) == {"no description", "history 0", "history 5", "history 9"}
    assert set(report["not_run"]) == {"no video", "no audio"}
    assert "no turn of these data has a clip" in report["not_run"]["no video"]
    assert report["conditions"]["descriptions"]
    for found in report["variants"].values():
        assert found["n"] == report["n"] == 4
    bare = report["variants"]["history 0"]
    gap = report["tasks"]["strategy"]["accuracy"] - bare["tasks"]["strategy"]["accuracy"]
    assert bare["differences"]["strategy"]["accuracy"]["value"] == pytest.approx(gap)
    text = (tmp_path / "r.md").read_text()
    assert "Not run: no audio, since" in text
    assert "| history 5 | 4 |" in text
    # nothing before is cut at nine turns, so that row equals the whole
    assert report["variants"]["history 9"]["tasks"] == report["tasks"]


def test_clips_of_turns_reach_the_model_and_its_ablations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, folder = tmp_path / "data", tmp_path / "turns"
    root.mkdir()
    folder.mkdir()
    monkeypatch.setenv("MULTIMOOD_DATA", str(root))
    synthetic.write_clip(root / "a.wav", sound=synthetic.spoken(0.6), rate=16_000, audio="pcm_s16le")
    turns = tuple(replace(t, media="a.wav" if t.speaker == "client" else None, description="") for t in dialogue(6).turns)
    write_dialogues(folder / "train.jsonl", [dialogue(i) for i in range(5)])
    write_dialogues(folder / "test.jsonl", [replace(dialogue(6), turns=turns)])
    out = tmp_path / "r.json"
    evaluate.main(["--data", str(folder / "test.jsonl"), "--ablations", "table7", "--out", str(out)])
    report = json.loads(out.read_text())
    assert (report["data"], report["split"]) == ("turns", "test")
    assert set(report["not_run"]) == {"no description"}
    heard, deaf = [r["items"][0]["predicted"]["strategy"]["probabilities"] for r in (report, report["variants"]["no audio"])]
    assert heard != deaf
    with pytest.raises(DataError, match="train.jsonl beside"):
        evaluate.main(["--data", str(tmp_path / "none.jsonl")])


def test_smes_and_its_ablations_ask_a_language_model(tmp_path: Path) -> None:
    with serve(lambda n, request: Answer("sadness")) as stub:
        words = ["--endpoint", "stub", "--url", stub.url, "--smes", "--responses"]
        report = run(*words, "--ablations", "smes", out=tmp_path / "r.json")
    assert report["system"] == "stub, SMES"
    assert set(report["variants"]) == {v.name for v in ABLATIONS["smes"]} - {"no vocal cues"}
    assert report["tasks"]["client_emotion"]["accuracy"] == 0.5
    assert report["tasks"]["strategy"]["n_unparsed"] == 4
    with pytest.raises(DataError, match="--llm or --endpoint"):
        evaluate.main(["--data", "mesc", "--smes"])


def test_two_reports_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(out=tmp_path / "a.json")
    second = run("--protocol", "self-history", out=tmp_path / "b.json")
    capsys.readouterr()
    evaluate.main(["--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--out", str(tmp_path / "c.json")])
    gap = first["tasks"]["strategy"]["accuracy"] - second["tasks"]["strategy"]["accuracy"]
    assert f"strategy           accuracy                 {gap:+.4f}" in capsys.readouterr().out
    assert "different protocols" in (tmp_path / "c.html").read_text()
    with pytest.raises(DataError, match="none.json"):
        evaluate.main(["--compare", str(tmp_path / "a.json"), str(tmp_path / "none.json")])


def test_a_report_of_clips_counts_what_was_left_out_and_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MULTIMOOD_DATA", str(tmp_path))
    folder = tmp_path / "clips"
    folder.mkdir()
    synthetic.write_clip(folder / "a.wav", sound=synthetic.spoken(0.6), rate=16_000, audio="pcm_s16le")
    (folder / "b.wav").write_text("no sound")
    (folder / "labels.csv").write_text("file,emotion,speaker\na.wav,happy,1\nb.wav,angry,2\na.wav,surprised,1\n")
    out = tmp_path / "r.json"
    evaluate.main(["--data", str(folder), "--out", str(out)])
    report = json.loads(out.read_text())
    assert (report["n"], report["n_left_out"]) == (2, {"surprised": 1})
    assert sum(report["n_unreadable"].values()) == 1
    scores = report["tasks"]["client_emotion"]
    assert (scores["n_missing"], scores["n_unparsed"]) == (1, 0)
    assert scores["recall"]["anger"] == 0  # what cannot be read counts as wrong
    assert report["items"][1]["predicted"] is None
    assert report["items"][0]["truth"] == "joy"
    assert report["command"] == "python -m train.evaluate --data $MULTIMOOD_DATA/clips --checkpoint mini-sft"
    shown = capsys.readouterr().out
    assert "left out: 1 labelled 'surprised'" in shown
    assert "could not be read, so wrong: 1" in shown
    assert (tmp_path / "r.html").is_file()


def test_a_command_names_what_lies_elsewhere_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MULTIMOOD_DATA", str(tmp_path / "none"))  # one's own clips need no other data
    for name in ("runs/sft/final", "my clips"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "my clips/labels.csv").write_text("file,emotion\na.wav,happy\n")
    synthetic.write_clip(tmp_path / "my clips/a.wav", sound=synthetic.spoken(0.6), rate=16_000, audio="pcm_s16le")
    evaluate.main(["--data", str(tmp_path / "my clips"), "--checkpoint", "runs/sft/final", "--out", "r.json"])
    command = json.loads((tmp_path / "r.json").read_text())["command"]
    assert command == "python -m train.evaluate --data 'my clips' --checkpoint runs/sft/final"


def test_a_folder_in_which_nothing_can_be_scored_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("file,emotion\na.wav,surprised\n")
    with pytest.raises(DataError, match="got none.*1 'surprised'"):
        evaluate.main(["--data", str(tmp_path)])
    with pytest.raises(DataError, match="folder with labels.csv.*none"):
        evaluate.main(["--data", str(tmp_path / "none")])


def test_a_stopped_run_over_clips_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, heard = tmp_path / "clips", list[str]()
    folder.mkdir()
    for name in "abc":
        synthetic.write_clip(folder / f"{name}.wav", sound=synthetic.spoken(0.6), rate=16_000, audio="pcm_s16le")
    (folder / "labels.csv").write_text("file,emotion\na.wav,happy\nb.wav,angry\nc.wav,sad\n")
    read = evaluate_clips.read_turn

    def stopping(path: Path) -> Any:
        if path.name == "c.wav" and "c.wav" not in heard:
            heard.append("c.wav")
            raise KeyboardInterrupt
        heard.append(path.name)
        return read(path)

    monkeypatch.setattr(evaluate_clips, "read_turn", stopping)
    out = tmp_path / "r.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate.main(["--data", str(folder), "--out", str(out)])
    heard[:] = ["c.wav"]
    evaluate.main(["--data", str(folder), "--out", str(out)])
    assert heard == ["c.wav", "c.wav"]
    assert json.loads(out.read_text())["n"] == 3


def test_dfew_is_the_mean_of_its_folds(tmp_path: Path) -> None:
    folder = tmp_path / "dfew"
    (folder / "Clip").mkdir(parents=True)
    for number in (1, 2, 3):
        synthetic.write_clip(folder / "Clip" / f"{number}.mp4", images=synthetic.moving_pattern(4), sound=synthetic.spoken(0.6))
    for fold in range(1, 6):
        for split in ("train", "test"):
            table = folder / "EmoLabel_DataSplit" / f"{split}(single-labeled)" / f"set_{fold}.csv"
            table.parent.mkdir(parents=True, exist_ok=True)
            table.write_text(f"video_name,label\n1,1\n2,{2 + fold % 2}\n3,5\n")
    out = tmp_path / "r.json"
    evaluate.main(["--data", str(folder), "--out", str(out)])
    report = json.loads(out.read_text())
    assert set(report["folds"]) == set("12345")
    assert (report["n"], report["n_left_out"]) == (10, {"surprise": 1})
    mean = sum(fold["uar"] for fold in report["folds"].values()) / 5
    assert report["tasks"]["client_emotion"]["uar"] == pytest.approx(mean)
    assert "mean of five folds" in report["protocol"]
    assert "| 5 | 2 |" in (tmp_path / "r.md").read_text()
