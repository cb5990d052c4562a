"""The trivial baselines of MESC's test split are those that were measured independently of this code."""

from __future__ import annotations

from pathlib import Path

import pytest

from multimood_core.baselines import COPY, MAJORITY, label_baselines
from multimood_core.dialogues import items_of
from multimood_core.evaluation import truth_of
from train.data import read_mesc
from train.evaluate_clips import row_of


def test_majority_and_copying_on_the_papers_items(data_dir: Path) -> None:
    if not (data_dir / "mesc").is_dir():
        pytest.skip(f"no mesc in {data_dir}")
    splits = read_mesc(data_dir)
    train, test = list(items_of(splits["train"])), list(items_of(splits["test"]))
    found = label_baselines(train, test, gold_history=True)
    expected = {
        (MAJORITY, "client_emotion"): (40.53, 23.38),
        (MAJORITY, "therapist_emotion"): (99.34, 99.01),
        (MAJORITY, "strategy"): (36.34, 19.38),
        (COPY, "client_emotion"): (58.81, 57.37),
    }
    for (name, task), scores in expected.items():
        row = row_of([truth_of(item)[task] for item in test], found[name][task])
        assert (row["n"], round(100 * row["accuracy"], 2), round(100 * row["weighted_f1"], 2)) == (454, *scores)
