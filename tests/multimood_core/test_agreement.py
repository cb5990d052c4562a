"""Agreement equals statsmodels, scikit-learn, krippendorff and cases worked out by hand; what is not defined says so."""

from __future__ import annotations

import krippendorff
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats import inter_rater

from multimood_core.agreement import (
    MISSING,
    Estimate,
    agreement,
    category_counts,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    percent_agreement,
    strength_word,
)


def random_ratings(seed: int, units: int = 60, raters: int = 4, missing: float = 0.0) -> np.ndarray:
    """Raters who follow a hidden label six times of ten."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, units)
    ratings = np.where(rng.random((units, raters)) < 0.6, truth[:, None], rng.integers(0, 3, (units, raters)))
    return np.where(rng.random((units, raters)) < missing, MISSING, ratings)


@pytest.mark.parametrize("seed", range(5))
def test_cohens_kappa_equals_scikit_learn_and_statsmodels(seed: int) -> None:
    a, b = random_ratings(seed, raters=2).T
    table = np.zeros((3, 3))
    np.add.at(table, (a, b), 1)
    ours = cohen_kappa(a, b, 3).value
    assert ours == pytest.approx(cohen_kappa_score(a, b), abs=1e-12)
    assert ours == pytest.approx(inter_rater.cohens_kappa(table).kappa, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_fleiss_kappa_equals_statsmodels(seed: int) -> None:
    ratings = random_ratings(seed)
    expected = inter_rater.fleiss_kappa(category_counts(ratings, 3), method="fleiss")
    assert fleiss_kappa(ratings, 3, raters=4).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("missing", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("seed", range(3))
def test_alpha_with_missing_labels_equals_krippendorff(seed: int, missing: float) -> None:
    ratings = random_ratings(seed, missing=missing)
    as_floats = np.where(ratings == MISSING, np.nan, ratings).T
    expected = krippendorff.alpha(reliability_data=as_floats, level_of_measurement="nominal")
    assert krippendorff_alpha(ratings, 3).value == pytest.approx(expected, abs=1e-12)


def test_a_case_worked_out_by_hand() -> None:
    # Ten units, two raters: win-win 4, tie-tie 2, loss-loss 1, win-tie 2, tie-loss 1. Observed 7/10.
    # Rater 1: win 6, tie 3, loss 1; rater 2: win 4, tie 4, loss 2. Cohen expects (6*4 + 3*4 + 1*2)/100 = 0.38.
    # Both together: win 10, tie 7, loss 3 of 20. Fleiss expects (100 + 49 + 9)/400 = 0.395.
    # Alpha: 1 - 19 * (20 - 14)/(400 - 158) with 14 = labels in agreeing units.
    a = np.array([0, 0, 0, 0, 1, 1, 2, 0, 0, 1])
    b = np.array([0, 0, 0, 0, 1, 1, 2, 1, 1, 2])
    both = np.stack([a, b], 1)
    assert cohen_kappa(a, b, 3).value == pytest.approx((0.7 - 0.38) / 0.62)
    assert fleiss_kappa(both, 3, 2).value == pytest.approx((0.7 - 0.395) / 0.605)
    assert krippendorff_alpha(both, 3).value == pytest.approx(1 - 19 * 6 / 242)
    assert percent_agreement(both, 3).value == pytest.approx(0.7)


def test_percent_agreement_counts_pairs_of_labels() -> None:
    # Three labels with two alike have one agreeing pair of three; two alike have one of one: 2 of 4.
    ratings = np.array([[0, 0, 1], [2, MISSING, 2], [1, MISSING, MISSING]])
    assert percent_agreement(ratings, 3).value == pytest.approx(0.5)


@pytest.mark.filterwarnings("ignore")
def test_one_category_is_not_defined_and_says_so() -> None:
    same = np.zeros((20, 2), int)
    found = agreement(same, 3, 2)
    for estimate in (found.fleiss, found.alpha, found.pairs[0, 1]):
        assert estimate.value is None
        assert "same category" in estimate.why
        assert estimate.word == "not defined"
    assert np.isnan(cohen_kappa_score(*same.T)), "scikit-learn agrees that there is no value"
    assert found.percent.value == 1.0


def test_nothing_to_go_by_says_what_is_missing() -> None:
    alone = np.array([[0, MISSING], [MISSING, 1]])
    found = agreement(alone, 3, 2)
    assert (found.fleiss.value, found.alpha.value, found.percent.value, dict(found.pairs)) == (None, None, None, {})
    assert "two labels" in found.alpha.why
    assert "both raters" in cohen_kappa(alone[:, 0], alone[:, 1], 3).why
    assert "nobody" in fleiss_kappa(alone, 3, 1).why


def test_perfect_and_opposite_raters() -> None:
    a = np.array([0, 1] * 10)
    assert cohen_kappa(a, a, 2).value == 1
    assert cohen_kappa(a, 1 - a, 2).value == -1


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    # Two raters who give a hidden fair label with probability 0.8 each: Cohen's kappa is 2 (0.8^2 + 0.2^2) - 1 = 0.36.
    rng, inside = np.random.default_rng(7), 0
    for trial in range(200):
        truth = rng.integers(0, 2, 150)
        a, b = (np.where(rng.random(150) < 0.8, truth, 1 - truth) for _ in range(2))
        found = cohen_kappa(a, b, 2, samples=400, seed=trial)
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= 0.36 <= found.high
    assert 180 <= inside <= 199  # 190 expected; 3.2 standard deviations to the lower bound


def test_the_interval_equals_resampling_the_units_themselves() -> None:
    ratings = random_ratings(3, units=200)
    found = fleiss_kappa(ratings, 3, 4, samples=4000)
    rng, values = np.random.default_rng(1), []
    for _ in range(1500):
        drawn = ratings[rng.integers(0, len(ratings), len(ratings))]
        values.append(inter_rater.fleiss_kappa(category_counts(drawn, 3), method="fleiss"))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=0.012)


def test_rarely_defined_resamples_give_no_interval() -> None:
    # One unit of forty differs from the rest: it is absent from more than a third of all resamples.
    a = np.zeros(40, int)
    a[0] = 1
    found = cohen_kappa(a, a, 2)
    assert found.value == 1
    assert 0.3 < found.undefined_resamples < 0.45
    assert found.low is not None
    lonely = cohen_kappa(np.array([0, 0, 0, 0]), np.array([0, 0, 0, 1]), 2, samples=2000)
    assert lonely.value == 0


@given(st.integers(0, 10_000), st.integers(1, 30), st.floats(0, 0.9))
def test_order_of_units_and_names_of_categories_change_nothing(seed: int, units: int, missing: float) -> None:
    ratings = random_ratings(seed, units, 3, missing)
    rng = np.random.default_rng(seed)
    renamed = np.append(rng.permutation(3), MISSING)[ratings[rng.permutation(units)]]
    for statistic in (krippendorff_alpha, percent_agreement):
        one, other = (statistic(r, 3, samples=0) for r in (ratings, renamed))
        assert (one.value is None) == (other.value is None)
        assert one.value == pytest.approx(other.value)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (-0.1, "poor"),
        (0.0, "slight"),
        (0.2, "slight"),
        (0.21, "fair"),
        (0.6, "moderate"),
        (0.61, "substantial"),
        (1.0, "almost perfect"),
    ],
)
def test_words_are_those_of_landis_and_koch(value: float, word: str) -> None:
    assert strength_word(value) == word
    assert Estimate(value, None, None, 1).word == word


def test_raters_of_different_units_are_refused() -> None:
    with pytest.raises(ValueError, match="3 and 2"):
        cohen_kappa([0, 1, 2], [0, 1], 3)
