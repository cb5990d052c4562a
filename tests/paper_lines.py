"""Keeps the places that PAPER.md names true: ``python -m tests.paper_lines`` sets every line number anew.

A place is written `` `folder/file.py:LINE symbol` ``. The symbol is a class, function or constant, ``Class.member``, or a
key of a YAML file; its line is where it is defined (below its decorators).
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PAPER = REPOSITORY / "PAPER.md"
PLACE = re.compile(r"`(?P<file>[\w./-]+\.(?:py|yaml)):(?P<line>\d+) (?P<symbol>[\w.]+)`")


@dataclass(frozen=True)
class Place:
    """A file, the line that the document gives, and what should be defined there."""

    file: str
    line: int
    symbol: str


def places(text: str) -> Iterator[Place]:
    """Every place that a document names."""
    for match in PLACE.finditer(text):
        yield Place(match["file"], int(match["line"]), match["symbol"])


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def line_of(path: Path, symbol: str) -> int | None:
    """The line that defines ``symbol``, or None where the file does not define it."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".yaml":
        return next((n for n, line in enumerate(text.splitlines(), 1) if line.startswith(f"{symbol}:")), None)
    body: list[ast.stmt] = ast.parse(text).body
    line = None
    for part in symbol.split("."):
        node = next((node for node in body if part in _names(node)), None)
        if node is None:
            return None
        line, body = node.lineno, node.body if isinstance(node, ast.ClassDef) else []
    return line


def refreshed(text: str, repository: Path = REPOSITORY) -> str:
    """The document with the lines as they are now.

    Raises:
        LookupError: a file or a symbol is gone.
    """

    def now(match: re.Match[str]) -> str:
        path = repository / match["file"]
        line = line_of(path, match["symbol"]) if path.is_file() else None
        if line is None:
            raise LookupError(f"{match[0]}: expected {match['symbol']} in {match['file']}; name where it is now")
        return f"`{match['file']}:{line} {match['symbol']}`"

    return PLACE.sub(now, text)


def main() -> int:
    try:
        PAPER.write_text(refreshed(PAPER.read_text(encoding="utf-8")), encoding="utf-8")
    except LookupError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
