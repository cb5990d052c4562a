"""Scores equal those that scikit-learn gives and those that a hand computes; a missing prediction is wrong."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, brier_score_loss, f1_score

from multimood_core.metrics import (
    bootstrap_interval,
    brier_score,
    classification_scores,
    expected_calibration_error,
    majority_class,
    preference_bias,
    reliability_bins,
)


def test_scores_of_a_case_computed_by_hand() -> None:
    scores = classification_scores(["a", "a", "a", "b"], ["a", "a", "b", "b"])
    assert (scores.n, scores.n_missing) == (4, 0)
    assert scores.accuracy == pytest.approx(3 / 4)
    assert dict(scores.recall) == {"a": pytest.approx(2 / 3), "b": 1.0}
    assert scores.uar == pytest.approx((2 / 3 + 1) / 2)
    # F1: a has precision 1 and recall 2/3 -> 4/5; b has precision 1/2 and recall 1 -> 2/3
    assert scores.macro_f1 == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert scores.weighted_f1 == pytest.approx((3 * 4 / 5 + 2 / 3) / 4)
    assert scores.confusion == {"a": {"a": 2, "b": 1}, "b": {"a": 0, "b": 1}}


def test_a_missing_prediction_counts_as_wrong() -> None:
    scores = classification_scores(["a", "b"], ["a", None])
    assert (scores.accuracy, scores.n_missing, scores.uar) == (0.5, 1, 0.5)
    assert scores.macro_f1 == 0.5
    assert sum(scores.confusion["b"].values()) == 1
    assert scores.confusion["b"]["b"] == 0


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abcd")), min_size=1, max_size=40))
def test_scores_equal_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    truth, predicted = [list(column) for column in zip(*pairs, strict=True)]
    scores = classification_scores(truth, predicted)
    assert scores.accuracy == pytest.approx(accuracy_score(truth, predicted))
    assert scores.weighted_f1 == pytest.approx(f1_score(truth, predicted, average="weighted", zero_division=0))
    by_class = f1_score(truth, predicted, labels=sorted(set(truth)), average=None, zero_division=0)
    assert scores.macro_f1 == pytest.approx(by_class.mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "y_pred contains classes not in y_true"
        assert scores.uar == pytest.approx(balanced_accuracy_score(truth, predicted))


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        classification_scores([], [])
    with pytest.raises(ValueError, match="got 2 and 1"):
        classification_scores(["a"], ["a", "a"])


def test_calibration_error_of_cases_computed_by_hand() -> None:
    assert expected_calibration_error([1.0, 1.0], [True, True]) == 0
    assert expected_calibration_error([0.95, 0.95], [False, False]) == pytest.approx(0.95)
    # one bin holds 0.62 and 0.68 (mean 0.65, half right), another 0.9 (right): (2 * 0.15 + 1 * 0.1) / 3
    assert expected_calibration_error([0.62, 0.68, 0.9], [True, False, True]) == pytest.approx(0.4 / 3)


def test_the_bins_are_those_of_the_calibration_error() -> None:
    confidence, right = [0.62, 0.68, 0.9, 1.0], [True, False, True, True]
    bins = reliability_bins(confidence, right)
    assert [(b.low, b.high, b.n) for b in bins] == [(0.6, 0.7, 2), (0.9, 1.0, 2)]
    assert [b.confidence for b in bins] == [pytest.approx(0.65), pytest.approx(0.95)]
    assert [b.accuracy for b in bins] == [0.5, 1.0]
    error = sum(b.n * abs(b.accuracy - b.confidence) for b in bins) / 4
    assert expected_calibration_error(confidence, right) == pytest.approx(error)


def test_brier_is_scikit_learns_and_a_label_without_probability_has_none() -> None:
    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.ones(3), 50)
    truth = [str(i) for i in rng.integers(0, 3, 50)]
    found = brier_score(truth, [dict(zip("012", row, strict=True)) for row in rows])
    assert found == pytest.approx(brier_score_loss(truth, rows, labels=["0", "1", "2"], scale_by_half=False))
    assert brier_score(["a"], [{"b": 1.0}]) == 2


def test_preference_bias_of_a_case_computed_by_hand() -> None:
    bias = preference_bias(["a", "a", "b", "c"], ["a", "a", "a", None])
    assert bias.lean == {"(none)": 0.25, "a": 0.25, "b": -0.25, "c": -0.25}
    assert bias.distance == 0.5
    assert preference_bias(["a", "b"], ["b", "a"]).distance == 0  # every answer is wrong, yet no label is preferred


def test_the_interval_is_that_of_the_binomial() -> None:
    correct = [True] * 60 + [False] * 40
    low, high = bootstrap_interval(correct)
    half = 1.96 * np.sqrt(0.6 * 0.4 / 100)
    assert (low, high) == (pytest.approx(0.6 - half, abs=0.015), pytest.approx(0.6 + half, abs=0.015))
    assert bootstrap_interval(correct) == (low, high)
    assert bootstrap_interval([True] * 5) == (1.0, 1.0)


def test_the_majority_class_does_not_depend_on_the_order() -> None:
    assert majority_class(["b", "a", "b"]) == "b"
    assert majority_class(["b", "a"]) == majority_class(["a", "b"]) == "a"
