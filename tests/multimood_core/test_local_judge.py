"""The shipped local judge: what it scores, what it leaves alone, and files that do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from multimood_core.errors import ModelError
from multimood_core.judges import DIMENSION_NAMES, TrustReward
from multimood_core.local_judge import TOKENS, EmpathyHeads, LocalJudge, pad_tokens
from multimood_core.rewards import EMBEDDED, ReplySituation
from multimood_core.text_encoder import MiniLM, TextStates

CLIENT = ReplySituation("My father died in spring and I have not slept since.")


@pytest.fixture(scope="module")
def encoder() -> MiniLM:
    return MiniLM()


@pytest.fixture(scope="module")
def judge(encoder: MiniLM) -> LocalJudge:
    return LocalJudge.from_folder(EMBEDDED, encoder)


def test_warm_and_curious_replies_are_above_cold_ones(judge: LocalJudge) -> None:
    kind = ["I am so sorry for your loss.", "What keeps you awake at night?", "It sounds as if you feel terribly alone with it."]
    cold = ["People die every day.", "The office closes at five.", "Just get over it."]
    scores = TrustReward(judge)([CLIENT] * 6, kind + cold)
    assert min(s for s in scores[:3] if s is not None) > max(s for s in scores[3:] if s is not None)


def test_it_judges_empathy_and_nothing_else(judge: LocalJudge) -> None:
    (score,) = TrustReward(judge).parted([CLIENT], ["I am so sorry. Shall we go on?"])
    assert set(score.parts) == set(judge.dimensions) == {"empathy"}
    assert "empathy" in DIMENSION_NAMES
    (judgement,) = judge([CLIENT], ["I am so sorry. Shall we go on?"])
    assert judgement is not None
    assert judgement.sentences == ("I am so sorry.", "Shall we go on?")
    assert score.value == pytest.approx(sum(s["empathy"] for s in judgement.scores) / 2)


def test_a_sentence_is_judged_the_same_alone_and_among_others(judge: LocalJudge) -> None:
    reply = "I am so sorry. What did the two of you talk about in the last days before he went to the hospital?"
    (together,) = judge([CLIENT], [reply])
    assert together is not None
    alone = judge([CLIENT] * 2, list(together.sentences))
    for one, score in zip(alone, together.scores, strict=True):
        assert one is not None
        assert one.scores[0]["empathy"] == pytest.approx(score["empathy"], abs=1e-4)


def test_nothing_said_is_nothing_judged(judge: LocalJudge) -> None:
    assert judge([], []) == []
    assert judge.probabilities([]).shape == (0, 3, 3)
    assert TrustReward(judge)([CLIENT] * 2, ["", "…"]) == [0.0, 0.0]


def test_padding_changes_no_logit() -> None:
    torch.manual_seed(0)
    heads = EmpathyHeads(8, heads=2, hidden=4).eval()
    states = [TextStates(torch.randn(n, 8), torch.zeros(8)) for n in (2, 5, TOKENS + 9)]
    together = heads(*pad_tokens(states))
    assert together.shape == (3, 3, 3)
    for state, row in zip(states, together, strict=True):
        torch.testing.assert_close(heads(*pad_tokens([state]))[0], row)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EMBEDDED, tmp_path / "mini"))


@pytest.mark.parametrize("file", ["heads.safetensors", "judge.json"])
def test_absent_and_damaged_files_are_named(folder: Path, encoder: MiniLM, file: str) -> None:
    (folder / file).write_bytes(b"{")
    with pytest.raises(ModelError, match=r"train\.local_judge"):
        LocalJudge.from_folder(folder, encoder)
    (folder / file).unlink()
    with pytest.raises(ModelError, match=r"train\.local_judge"):
        LocalJudge.from_folder(folder, encoder)


def test_heads_that_do_not_fit_are_refused(folder: Path, encoder: MiniLM) -> None:
    state = load_file(folder / "heads.safetensors")
    save_file(state | {"query.weight": torch.zeros(3, 3)}, folder / "heads.safetensors")
    with pytest.raises(ModelError, match=r"query\.weight"):
        LocalJudge.from_folder(folder, encoder)
    save_file(state, folder / "heads.safetensors")
    settings = json.loads((folder / "judge.json").read_text())
    (folder / "judge.json").write_text(json.dumps(settings | {"hidden": 7}))
    with pytest.raises(ModelError, match="size mismatch"):
        LocalJudge.from_folder(folder, encoder)
