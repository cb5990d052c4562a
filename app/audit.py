"""The audit log: one line for each act on people's data, chained by hashes, and never a word that somebody said.

    python -m app.audit verify                    finds a line that was changed, removed, put elsewhere or cut off
    python -m app.audit head >> /elsewhere/heads  writes the number and hash of the last line down
    python -m app.audit verify --anchors /elsewhere/heads

Each line holds the SHA-256 of the one before, so a change shows from there on. Two things a chain alone cannot show: that
its last lines were cut off, and that somebody who may write the file made every line anew. Both show against heads that
were kept elsewhere, where that person cannot write.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

from app.places import records
from multimood_core.errors import DataError

NAME: Final = "audit.jsonl"
HERE: Final = "this-computer"  # who acts where nobody has signed in
FIRST: Final = "0" * 64  # what the first line follows
TORN: Final = "log.torn"
# What may be written, and with what. A value is a number, a name or a hash; a sentence does not fit.
EVENTS: Final[Mapping[str, frozenset[str]]] = {
    "app.started": frozenset({"host", "checkpoint", "sha256", "accounts"}),
    "app.closed": frozenset(),
    "consent.given": frozenset({"session", "person", "part", "version", "sha256", "by"}),
    "consent.revoked": frozenset({"session", "person", "part"}),
    "session.kept": frozenset({"session", "person", "checkpoint", "sha256"}),
    "session.opened": frozenset({"session"}),
    "session.exported": frozenset({"session", "part", "blurred"}),
    "session.deleted": frozenset({"session", "parts"}),
    "part.deleted": frozenset({"session", "part", "count"}),
    "person.deleted": frozenset({"person", "sessions", "parts", "open"}),
    "retention.set": frozenset({"days"}),
    "retention.purged": frozenset({"sessions", "parts", "days"}),
    "vault.made": frozenset({"key", "source"}),
    "vault.rotated": frozenset({"key", "parts"}),
    "remote.on": frozenset({"host", "model", "fields", "purpose"}),
    "remote.off": frozenset({"host"}),
    "remote.asked": frozenset({"host", "model", "purpose", "prompts", "characters"}),
    "sign-in.succeeded": frozenset({"address"}),
    "sign-in.refused": frozenset({"address"}),
    "sign-out": frozenset(),
    TORN: frozenset({"bytes", "sha256"}),
}
_WORD: Final = re.compile(r"[\w.:@/+=,\[\]-]{0,200}")
_TAIL: Final = 64 * 1024  # bytes; a line has a few hundred


class AuditError(DataError):
    """The log cannot be written, or what shall be written does not belong in it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: the ``n``-th, from 1; ``before`` is the hash of the line before."""

    n: int
    at: str
    who: str
    what: str
    about: Mapping[str, Any]
    before: str
    hash: str = ""

    def digest(self) -> str:
        """The SHA-256 over everything but the hash itself."""
        plain = {key: value for key, value in asdict(self).items() if key != "hash"}
        return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def line(self) -> bytes:
        return json.dumps(asdict(self), separators=(",", ":")).encode() + b"\n"


class Audit:
    """The log of one folder; several threads and processes may write to it.

    Args:
        path: the file; the one of ``places.records()`` where None.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or records() / NAME
        self._writing = threading.Lock()

    def write(self, what: str, who: str = HERE, **about: str | int | bool) -> Entry:
        """Adds a line; it is on the disk once this returns.

        Raises:
            AuditError: no such event, a value that is more than a word, or the disk does not take it.
        """
        _require_words(what, who, about)
        with self._open() as file:
            last, rest = _last(file)
            if rest:  # somebody was killed while writing: its piece stays, and the next line says so
                file.write(b"\n")
                last = _added(file, last, TORN, HERE, {"bytes": len(rest), "sha256": hashlib.sha256(rest).hexdigest()})
            entry = _added(file, last, what, who, about)
            file.flush()
            os.fsync(file.fileno())
        return entry

    def entries(self) -> list[Entry]:
        """The lines that can be read, oldest first."""
        data = self.path.read_bytes() if self.path.exists() else b""
        return [entry for line in data.split(b"\n") if (entry := _parsed(line)) is not None]

    def head(self) -> str:
        """Number and hash of the last line, to be kept elsewhere."""
        entries = self.entries()
        return f"{entries[-1].n} {entries[-1].hash}" if entries else f"0 {FIRST}"

    @contextmanager
    def _open(self) -> Iterator[Any]:
        try:
            with self._writing, FileLock(f"{self.path}.lock", timeout=30):
                number = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
                with os.fdopen(number, "r+b", buffering=0) as file:
                    yield file
        except OSError as cause:
            raise AuditError(f"Expected to write the audit log {self.path}: {cause}. Nothing was done; mend it first.") from cause


