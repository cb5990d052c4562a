"""Fit from which divergence on two modalities conflict: ``python -m train.conflict``.

There are no recordings whose face, voice and words are known to differ, so pairs are made: two readings of items whose emotion
is the same, and two of items whose emotions differ. A pair of modalities conflicts from the divergence on that only a given
share of the first kind exceeds.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from multimood_core.bootstrap import LEVEL
from multimood_core.conflict import MODALITIES, PATH, divergence
from multimood_core.engine import Engine
from multimood_core.labels import MEDIA_EMOTIONS
from multimood_core.media import read_turn
from multimood_core.records import Turn
from multimood_core.registry import DEFAULT
from train.config import run_command
from train.data import read_clip_folder
from train.files import write_file
from train.turns import data_root, read_clips, read_split

FALSE_FLAGS: Final = 0.2  # of pairs of the same emotion, at most: a flag that is raised often is soon not looked at
_RESAMPLES: Final = 200
_SOURCES: Final = {"face": ("fer2013",), "voice": ("ravdess_speech", "emodb")}
Readings = list[tuple[str, Mapping[str, float]]]
"""Emotion and reading of each item."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default=DEFAULT, help="whose readings (%(default)s)")
    parser.add_argument("--each", type=int, default=20, help="items of each emotion and modality (%(default)s)")
    parser.add_argument("--out", type=Path, default=PATH, help="file of the thresholds (%(default)s)")
    args = parser.parse_args(argv)
    engine = Engine(args.checkpoint, language="en")
    readings = {name: media_readings(engine, name, args.each) for name in _SOURCES}
    readings["words"] = word_readings(engine, args.each)
    fitted = {f"{a}/{b}": fit(readings[a], readings[b]) for a, b in combinations(MODALITIES, 2)}
    found = {
        "thresholds": {pair: row["threshold"] for pair, row in fitted.items()},
        "checkpoint": engine.checkpoint.id.sha256,
        "false flags, at most": FALSE_FLAGS,
        "items": {name: len(some) for name, some in readings.items()},
        "sources": {name: [*some, "train"] for name, some in _SOURCES.items()} | {"words": ["mesc", "val"]},
        "fit": fitted,
        "check": check(engine, fitted["face/voice"]["threshold"]),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_file(args.out, lambda path: path.write_text(json.dumps(found, indent=1) + "\n"))
    print(json.dumps(found, indent=1))


def media_readings(engine: Engine, name: str, each: int) -> Readings:
    """What voice or face alone show, of the clips that their heads learnt from: no others are left but the test's."""
    by_emotion = defaultdict(list)
    for corpus in _SOURCES[name]:
        for clip in read_clips(corpus, "train"):
            by_emotion[clip.emotion].append(clip)
    rng, found = random.Random(0), Readings()
    for emotion in MEDIA_EMOTIONS:
        for clip in tqdm(rng.sample(by_emotion[emotion], min(each, len(by_emotion[emotion]))), desc=f"{name}, {emotion}"):
            reading = engine.expressions(engine.encode(read_turn(clip.path))).get(name)
            if reading is not None:
                found.append((emotion, reading))
    return found


def word_readings(engine: Engine, each: int) -> Readings:
    """What the words alone show, of the client's turns of MESC's validation part."""
    by_emotion = defaultdict(list)
    for dialogue in read_split("mesc", "val"):
        for turn in dialogue.turns:
            if turn.speaker == "client" and turn.emotion and len(turn.text.split()) >= 4:
                by_emotion["sadness" if turn.emotion == "depression" else turn.emotion].append(turn.text)
    rng, found = random.Random(0), Readings()
    for emotion in MEDIA_EMOTIONS:
        for text in tqdm(rng.sample(by_emotion[emotion], min(each, len(by_emotion[emotion]))), desc=f"words, {emotion}"):
            found.append((emotion, engine.words_alone(text).probabilities))
    return found


def fit(first: Readings, second: Readings) -> dict[str, Any]:
    """The threshold, the share of each kind of pair from it on, and how well the divergence tells the kinds apart."""
    rng = np.random.default_rng(0)
    apart = np.array([[divergence(a, b) for _, b in second] for _, a in first])
    same = np.array([[a == b for b, _ in second] for a, _ in first])
    threshold = round(float(np.quantile(apart[same], 1 - FALSE_FLAGS)), 3)
    areas, flagged = [], []
    for _ in range(_RESAMPLES):
        rows, columns = rng.integers(len(first), size=len(first)), rng.integers(len(second), size=len(second))
        values, truth = apart[np.ix_(rows, columns)].ravel(), ~same[np.ix_(rows, columns)].ravel()
        if truth.all() or not truth.any():
            continue
        areas.append(roc_auc_score(truth, values))
        flagged.append(float((values[truth] >= threshold).mean()))
    low = (1 - LEVEL) / 2
    return {
        "threshold": threshold,
        "same emotion, flagged": float((apart[same] >= threshold).mean()),
        "other emotion, flagged": float((apart[~same] >= threshold).mean()),
        "other emotion, flagged, interval": np.quantile(flagged, [low, 1 - low]).tolist(),
        "area under the curve": float(roc_auc_score(~same.ravel(), apart.ravel())),
        "area under the curve, interval": np.quantile(areas, [low, 1 - low]).tolist(),
    }


def check(engine: Engine, threshold: float) -> dict[str, Any]:
    """Face and voice of one performance, which ought to agree: RAVDESS's clips of one person, where they lie."""
    folder = data_root() / "ravdess_video"
    if not folder.is_dir():
        return {}
    apart = []
    for clip in tqdm(read_clip_folder(folder).clips, desc="face and voice of one performance"):
        turn: Turn = read_turn(clip.path)
        found = engine.expressions(engine.encode(turn))
        if {"face", "voice"} <= set(found):
            apart.append(divergence(found["face"], found["voice"]))
    return {"clips": len(apart), "flagged": float(np.mean([one >= threshold for one in apart]))} if apart else {}


if __name__ == "__main__":
    run_command(main)
