"""Where reports, runs and checkpoints are looked for, and how a file there is named without its path.

The page never sends a path. It sends an id, and an id means one of the files that were found: what lies elsewhere, or is
reached through a link that leads out of a listed folder, has none.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from multimood_core.registry import CHECKPOINTS

REPOSITORY: Final = Path(__file__).resolve().parents[2]
REPORTS: Final = "MULTIMOOD_REPORTS"
RUNS: Final = "MULTIMOOD_RUNS"
MOST: Final = 2000  # files of a place; a folder with more is no folder of reports


@dataclass(frozen=True, slots=True)
class Place:
    """A folder and what is looked for in it."""

    folder: Path
    patterns: tuple[str, ...]

    def files(self) -> Iterator[Path]:
        """What is found, in the order of names; links that lead out of the folder are not."""
        root, given = self.folder.resolve(), 0
        for pattern in self.patterns:
            for path in sorted(root.glob(pattern)):
                given += 1
                if given > MOST:
                    return
                if path.is_file() and path.resolve().is_relative_to(root):
                    yield path


@dataclass(frozen=True, slots=True)
class Places:
    """Every folder that the two tabs read.

    Args:
        reports: JSON that ``train.evaluate`` wrote.
        runs: folders of which each folder inside may be a run, with ``metrics.jsonl``, and ``final`` as its checkpoint.
        checkpoints: of the registry.
    """

    reports: tuple[Place, ...]
    runs: tuple[Path, ...]
    checkpoints: Path = CHECKPOINTS

    def shown(self, path: Path) -> str:
        """A path as people read it: from the repository, or from the listed folder's name where it lies elsewhere."""
        listed = [*(place.folder for place in self.reports), *self.runs, self.checkpoints]
        for root in (REPOSITORY, *(folder.resolve().parent for folder in listed)):
            if path.is_relative_to(root):
                return str(path.relative_to(root))
        return path.name


def places(environment: Mapping[str, str] = os.environ) -> Places:
    """The folders that ``MULTIMOOD_REPORTS`` and ``MULTIMOOD_RUNS`` name, or the project's own.

    Several folders are separated as in ``PATH``. Of a folder of reports, the folders in it are read too.
    """
    runs = _folders(environment.get(RUNS, "")) or (REPOSITORY / "runs",)
    named = _folders(environment.get(REPORTS, ""))
    reports = tuple(Place(folder, ("*.json", "*/*.json")) for folder in named)
    if not reports:
        cards = Place(CHECKPOINTS, ("*/reports/*.json",))
        reports = (cards, *(Place(folder, ("*.json", "*/*.json", "*/final/reports/*.json")) for folder in runs))
    return Places(reports, runs)


def _folders(text: str) -> tuple[Path, ...]:
    return tuple(Path(name).expanduser() for name in text.split(os.pathsep) if name)


def id_of(path: Path) -> str:
    """What the page calls a file."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
