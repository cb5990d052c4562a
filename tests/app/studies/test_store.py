"""The database: migrations, append-only tables, whole transactions, and addresses that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import delete, select, update

from app.studies import schema
from app.studies.store import Store, StoreError
from tests.app.studies.scene import Scene


def test_the_migrations_make_the_tables_that_the_code_knows(store: Store) -> None:
    with store.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []


def test_opening_twice_keeps_what_is_there(database: str) -> None:
    first = Store(database)
    with first.write() as connection:
        connection.execute(schema.account.insert().values(name="x", role="admin", password="", created=0))
    first.close()
    second = Store(database)
    with second.read() as connection:
        assert connection.execute(select(schema.account.c.name)).scalars().all() == ["x"]
    second.close()


def test_a_judgment_can_neither_be_changed_nor_deleted(scene: Scene) -> None:
    number = scene.study(items=1)
    rater = scene.raters(number, 1)[0]
    task = scene.take(rater, number).task
    assert task is not None
    scene.judge(rater, number, task)
    for change in (update(schema.judgment).values(comment="other"), delete(schema.judgment), delete(schema.guideline)):
        with pytest.raises(sqlalchemy.exc.DatabaseError, match="append-only"), scene.store.write() as connection:
            connection.execute(change)


def test_a_transaction_that_fails_leaves_nothing(store: Store) -> None:
    def fail() -> None:
        with store.write() as connection:
            connection.execute(schema.account.insert().values(name="x", role="admin", password="", created=0))
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        fail()
    with store.read() as connection:
        assert connection.execute(select(schema.account)).all() == []


def test_sqlite_writes_ahead_syncs_every_commit_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "studies.sqlite3"
    opened = Store(f"sqlite:///{path}")
    with opened.read() as connection:
        names = ("journal_mode", "synchronous", "foreign_keys")
        pragmas = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]
    opened.close()
    assert pragmas == ["wal", 2, 1]
    assert path.stat().st_mode & 0o077 == 0


def test_a_database_of_a_newer_version_is_left_alone(database: str) -> None:
    opened = Store(database)
    with opened.write() as connection:
        known = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match="newer MultiMood"):
        Store(database)
    with opened.write() as connection:  # PostgreSQL's tables are the run's
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{known}'")
    opened.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://x/y", "SQLite or PostgreSQL"),
        ("not an address", "Expected the address"),
        ("postgresql://nobody@127.0.0.1:1/none", "cannot be used"),
        ("sqlite:////dev/null/x.sqlite3", "cannot be used"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_sentence(url: str, said: str) -> None:
    with pytest.raises(StoreError, match=said):
        Store(url)


def test_a_password_in_the_address_is_not_shown() -> None:
    with pytest.raises(StoreError) as raised:
        Store("postgresql://me:secret-word@127.0.0.1:1/none")
    assert "secret-word" not in str(raised.value)
