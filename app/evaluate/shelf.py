"""The stored reports: listed with what is known of each, opened and compared by id, and handed out as files."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from app.evaluate.places import Places, id_of
from app.studies.errors import AbsentError
from multimood_core.comparison import side_by_side
from multimood_core.documents import Block, as_html, as_markdown, pictures
from multimood_core.errors import DataError
from multimood_core.reports import blocks_of
from multimood_core.stored_reports import ReportHead, head_of, read_report

FILES: Final = {"json": "application/json", "zip": "application/zip", "html": "text/html"}
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Stored:
    """A file among the reports: its head, or why it is none."""

    id: str
    path: Path
    name: str
    folder: str
    head: ReportHead | None
    problem: str = ""


class Kept:
    """The results of slow work, the latest ``most`` of them."""

    def __init__(self, most: int) -> None:
        self._most, self._made, self._lock = most, OrderedDict[Hashable, Any](), threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What was made for ``key`` before, or is made now."""
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
        made = make()
        with self._lock:
            self._made[key] = made
            while len(self._made) > self._most:
                self._made.popitem(last=False)
        return made


def version_of(path: Path) -> tuple[str, int, int]:
    """Differs whenever the file does."""
    status = path.stat()
    return str(path), status.st_mtime_ns, status.st_size


class Shelf:
    """The reports of ``places``, looked for anew at each listing."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._heads, self._blocks = Kept(4000), Kept(24)

    def listed(self) -> list[Stored]:
        """Newest first; what is no report comes last, with the reason."""
        found = {path: self._stored(path) for place in self._places.reports for path in place.files()}
        return sorted(found.values(), key=lambda one: (one.head is None, -one.head.date.timestamp() if one.head else 0, one.name))

    def _stored(self, path: Path) -> Stored:
        name, folder = path.stem, self._places.shown(path.parent)
        try:
            head = self._heads.get(version_of(path), lambda: _head(path))
        except OSError as cause:  # gone between the two looks
            head = DataError(f"it cannot be read: {cause.strerror}")
        if isinstance(head, DataError):
            return Stored(id_of(path), path, name, folder, None, str(head))
        return Stored(id_of(path), path, name, folder, head)

    def find(self, identifier: str) -> Stored:
        """The report of that id.

        Raises:
            AbsentError: no listed file has it.
        """
        for place in self._places.reports:
            for path in place.files():
                if id_of(path) == identifier:
                    return self._stored(path)
        raise AbsentError("There is no such report any more; load the list again.")

    def blocks(self, identifier: str) -> list[Block]:
        """A report as a document.

        Raises:
            AbsentError: no listed file has the id.
            DataError: it is no report.
        """
        path = self.find(identifier).path
        return self._blocks.get(version_of(path), lambda: blocks_of(read_report(path)))

    def compared(self, first: str, second: str) -> tuple[dict[str, Any], list[Block]]:
        """Two reports beside each other, as values and as a document, with paired differences where both have items.

        Raises:
            AbsentError: no listed file has an id.
            DataError: one is no report of a system.
        """
        paths = [self.find(identifier).path for identifier in (first, second)]

        def compare() -> tuple[dict[str, Any], list[Block]]:
            reports = [read_report(path) for path in paths]
            for path, report in zip(paths, reports, strict=True):
                if "tasks" not in report:
                    raise DataError(f"{path.stem} is of several systems already: choose two reports of one system each.")
                blocks_of(report)  # says of a report what is wrong with it before two are worked on
            command = f"python -m train.evaluate --compare {self._places.shown(paths[0])} {self._places.shown(paths[1])}"
            found = side_by_side(*reports) | {"command": command}
            return found, blocks_of(found)

        return self._blocks.get(tuple(map(version_of, paths)), compare)

    def file(self, identifier: str, kind: str) -> tuple[str, bytes]:
        """A report to take along: as it lies there, as Markdown with its figures, or as one page.

        Returns:
            The file's name and content.

        Raises:
            AbsentError: no listed file has the id, or there is no such kind.
            DataError: it is no report.
        """
        stored = self.find(identifier)
        if kind == "json":
            read_report(stored.path)  # only reports leave the folder
            return f"{stored.name}.json", stored.path.read_bytes()
        return as_file(stored.name, kind, self.blocks(identifier))

    def compared_file(self, first: str, second: str, kind: str) -> tuple[str, bytes]:
        """A comparison to take along, see ``file``."""
        found, blocks = self.compared(first, second)
        name = f"{self.find(first).name}-and-{self.find(second).name}"
        if kind == "json":
            return f"{name}.json", json.dumps(found, indent=1).encode()
        return as_file(name, kind, blocks)


def _head(path: Path) -> ReportHead | DataError:
    """An error is kept like a head: the file is read again when it has changed, not at each look."""
    try:
        return head_of(read_report(path), path.stat().st_mtime)
    except DataError as error:
        return error


def as_file(name: str, kind: str, blocks: list[Block]) -> tuple[str, bytes]:
    """A document as one HTML page, or as Markdown with its figures in a zip.

    Raises:
        AbsentError: another kind.
    """
    if kind == "html":
        return f"{name}.html", as_html(blocks).encode()
    if kind != "zip":
        raise AbsentError(f"Expected one of {', '.join(FILES)}, got {kind!r}.")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}/{name}.md", as_markdown(blocks, "figures"))
        for picture in pictures(blocks):
            archive.writestr(f"{name}/figures/{picture.name}.svg", picture.svg)
    return f"{name}.zip", packed.getvalue()
