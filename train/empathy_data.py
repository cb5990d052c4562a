"""EPITOME (Sharma et al. 2020): replies to posts, their empathy on three scales, and which words show it."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from multimood_core.errors import DataError
from multimood_core.local_judge import SCALES
from multimood_core.sentences import sentences_of
from train.turns import data_root

_FILES: Final = dict(zip(SCALES, ("emotional-reactions", "interpretations", "explorations"), strict=True))
_COLUMNS: Final = {"sp_id", "rp_id", "seeker_post", "response_post", "level", "rationales"}
SPLITS: Final = {"train": 0.7, "val": 0.85, "test": 1.0}  # upper bounds of a post's place in [0, 1)


@dataclass(frozen=True, slots=True)
class RatedReply:
    """A reply to a post, its level (0-2) on each scale, and the level of each of its sentences.

    A sentence has the reply's level where it holds at least half of a rationale or lies at least half in one, else 0.
    A scale is absent from ``sentence_levels`` where no sentence holds the rationale of a level above 0.
    """

    post_id: str
    post: str
    reply: str
    levels: Mapping[str, int]
    sentences: tuple[str, ...]
    sentence_levels: Mapping[str, tuple[int, ...]]

    @property
    def split(self) -> str:
        """train, val or test, by the post's identity alone: no post stands in two."""
        place = int(hashlib.sha256(self.post_id.encode()).hexdigest()[:8], 16) / 2**32
        return next(name for name, bound in SPLITS.items() if place < bound)


def read_epitome(root: Path | None = None) -> list[RatedReply]:
    """All replies that are rated on the three scales, once each.

    Raises:
        DataError: a file is absent or is none of EPITOME's.
    """
    folder = (root or data_root()) / "epitome_empathy"
    tables: dict[str, dict[tuple[str, str], dict[str, str]]] = {}
    for scale, name in _FILES.items():
        rows = _rows(folder / f"{name}-reddit.csv")
        # Some replies were rated twice; the first rating counts.
        tables[scale] = {(row["sp_id"], row["rp_id"]): row for row in reversed(rows)}
    shared = set.intersection(*(set(table) for table in tables.values()))
    replies = []
    for key in sorted(shared):
        rows_of = {scale: table[key] for scale, table in tables.items()}
        first = rows_of[SCALES[0]]
        sentences = tuple(sentences_of(first["response_post"]))
        levels = {scale: int(row["level"]) for scale, row in rows_of.items()}
        marked = {scale: _sentence_levels(row, sentences, levels[scale]) for scale, row in rows_of.items()}
        known = {scale: found for scale, found in marked.items() if found is not None}
        if sentences:
            replies.append(RatedReply(key[0], first["seeker_post"], first["response_post"], levels, sentences, known))
    return replies


def _sentence_levels(row: Mapping[str, str], sentences: Sequence[str], level: int) -> tuple[int, ...] | None:
    reply, spans = row["response_post"], []
    for rationale in filter(None, (part.strip() for part in row["rationales"].split("|"))):
        if (begin := reply.find(rationale)) >= 0:
            spans.append((begin, begin + len(rationale)))
    found, cursor = [], 0
    for sentence in sentences:
        # A sentence put together from parts has one space between them, whatever the reply had.
        begin = max(cursor, reply.find(sentence[:20], cursor))
        cursor = begin + len(sentence)
        shown = any(
            2 * (min(cursor, stop) - max(begin, start)) >= min(len(sentence), stop - start) for start, stop in spans
        )
        found.append(level if shown else 0)
    return tuple(found) if level == 0 or any(found) else None


def twice_rated(root: Path | None = None) -> dict[str, dict[str, float]]:
    """Scale -> how often two ratings of one reply were equal, where a reply stands in the table twice: people's own limit."""
    found = {}
    for scale, name in _FILES.items():
        ratings: dict[tuple[str, str], list[str]] = {}
        for row in _rows((root or data_root()) / "epitome_empathy" / f"{name}-reddit.csv"):
            ratings.setdefault((row["sp_id"], row["rp_id"]), []).append(row["level"])
        pairs = [levels for levels in ratings.values() if len(levels) > 1]
        found[scale] = {"n": len(pairs), "equal": sum(len(set(levels)) == 1 for levels in pairs) / max(1, len(pairs))}
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as cause:
        raise DataError(f"Expected EPITOME's table at {path}: {cause}") from cause
    if not rows or not set(rows[0]) >= _COLUMNS:
        raise DataError(f"{path}: expected columns {', '.join(sorted(_COLUMNS))}, got {', '.join(rows[0] if rows else ())}.")
    return rows
