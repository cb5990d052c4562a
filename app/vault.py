"""What the app keeps of people, encrypted: AES-256-GCM, each part under its own nonce, in one SQLite file.

    python -m app.vault make     a first key, outside the folder of what it opens
    python -m app.vault rotate   another key, and every part encrypted anew under it; started again, it goes on
    python -m app.vault status   which keys there are, and how many parts each encrypts

A part is bound to its session, its name and its key, so none can be put in another's place. Where a part's key is not at
hand the vault does not open at all: nothing is written beside what cannot be read. Every change is one transaction: after a
crash there is what was before or what came after it. ``app/vault_keys.py`` says where keys come from.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.audit import Audit
from app.places import records
from app.vault_keys import SOURCES, Key, Keys, VaultError, find_keys, make_key, new_key, require_outside
from multimood_core.errors import MultiMoodError

NAME: Final = "vault.sqlite3"
SCHEMA: Final = 1
MAX_PART: Final = 512 * 2**20  # bytes; GCM itself ends at 64 GiB, SQLite at 1 GB
BUSY_SECONDS: Final = 30.0
NO_FILE: Final = (0, 0)  # device and inode of none
_NONCE: Final = 12  # bytes, as NIST SP 800-38D has it
_TABLES: Final = """
CREATE TABLE session (id TEXT PRIMARY KEY, person TEXT NOT NULL, owner TEXT NOT NULL, kept REAL NOT NULL);
CREATE INDEX session_person ON session (person);
CREATE TABLE part (session TEXT NOT NULL REFERENCES session (id) ON DELETE CASCADE, name TEXT NOT NULL, key TEXT NOT NULL,
  nonce BLOB NOT NULL, data BLOB NOT NULL, PRIMARY KEY (session, name));
