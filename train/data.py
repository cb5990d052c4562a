"""MESC and labelled clip folders, read into the project's turn format.

    python -m train.data --out data/mesc

writes ``train.jsonl``, ``val.jsonl`` and ``test.jsonl`` and prints what leaks between the splits.
"""

from __future__ import annotations

import argparse
import csv
import html
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from multimood_core.dialogues import Dialogue, DialogueTurn, items_of, write_dialogues
from multimood_core.errors import DataError
from multimood_core.labels import emotion_of, strategy_of
from multimood_core.prompts import clean_text
from multimood_core.records import Context, Speaker
from train.config import run_command

SPLITS: Final = ("train", "val", "test")
# Reconstructed from the paper's description; its accuracies are multiples of 1/454.
MESC_ITEMS: Final = {"train": 3721, "val": 445, "test": 454}
# People kept apart for the one final measurement, four of RAVDESS and two of EmoDB, half of them women.
HELD_OUT_SPEAKERS: Final = {"ravdess_speech": {"17", "18", "19", "20"}, "emodb": {"15", "16"}}
_MARKUP: Final = re.compile(r"<[^>]*>|[♪♫#]|\{\\[^}]*\}")


def data_root() -> Path:
    """Where the data sets lie: ``MULTIMOOD_DATA``, by default ``../shared/data``.

    Raises:
        DataError: there is no such folder.
    """
    root = Path(os.environ.get("MULTIMOOD_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not root.is_dir():
        raise DataError(f"Expected the data sets in {root}, but there is no such folder. Set MULTIMOOD_DATA.")
    return root


def clean_utterance(text: str) -> str:
    """Subtitle text without markup, musical notes and full-width punctuation."""
    text = _MARKUP.sub(" ", html.unescape(text))
    return clean_text(text.translate({0xFF0C: ", ", 0xFF1F: "?", 0xFF01: "!", 0x3002: ". ", 0x2019: "'"}))


def _majority(labels: Sequence[str | None]) -> str | None:
    """The label that stands most often in the run; of two, the one that came first."""
    known = Counter(label for label in labels if label)
    return known.most_common(1)[0][0] if known else None


def read_mesc(root: Path | None = None) -> dict[str, list[Dialogue]]:
    """The three splits of MESC, consecutive utterances of one speaker merged, labels by majority.

    Raises:
        DataError: the folder is not MESC's, or the number of items differs from ``MESC_ITEMS``.
    """
    folder = (root or data_root()) / "mesc"
    places = _table(folder / "split_map.csv", ("dialogue_id", "split", "problem_type", "situation"))
    about = {row["dialogue_id"]: row for _, row in places}
    by_dialogue: dict[str, list[dict[str, str]]] = defaultdict(list)
    for _, row in _table(folder / "MESC.csv", ("Dialogue_ID", "Speaker", "Utterance", "Emotion", "Strategy")):
        by_dialogue[row["Dialogue_ID"]].append(row)
    splits: dict[str, list[Dialogue]] = {split: [] for split in SPLITS}
    for dialogue_id, utterances in by_dialogue.items():
        place = about.get(dialogue_id, {"split": "none"})
        if place["split"] not in SPLITS:
            raise DataError(
                f"{folder / 'split_map.csv'}: expected dialogue {dialogue_id} in one of {', '.join(SPLITS)}, "
                f"got {place['split']}."
            )
        context = Context(clean_utterance(place["problem_type"]), clean_utterance(place["situation"]))
        try:
            turns = _merge(utterances)
        except ValueError as cause:
            raise DataError(f"{folder / 'MESC.csv'}, dialogue {dialogue_id}: {cause}") from cause
        splits[place["split"]].append(Dialogue(dialogue_id, place["split"], turns, context))
    found = {split: sum(1 for _ in items_of(dialogues)) for split, dialogues in splits.items()}
    if found != MESC_ITEMS:
        raise DataError(f"Expected {MESC_ITEMS} items in MESC, got {found}: the files differ from the released ones.")
    return splits


def _table(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file, each with the number of the line that it ends on.

    Raises:
        DataError: the file cannot be read, or a row lacks one of ``columns``.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as cause:
        raise DataError(f"Expected a table ({', '.join(columns)}) at {path}, but it cannot be read: {cause}") from cause
    if not rows or not set(columns) <= set(rows[0][1]):
        found = ", ".join(map(str, reader.fieldnames or ())) or "nothing"
        raise DataError(f"{path}: expected rows with columns {', '.join(columns)}, got {len(rows)} rows with {found}.")
    for number, row in rows:
        if any(row[column] is None for column in columns):
            raise DataError(f"{path}, line {number}: expected a cell for each of {', '.join(columns)}, but the row is shorter.")
    return rows


def _merge(utterances: Iterable[dict[str, str]]) -> tuple[DialogueTurn, ...]:
    turns = []
    for speaker, run in groupby(utterances, key=lambda row: row["Speaker"].strip().lower()):
        said = list(run)
        turns.append(
            DialogueTurn(
                _speaker(speaker),
                " ".join(filter(None, (clean_utterance(row["Utterance"]) for row in said))),
                _majority([emotion_of(row["Emotion"]) for row in said]),
                _majority([strategy_of(row["Strategy"]) for row in said]),
            )
        )
    return tuple(turns)


def _speaker(name: str) -> Speaker:
    if name == "client":
        return "client"
    if name == "therapist":
        return "therapist"
    raise ValueError(f"expected Client or Therapist as the speaker, got {name!r}")


@dataclass(frozen=True, slots=True)
class Clip:
    """A labelled sound, picture or clip; ``emotion`` is one of the seven."""

    path: Path
    emotion: str
    speaker: str
    language: str = ""


@dataclass(frozen=True, slots=True)
class ClipFolder:
    """A labelled folder: the clips that carry one of the seven emotions, and how many were left out for which word."""

    clips: tuple[Clip, ...]
    left_out: dict[str, int]


def read_clip_folder(folder: Path) -> ClipFolder:
    """Read ``labels.csv`` (file, emotion[, speaker or actor]) of a folder of sounds, pictures or clips.

    Labels outside the seven emotions, such as surprise and boredom, are left out and counted.

    Raises:
        DataError: no ``labels.csv``, no ``file`` or ``emotion`` column, an unknown word, or a file that is not there.
    """
    table = folder / "labels.csv"
    clips, left_out = [], Counter[str]()
    for number, row in _table(table, ("file", "emotion")):
        try:
            emotion = emotion_of(row["emotion"])
        except ValueError as cause:
            raise DataError(f"{table}, line {number}: {cause}") from cause
        if emotion is None:
            left_out[row["emotion"]] += 1
            continue
        path = folder / row["file"]
        if not path.is_file():
            raise DataError(f"{table}, line {number}: there is no file {path}.")
        clips.append(Clip(path, emotion, row.get("speaker") or row.get("actor") or ""))
    return ClipFolder(tuple(clips), dict(left_out))


def leakage(splits: dict[str, list[Dialogue]]) -> dict[str, int]:
    """What the training split shares with the others: whole dialogues, and client turns word for word."""
    texts = {split: [tuple(t.text.lower() for t in d.turns) for d in dialogues] for split, dialogues in splits.items()}
    turns = {split: {item.client.text.lower() for item in items_of(d)} for split, d in splits.items()}
    report = {}
    for split in ("val", "test"):
        seen = set(texts["train"])
        report[f"{split} dialogues also in train"] = sum(dialogue in seen for dialogue in texts[split])
        report[f"{split} client turns also in train"] = sum(
            item.client.text.lower() in turns["train"] for item in items_of(splits[split])
        )
    return report


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Read MESC into the turn format and report leakage between its splits.")
    parser.add_argument("--out", type=Path, default=Path("data/mesc"), help="folder for train.jsonl, val.jsonl, test.jsonl")
    args = parser.parse_args(argv)
    splits = read_mesc()
    args.out.mkdir(parents=True, exist_ok=True)
    for split, dialogues in splits.items():
        write_dialogues(args.out / f"{split}.jsonl", dialogues)
        print(f"{split}: {len(dialogues)} dialogues, {MESC_ITEMS[split]} items -> {args.out / f'{split}.jsonl'}")
    for what, count in leakage(splits).items():
        print(f"{what}: {count}")


if __name__ == "__main__":
    run_command(main)
