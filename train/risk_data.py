"""What the risk screen learns from and is measured on: posts of people by their C-SSRS level, and everyday talk without risk."""

from __future__ import annotations

import ast
import csv
import hashlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from multimood_core.errors import DataError
from multimood_core.risk import ASSETS
from multimood_core.risk_lexicon import Lexicon
from train.turns import data_root, read_split

LEVELS: Final = ("Supportive", "Indicator", "Ideation", "Behavior", "Attempt")
AT_RISK: Final = LEVELS[2:]
SPLITS: Final = {"train": 0.6, "val": 0.8, "test": 1.0}  # upper bounds of a person's place in [0, 1)
_NEAR: Final = re.compile(r"\b(?:kill|die|dying|dead|death|murder|shoot|shot|cut|hang|jump|hurt)\w*", re.IGNORECASE)
_MOST: Final = 800  # of them
_LINES: Final = ASSETS / "lines.yaml"


@dataclass(frozen=True, slots=True)
class Person:
    """One person's posts in order, and the level that experts gave to the person, not to each post (Gaur et al. 2019)."""

    name: str
    level: str
    posts: tuple[str, ...]

    @property
    def at_risk(self) -> bool:
        return self.level in AT_RISK

    @property
    def split(self) -> str:
        """train, val or test, by the person's name alone: nobody stands in two."""
        place = int(hashlib.sha256(self.name.encode()).hexdigest()[:8], 16) / 2**32
        return next(name for name, bound in SPLITS.items() if place < bound)


def read_people(root: Path | None = None) -> list[Person]:
    """Everybody of the C-SSRS Reddit set.

    Raises:
        DataError: the file is absent or is another.
    """
    path = (root or data_root()) / "cssrs_reddit" / "posts_labels.csv"
    csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as cause:
        raise DataError(f"Expected the C-SSRS Reddit posts at {path}: {cause}") from cause
    if not rows or {row.get("Label") for row in rows} - set(LEVELS):
        raise DataError(f"{path}: expected columns User, Post, Label with the levels {', '.join(LEVELS)}.")
    return [Person(row["User"], row["Label"], tuple(filter(str.strip, _posts(row["Post"], path)))) for row in rows]


def _posts(cell: str, path: Path) -> Sequence[str]:
    # A cell ends at 32,759 characters: the list is closed where it was cut off.
    for end in ("", "']", '"]'):
        try:
            return [str(post) for post in ast.literal_eval(cell + end)]
        except (SyntaxError, ValueError):
            continue
    raise DataError(f"{path}: expected a list of posts, got {cell[:60]!r}.")


def everyday(corpus: str, split: str) -> Iterator[str]:
    """Words of the client's turns of a prepared corpus; for one without therapist, every text."""
    for dialogue in read_split(corpus, split):
        for turn in dialogue.turns:
            if turn.speaker == "client" and turn.text.strip():
                yield turn.text


def near_misses(split: str, lexicon: Lexicon) -> list[str]:
    """Everyday comments of GoEmotions that speak of killing and dying, and in which the lexicon finds no risk."""
    return [text for text in everyday("goemotions", split) if _NEAR.search(text) and not lexicon.matches(text)][:_MOST]


@dataclass(frozen=True, slots=True)
class Lines:
    """The hand-written lines of one part (``tuned`` or ``held``)."""

    without: tuple[str, ...]
    risks: Mapping[str, tuple[str, ...]]


def read_lines(part: str) -> Lines:
    """The project's own lines.

    Raises:
        DataError: the file is absent or holds no such part.
    """
    raw = _raw_lines()
    try:
        return Lines(tuple(raw["without risk"][part]), {name: tuple(found[part]) for name, found in raw["with risk"].items()})
    except (KeyError, TypeError) as cause:
        raise DataError(f"{_LINES}: expected lines of {part!r}: {cause!r}") from cause


def read_windows() -> dict[bool, list[list[str]]]:
    """The hand-written conversations: with risk (True) and without."""
    raw = _raw_lines()
    return {True: raw["windows with risk"], False: raw["windows without risk"]}


def _raw_lines() -> dict[str, Any]:
    try:
        return yaml.safe_load(_LINES.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as cause:
        raise DataError(f"Expected the hand-written lines at {_LINES}: {cause}") from cause
