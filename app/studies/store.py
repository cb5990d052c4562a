"""The database: where it lies, how a transaction begins, and its migrations.

SQLite is the default (write-ahead log, every commit synced to the disk); ``MULTIMOOD_DATABASE_URL`` names a PostgreSQL.
Writers of one study are ordered: in SQLite by the one write lock that a database has, in PostgreSQL by locking the row of
the study, so that what one rater is given cannot be given to another at the same moment.

A database that goes away, and comes back, is told of and waited for: each transaction looks where it is.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.studies import schema
from multimood_core.errors import DataError

VARIABLE: Final = "MULTIMOOD_DATABASE_URL"
DEFAULT: Final = Path(__file__).resolve().parents[2] / "data" / "studies.sqlite3"
MIGRATIONS: Final = Path(__file__).resolve().parent / "migrations"
BUSY_SECONDS: Final = 30  # how long a writer waits for another one that holds the database
NO_FILE: Final = (0, 0)  # device and inode of none
AWAY: Final = "The database does not answer, so nothing was stored just now; try again in a moment."
GONE: Final = (
    "The database is gone from its place, so nothing was stored. Bring it back, or a copy of it, and MultiMood goes on by itself."
)

log = logging.getLogger("multimood.app")


class StoreError(DataError):
    """The database cannot be reached or used (503)."""

    status = 503


def now() -> float:
    """Seconds since 1970, UTC. Only shown and stored: no decision about a judgment rests on it."""
    return time.time()


class Store:
    """An open database at the newest revision.

    Args:
        url: SQLAlchemy's address of it; ``MULTIMOOD_DATABASE_URL`` or the file ``DEFAULT`` where it is None.

    Raises:
        StoreError: it cannot be opened, or was made by a newer MultiMood.
    """

    def __init__(self, url: str | URL | None = None) -> None:
        self.url = _address(url)
        self._writing, self._looking = threading.Lock(), threading.Lock()
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        try:
            if self.is_sqlite and self.url.database:
                Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(self.url.database, os.O_CREAT | os.O_RDWR, 0o600))  # holds people's judgments
            self._file: tuple[int, int] | None = self._found()
            self.engine = _engine(self.url)
            self._migrate()
        except (SQLAlchemyError, OSError, sqlite3.Error) as cause:
            shown = self.url.render_as_string(hide_password=True)
            raise StoreError(
                f"Expected a database at {shown}, but it cannot be used: {cause}. Check {VARIABLE}, or the disk."
            ) from cause

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        found = self._revision()
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if found is not None and found not in known:
            raise StoreError(
                f"Expected a database of this MultiMood or an older one, got revision {found}; start the newer MultiMood."
            )
        with self.write() as connection:
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError as cause:
                raise StoreError(f"The database could not be brought up to date: {cause}") from cause

    def _revision(self) -> str | None:
        with self.engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()

    def _found(self) -> tuple[int, int] | None:
        """Which file lies at the place of an SQLite database; None where there is none, or no such place."""
        try:
            status = os.stat(self.url.database or "") if self.is_sqlite else None
        except OSError:
            return None
        return status and (status.st_dev, status.st_ino)

    def _require_file(self) -> None:
        """SQLite goes on with a file that was moved or deleted, and makes an empty one: both would lose what is written.

        Raises:
            StoreError: there is no database at its place.
        """
        if not self.is_sqlite or self._found() == self._file:
            return
        with self._looking:
            if (now := self._found()) == self._file:
                return
            self.engine.dispose()  # what the log of the old file still holds is written into it, wherever it is
            if now is None or self._revision() is None:
                log.error("expected the database at %s, found %s", self.url.database, "none" if now is None else "an empty one")
                raise StoreError(GONE)
            self._file = now
        try:
            self._migrate()
        except BaseException:  # of a newer MultiMood, say: it is looked at again by whoever comes next
            self._file = NO_FILE
            raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What the database does to a transaction, in a sentence.

        Raises:
            StoreError: it is gone, locked, full or does not answer.
        """
        try:
            self._require_file()
            yield
        except (OperationalError, InterfaceError, PoolTimeoutError) as cause:
            log.exception("the database did not answer")
            raise StoreError(AWAY) from cause

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database and changes nothing.

        Raises:
            StoreError: the database is away.
        """
        with self._told(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self, study: int | None = None) -> Iterator[Connection]:
        """A transaction that is on the disk once the block has ended without an error, and has not happened otherwise.

        Args:
            study: locks this study against other writers for as long as the block runs.

        Raises:
            StoreError: the database is away; nothing of the block was stored.
        """
        with self._told():
            if self.is_sqlite:
                opened = self.engine.connect
                with self._turn(), opened().execution_options(multimood_write=True) as connection, connection.begin():
                    yield connection
                return
            with self.engine.begin() as connection:
                if study is not None:
                    connection.execute(select(schema.study.c.id).where(schema.study.c.id == study).with_for_update())
                yield connection

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Threads queue here, where SQLite itself would let them try again at random; nobody waits for ever."""
        if not self._writing.acquire(timeout=BUSY_SECONDS):
            raise StoreError(AWAY)
        try:
            yield
        finally:
            self._writing.release()

    def close(self) -> None:
        """Closes every connection."""
        self.engine.dispose()


def _address(url: str | URL | None) -> URL:
    given = url or os.environ.get(VARIABLE) or URL.create("sqlite", database=str(DEFAULT))
    try:
        made = make_url(given)
        backend = made.get_backend_name()
    except (ArgumentError, ValueError) as cause:
        raise StoreError(
            f"Expected the address of a database in {VARIABLE}, such as postgresql://user@host/name: {cause}"
        ) from cause
    if backend == "postgresql":
        return made.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise StoreError(f"Expected an SQLite or PostgreSQL database in {VARIABLE}, got {backend}.")
    return made


def _engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_size=24, max_overflow=16, pool_pre_ping=True, hide_parameters=True)
    engine = create_engine(url, pool_size=24, max_overflow=16, connect_args={"timeout": BUSY_SECONDS}, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _opened(connection: Any, record: object) -> None:
        connection.isolation_level = None  # the driver would begin transactions late; _begun begins them
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        writes = connection.get_execution_options().get("multimood_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
