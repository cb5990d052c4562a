"""Fit the labels' scalings on validation reports and write them into the checkpoint.

    python -m train.evaluate --data mesc --split val --protocol gold-history --checkpoint DIR --out gold.json
    python -m train.evaluate --data mesc --split val --protocol self-history --checkpoint DIR --out self.json
    python -m train.calibrate --reports gold.json self.json --checkpoint DIR

Every label gets a temperature, which changes no label but how sure it is. ``--bias`` names labels whose classes get a
bias each: with it their shares are as on the validation split. Take it where it mends the validation scores; it is wrong
for the client's emotion, since a voice or face without a dialogue does not come from those shares.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from multimood_core.checksums import check_sums, record_sums
from multimood_core.decoding import LABELS
from multimood_core.errors import DataError
from multimood_core.registry import Calibration, Scaling, resolve
from train.config import run_command


def fit_scaling(log_likelihoods: np.ndarray, truth: np.ndarray, biased: bool, decay: float = 1e-3) -> np.ndarray:
    """Temperature and biases that give the truth the highest likelihood (bias-corrected temperature scaling).

    Args:
        log_likelihoods: (n, k), as the model gives them.
        truth: (n,) class indices.
        biased: fit a bias for each class; zeros otherwise.
        decay: pull of the biases towards 0, for classes that the split hardly has.

    Returns:
        (1 + k,): temperature, biases.
    """
    classes = log_likelihoods.shape[1]

    def loss(x: np.ndarray) -> float:
        bias = x[1:] if biased else np.zeros(classes)
        scaled = log_softmax(log_likelihoods / np.exp(x[0]) + bias, axis=1)
        return -float(scaled[np.arange(len(truth)), truth].mean()) + decay * float(np.square(bias).sum())

    start = np.zeros(1 + classes if biased else 1)
    found = minimize(loss, start, method="L-BFGS-B", bounds=[(-2.0, 2.0)] + [(-5.0, 5.0)] * (len(start) - 1)).x
    return np.concatenate([np.exp(found[:1]), found[1:] if biased else np.zeros(classes)])


def calibrate(reports: Sequence[dict[str, Any]], current: Calibration, biased: Sequence[str] = ()) -> Calibration:
    """Scalings of all three labels from reports of the validation split made with ``current``.

    Raises:
        DataError: a report is of another split, or ``biased`` names no label.
    """
    others = sorted({report.get("split", "?") for report in reports} - {"val"})
    if others:
        raise DataError(f"Scalings are fitted on the val split, got a report of {', '.join(others)}.")
    if set(biased) - set(LABELS):
        raise DataError(f"Expected labels of {', '.join(LABELS)}, got {', '.join(biased)}.")
    fitted = {}
    for task, (_, names) in LABELS.items():
        items = [item for report in reports for item in report["items"] if item["truth"][task] in names]
        probabilities = np.array([[item["predicted"][task]["probabilities"][name] for name in names] for item in items])
        before = getattr(current, task)
        bias = np.array([before.bias.get(name, 0.0) for name in names])
        likelihoods = (np.log(np.clip(probabilities, 1e-12, 1)) - bias) * before.temperature
        truth = np.array([names.index(item["truth"][task]) for item in items])
        scaling = fit_scaling(likelihoods, truth, task in biased).round(4).tolist()
        fitted[task] = Scaling(scaling[0], dict(zip(names, scaling[1:], strict=True)) if task in biased else {})
    return Calibration(**fitted)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=Path, nargs="+", required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--bias", nargs="*", default=[], help="labels with class biases")
    args = parser.parse_args(argv)
    folder = resolve(args.checkpoint)
    check_sums(folder)
    path = folder / "calibration.json"
    reports = [json.loads(report.read_text()) for report in args.reports]
    calibration = calibrate(reports, Calibration.load(path), args.bias)
    path.write_text(json.dumps(asdict(calibration), indent=1) + "\n")
    record_sums(folder)
    print(json.dumps(asdict(calibration)))


if __name__ == "__main__":
    run_command(main)
