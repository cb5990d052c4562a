"""Pairs for the reward model: unlike the real reply, of different dialogues, and the same after a kill."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from multimood_core.errors import DataError
from multimood_core.registry import Checkpoint
from tests.train.policies import toy_policy
from train.reward_pairs import Pairs, PairWriter, split_pairs, unlike
from train.rollouts import Situations, Writer


def test_replies_like_the_real_one_are_no_rejected_ones() -> None:
    reference = "since when do you feel so alone"
    # ROUGE-L: the longest common subsequence of 7 and n words; 2 of 7 and 7: F1 = 2/7 = 0.29; 3 of 7 and 7: 0.43
    near, far = "since when a b c d e", "since when do b c d e"
    assert unlike(reference, [near, far, "", near, reference, "tell me more"], 0.3) == (near, "tell me more")


def make_writer(folder: Path, policy: Checkpoint, situations: Situations, **settings: Any) -> PairWriter:
    writer = Writer(policy.model, policy.processor, policy.calibration, max_tokens=6)
    return PairWriter(folder, writer, situations, {"temperature": 1.0} | settings)


def test_writing_goes_on_after_a_kill_with_the_same_pairs(tmp_path: Path) -> None:
    policy, situations = toy_policy()
    whole = make_writer(tmp_path, policy, situations)
    indices = random.Random(0).sample(range(len(situations)), 20)
    whole.write(indices, 2, 0.3, seed=0)
    path = tmp_path / "pairs-0.jsonl"
    expected, text = whole.read(), path.read_text()
    assert [one.index for one in expected] == sorted(indices)
    assert any(one.rejected for one in expected)
    path.write_text(text[: len(text) // 2])  # a line is cut
    resumed = make_writer(tmp_path, policy, situations)
    assert 0 < len(resumed.read()) < 20
    resumed.write(indices, 2, 0.3, seed=0)
    assert resumed.read() == expected


def test_processes_share_the_items(tmp_path: Path) -> None:
    policy, situations = toy_policy()
    alone = make_writer(tmp_path / "alone", policy, situations)
    both = [make_writer(tmp_path / "both", policy, situations) for _ in range(2)]
    for writer in (alone, *both):
        writer.folder.mkdir(exist_ok=True)
    for process, writer in enumerate(both):
        writer.process, writer.processes = process, 2
        writer.write(range(6), 2, 0.3, seed=0)
    alone.write(range(6), 2, 0.3, seed=0)
    assert both[0].read() == alone.read()
    assert len(list((tmp_path / "both").iterdir())) == 2


def test_pairs_of_other_settings_are_refused(tmp_path: Path) -> None:
    policy, situations = toy_policy()
    make_writer(tmp_path, policy, situations).write(range(2), 1, 0.3, seed=0)
    with pytest.raises(DataError, match=r"pairs made under \{'temperature': 1.0\}, not \{'temperature': 0.7\}"):
        make_writer(tmp_path, policy, situations, temperature=0.7).write(range(2), 1, 0.3, seed=0)


def test_no_dialogue_is_in_both_parts() -> None:
    pairs = [Pairs(i, f"{i // 2}/{2 * (i % 2)}", ("x",)) for i in range(400)]  # two items a dialogue
    kept, apart = split_pairs(pairs, 0.2)
    names = [{one.item.split("/")[0] for one in part} for part in (kept, apart)]
    assert not names[0] & names[1]
    assert len(kept) + len(apart) == 400
    assert len(apart) / 400 == pytest.approx(0.2, abs=0.07)
    assert split_pairs(pairs[100:], 0.2)[1] == [one for one in apart if one.index >= 100]


def test_lines_hold_what_is_needed(tmp_path: Path) -> None:
    policy, situations = toy_policy()
    make_writer(tmp_path, policy, situations).write([4], 2, 0.3, seed=0)
    settings, line = map(json.loads, (tmp_path / "pairs-0.jsonl").read_text().splitlines())
    assert settings == {"temperature": 1.0}
    assert (line["index"], line["item"]) == (4, "2/0")
