"""MESC, DFEW, GoEmotions and labelled clip folders, read into the one turn format that every later stage reads.

    python -m train.data --config train/configs/data_mini.yaml [--key=value ...] [--dry-run]

writes ``OUT/CORPUS/SPLIT.jsonl`` and ``OUT/leakage.json``, and prints what leaks between the splits.
"""

from __future__ import annotations

import csv
import html
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from multimood_core.dialogues import Dialogue, DialogueTurn, items_of, write_dialogues
from multimood_core.errors import DataError
from multimood_core.labels import emotion_of, strategy_of
from multimood_core.prompts import clean_text
from multimood_core.records import Context, Speaker
from train.config import dump_config, load_config, run_command
from train.files import write_file, write_whole
from train.goemotions import read_goemotions
from train.turns import DATA, Clip, clip_dialogue, data_root, leakage, leakage_table

SPLITS: Final = ("train", "val", "test")
# Reconstructed from the paper's description; its accuracies are multiples of 1/454.
MESC_ITEMS: Final = {"train": 3721, "val": 445, "test": 454}
# People kept apart for the one final measurement, four of RAVDESS and two of EmoDB, half of them women.
HELD_OUT_SPEAKERS: Final = {"ravdess_speech": {"17", "18", "19", "20"}, "emodb": {"15", "16"}}
# DFEW's labels 1 to 7.
_DFEW_WORDS: Final = dict(enumerate(("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear"), start=1))
_LETTERS: Final = re.compile(r"[^\W_]")
_MARKUP: Final = re.compile(r"<[^>]*>|[♪♫#]|\{\\[^}]*\}")


def clean_utterance(text: str) -> str:
    """Subtitle text without markup, musical notes and full-width punctuation."""
    text = _MARKUP.sub(" ", html.unescape(text))
    return clean_text(text.translate({0xFF0C: ", ", 0xFF1F: "?", 0xFF01: "!", 0x3002: ". ", 0x2019: "'"}))


def _majority(labels: Sequence[str | None]) -> str | None:
    """The label that stands most often in the run; of two, the one that came first."""
    known = Counter(label for label in labels if label)
    return known.most_common(1)[0][0] if known else None


def read_mesc(root: Path | None = None, expected: Mapping[str, int] | None = None) -> dict[str, list[Dialogue]]:
    """The three splits of MESC, consecutive utterances of one speaker merged, labels by majority.

    Words and labels are the CSV's. ``val.json`` and ``test.json`` (and ``train.json``, if it is there) say which dialogues
    are theirs, with problem and situation; they glue a machine's description of the picture to every utterance, which is
    what they have beyond the CSV's words. Dialogues that no JSON has are the training split.

    Args:
        root: holds the folder ``mesc``; the data root when None.
        expected: items of each split; ``MESC_ITEMS`` when None.

    Raises:
        DataError: the folder is not MESC's, or the number of items differs from ``expected``.
    """
    folder, expected = (root or data_root()) / "mesc", expected or MESC_ITEMS
    by_dialogue: dict[str, list[dict[str, str]]] = defaultdict(list)
    for _, row in _table(folder / "MESC.csv", ("Dialogue_ID", "Speaker", "Utterance", "Emotion", "Strategy")):
        by_dialogue[row["Dialogue_ID"]].append(row)
    places = _mesc_places(folder, by_dialogue)
    splits: dict[str, list[Dialogue]] = {split: [] for split in SPLITS}
    for dialogue_id, utterances in by_dialogue.items():
        split, context, descriptions = places.get(dialogue_id, ("train", Context(), ("",) * len(utterances)))
        try:
            turns = _merge(utterances, descriptions)
        except ValueError as cause:
            raise DataError(f"{folder / 'MESC.csv'}, dialogue {dialogue_id}: {cause}") from cause
        splits[split].append(Dialogue(dialogue_id, split, turns, context))
    found = {split: sum(1 for _ in items_of(dialogues)) for split, dialogues in splits.items()}
    if found != expected:
        raise DataError(f"Expected {expected} items in MESC, got {found}: the files differ from the released ones.")
    return splits