CREATE INDEX part_key ON part (key);
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A kept session as far as it is readable without a key: random names, and when it was last written (s since 1970)."""

    id: str
    person: str
    owner: str
    kept: float


class Vault:
    """The open vault. Methods may be called from any thread.

    Args:
        path: the database; the one of ``places.records()`` where None.
        keys: that open it; those of ``find_keys`` where None.

    Raises:
        VaultError: there is no key, a part was encrypted with another one, or the file cannot be used.
    """

    def __init__(self, path: Path | None = None, keys: Keys | None = None) -> None:
        self.path = path or records() / NAME
        self.keys = keys or find_keys(self.path.parent)
        self._lock = threading.RLock()
        with _told(self.path):
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            self._open()

    def _open(self) -> None:
        self._file: tuple[int, int] | None = _found(self.path)
        self._database = _connected(self.path)
        try:
            self._prepare()
            self._require_keys()
        except BaseException:
            self._database.close()
            self._file = NO_FILE  # looked at again by whoever comes next
            raise

    def _require_file(self) -> None:
        """SQLite would go on with a file that was moved or deleted; one that was brought back, or a copy, is opened instead.

        Raises:
            VaultError: there is no vault at its place.
        """
        if (now := _found(self.path)) == self._file:
            return
        if now is None or not self.path.stat().st_size:
            raise VaultError(
                f"The vault {self.path} is gone from its place, so nothing was read or kept. Bring it back, or a copy of it, and "
                "MultiMood goes on by itself."
            )
        self._database.close()
        self._open()

    def _prepare(self) -> None:
        found = self._database.execute("PRAGMA user_version").fetchone()[0]
        if found > SCHEMA:
            raise VaultError(f"Expected a vault of form {SCHEMA} or older, got {found}; start the newer MultiMood.")
        if found < SCHEMA:
            self._database.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")

    def _require_keys(self) -> None:
        used = {row[0] for row in self._database.execute("SELECT DISTINCT key FROM part")}
        absent = sorted(used - set(self.keys.by_id))
        if absent:
            raise VaultError(
                f"The vault {self.path} was encrypted with the key {', '.join(absent)}, got {', '.join(self.keys.by_id)} "
                f"from {self.keys.source}. Nothing was read or changed; bring the right key back."
            )

    def close(self) -> None:
        with self._lock:
            self._database.close()

    # -- parts -----------------------------------------------------------------------------------------------------

    def put(self, session: str, person: str, owner: str, parts: dict[str, bytes]) -> None:
        """Keeps parts of a session, all or none; a part of the same name is replaced.

        Raises:
            VaultError: a part is too large, or the disk does not take it.
        """
        for name, data in parts.items():
            if len(data) > MAX_PART:
                raise VaultError(f"Expected parts of at most {MAX_PART:,} bytes, got {len(data):,} of {name}; keep less.")
        sealed = [(session, name, *_sealed(self.keys.current, session, name, data)) for name, data in parts.items()]
        with self._write() as database:
            row = database.execute("SELECT value FROM setting WHERE name = 'key'").fetchone()
            if row and row[0] != self.keys.current.id:  # it would be under a key that is about to be forgotten
                raise VaultError("The vault was given another key meanwhile; start MultiMood again, then keep this.")
            database.execute(
                "INSERT INTO session VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET kept = excluded.kept",
                (session, person, owner, time.time()),
            )
            database.executemany("INSERT OR REPLACE INTO part VALUES (?, ?, ?, ?, ?)", sealed)

    def get(self, session: str, name: str) -> bytes | None:
        """A part as it was kept; None where there is none.

        Raises:
            VaultError: it was changed, or put there from elsewhere.
        """
        with self._read() as database:
            query = "SELECT key, nonce, data FROM part WHERE session = ? AND name = ?"
            row = database.execute(query, (session, name)).fetchone()
        return self._opened(session, name, *row) if row else None

    def names(self, session: str) -> dict[str, int]:
        """The parts of a session and their bytes."""
        with self._read() as database:
            query = "SELECT name, length(data) FROM part WHERE session = ? ORDER BY rowid"
            return dict(database.execute(query, (session,)).fetchall())

    def sessions(self, person: str | None = None) -> list[Row]:
        """The kept sessions, latest first; those of one person where it is given."""
        with self._read() as database:
            rows = database.execute("SELECT id, person, owner, kept FROM session ORDER BY kept DESC, id").fetchall()
        return [Row(*row) for row in rows if person in (None, row[1])]

    def drop(self, session: str, names: Sequence[str] | None = None) -> int:
        """Deletes parts, or the whole session; the database overwrites their place.

        Returns:
            How many parts there were.
        """
        with self._write() as database:
            if names is None:
                count = database.execute("DELETE FROM part WHERE session = ?", (session,)).rowcount
                database.execute("DELETE FROM session WHERE id = ?", (session,))
            else:
                both = [(session, name) for name in names]
                count = max(0, database.executemany("DELETE FROM part WHERE session = ? AND name = ?", both).rowcount)
        return count

    def drop_all(self, sessions: Sequence[str]) -> int:
        """Deletes several sessions in one transaction; returns how many parts they had."""
        with self._write() as database:
            count = 0
            for session in sessions:
                count += database.execute("DELETE FROM part WHERE session = ?", (session,)).rowcount
                database.execute("DELETE FROM session WHERE id = ?", (session,))
        return count

    # -- settings --------------------------------------------------------------------------------------------------

    def setting(self, name: str, default: str) -> str:
        """A setting, in clear: no word about a person is one."""
        with self._read() as database:
            row = database.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()
        return row[0] if row else default

    def set(self, name: str, value: str) -> None:
        with self._write() as database:
            database.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (name, value))

    # -- keys ------------------------------------------------------------------------------------------------------

    def by_key(self) -> dict[str, int]:
        """How many parts each key encrypts."""
        with self._read() as database:
            return dict(database.execute("SELECT key, count(*) FROM part GROUP BY key").fetchall())

    def reseal(self) -> int:
        """Encrypts every part that is under an older key anew under the current one, each in a transaction of its own.

        Killed in between, every part is under one key or the other, both of which are at hand until it is done.

        Returns:
            How many parts were encrypted anew.
        """
        current, count = self.keys.current, 0
        self.set("key", current.id)
        while True:
            with self._write() as database:
                query = "SELECT session, name, key, nonce, data FROM part WHERE key <> ? LIMIT 1"
                row = database.execute(query, (current.id,)).fetchone()
                if row is None:
                    return count
                session, name = row[:2]
                sealed = _sealed(current, session, name, self._opened(session, name, *row[2:]))
                database.execute(
                    "UPDATE part SET key = ?, nonce = ?, data = ? WHERE session = ? AND name = ?", (*sealed, session, name)
                )
            count += 1

    def _opened(self, session: str, name: str, key: str, nonce: bytes, data: bytes) -> bytes:
        found = self.keys.by_id.get(key)
        if found is None:
            raise VaultError(f"A part was encrypted with the key {key}, which is not at hand; bring it back.")
        try:
            return AESGCM(found.value).decrypt(nonce, data, _about(session, name, key))
        except InvalidTag as cause:
            raise VaultError(
                f"The part {name} of session {session} was changed, or is not what it says: it does not open with its key. "
                "Take the vault from a backup, or delete that session."
            ) from cause

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _told(self.path):
            self._require_file()
            yield self._database

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _told(self.path):
            self._require_file()
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise


def _connected(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False, isolation_level=None)
    # A rollback journal, not a write-ahead log: what is deleted is overwritten in the file itself, at once.
    for pragma in ("journal_mode=DELETE", "synchronous=FULL", "secure_delete=ON", "foreign_keys=ON"):
        database.execute(f"PRAGMA {pragma}")
    return database


def _found(path: Path) -> tuple[int, int] | None:
    """Which file lies at ``path``; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as cause:
        raise VaultError(
            f"Expected to use the vault {path}, but: {cause}. What it held is as it was; look at the disk and try again."
        ) from cause


