"""Every test of the store runs on SQLite and on a PostgreSQL server that is started for it."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from argon2 import PasswordHasher

from app.studies.people import People
from app.studies.schema import metadata
from app.studies.store import Store
from app.worker import Worker
from tests.app.studies.scene import Scene


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL of its own in a temporary folder; its server runs as a user that is not root."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    if not folders and os.geteuid() == 0 and shutil.which("apt-get"):
        command = "apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql"
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(command, shell=True, env=quiet, capture_output=True, check=False)
        folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    if not folders:
        pytest.skip("no PostgreSQL server: install Debian's package postgresql")
    user = None
    if os.geteuid() == 0:
        try:
            user = pwd.getpwnam("postgres").pw_name
        except KeyError:
            pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres")
    base = Path(tempfile.mkdtemp(prefix="mm-pg-", dir="/tmp"))
    try:
        if user:
            shutil.chown(base, user)
        data, program = base / "data", folders[-1]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        def run(*command: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(command, user=user, cwd=base, capture_output=True, text=True, check=False)

        made = run(str(program / "initdb"), "-D", str(data), "-U", "multimood", "--auth=trust", "-E", "UTF8", "--locale=C")
        assert made.returncode == 0, made.stderr
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={base} -c max_connections=120"
        options += " -c fsync=off"  # the machine does not lose its power while a test runs
        started = run(str(program / "pg_ctl"), "-D", str(data), "-w", "-o", options, "-l", str(base / "log"), "start")
        assert started.returncode == 0, started.stderr + started.stdout
        try:
            yield f"postgresql://multimood@127.0.0.1:{port}/postgres"
        finally:
            run(str(program / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop")
    finally:
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy: migrations run once, and ``test_store.py`` looks at what they make."""
    path = tmp_path_factory.mktemp("template") / "studies.sqlite3"
    Store(f"sqlite:///{path}").close()
    return path


@pytest.fixture(scope="session")
def postgres_tables(postgres: str) -> Iterator[psycopg.Connection]:
    """The migrated tables of the run's one PostgreSQL, which ``database`` empties for each test."""
    Store(postgres).close()
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("SET lock_timeout = '20s'")  # a test that left a transaction open is named, not waited for
        connection.execute("SET session_replication_role = replica")  # judgments refuse TRUNCATE as well
        yield connection


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database with all tables and nothing in them."""
    if request.param == "sqlite":
        path = tmp_path / "studies.sqlite3"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        return f"sqlite:///{path}"
    connection: psycopg.Connection = request.getfixturevalue("postgres_tables")
    names = ", ".join(f'"{table.name}"' for table in metadata.sorted_tables)
    connection.execute(f"TRUNCATE {names} RESTART IDENTITY")  # type: ignore[arg-type]
    return str(request.getfixturevalue("postgres"))


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    opened = Store(database)
    yield opened
    opened.close()


@pytest.fixture
def quick_hasher() -> PasswordHasher:
    """argon2 at its least cost: these tests are about who comes in, not about how long guessing takes."""
    return PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.fixture
def people(store: Store, quick_hasher: PasswordHasher) -> People:
    return People(store, hasher=quick_hasher)


@pytest.fixture
def scene(store: Store, people: People) -> Scene:
    """A researcher and an empty database to set a study up in."""
    return Scene(store, people)


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.close()
