"""Score a checkpoint.

    python -m train.evaluate --data mesc --split test --protocol gold-history --checkpoint mini-sft --out R.json
    python -m train.evaluate --data DIR --checkpoint mini-sft --out R.json

DIR holds ``labels.csv`` (file, emotion[, speaker]); files may be sounds, pictures or clips. Labels outside the seven
emotions are left out and counted. Trivial baselines stand beside every result.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from scipy.sparse import hstack
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

from multimood_core.dialogues import Item, items_of
from multimood_core.engine import Engine
from multimood_core.errors import MultiMoodError
from multimood_core.evaluation import PROTOCOLS, ItemResult, evaluate_dialogues, evaluate_turn, score_tasks, truth_of
from multimood_core.media import read_turn
from multimood_core.metrics import bootstrap_interval, classification_scores, majority_class
from multimood_core.records import LabelPrediction
from multimood_core.registry import DEFAULT
from train.config import run_command
from train.data import HELD_OUT_SPEAKERS, Clip, read_clip_folder, read_mesc


def _row(truth: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
    scores = classification_scores(truth, predicted)
    return {key: getattr(scores, key) for key in ("accuracy", "weighted_f1", "macro_f1", "uar")}


def mesc_baselines(train: Sequence[Item], test: Sequence[Item], gold_history: bool) -> dict[str, dict[str, Any]]:
    """What needs no model of ours: the majority class, the previous gold label, logistic regression on TF-IDF."""
    truths = [truth_of(item) for item in test]
    learnt = [truth_of(item) for item in train]
    baselines: dict[str, dict[str, Any]] = {}
    for task in ("client_emotion", "therapist_emotion", "strategy"):
        truth, known = [t[task] for t in truths], [t[task] for t in learnt]
        common = majority_class(known)
        baselines.setdefault("majority", {})[task] = _row(truth, [common] * len(truth))
        words = TfidfVectorizer(min_df=2, sublinear_tf=True)
        marks = DictVectorizer()
        features = hstack([words.fit_transform(_words(train)), marks.fit_transform(_marks(train, gold_history))])
        classifier = LogisticRegression(C=1.0, max_iter=1000).fit(features, known)
        said = classifier.predict(hstack([words.transform(_words(test)), marks.transform(_marks(test, gold_history))]))
        baselines.setdefault("logistic regression on TF-IDF", {})[task] = _row(truth, list(said))
        if gold_history and task == "client_emotion":
            copied = [_previous(item) or common for item in test]
            baselines.setdefault("copy the previous gold label", {})[task] = _row(truth, copied)
    return baselines


def _previous(item: Item) -> str | None:
    said = [turn.emotion for turn in item.history() if turn.speaker == "client" and turn.emotion]
    return said[-1] if said else None


def _words(items: Sequence[Item]) -> list[str]:
    return [item.client.text for item in items]


def _marks(items: Sequence[Item], gold_history: bool) -> list[dict[str, str]]:
    """The last three client emotions and two strategies of each history, where the protocol gives them."""
    rows = []
    for item in items:
        history = item.history() if gold_history else ()
        emotions = [turn.emotion for turn in history if turn.speaker == "client" and turn.emotion][:-4:-1]
        strategies = [turn.strategy for turn in history if turn.strategy][:-3:-1]
        row = {f"emotion {i}": emotion for i, emotion in enumerate(emotions)}
        rows.append(row | {f"strategy {i}": strategy for i, strategy in enumerate(strategies)})
    return rows


def evaluate_mesc(args: argparse.Namespace, engine: Engine) -> dict[str, Any]:
    splits = read_mesc()
    dialogues = splits[args.split][: args.limit] if args.limit else splits[args.split]
    test = list(items_of(dialogues))
    with tqdm(total=len(test), desc=f"{args.split}, {args.protocol}") as bar:
        results = evaluate_dialogues(
            engine, dialogues, args.protocol, args.rate, args.recent_turns, not args.no_context, args.seed,
            done=lambda result: bar.update(),
        )
    return {
        "data": "mesc",
        "split": args.split,
        "protocol": args.protocol,
        "rate": args.rate if args.protocol == "corrected-history" else None,
        "recent_turns": engine.processor.recent_turns if args.recent_turns is None else args.recent_turns,
        "context": not args.no_context,
        "n": len(results),
        "tasks": score_tasks(results),
        "baselines": mesc_baselines(list(items_of(splits["train"])), test, args.protocol == "gold-history"),
        "seconds_per_item": sum(r.seconds for r in results) / len(results),
        "items": [_plain(result) for result in results],
    }


def _plain(result: ItemResult) -> dict[str, Any]:
    return {
        "id": result.id,
        "truth": dict(result.truth),
        "predicted": {task: asdict(p) for task, p in result.predicted.items()},
    }


def evaluate_folder(args: argparse.Namespace, engine: Engine) -> dict[str, Any]:
    folder = Path(args.data)
    labelled = read_clip_folder(folder)
    clips = labelled.clips
    if args.held_out:
        apart = HELD_OUT_SPEAKERS.get(folder.name, set())
        clips = tuple(clip for clip in clips if clip.speaker in apart)
    clips = clips[: args.limit] if args.limit else clips
    results: list[tuple[Clip, LabelPrediction | None]] = []
    unreadable = Counter[str]()
    for clip in tqdm(clips, desc=folder.name):
        try:
            prediction = evaluate_turn(engine, read_turn(clip.path), args.transcribe)
        except MultiMoodError as error:
            unreadable[str(error)[:80]] += 1
            results.append((clip, None))
            continue
        results.append((clip, prediction))
    truth = [clip.emotion for clip, _ in results]
    labels = [None if p is None else p.label for _, p in results]
    scores = classification_scores(truth, labels)
    right = [t == label for t, label in zip(truth, labels, strict=True)]
    common = majority_class(truth)
    return {
        "data": str(folder.name),
        "protocol": "clips" + (", words transcribed" if args.transcribe else ", no words"),
        "n": scores.n,
        "n_left_out": labelled.left_out,
        "n_unreadable": dict(unreadable),
        "tasks": {"client_emotion": asdict(scores) | {"accuracy_interval": bootstrap_interval(right)}},
        "baselines": {"majority": {"client_emotion": _row(truth, [common] * len(truth))}},
        "items": [
            {"id": str(clip.path.relative_to(folder)), "truth": clip.emotion, "predicted": None if p is None else asdict(p)}
            for clip, p in results
        ],
    }


def print_table(report: dict[str, Any]) -> None:
    """The scores beside their baselines, the protocol named."""
    print(f"{report['data']}, {report['protocol']}, n = {report['n']}")
    for task, scores in report["tasks"].items():
        rows = {"this checkpoint": scores} | {n: b[task] for n, b in report["baselines"].items() if task in b}
        for name, row in rows.items():
            figures = "  ".join(f"{key} {row[key]:.4f}" for key in ("accuracy", "weighted_f1", "macro_f1", "uar"))
            print(f"  {task:18s} {name:32s} {figures}")


def _command(args: argparse.Namespace) -> str:
    """What reproduces the report, without paths of this machine."""
    data = args.data if args.data == "mesc" else f"$MULTIMOOD_DATA/{Path(args.data).name}"
    words = ["python -m train.evaluate", "--data", data]
    if args.data == "mesc":
        words += ["--split", args.split, "--protocol", args.protocol]
        words += ["--rate", str(args.rate)] if args.protocol == "corrected-history" else []
    for flag in ("no_context", "transcribe", "held_out"):
        words += [f"--{flag.replace('_', '-')}"] if getattr(args, flag) else []
    for key in ("recent_turns", "limit"):
        words += [f"--{key.replace('_', '-')}", str(getattr(args, key))] if getattr(args, key) is not None else []
    return " ".join([*words, "--checkpoint", Path(args.checkpoint).name])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="mesc, or a folder with labels.csv")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument("--protocol", default="gold-history", choices=PROTOCOLS)
    parser.add_argument("--rate", type=float, default=0.0, help="of corrections, for corrected-history")
    parser.add_argument("--checkpoint", default=DEFAULT)
    parser.add_argument("--recent-turns", type=int, help="turns as text beside <history>; the checkpoint's own by default")
    parser.add_argument("--no-context", action="store_true", help="leave problem and situation out")
    parser.add_argument("--transcribe", action="store_true", help="clip folders: give the model the spoken words too")
    parser.add_argument("--held-out", action="store_true", help="clip folders: only the people kept apart from training")
    parser.add_argument("--limit", type=int, help="dialogues or clips at the most, for a quick look")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON with everything")
    args = parser.parse_args(argv)
    engine = Engine(args.checkpoint)
    run: Callable[[argparse.Namespace, Engine], dict[str, Any]] = evaluate_mesc if args.data == "mesc" else evaluate_folder
    report = run(args, engine) | {"checkpoint": asdict(engine.checkpoint.id), "command": _command(args)}
    print_table(report)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    run_command(main)
