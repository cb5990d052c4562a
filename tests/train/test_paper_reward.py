"""``reward: paper``: one key reaches BGE-M3 and a judge's endpoint, calls and cost are counted, and failures stop the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from multimood_core.errors import DataError, ModelError
from tests.multimood_core.bge_folder import write_folder
from tests.multimood_core.stub_endpoint import Answer, scores_text, serve
from train import grpo
from train.grpo import GrpoConfig
from train.paper_reward import paper_reward

KEY = "sk-of-a-test"


def graded(number: int, request: dict[str, Any]) -> Answer:
    """A score for each sentence: more for more of the letter "e"."""
    sentences = json.loads(request["messages"][1]["content"])["reply"].values()
    return Answer(scores_text(*(1 + min(9, 3 * sentence.count("e")) for sentence in sentences)))


def words_of(mixture: Path, bge: Path, out: Path, url: str) -> list[str]:
    words = [f"--mixture={mixture}", f"--out={out}", "--precision=no", "--prompts=10", "--group=2", "--max_tokens=4"]
    words += ["--epochs=0.6", f"--judge_url={url}", "--judge_model=stub", "--judge_prices=[2.5, 10]"]
    return [*words, "--reward=paper", f"--bge={write_folder(bge)}", f"--judge_cache={bge.parent}/answers.sqlite"]


def test_grpo_learns_from_the_papers_reward_and_says_what_it_cost(
    toy_stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serve(graded) as stub:
        grpo.main(words_of(toy_stage, tmp_path / "bge", tmp_path / "run", stub.url))
        asked = len(stub.requests)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    for row in rows:
        assert 0 <= row["part/r_sim"] <= 1
        assert 0 < row["part/r_trust"] < 1
        assert {"part/r_trust/empathy", "part/guard/length", "part/guard/template"} <= set(row)
    assert 10 <= asked <= 40  # replies without a word are judged by nobody
    assert rows[-1]["judge/calls"] == asked
    assert rows[-1]["judge/failed"] == 0
    cost = asked * (2.5 * 100 + 10 * 10) / 1e6  # tokens of each call, as the server counts them
    assert rows[-1]["judge/cost"] == pytest.approx(cost)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("The judge, asked by process 0")]
    printed = json.loads(line.partition(": ")[2])
    assert (printed["calls"], printed["cost"]) == (asked, pytest.approx(cost))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert tmp_path / "run/final/adapter_model.safetensors" in written
    assert not any(KEY.encode() in path.read_bytes() for path in written)


def test_failures_above_the_rate_stop_the_run_and_the_calls_are_told(
    toy_stage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def respond(number: int, request: dict[str, Any]) -> Answer:
        return graded(number, request) if number % 3 else Answer("I would rather not say.")

    with serve(respond) as stub:
        words = words_of(toy_stage, tmp_path / "bge", tmp_path / "run", stub.url)
        with pytest.raises(ModelError, match=r"calls to 'stub' failed, more than 10%"):
            grpo.main([*words, "--prompts=30", "--judge_failures=0.1"])
    printed = json.loads(capsys.readouterr().out.partition("asked by process 0: ")[2])
    assert printed["calls"] >= 20
    assert printed["failed"] > 0.1 * printed["calls"]
    assert not (tmp_path / "run/final").exists()


def test_what_is_missing_is_named_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "MULTIMOOD_JUDGE_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DataError, match="MULTIMOOD_JUDGE_KEY or OPENAI_API_KEY"):
        paper_reward(GrpoConfig(reward="paper"), tmp_path, [])
    with pytest.raises(DataError, match=r"two numbers.*\[1.0\]"):
        paper_reward(GrpoConfig(reward="paper", judge_prices=(1.0,)), tmp_path, [])
    monkeypatch.setenv("MULTIMOOD_JUDGE_KEY", KEY)
    with pytest.raises(ModelError, match="BAAI/bge-m3"):
        paper_reward(GrpoConfig(reward="paper", bge=tmp_path / "none"), tmp_path, [])
