"""Whether face, voice and words point to different expressions, instead of averaging what differs away.

Each modality is read by itself over the seven emotions less depression, which no face or voice corpus acts: its share of the
words' reading counts as sadness. Two readings conflict from a Jensen-Shannon divergence on that ``train.conflict`` fits for
each pair.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final

import numpy as np

from multimood_core.errors import ModelError
from multimood_core.labels import MEDIA_EMOTIONS

PATH: Final = Path(__file__).resolve().parent.parent / "assets" / "conflict" / "thresholds.json"
MODALITIES: Final = ("face", "voice", "words")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two modalities, how far their readings lie apart (0: the same, 1: nothing in common), and whether that is a conflict."""

    first: str
    second: str
    divergence: float
    conflicting: bool


def shared(probabilities: Mapping[str, float]) -> np.ndarray:
    """A reading over ``MEDIA_EMOTIONS`` (6,), depression counted as sadness; sums to 1."""
    values = np.array([probabilities.get(name, 0.0) for name in MEDIA_EMOTIONS])
    values[MEDIA_EMOTIONS.index("sadness")] += probabilities.get("depression", 0.0)
    return values / values.sum()


def divergence(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Jensen-Shannon divergence of two readings in bits, from 0 to 1 (Lin 1991)."""
    p, q = shared(first), shared(second)
    middle = (p + q) / 2

    def relative(values: np.ndarray) -> float:
        some = values > 0
        return float((values[some] * np.log2(values[some] / middle[some])).sum())

    return max(0.0, (relative(p) + relative(q)) / 2)


@dataclass(frozen=True, slots=True)
class Conflicts:
    """Thresholds by pair, e.g. ``face/words``, and the checkpoint whose readings they were fitted on."""

    thresholds: Mapping[str, float]
    checkpoint: str

    @classmethod
    def read(cls, path: Path = PATH) -> Conflicts:
        """The fitted thresholds.

        Raises:
            ModelError: the file is absent or lacks a pair.
        """
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            found = {f"{a}/{b}": float(raw["thresholds"][f"{a}/{b}"]) for a, b in combinations(MODALITIES, 2)}
            return cls(found, str(raw["checkpoint"]))
        except (OSError, ValueError, KeyError, TypeError) as cause:
            raise ModelError(
                f"Expected the thresholds of conflict at {path}, but: {cause!r}. Fit them with `python -m train.conflict`."
            ) from cause

    def pairs(self, readings: Mapping[str, Mapping[str, float]]) -> list[Pair]:
        """Every two of the readings, ``face``, ``voice`` and ``words``, that are there."""
        found = []
        for first, second in combinations([name for name in MODALITIES if name in readings], 2):
            apart = divergence(readings[first], readings[second])
            found.append(Pair(first, second, apart, apart >= self.thresholds[f"{first}/{second}"]))
        return found
