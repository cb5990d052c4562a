"""Statistics equal scikit-learn's on any resample; a difference is judged on the same resamples of whole dialogues."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score

from multimood_core.bootstrap import f1_of, interval, mean_of, paired_difference, resamples, uar_of


@pytest.mark.filterwarnings("ignore:A single label was found", "ignore:y_pred contains classes")
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abcd"), st.integers(0, 3)), min_size=1, max_size=30).filter(
        lambda rows: any(row[2] for row in rows)
    )
)
def test_weighted_statistics_are_those_of_the_repeated_items(rows: list[tuple[str, str, int]]) -> None:
    truth, predicted, counts = [list(column) for column in zip(*rows, strict=True)]
    weights = np.array([counts], dtype=float)
    repeated = [(t, p) for t, p, count in rows for _ in range(count)]
    t, p = [list(column) for column in zip(*repeated, strict=True)]
    assert f1_of(truth, predicted, "weighted")(weights)[0] == pytest.approx(f1_score(t, p, average="weighted", zero_division=0))
    macro = f1_score(t, p, labels=sorted(set(t)), average="macro", zero_division=0)
    assert f1_of(truth, predicted, "macro")(weights)[0] == pytest.approx(macro)
    assert uar_of(truth, predicted)(weights)[0] == pytest.approx(balanced_accuracy_score(t, p))


def test_whole_groups_are_drawn() -> None:
    weights = resamples(["a", "b", "a", "c"], samples=200, seed=1)
    assert weights.shape == (200, 4)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 0] + weights[:, 1] + weights[:, 3] == 3).all()
    assert (weights == resamples(["a", "b", "a", "c"], samples=200, seed=1)).all()
    with pytest.raises(ValueError, match="at least one"):
        resamples([])


def test_the_interval_of_groups_is_as_wide_as_their_number_says() -> None:
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(0.5, 0.1, 100), 9)  # nine equal items a group: 100 draws, not 900
    found = interval(mean_of(values), resamples([str(i // 9) for i in range(900)]))
    half = 1.96 * values[::9].std() / 10
    assert found.value == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)


def test_a_paired_difference_is_that_of_the_means() -> None:
    rng = np.random.default_rng(1)
    hard = rng.normal(0, 1, 400)  # what both systems find hard cancels out
    first, second = hard + 0.1 + rng.normal(0, 0.1, 400), hard
    groups = [str(i) for i in range(400)]
    found = paired_difference(mean_of(first), mean_of(second), groups)
    gaps = first - second
    half = 1.96 * gaps.std() / 20
    assert found.value == pytest.approx(gaps.mean())
    assert (found.low, found.high) == (pytest.approx(gaps.mean() - half, abs=0.003), pytest.approx(gaps.mean() + half, abs=0.003))
    assert found.p == pytest.approx(2 / 2001)
    assert (found.n, found.groups) == (400, 400)


def test_no_difference_is_not_significant() -> None:
    values = np.random.default_rng(2).random(50)
    same = paired_difference(mean_of(values), mean_of(values), [str(i) for i in range(50)])
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    one = paired_difference(mean_of([True, True]), mean_of([False, False]), ["a", "a"])
    assert (one.value, one.p, one.groups) == (1, 1, 1)  # a single dialogue shows nothing, however many items it has
