"""Emotion from voice or face alone: any folder with ``labels.csv``, and DFEW's five folds."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from tqdm import tqdm

from multimood_core.engine import Engine
from multimood_core.errors import DataError, MultiMoodError
from multimood_core.evaluation import ItemResult, evaluate_turn, score_labels
from multimood_core.journal import Journal
from multimood_core.media import read_turn
from multimood_core.metrics import classification_scores, majority_class
from multimood_core.records import LabelPrediction
from train.data import HELD_OUT_SPEAKERS, ClipFolder, read_clip_folder, read_dfew

DFEW_FOLDS: Final = range(1, 6)
_TASK: Final = "client_emotion"
_ROW: Final = ("accuracy", "weighted_f1", "macro_f1", "uar")


def row_of(truth: Sequence[str], predicted: Sequence[str | None]) -> dict[str, float]:
    """The four scores that stand in every table, and n."""
    scores = classification_scores(truth, predicted)
    return {key: getattr(scores, key) for key in (*_ROW, "n")}


def is_dfew(folder: Path) -> bool:
    """Whether a folder is DFEW's, by its tables."""
    return (folder / "EmoLabel_DataSplit").is_dir()


def evaluate_folder(args: argparse.Namespace, engine: Engine) -> dict[str, Any]:
    """A labelled clip folder; its accuracy is the weighted average recall (WAR), ``uar`` the unweighted one."""
    folder = Path(args.data)
    if not folder.is_dir():
        raise DataError(f"Expected mesc, a file of dialogues (.jsonl) or a folder with labels.csv, got {args.data!r}: none.")
    labelled = read_clip_folder(folder)
    clips = labelled.clips
    if args.held_out:
        apart = HELD_OUT_SPEAKERS.get(folder.name, set())
        clips = tuple(clip for clip in clips if clip.speaker in apart)
    clips = clips[: args.limit] if args.limit else clips
    return {"data": str(folder.name)} | _evaluate(args, engine, ClipFolder(clips, labelled.left_out))


def evaluate_dfew(args: argparse.Namespace, engine: Engine) -> dict[str, Any]:
    """DFEW's five test folds and their mean, as its papers report it."""
    folder = Path(args.data)
    folds = {}
    for fold in DFEW_FOLDS:
        test = read_dfew(folder, fold)["test"]
        clips = test.clips[: args.limit] if args.limit else test.clips
        folds[str(fold)] = _evaluate(args, engine, ClipFolder(clips, test.left_out), fold)
    every = [item | {"id": f"{fold}/{item['id']}"} for fold, report in folds.items() for item in report["items"]]
    labels = [None if item["predicted"] is None else LabelPrediction(**item["predicted"]) for item in every]
    truth = [item["truth"] for item in every]
    mean = {key: float(np.mean([f["tasks"][_TASK][key] for f in folds.values()])) for key in _ROW}
    common = majority_class(truth)
    scores = score_labels(truth, labels, [item["group"] for item in every], sum(p is None for p in labels))
    return {
        "data": folder.name,
        "protocol": folds["1"]["protocol"] + ", mean of five folds",
        "n": len(every),
        "n_left_out": folds["1"]["n_left_out"],
        "n_unreadable": dict(sum((Counter(report["n_unreadable"]) for report in folds.values()), Counter())),
        "tasks": {_TASK: scores | mean},
        "folds": {fold: {key: report["tasks"][_TASK][key] for key in (*_ROW, "n")} for fold, report in folds.items()},
        "baselines": {"majority": {_TASK: row_of(truth, [common] * len(truth))}},
        "items": every,
    }


def _evaluate(args: argparse.Namespace, engine: Engine, labelled: ClipFolder, fold: int = 0) -> dict[str, Any]:
    folder, journal = Path(args.data), None
    if not labelled.clips:
        found = ", ".join(f"{count} {word!r}" for word, count in labelled.left_out.items()) or "nothing else"
        raise DataError(f"Expected clips with one of the seven emotions in {folder}, got none, and left out {found}.")
    if args.out:
        settings = {
            "data": folder.name,
            "fold": fold,
            "transcribe": args.transcribe,
            "checkpoint": asdict(engine.checkpoint.id),
        }
        ending = f".fold{fold}.partial.jsonl" if fold else ".partial.jsonl"
        journal = Journal(args.out.with_name(args.out.name + ending), settings)
    results: list[ItemResult] = []
    unreadable = Counter[str]()
    for clip in tqdm(labelled.clips, desc=folder.name + (f", fold {fold}" if fold else "")):
        name = str(clip.path.relative_to(folder))
        if journal and name in journal.known:
            results.append(journal.known[name])
            continue
        started, predicted = time.monotonic(), dict[str, LabelPrediction]()
        try:
            predicted[_TASK] = evaluate_turn(engine, read_turn(clip.path), args.transcribe)
        except MultiMoodError as error:
            unreadable[str(error)[:80]] += 1
        seconds = time.monotonic() - started
        results.append(ItemResult(name, {_TASK: clip.emotion}, predicted, seconds, missing=not predicted))
        if journal:
            journal.add(results[-1])
    truth, labels = [clip.emotion for clip in labelled.clips], [r.predicted.get(_TASK) for r in results]
    groups = [clip.speaker or r.id for clip, r in zip(labelled.clips, results, strict=True)]
    common = majority_class(truth)
    return {
        "protocol": "clips" + (", words transcribed" if args.transcribe else ", no words"),
        "n": len(results),
        "n_left_out": labelled.left_out,
        "n_unreadable": dict(unreadable),
        "tasks": {_TASK: score_labels(truth, labels, groups, sum(p is None for p in labels))},
        "baselines": {"majority": {_TASK: row_of(truth, [common] * len(truth))}},
        "seconds_per_item": float(np.mean([r.seconds for r in results])),
        "items": [
            {"id": r.id, "group": group, "truth": label, "predicted": None if p is None else asdict(p)}
            for r, group, label, p in zip(results, groups, truth, labels, strict=True)
        ],
    }
