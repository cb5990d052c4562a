"""The local judge learns from marked sentences, is measured on posts it has not seen, and writes what it found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from multimood_core.local_judge import LocalJudge
from multimood_core.text_encoder import MiniLM
from tests.train.rated_replies import write_data
from train import local_judge
from train.judge_card import write_card
from train.local_judge import reply_levels


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the command wrote from synthetic data."""
    root = tmp_path_factory.mktemp("judge")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MULTIMOOD_DATA", str(write_data(root / "data")))
        config = "train/configs/local_judge_mini.yaml"
        local_judge.main(["--config", config, "--epochs=12", "--lr=0.003", f"--out={root / 'run'}", f"--export={root / 'mini'}"])
    return root / "mini"


def test_it_tells_the_kinds_of_sentences_apart_that_it_was_shown(trained: Path) -> None:
    judge = LocalJudge.from_folder(trained, MiniLM())
    sentences = ["I am so sorry about your boat.", "You must feel let down by the boat.", "What happened with the boat?",
                 "A boat costs money."]  # fmt: skip
    levels = judge.expected_levels(sentences).numpy()
    assert levels[:3].argmax(1).tolist() == [0, 1, 2]
    assert levels[:3].diagonal().min() > 0.5
    assert levels[3].max() < 0.3


def test_the_report_holds_unseen_posts_and_the_checks(trained: Path) -> None:
    report = json.loads((trained / "report.json").read_text())
    counts = {name: replies for name, (replies, _) in report["counts"].items()}
    assert sum(counts.values()) == 120
    for row in report["test"].values():
        assert row["reply"]["n"] == counts["test"]
        assert row["reply"]["kappa"]["value"] > 0.7
        assert row["reply"]["accuracy"]["value"] > row["reply"]["majority"]
    assert report["overall"]["strongest"]["value"] > 0.5
    assert [check["n"] for check in report["checks"]] == [20, 20, 40, 20, 20, 20]
    assert [check["value"]["value"] for check in report["checks"][-2:]] == [1.0, 1.0]


def test_the_card_says_every_figure_and_what_is_not_judged(trained: Path) -> None:
    card = (trained / "README.md").read_text()
    report = json.loads((trained / "report.json").read_text())
    for row in report["test"].values():
        assert f"{row['sentence']['kappa']['value']:.3f}" in card
    assert "Not judged" in card
    assert "{" not in card
    report["overall"]["mean"]["value"] = 0.1234567
    (trained / "report.json").write_text(json.dumps(report))
    assert "0.123 (" in write_card(trained).read_text()


def test_a_reply_is_as_strong_as_its_strongest_sentence() -> None:
    # none, weak, strong; two sentences of the first reply, one of the second
    probabilities = np.array([[0.9, 0.05, 0.05], [0.1, 0.3, 0.6], [0.3, 0.6, 0.1]])
    level, score = reply_levels(probabilities, np.array([0, 0, 1]))
    assert level.tolist() == [2, 1]
    assert score.tolist() == pytest.approx([0.9 + 0.6, 0.7 + 0.1])
