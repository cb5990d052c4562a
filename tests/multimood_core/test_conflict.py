"""When face, voice and words count as conflicting."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy.spatial.distance import jensenshannon

from multimood_core.checksums import checkpoint_sha256
from multimood_core.conflict import PATH, Conflicts, divergence, shared
from multimood_core.errors import ModelError
from multimood_core.labels import EMOTIONS, MEDIA_EMOTIONS
from multimood_core.registry import DEFAULT, resolve

FLAT = dict.fromkeys(EMOTIONS, 1 / 7)


def only(name: str) -> dict[str, float]:
    return {emotion: float(emotion == name) for emotion in EMOTIONS}


def test_the_divergence_is_that_of_jensen_and_shannon() -> None:
    first = {"anger": 0.5, "sadness": 0.1, "disgust": 0.1, "neutral": 0.1, "joy": 0.1, "fear": 0.1}
    second = {"anger": 0.1, "sadness": 0.6, "disgust": 0.0, "neutral": 0.1, "joy": 0.1, "fear": 0.1}
    assert divergence(first, second) == pytest.approx(jensenshannon(shared(first), shared(second), base=2) ** 2)
    assert divergence(first, first) == pytest.approx(0, abs=1e-12)
    assert divergence(only("joy"), only("anger")) == pytest.approx(1)


def test_depression_in_words_is_no_conflict_with_a_sad_face() -> None:
    assert divergence(only("depression"), only("sadness")) == pytest.approx(0, abs=1e-12)
    assert len(shared(FLAT)) == len(MEDIA_EMOTIONS)


def test_each_pair_is_judged_by_its_own_threshold_and_nothing_is_averaged() -> None:
    conflicts = Conflicts({"face/voice": 0.5, "face/words": 1.1, "voice/words": 0.5}, "")
    readings = {"face": only("joy"), "voice": only("anger"), "words": only("anger")}
    found = {(pair.first, pair.second): pair.conflicting for pair in conflicts.pairs(readings)}
    assert found == {("face", "voice"): True, ("face", "words"): False, ("voice", "words"): False}
    assert conflicts.pairs({"face": only("joy")}) == []


def test_the_delivered_thresholds_were_fitted_on_the_delivered_checkpoint() -> None:
    found = Conflicts.read()
    assert found.checkpoint == checkpoint_sha256(resolve(DEFAULT))
    assert all(0 < threshold < 1 for threshold in found.thresholds.values())
    fit = json.loads(PATH.read_text())["fit"]
    assert all(row["same emotion, flagged"] <= 0.25 < row["other emotion, flagged"] + 0.25 for row in fit.values())


def test_thresholds_without_a_pair_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"thresholds": {"face/voice": 0.5}, "checkpoint": ""}')
    with pytest.raises(ModelError, match=r"train\.conflict"):
        Conflicts.read(tmp_path / "t.json")
