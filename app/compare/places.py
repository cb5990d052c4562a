"""Where the Compare tab keeps votes and batches, and where it looks for data sets."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from multimood_core.dialogues import Dialogue, read_dialogues
from multimood_core.errors import DataError

KEPT: Final = "MULTIMOOD_COMPARE"
DATA: Final = "MULTIMOOD_DIALOGUES"
REPOSITORY: Final = Path(__file__).resolve().parents[2]


def kept() -> Path:
    """The folder of votes and batches, of this user alone: ``MULTIMOOD_COMPARE``, or ``data/compare``."""
    folder = Path(os.environ.get(KEPT) or REPOSITORY / "data" / "compare").resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as cause:
        raise DataError(f"Expected a folder for votes and batches at {folder}: {cause}. Name another in {KEPT}.") from cause
    return folder


@dataclass(frozen=True, slots=True)
class DataSet:
    """A file of dialogues. ``id`` is what a page calls it; no path comes from a page."""

    id: str
    name: str
    path: Path


def folder() -> Path:
    """Where data sets are looked for: ``MULTIMOOD_DIALOGUES``, or ``data``, where ``train.data`` writes them."""
    return Path(os.environ.get(DATA) or REPOSITORY / "data")


def data_sets() -> list[DataSet]:
    """The files of dialogues in that folder and the folders in it."""
    root, found = folder(), []
    for path in sorted([*root.glob("*.jsonl"), *root.glob("*/*.jsonl")]) if root.is_dir() else []:
        if path.is_file() and path.resolve().is_relative_to(root.resolve()) and _holds_dialogues(path):
            name = str(path.relative_to(root).with_suffix(""))
            found.append(DataSet(hashlib.sha256(name.encode()).hexdigest()[:16], name, path))
    return found


def none_found() -> str:
    """What to do where there is no data set."""
    return (
        f"No data set is configured: there is no file of dialogues (NAME.jsonl) in {folder().name}/. Write one with "
        f"`python -m train.data`, or name a folder in {DATA}."
    )


def find(identifier: str) -> DataSet:
    """The data set of an id.

    Raises:
        DataError: there is none.
    """
    for one in data_sets():
        if one.id == identifier:
            return one
    raise DataError("This data set is gone; reload the page for those that there are.")


def dialogues(one: DataSet) -> list[Dialogue]:
    """Its dialogues; read again when the file has changed."""
    return _read(one.path, one.path.stat().st_mtime_ns)


def learnt_from(one: DataSet) -> list[Dialogue] | None:
    """The training split beside it, from which baselines learn; None where there is none."""
    beside = one.path.with_name("train.jsonl")
    return _read(beside, beside.stat().st_mtime_ns) if beside != one.path and beside.is_file() else None


@lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> list[Dialogue]:
    return read_dialogues(path)


def _holds_dialogues(path: Path) -> bool:
    """Whether the first line looks like one; other jsonl files may lie beside."""
    with path.open("rb") as file:
        start = file.read(64_000)
    return b'"turns"' in start and b'"split"' in start