def _require_words(what: str, who: str, about: Mapping[str, Any]) -> None:
    if what not in EVENTS or not set(about) <= EVENTS[what]:
        raise AuditError(f"Expected an event of the audit log with its own fields, got {what} with {', '.join(about)}.")
    for name, value in {"who": who, **about}.items():
        if not isinstance(value, int) and not (isinstance(value, str) and _WORD.fullmatch(value)):
            raise AuditError(f"Expected a number, a name or a hash as {name} in the audit log, got more than a word.")


def _added(file: Any, last: Entry | None, what: str, who: str, about: Mapping[str, Any]) -> Entry:
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    bare = Entry(last.n + 1 if last else 1, at, who, what, dict(about), last.hash if last else FIRST)
    entry = Entry(bare.n, bare.at, bare.who, bare.what, bare.about, bare.before, bare.digest())
    file.write(entry.line())
    return entry


def _last(file: Any) -> tuple[Entry | None, bytes]:
    """The last whole line, and what stands behind it without an end."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL))
    lines = file.read().split(b"\n")
    rest = lines.pop()
    for line in reversed(lines):
        if (entry := _parsed(line)) is not None:
            return entry, rest
    return None, rest


def _parsed(line: bytes) -> Entry | None:
    try:
        entry = Entry(**json.loads(line))
    except (ValueError, TypeError):
        return None
    return entry if isinstance(entry.n, int) and isinstance(entry.hash, str) else None


def verify(path: Path, anchors: Sequence[str] = ()) -> list[str]:
    """What is wrong with a log, in sentences; nothing where it is whole.

    Args:
        path: the log.
        anchors: heads of it that were kept elsewhere, ``NUMBER HASH`` each.
    """
    if not path.exists():
        return [f"There is no log at {path}."] if anchors else []
    *lines, rest = path.read_bytes().split(b"\n")
    problems, last, seen = [], None, {0: FIRST}
    for place, line in enumerate(lines, 1):
        entry = _parsed(line)
        follower = _parsed(lines[place]) if place < len(lines) else None
        if entry is None:
            told = follower.about.get("sha256") if follower is not None and follower.what == TORN else None
            if told != hashlib.sha256(line).hexdigest():
                problems.append(f"Line {place} cannot be read: it was cut off or overwritten.")
            continue
        if entry.hash != entry.digest():
            problems.append(f"Line {place} was changed: its content does not have the hash that it states.")
        expected, before = (last.n + 1, last.hash) if last else (1, FIRST)
        if entry.n != expected:
            problems.append(f"Line {place} has the number {entry.n}, expected {expected}: lines were removed or reordered.")
        elif entry.before != before:
            problems.append(f"Line {place} does not follow the line before it: one of the two was changed or exchanged.")
        last = entry
        seen[entry.n] = entry.hash
    if rest:
        problems.append(f"The last line is cut off after {len(rest)} bytes; the next line that is written will say so.")
    for anchor in anchors:
        number, _, digest = anchor.partition(" ")
        if not number.isdecimal():
            problems.append(f"Expected an anchor as NUMBER HASH, got {anchor[:80]!r}.")
        elif int(number) not in seen:
            problems.append(f"Line {number} was there once and is not any more: the end of the log was cut off.")
        elif seen[int(number)] != digest.strip():
            problems.append(f"Line {number} had another hash once: the log was written anew.")
    return problems


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 1 where the log is not whole."""
    parser = argparse.ArgumentParser(prog="python -m app.audit", description="Checks the audit log.")
    parser.add_argument("do", choices=("verify", "head"))
    parser.add_argument("--log", type=Path, help="another log than this MultiMood's own")
    parser.add_argument("--anchors", type=Path, help="a file with heads that `head` printed, one a line")
    options = parser.parse_args(argv)
    path = options.log or records() / NAME
    if options.do == "head":
        print(Audit(path).head())
        return 0
    try:
        anchors = options.anchors.read_text(encoding="utf-8").splitlines() if options.anchors else []
    except OSError as error:
        print(f"Expected a file of heads: {error}", file=sys.stderr)
        return 2
    problems = verify(path, [line for line in map(str.strip, anchors) if line])
    for problem in problems:
        print(problem)
    if not problems:
        print(f"The log is whole up to {Audit(path).head()}." + ("" if anchors else " Without anchors a cut end is not found."))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
