"""Votes on blind comparisons: one line each in a file that only grows, on the disk before the page hears of it.

A vote ranks the systems by each criterion, equal ranks being a tie; pairs of systems follow from the ranks.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from app.studies.guidelines import CRITERIA
from multimood_core.errors import DataError
from multimood_core.preference import Verdict, bradley_terry, win_tie_loss

KEYS = tuple(criterion.key for criterion in CRITERIA)


@dataclass(frozen=True, slots=True)
class Vote:
    """One locked vote.

    Attributes:
        id: of the comparison; a comparison has one vote.
        time: seconds since 1970, UTC.
        systems: name, kind and hash of each, in the order shown.
        ranks: criterion -> rank of each system, 1 the best.
        sampling: of the replies.
        source: where the turn came from; ``item`` names it in a data set.
        words: context, history, the client's turn and the replies, where the voter has kept them.
    """

    id: str
    time: float
    systems: tuple[Mapping[str, str], ...]
    ranks: Mapping[str, Sequence[int]]
    sampling: Mapping[str, Any]
    source: str
    item: str = ""
    comment: str = ""
    words: Mapping[str, Any] | None = None

    def pairs(self, criterion: str) -> Iterator[tuple[int, int, Verdict]]:
        """Places of two systems, and how the first did against the second."""
        ranks = self.ranks[criterion]
        for left, right in combinations(range(len(ranks)), 2):
            yield left, right, "tie" if ranks[left] == ranks[right] else "win" if ranks[left] < ranks[right] else "loss"


def ranks_of(raw: object, keys: Sequence[str]) -> dict[str, list[int]]:
    """Ranks as a page sends them: ``{criterion: {letter: rank}}``, every criterion and every letter of ``keys``.

    Raises:
        DataError: something is open, or is no rank.
    """
    if not isinstance(raw, dict):
        raise DataError("Expected a rank for each criterion and system.")
    found = {}
    for criterion in CRITERIA:
        row = raw.get(criterion.key)
        if not isinstance(row, dict) or set(row) != set(keys):
            raise DataError(f"{criterion.name} is still open: say for {', '.join(keys)} who is better, or that they tie.")
        ranks = [row[key] for key in keys]
        if not all(isinstance(rank, int) and not isinstance(rank, bool) and 1 <= rank <= len(keys) for rank in ranks):
            raise DataError(f"Expected ranks from 1 to {len(keys)} for {criterion.name}, got {ranks}.")
        found[criterion.key] = ranks
    return found


class Votes:
    """The file of all votes.

    Args:
        path: of the file; made with the first vote.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()

    def add(self, vote: Vote) -> None:
        """Write a vote; it is on the disk when this returns, and lost with nothing that is written later.

        Raises:
            DataError: the comparison has its vote already, or the disk refuses it.
        """
        line = json.dumps(asdict(vote), ensure_ascii=False).encode() + b"\n"
        try:
            with self._lock, self._held() as file:
                if any(known.id == vote.id for known in self._read(file)):
                    raise DataError("This comparison has its vote already.")
                if (end := file.seek(0, os.SEEK_END)) and (file.seek(end - 1), file.read(1))[1] != b"\n":
                    file.write(b"\n")  # a line that was cut off by a power cut stays alone
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as cause:
            raise DataError(f"The vote could not be written to {self.path}: {cause}. It still stands on this page.") from cause

    def all(self) -> list[Vote]:
        """Every vote, oldest first. A line that was cut off was never acknowledged, and is passed over."""
        if not self.path.is_file():
            return []
        with self.path.open("rb") as file:
            return self._read(file)

    def _held(self) -> Any:
        """The file, held against other processes until it is closed."""
        new = not self.path.exists()
        file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b")
        fcntl.flock(file, fcntl.LOCK_EX)
        if new:  # the name of a new file is on the disk when its folder is
            folder = os.open(self.path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        return file

    def _read(self, file: Any) -> list[Vote]:
        file.seek(0)
        found = []
        for line in file.read().split(b"\n"):
            try:
                raw = json.loads(line)
                found.append(Vote(**(raw | {"systems": tuple(raw["systems"])})))
            except (ValueError, TypeError, KeyError):
                continue
        return found


def labels_of(votes: Sequence[Vote]) -> dict[tuple[str, str], str]:
    """How a system is called: by its name, and by its hash as well where a name has stood for several weights."""
    hashes: dict[str, set[str]] = defaultdict(set)
    for vote in votes:
        for system in vote.systems:
            hashes[system["name"]].add(system["sha256"])
    return {
        (name, sha): name if len(known) == 1 else f"{name} ({sha[:8]})" for name, known in hashes.items() for sha in known
    }


def ranking(votes: Sequence[Vote]) -> list[dict[str, Any]]:
    """For each criterion the systems' Bradley-Terry strengths with intervals, and the pairs' wins, ties and losses."""
    names, rows = labels_of(votes), []
    for criterion in CRITERIA:
        pairs = [
            (vote.id, (called[left], called[right], verdict))
            for vote in votes
            for called in [[names[one["name"], one["sha256"]] for one in vote.systems]]
            for left, right, verdict in vote.pairs(criterion.key)
        ]
        comparisons = [comparison for _, comparison in pairs]
        fitted = bradley_terry(comparisons, groups=[vote for vote, _ in pairs])  # the pairs of one vote are no several votes
        tables: dict[tuple[str, str], list[str]] = defaultdict(list)
        for left, right, verdict in comparisons:
            turned = {"win": "loss", "loss": "win", "tie": "tie"}[verdict]
            tables[min(left, right), max(left, right)].append(verdict if left < right else turned)
        rows.append(
            {
                "key": criterion.key, "name": criterion.name, "n": fitted.n, "why": fitted.why,
                "strengths": [asdict(strength) for strength in fitted.strengths],
                "pairs": [
                    {"left": left, "right": right, **asdict(win_tie_loss(verdicts))}
                    for (left, right), verdicts in sorted(tables.items())
                ],
            }
        )  # fmt: skip
    return rows


def preference_pairs(votes: Sequence[Vote], criterion: str = "overall") -> list[dict[str, Any]]:
    """Chosen and rejected replies in the form of a study's preference pairs; ties, and votes without words, give none.

    Raises:
        DataError: no such criterion.
    """
    if criterion not in KEYS:
        raise DataError(f"Expected a criterion of {', '.join(KEYS)}, got {criterion!r}.")
    found = []
    for vote in votes:
        if vote.words is None:
            continue
        for left, right, verdict in vote.pairs(criterion):
            if verdict == "tie":
                continue
            better, worse = (left, right) if verdict == "win" else (right, left)
            found.append(
                {
                    "item": vote.item or vote.id, "context": vote.words["context"], "history": vote.words["history"],
                    "client": vote.words["client"], "chosen": vote.words["replies"][better],
                    "rejected": vote.words["replies"][worse], "chosen_system": vote.systems[better]["name"],
                    "rejected_system": vote.systems[worse]["name"], "criterion": criterion,
                }
            )  # fmt: skip
    return found
