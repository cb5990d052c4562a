"""Tables that a command writes into a document, between two marks that say by which command."""

from __future__ import annotations

import re
from pathlib import Path

from multimood_core.errors import DataError


def put_between_marks(path: Path, name: str, lines: str) -> None:
    """Writes ``lines`` between ``<!-- NAME: command -->`` and ``<!-- /NAME -->``.

    Raises:
        DataError: the file has no such marks; it is left as it is.
    """
    text = path.read_text(encoding="utf-8")
    marks = re.compile(rf"(<!-- {re.escape(name)}: .*? -->\n).*?(<!-- /{re.escape(name)} -->)", re.DOTALL)
    if not marks.search(text):
        raise DataError(f"Expected the marks <!-- {name}: ... --> and <!-- /{name} --> in {path}.")
    path.write_text(marks.sub(lambda mark: f"{mark[1]}{lines.rstrip()}\n{mark[2]}", text), encoding="utf-8")
