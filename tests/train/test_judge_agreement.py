"""Agreement figures are those of scikit-learn and scipy, and their intervals draw whole groups."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from train.judge_agreement import auc, human_agreement, quadratic_kappa, spearman

RNG = np.random.default_rng(0)
HUMAN = RNG.integers(0, 3, 200)
SCORE = HUMAN + RNG.normal(0, 0.8, 200)
JUDGED = SCORE.round().clip(0, 2).astype(int)
GROUPS = [str(i // 4) for i in range(200)]
ONCE = np.ones((1, 200))


def test_values_are_those_of_scikit_learn_and_scipy() -> None:
    found = human_agreement(HUMAN, JUDGED, SCORE, GROUPS, samples=200)
    assert found.kappa.value == pytest.approx(cohen_kappa_score(HUMAN, JUDGED, weights="quadratic"))
    assert found.spearman.value == pytest.approx(spearmanr(HUMAN, SCORE).statistic)
    assert found.accuracy.value == pytest.approx((HUMAN == JUDGED).mean())
    assert found.majority == pytest.approx(np.bincount(HUMAN).max() / 200)
    for one in (found.kappa, found.spearman, found.accuracy):
        assert one.low < one.value < one.high
    assert auc(HUMAN == 2, SCORE)(ONCE)[0] == pytest.approx(roc_auc_score(HUMAN == 2, SCORE))


def test_ties_count_half() -> None:
    assert auc(np.array([True, False, False]), np.array([1.0, 1.0, 0.0]))(np.ones((1, 3)))[0] == pytest.approx(0.75)


def test_weights_are_repetitions() -> None:
    weights = RNG.integers(0, 3, (1, 200)).astype(float)
    drawn = np.repeat(np.arange(200), weights[0].astype(int))
    kappa = cohen_kappa_score(HUMAN[drawn], JUDGED[drawn], weights="quadratic")
    assert quadratic_kappa(HUMAN, JUDGED)(weights)[0] == pytest.approx(kappa)
    assert spearman(HUMAN, SCORE)(weights)[0] == pytest.approx(spearmanr(HUMAN[drawn], SCORE[drawn]).statistic)
    area = roc_auc_score(HUMAN[drawn] == 2, SCORE[drawn])
    assert auc(HUMAN == 2, SCORE)(weights)[0] == pytest.approx(area)


def test_things_that_hang_together_widen_the_interval() -> None:
    human, judged = np.repeat(HUMAN[:50], 4), np.repeat(JUDGED[:50], 4)
    apart = human_agreement(human, judged, judged, [str(i) for i in range(200)], samples=400).accuracy
    together = human_agreement(human, judged, judged, GROUPS, samples=400).accuracy
    assert together.high - together.low > 1.5 * (apart.high - apart.low)
