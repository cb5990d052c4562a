"""Agreement equals published and independent figures; scores that are not there stay missing."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from multimood_core.errors import DataError
from multimood_core.judge_trust import (
    ATTRIBUTES,
    intraclass,
    judge_trust,
    read_ratings,
    spearman_of,
    system_spearman,
    trust_table,
)

# Shrout and Fleiss 1979, table 2: six targets, four judges.
SHROUT_FLEISS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float)


def test_the_correlations_are_shrout_and_fleiss_own() -> None:
    found = intraclass(SHROUT_FLEISS)
    # their table 4: ICC(2,1) 0.29, ICC(3,1) 0.71, ICC(2,4) 0.62, ICC(3,4) 0.91
    assert found.agreement_1 == pytest.approx(0.29, abs=0.005)
    assert found.consistency_1 == pytest.approx(0.71, abs=0.005)
    assert found.agreement_k == pytest.approx(0.62, abs=0.005)
    assert found.consistency_k == pytest.approx(0.91, abs=0.005)
    with pytest.raises(ValueError, match="two raters"):
        intraclass(SHROUT_FLEISS[:, :1])


def test_a_constant_gap_costs_agreement_and_no_consistency() -> None:
    people = np.array([1, 2, 3, 4, 5, 2, 3, 4], dtype=float)
    trust = judge_trust(people, people + 1, [str(i) for i in range(8)], samples=200)
    assert trust.consistency.value == pytest.approx(1)
    # variance between items s^2 = 12/7, gap 1: s^2 / (s^2 + 1/2)
    assert trust.agreement.value == pytest.approx((12 / 7) / (12 / 7 + 0.5))
    assert (trust.bias.value, trust.bias.low, trust.bias.high) == (1, 1, 1)
    assert trust.spearman.value == pytest.approx(1)
    assert trust.exact.value == 0


def test_spearman_is_scipys_on_every_resample() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(1, 6, 60).astype(float)
    second = np.clip(first + rng.integers(-2, 3, 60), 1, 5)
    counts = rng.integers(0, 4, (5, 60))
    found = spearman_of(first, second)(counts.astype(float))
    expected = [spearmanr(np.repeat(first, row), np.repeat(second, row)).statistic for row in counts]
    assert found == pytest.approx(expected)


def test_the_interval_of_a_resample_is_that_of_the_repeated_items() -> None:
    rng = np.random.default_rng(1)
    people = rng.integers(1, 6, 300).astype(float)
    judge = np.clip(people + rng.integers(-1, 2, 300), 1, 5)
    trust = judge_trust(people, judge, [str(i // 10) for i in range(300)], samples=500)
    picks = np.random.default_rng(2).integers(0, 30, (500, 30))
    by_hand = []
    for row in picks:
        places = (row[:, None] * 10 + np.arange(10)).ravel()
        by_hand.append(intraclass(np.stack([people[places], judge[places]], 1)).agreement_1)
    low, high = np.quantile(by_hand, [0.025, 0.975])
    assert (trust.agreement.low, trust.agreement.high) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))
    assert (trust.n, trust.conversations) == (300, 30)


def test_what_one_side_did_not_rate_is_left_out_and_counted() -> None:
    people = np.array([1, 2, np.nan, 4, 5, 3])
    judge = np.array([1, 2, 3, np.nan, 5, 3])
    trust = judge_trust(people, judge, list("aabbcc"), samples=50)
    assert (trust.n, trust.n_missing, trust.conversations) == (4, 2, 2)
    assert trust.agreement.value == pytest.approx(1)
    with pytest.raises(ValueError, match="got 1"):
        judge_trust(people[:2], np.array([1, np.nan]), ["a", "b"])


def test_the_order_of_systems_is_that_of_their_means() -> None:
    systems = ["s", "t", "u"] * 4
    people = np.array([1, 2, 3] * 4, dtype=float)
    conversations = [str(i // 3) for i in range(12)]
    assert system_spearman(people, np.array([2, 3, 5] * 4, dtype=float), conversations, systems, 50).value == 1
    assert system_spearman(people, np.array([3, 2, 1] * 4, dtype=float), conversations, systems, 50).value == -1
    assert system_spearman(people, np.array([1, 3, 2] * 4, dtype=float), conversations, systems, 50).value == pytest.approx(0.5)


def scores(**other: object) -> str:
    return json.dumps(dict.fromkeys(ATTRIBUTES, 4) | other)


def write(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["ConvID", "context", "x_response_one", "x_response_two"], *rows])
    return path


def test_answers_are_read_leniently_and_nothing_is_filled_in(tmp_path: Path) -> None:
    fenced = f"```json\n{scores(Explanation='a {brace}')}\n```"
    curly = scores().replace('"', "”")
    broken = scores(Safety=2).replace("}", ', "Explanation": "says "so""}')
    path = write(
        tmp_path / "judge.csv",
        [
            ["1", "", fenced, curly],
            ["2", "", broken, ""],
            ["3", "", scores(Safety=0, Empathy=None), scores(Safety="X", Empathy=6)],
        ],
    )
    found = read_ratings(path)
    assert found.conversations == ("1", "1", "2", "2", "3", "3")
    assert found.systems == ("one", "two") * 3
    safety, empathy = ATTRIBUTES.index("Safety"), ATTRIBUTES.index("Empathy")
    assert found.scores[0].tolist() == found.scores[1].tolist() == [4] * 7
    assert found.scores[2, safety] == 2
    assert np.isnan(found.scores[3]).all()
    assert np.isnan(found.scores[4:, [safety, empathy]]).all()
    assert (found.scores[4:, 0] == 4).all()


def test_tables_of_other_items_are_refused(tmp_path: Path) -> None:
    first = read_ratings(write(tmp_path / "a.csv", [["1", "", scores(), scores()], ["2", "", scores(), scores(Safety=1)]]))
    second = read_ratings(write(tmp_path / "b.csv", [["2", "", scores(), scores()], ["1", "", scores(), scores()]]))
    with pytest.raises(DataError, match="same items"):
        trust_table(first, second)
    (tmp_path / "c.csv").write_text("a,b\n1,2\n")
    for name in ("c.csv", "none.csv"):
        with pytest.raises(DataError, match=name):
            read_ratings(tmp_path / name)