def _mesc_places(
    folder: Path, by_dialogue: Mapping[str, Sequence[Mapping[str, str]]]
) -> dict[str, tuple[str, Context, tuple[str, ...]]]:
    """Dialogue id -> split, context and a description for each utterance, as the JSON files give them.

    Raises:
        DataError: a file is absent or no such JSON, or a dialogue of it is not (or twice) among the CSV's.
    """
    by_length: dict[int, list[str]] = defaultdict(list)
    for dialogue_id, utterances in by_dialogue.items():
        by_length[len(utterances)].append(dialogue_id)
    places: dict[str, tuple[str, Context, tuple[str, ...]]] = {}
    for split in SPLITS:
        path = folder / f"{split}.json"
        if split == "train" and not path.is_file():  # the released folders differ in this
            continue
        for number, raw in enumerate(_mesc_json(path)):
            texts = [utterance["text"] for utterance in raw["dialog"]]
            found: dict[str, tuple[str, ...]] = {}
            for dialogue_id in by_length[len(texts)]:
                if dialogue_id in places:
                    continue
                pairs = zip(texts, by_dialogue[dialogue_id], strict=True)
                rests = [_rest(text, row["Utterance"]) for text, row in pairs]
                if None not in rests:
                    found[dialogue_id] = tuple(clean_utterance(rest or "") for rest in rests)
            if len(found) != 1 and len({tuple(r["Utterance"] for r in by_dialogue[i]) for i in found}) != 1:
                raise DataError(
                    f"{path}, dialogue {number}: expected the words of one dialogue of MESC.csv, got those of "
                    f"{', '.join(found) or 'none'}. Use the CSV and the JSON files of the same release."
                )
            dialogue_id = next(iter(found))
            context = Context(clean_utterance(raw["problem_type"]), clean_utterance(raw["situation"]))
            places[dialogue_id] = (split, context, found[dialogue_id])
    return places


