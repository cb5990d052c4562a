"""Rewards of evaluated replies: means and differences by hand, what is missing left out, and reports that do not fit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from multimood_core.dialogues import Dialogue, DialogueTurn
from multimood_core.errors import DataError
from multimood_core.rewards import ReplySituation, Reward
from train import score_rewards
from train.score_rewards import differences, read_replies, score, summary, table

SITUATIONS = {f"{dialogue}/{turn}": ReplySituation("alone") for dialogue in range(3) for turn in (0, 2)}
DIALOGUES = [name.split("/")[0] for name in SITUATIONS]


def by_length(situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[Reward]:
    """A tenth a word; a reply of one word has no judge."""
    return [
        Reward(len(r.split()) / 10, {"sim": 0.5, "judge": None if " " not in r else len(r.split()) / 10}) for r in replies
    ]


def replies(*counts: int) -> dict[str, str]:
    return {name: " ".join(["word"] * count) for name, count in zip(SITUATIONS, counts, strict=True)}


def test_means_leave_out_what_is_missing_and_count_it() -> None:
    parts = score(replies(1, 2, 3, 4, 5, 6), SITUATIONS, by_length)
    found = summary(parts, DIALOGUES)
    assert found["reward"]["value"] == pytest.approx(0.35)
    assert found["judge"]["value"] == pytest.approx(0.4)
    assert (found["reward"]["missing"], found["judge"]["missing"]) == (0, 1)
    assert found["words"]["value"] == pytest.approx(3.5)
    assert found["sim"]["low"] == found["sim"]["high"] == 0.5
    assert found["reward"]["low"] < 0.35 < found["reward"]["high"]


def test_differences_are_of_the_items_that_both_have() -> None:
    first, second = (score(replies(*counts), SITUATIONS, by_length) for counts in ((1, 2, 3, 4, 5, 6), (3, 4, 1, 6, 7, 8)))
    found = differences(second, first, DIALOGUES)
    assert found["reward"]["value"] == pytest.approx((0.2 * 5 - 0.2) / 6)
    assert found["judge"]["value"] == pytest.approx(0.2)  # the first and the third item lack it in one of the two
    assert found["judge"]["n"] == 4
    assert found["judge"]["low"] == pytest.approx(0.2)
    assert found["judge"]["p"] < 0.01
    assert found["sim"]["p"] == 1


def test_the_table_has_a_row_for_each_part() -> None:
    parts = score(replies(1, 2, 3, 4, 5, 6), SITUATIONS, by_length)
    found = {"sft": {"parts": summary(parts, DIALOGUES), "differences": {}}}
    found["grpo"] = found["sft"] | {"differences": differences(parts, parts, DIALOGUES)}
    lines = table(found).splitlines()
    assert lines[0] == "| part | sft | grpo |"
    assert "| sim | 0.500 (0.500 to 0.500) | 0.500 (0.500 to 0.500), +0.000 (p 1.000) |" in lines
    assert len(lines) == 2 + 4


def test_reports_are_read_by_item(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    truth = {"client_emotion": "joy", "therapist_emotion": "neutral", "strategy": "approval"}
    predicted = {"client_emotion": {"label": "joy"}, "therapist_emotion": {"label": "joy"}}  # the strategy was not parsed
    item = {"id": "0/0", "response": "I am here.", "truth": truth, "predicted": predicted}
    path.write_text(json.dumps({"items": [item]}))
    replies, right = read_replies(path)
    assert replies == {"0/0": "I am here."}
    assert right == {
        "client emotion, accuracy": [1.0], "therapist emotion, accuracy": [0.0], "strategy, accuracy": [0.0]
    }  # fmt: skip
    path.write_text(json.dumps({"items": [item | {"response": None}]}))
    with pytest.raises(DataError, match="items without a reply. Run train.evaluate with --responses"):
        read_replies(path)
    path.write_text("[]")
    with pytest.raises(DataError, match="Expected a report of train.evaluate"):
        read_replies(path)


def test_the_trivial_replies_are_scored_beside_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = (DialogueTurn("client", "I am sad.", "sadness"), DialogueTurn("therapist", "Do go on.", "neutral", "others"))
    splits = {"train": [Dialogue("9", "train", turns)], "test": [Dialogue(str(i), "test", turns) for i in range(2)]}
    monkeypatch.setattr(score_rewards, "read_mesc", lambda: splits)
    monkeypatch.setattr(score_rewards, "rewarder_of", lambda name: by_length)
    truth = {"client_emotion": "sadness", "therapist_emotion": "neutral", "strategy": "others"}
    items = [{"id": f"{i}/0", "response": "I am with you.", "truth": truth, "predicted": {}} for i in range(2)]
    (tmp_path / "sft.json").write_text(json.dumps({"items": items}))
    score_rewards.main(["--reports", str(tmp_path / "sft.json"), "--out", str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())
    for name in ("constant response", "response of the nearest training turn"):
        assert found[name]["parts"]["reward"]["value"] == pytest.approx(0.3)
        assert found[name]["differences"]["reward"]["value"] == pytest.approx(-0.1)
        assert "strategy, accuracy" not in found[name]["parts"]


def test_replies_to_other_items_are_refused() -> None:
    with pytest.raises(DataError, match="but 9/9 are none of it"):
        score({"9/9": "x"}, SITUATIONS, by_length)
