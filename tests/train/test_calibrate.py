"""Calibration finds known scalings, and only on the validation split."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from multimood_core.decoding import LABELS
from multimood_core.errors import DataError
from multimood_core.registry import Calibration, Scaling
from train.calibrate import calibrate, fit_scaling


def sample(temperature: float, bias: np.ndarray, n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Likelihoods of a model whose true scaling is known, and labels drawn accordingly."""
    rng = np.random.default_rng(0)
    logits = log_softmax(3 * rng.standard_normal((n, len(bias))), axis=1)
    shares = softmax(logits / temperature + bias, axis=1)
    return logits, (shares.cumsum(1) > rng.random((n, 1))).argmax(1)


def test_a_known_temperature_is_found() -> None:
    logits, truth = sample(2.0, np.zeros(7))
    assert fit_scaling(logits, truth, biased=False)[0] == pytest.approx(2.0, rel=0.05)


def test_known_biases_are_found_up_to_a_constant() -> None:
    bias = np.array([1.0, 0.0, -1.0, 0.5])
    logits, truth = sample(1.5, bias)
    found = fit_scaling(logits, truth, biased=True, decay=1e-6)
    assert found[0] == pytest.approx(1.5, rel=0.05)
    assert found[1:] - found[1:].mean() == pytest.approx(bias - bias.mean(), abs=0.1)


def report(split: str, current: Calibration) -> dict[str, Any]:
    items = []
    rng = np.random.default_rng(1)
    for _ in range(400):
        truth, predicted = {}, {}
        for task, (_, names) in LABELS.items():
            logits = 2 * rng.standard_normal(len(names))
            truth[task] = names[int(rng.choice(len(names), p=softmax(logits / 2)))]
            scaling = getattr(current, task)
            bias = [scaling.bias.get(name, 0.0) for name in names]
            shares = softmax(logits / scaling.temperature + bias)
            predicted[task] = {"label": names[int(shares.argmax())], "probabilities": dict(zip(names, shares, strict=True))}
        items.append({"truth": truth, "predicted": predicted})
    return {"split": split, "items": items}


def test_calibrating_what_is_calibrated_already_gives_the_same() -> None:
    first = calibrate([report("val", Calibration())], Calibration(), ["strategy"])
    again = calibrate([report("val", first)], first, ["strategy"])
    assert again.client_emotion.temperature == pytest.approx(first.client_emotion.temperature, rel=1e-2)
    assert again.strategy.bias == pytest.approx(first.strategy.bias, abs=0.02)
    assert first.client_emotion == Scaling(first.client_emotion.temperature, {})


def test_the_test_split_and_unknown_labels_are_refused() -> None:
    with pytest.raises(DataError, match="val split"):
        calibrate([report("test", Calibration())], Calibration())
    with pytest.raises(DataError, match="mood"):
        calibrate([report("val", Calibration())], Calibration(), ["mood"])