def _about(session: str, name: str, key: str) -> bytes:
    return f"multimood-vault/{SCHEMA}\n{session}\n{name}\n{key}".encode()


def _sealed(key: Key, session: str, name: str, data: bytes) -> tuple[str, bytes, bytes]:
    nonce = secrets.token_bytes(_NONCE)
    return key.id, nonce, AESGCM(key.value).encrypt(nonce, data, _about(session, name, key.id))


def rotate(path: Path | None = None, audit: Audit | None = None) -> tuple[str, int]:
    """Gives the vault another key, or ends a rotation that was interrupted.

    The new key is stored beside the old before anything is encrypted under it, and the old one goes only when nothing is
    under it any more.

    Returns:
        The new key's id, and how many parts were encrypted anew.

    Raises:
        VaultError: there is no key, its place cannot be written, or the vault cannot be used.
    """
    path = path or records() / NAME
    keys = find_keys(path.parent)
    if len(keys.all) == 1:
        keys = keys.with_new(new_key())
    vault = Vault(path, keys)
    try:
        count = vault.reseal()
    finally:
        vault.close()
    keys.keep_current()
    (audit or Audit(path.parent / "audit.jsonl")).write("vault.rotated", key=keys.current.id, parts=count)
    return keys.current.id, count


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 1 where it could not be done."""
    parser = argparse.ArgumentParser(prog="python -m app.vault", description="Keys of what MultiMood keeps of people.")
    parser.add_argument("do", choices=("make", "rotate", "status"))
    parser.add_argument("--to", choices=SOURCES, default="file", help="where a first key is put (%(default)s)")
    options = parser.parse_args(argv)
    try:
        folder = records()
        if options.do == "make":
            require_outside(folder)
            key, told = make_key(options.to, folder)
            Audit(folder / "audit.jsonl").write("vault.made", key=key.id, source=options.to)
            print(told)
        elif options.do == "rotate":
            key_id, count = rotate()
            print(f"{count} parts are encrypted anew under the key {key_id}.")
        else:
            vault = Vault()
            counts = vault.by_key()
            vault.close()
            print(f"Keys of {vault.keys.source}, the current one first:")
            for key in vault.keys.all:
                print(f"  {key.id}  {counts.get(key.id, 0)} parts")
    except MultiMoodError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