def _mesc_json(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for raw in content:
            _ = raw["problem_type"] + raw["situation"] + "".join(utterance["text"] for utterance in raw["dialog"])
    except (OSError, ValueError, TypeError, KeyError) as cause:
        raise DataError(
            f"Expected a list of dialogues (problem_type, situation, dialog with text) at {path}: {cause!r}"
        ) from cause
    return content


def _rest(text: str, start: str) -> str | None:
    """What ``text`` has after ``start``, letters and digits compared alone; None where it begins otherwise."""
    place = 0
    for letter in _LETTERS.findall(start.lower()):
        match = _LETTERS.search(text, place)
        if match is None or match[0].lower() != letter:
            return None
        place = match.end()
    following = _LETTERS.search(text, place)
    # Closing punctuation belongs to the words; a quotation mark or bracket opens what follows.
    return text[place:].lstrip(" .,!?;:-…") if following else ""


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


def _merge(utterances: Iterable[Mapping[str, str]], descriptions: Sequence[str]) -> tuple[DialogueTurn, ...]:
    turns = []
    told = zip(utterances, descriptions, strict=True)
    for speaker, run in groupby(told, key=lambda pair: pair[0]["Speaker"].strip().lower()):
        pairs = list(run)
        said = [row for row, _ in pairs]
        turns.append(
            DialogueTurn(
                _speaker(speaker),
                " ".join(filter(None, (clean_utterance(row["Utterance"]) for row in said))),
                _majority([emotion_of(row["Emotion"]) for row in said]),
                _majority([strategy_of(row["Strategy"]) for row in said]),
                " ".join(filter(None, (description for _, description in pairs))),
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


def read_dfew(folder: Path, fold: int) -> dict[str, ClipFolder]:
    """One of DFEW's five folds (Jiang et al. 2020): ``EmoLabel_DataSplit`` and clips named by number below ``Clip``.

    Raises:
        DataError: a table is not DFEW's, a label is outside 1-7, or a clip is not there or there twice.
    """
    clips: dict[int, list[Path]] = defaultdict(list)
    for path in (folder / "Clip").rglob("*"):
        if path.suffix.lower() in (".mp4", ".avi", ".mov", ".mkv", ".webm") and path.stem.isdigit():
            clips[int(path.stem)].append(path)
    splits = {}
    for split in ("train", "test"):
        table = folder / "EmoLabel_DataSplit" / f"{split}(single-labeled)" / f"set_{fold}.csv"
        found, left_out = [], Counter[str]()
        for number, row in _table(table, ("video_name", "label")):
            try:
                word = _DFEW_WORDS[int(row["label"])]
                places = clips[int(row["video_name"])]
            except (ValueError, KeyError) as cause:
                raise DataError(
                    f"{table}, line {number}: expected a clip's number and a label from 1 to 7, got "
                    f"{row['video_name']!r} and {row['label']!r}."
                ) from cause
            if len(places) != 1:
                raise DataError(
                    f"{table}, line {number}: expected one clip named {row['video_name']} below {folder / 'Clip'}, "
                    f"got {', '.join(map(str, places)) or 'none'}."
                )
            emotion = emotion_of(word)
            if emotion is None:
                left_out[word] += 1
            else:
                found.append(Clip(places[0], emotion, ""))
        splits[split] = ClipFolder(tuple(found), dict(left_out))
    return splits


@dataclass(frozen=True, slots=True)
class DataConfig:
    """What the data stage reads and where it writes."""

    out: Path = field(default=DATA, metadata={"help": "folder for CORPUS/SPLIT.jsonl and leakage.json"})
    root: Path | None = field(default=None, metadata={"help": "where the data sets lie; MULTIMOOD_DATA when null"})
    mesc: bool = field(default=True, metadata={"help": "read ROOT/mesc"})
    items: dict[str, int] = field(default_factory=lambda: dict(MESC_ITEMS), metadata={"help": "of MESC, asserted"})
    turn_clips: Path | None = field(
        default=None, metadata={"help": "folder with MESC's turns as clips DIALOGUE_TURN.*, for those who have them"}
    )
    clips: tuple[str, ...] = field(
        default=("ravdess_speech", "emodb", "fer2013"), metadata={"help": "folders of ROOT with labels.csv"}
    )
    goemotions: bool = field(default=False, metadata={"help": "read ROOT/goemotions: sentences with an emotion"})
    dfew: Path | None = field(default=None, metadata={"help": "DFEW's folder"})
    fold: int = field(default=1, metadata={"help": "of DFEW, 1 to 5"})


def read_corpora(config: DataConfig, root: Path) -> dict[str, dict[str, list[Dialogue]]]:
    """Corpus -> split -> dialogues; of clip folders the people kept apart are the test split."""
    corpora: dict[str, dict[str, list[Dialogue]]] = {}
    if config.mesc:
        corpora["mesc"] = {
            split: [_with_clips(dialogue, config.turn_clips, root) for dialogue in dialogues]
            for split, dialogues in read_mesc(root, config.items).items()
        }
    folders: dict[str, dict[str, ClipFolder]] = {}
    for name in config.clips:
        read, apart = read_clip_folder(root / name), HELD_OUT_SPEAKERS.get(name, set())
        parts = {
            split: ClipFolder(tuple(clip for clip in read.clips if (clip.speaker in apart) == (split == "test")), read.left_out)
            for split in ("train", "test")
        }
        folders[name] = {split: part for split, part in parts.items() if part.clips}
    if config.dfew:
        folders["dfew"] = read_dfew(config.dfew, config.fold)
    for name, splits in folders.items():
        corpora[name] = {
            split: [clip_dialogue(clip, split, root) for clip in part.clips] for split, part in splits.items()
        }
        for word, count in next(iter(splits.values())).left_out.items():
            print(f"{name}: {count} clips of {word!r} left out, which is none of the seven emotions")
    if config.goemotions:
        corpora["goemotions"], others = read_goemotions(root / "goemotions")
        print(f"goemotions: {sum(others.values())} sentences left out, whose emotions are none or several of the seven")
    return corpora


def _with_clips(dialogue: Dialogue, folder: Path | None, root: Path) -> Dialogue:
    if folder is None:
        return dialogue
    turns = []
    for index, turn in enumerate(dialogue.turns):
        found = sorted(folder.glob(f"{dialogue.id}_{index}.*"))
        if len(found) > 1:
            raise DataError(f"Expected one clip of turn {index} of dialogue {dialogue.id}, got {', '.join(map(str, found))}.")
        place = clip_dialogue(Clip(found[0], "neutral", ""), dialogue.split, root).id if found else None
        turns.append(replace(turn, media=place))
    return replace(dialogue, turns=tuple(turns))


def main(argv: Sequence[str] | None = None) -> None:
    config, args = load_config(DataConfig, argv, __doc__ or "")
    root = config.root or data_root()
    corpora = read_corpora(config, root)
    for corpus, splits in corpora.items():
        for split, dialogues in splits.items():
            items = sum(1 for _ in items_of(dialogues))
            what = f"{len(dialogues)} dialogues, {items} items" if items else f"{len(dialogues)} clips or sentences"
            print(f"{corpus} {split}: {what} -> {config.out / corpus / f'{split}.jsonl'}")
    leaks = leakage(corpora, root)
    print(leakage_table(leaks))
    if args.dry_run:
        return
    for corpus, splits in corpora.items():

        def fill(folder: Path, splits: Mapping[str, Sequence[Dialogue]] = splits) -> None:
            for split, dialogues in splits.items():
                write_dialogues(folder / f"{split}.jsonl", dialogues)
            dump_config(config, folder / "config.yaml")

        write_whole(config.out / corpus, fill)
    report = json.dumps([asdict(leak) for leak in leaks], indent=1, ensure_ascii=False) + "\n"
    write_file(config.out / "leakage.json", lambda path: path.write_text(report, encoding="utf-8"))


if __name__ == "__main__":
    run_command(main)
