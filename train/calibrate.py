"""Fit the labels' temperatures on validation reports (Guo et al. 2017) and write them into the checkpoint.

    python -m train.evaluate --data mesc --split val --protocol gold-history --checkpoint DIR --out gold.json
    python -m train.evaluate --data mesc --split val --protocol self-history --checkpoint DIR --out self.json
    python -m train.calibrate --reports gold.json self.json --checkpoint DIR

A temperature changes no label, only how sure it is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from multimood_core.decoding import LABELS
from multimood_core.errors import DataError
from multimood_core.registry import Calibration, resolve


def fit_temperature(log_probabilities: np.ndarray, truth: np.ndarray) -> float:
    """The temperature that gives the truth the highest likelihood.

    Args:
        log_probabilities: (n, k), at temperature 1.
        truth: (n,) class indices.
    """

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(log_probabilities / np.exp(log_temperature), axis=1)
        return -float(scaled[np.arange(len(truth)), truth].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-2.0, 2.0), method="bounded").x))


def calibrate(reports: Sequence[dict[str, Any]], current: Calibration) -> Calibration:
    """Temperatures for all three labels from reports of the validation split.

    Raises:
        DataError: a report is of another split.
    """
    others = sorted({report.get("split", "?") for report in reports} - {"val"})
    if others:
        raise DataError(f"Temperatures are fitted on the val split, got a report of {', '.join(others)}.")
    fitted = {}
    for task, (_, names) in LABELS.items():
        items = [item for report in reports for item in report["items"] if item["truth"][task] in names]
        probabilities = np.array([[item["predicted"][task]["probabilities"][name] for name in names] for item in items])
        # What was stored is already divided by the current temperature.
        logits = np.log(np.clip(probabilities, 1e-12, 1)) * getattr(current, task)
        fitted[task] = round(fit_temperature(logits, np.array([names.index(item["truth"][task]) for item in items])), 4)
    return Calibration(**fitted)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=Path, nargs="+", required=True)
    parser.add_argument("--checkpoint", required=True)
    args = parser.parse_args(argv)
    path = resolve(args.checkpoint) / "calibration.json"
    current = Calibration(**json.loads(path.read_text()))
    calibration = calibrate([json.loads(report.read_text()) for report in args.reports], current)
    path.write_text(json.dumps(asdict(calibration), indent=1) + "\n")
    print(json.dumps(asdict(calibration)))


if __name__ == "__main__":
    main()
