"""The one turn format that every stage reads: dialogues a line, clips as dialogues of one turn; and what leaks in it.

``python -m train.data`` writes ``DATA/CORPUS/SPLIT.jsonl``; paths of media are relative to the data root. What two splits
of a corpus share is reported by text (whole dialogues, exchanges, client turns; case and punctuation folded) and, for
clips, by the media's bytes and by person.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final

from multimood_core.dialogues import Dialogue, DialogueTurn, items_of, read_dialogues
from multimood_core.errors import DataError
from multimood_core.lineage import sha256_of

DATA: Final = Path("data")  # where the data stage writes by default
_SHOWN: Final = 20  # shared dialogues or clips that a report names


@dataclass(frozen=True, slots=True)
class Clip:
    """A labelled sound, picture or clip; ``emotion`` is one of the seven."""

    path: Path
    emotion: str
    speaker: str
    language: str = ""


def named_data_root() -> Path:
    """Where the data sets should lie: ``MULTIMOOD_DATA``, by default ``../shared/data``; the folder may be absent."""
    return Path(os.environ.get("MULTIMOOD_DATA", Path(__file__).parents[2] / "shared" / "data"))


def data_root() -> Path:
    """Where the data sets lie.

    Raises:
        DataError: there is no such folder.
    """
    root = named_data_root()
    if not root.is_dir():
        raise DataError(f"Expected the data sets in {root}, but there is no such folder. Set MULTIMOOD_DATA.")
    return root


def clip_dialogue(clip: Clip, split: str, root: Path) -> Dialogue:
    """A clip as a dialogue of one client turn without words; its id is the file, relative to ``root`` where it lies there."""
    inside = clip.path.is_relative_to(root)
    place = (clip.path.relative_to(root) if inside else clip.path.absolute()).as_posix()
    return Dialogue(place, split, (DialogueTurn("client", "", clip.emotion, media=place, person=clip.speaker),))


def read_split(corpus: str, split: str, folder: Path = DATA) -> list[Dialogue]:
    """The dialogues of one split as the data stage wrote them.

    Raises:
        DataError: the stage has not written them; names its command.
    """
    path = folder / corpus / f"{split}.jsonl"
    if not path.is_file():
        raise DataError(
            f"Expected {corpus}'s {split} split at {path}, which is not there. "
            "Run python -m train.data --config train/configs/data_mini.yaml (--out=FOLDER, and its corpora, to your needs)."
        )
    return read_dialogues(path)


def read_clips(corpus: str, split: str, folder: Path = DATA, root: Path | None = None) -> list[Clip]:
    """The labelled clips of one split; ``root`` is the data root.

    Raises:
        DataError: the stage has not written them, or a turn has no clip or no emotion.
    """
    clips = []
    for dialogue in read_split(corpus, split, folder):
        for turn in dialogue.turns:
            if turn.media is None or turn.emotion is None:
                raise DataError(f"Expected clips with an emotion in {corpus}, but dialogue {dialogue.id} has a turn without.")
            clips.append(Clip((root or data_root()) / turn.media, turn.emotion, turn.person))
    return clips


def data_hash(corpora: Sequence[str], split: str, folder: Path = DATA) -> str:
    """SHA-256 over one split of several corpora, for a checkpoint's lineage."""
    return sha256_of(folder / corpus / f"{split}.jsonl" for corpus in corpora)


@dataclass(frozen=True, slots=True)
class Leak:
    """What of ``split`` is in ``other`` too: ``shared`` of ``total``; ``examples`` are ids of ``split``."""

    corpus: str
    split: str
    other: str
    what: str
    shared: int
    total: int
    examples: tuple[str, ...]


def _folded(text: str) -> str:
    return re.sub(r"\W+", " ", text.casefold()).strip()


def _keys(dialogues: Sequence[Dialogue], root: Path) -> dict[str, dict[str, object]]:
    """What -> id -> the key by which two splits are compared."""
    keys: dict[str, dict[str, object]] = {"dialogues": {}, "exchanges": {}, "client turns": {}, "clips": {}, "people": {}}
    for dialogue in dialogues:
        words = tuple(_folded(turn.text) for turn in dialogue.turns)
        if any(words):
            keys["dialogues"][dialogue.id] = words
        for turn in dialogue.turns:
            if turn.media:
                keys["clips"][turn.media] = hashlib.sha256((root / turn.media).read_bytes()).hexdigest()
            if turn.person:
                keys["people"][turn.person] = turn.person
    for item in items_of(dialogues):
        keys["client turns"][item.id] = _folded(item.client.text)
        keys["exchanges"][item.id] = (_folded(item.client.text), _folded(item.therapist.text))
    return keys


def leakage(corpora: Mapping[str, Mapping[str, Sequence[Dialogue]]], root: Path) -> list[Leak]:
    """What each split of a corpus shares with each split that stands before it (train, val, test).

    Args:
        corpora: corpus -> split -> dialogues.
        root: the data root, below which the media lie.
    """
    leaks = []
    for corpus, splits in corpora.items():
        keys = {split: _keys(dialogues, root) for split, dialogues in splits.items()}
        for other, split in combinations(splits, 2):
            for what, mine in keys[split].items():
                if not mine:
                    continue
                seen = set(keys[other][what].values())
                shared = [name for name, key in mine.items() if key in seen]
                leaks.append(Leak(corpus, split, other, what, len(shared), len(mine), tuple(shared[:_SHOWN])))
    return leaks


def leakage_table(leaks: Sequence[Leak]) -> str:
    """The report as a table for people."""
    rows = [("corpus", "of", "also in", "what", "shared")]
    rows += [(leak.corpus, leak.split, leak.other, leak.what, f"{leak.shared} of {leak.total}") for leak in leaks]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
