"""Rows of a study that several parts ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Select, Table, func, insert, select

from app.studies.errors import AbsentError, RefusedError
from app.studies.people import Person
from app.studies.records import Criterion, StudySettings, criteria_of, settings_of
from app.studies.schema import guideline, rater, study


def study_row(connection: Connection, number: int) -> Any:
    """The study.

    Raises:
        AbsentError: there is none of that number.
    """
    row = connection.execute(select(study).where(study.c.id == number)).first()
    if row is None:
        raise AbsentError("There is no such study.")
    return row


def led_study(connection: Connection, person: Person, number: int) -> Any:
    """The study, for who leads it: the researcher who made it, or an admin.

    Raises:
        AbsentError: there is none, or it is another researcher's; which of the two is not told.
    """
    row = study_row(connection, number)
    if person.role != "admin" and row.created_by != person.id:
        raise AbsentError("There is no such study.")
    return row


def settings_in(row: Any) -> StudySettings:
    """The settings of a study's row."""
    return settings_of(row.settings)


def criteria_in(connection: Connection, number: int) -> tuple[int, tuple[Criterion, ...]]:
    """The newest version of the guideline and its criteria."""
    newest = select(func.max(guideline.c.version)).where(guideline.c.study_id == number).scalar_subquery()
    row = connection.execute(select(guideline).where(guideline.c.study_id == number, guideline.c.version == newest)).one()
    return row.version, criteria_of(row.criteria)


def rater_row(connection: Connection, person: Person, number: int) -> Any:
    """The person's place in a study.

    Raises:
        RefusedError: there is none, or it was taken away.
    """
    row = connection.execute(select(rater).where(rater.c.study_id == number, rater.c.account_id == person.id)).first()
    if row is None or row.removed is not None:
        raise RefusedError("You are not a rater of this study; ask the researcher who runs it.")
    return row


def added(connection: Connection, table: Table, values: Mapping[str, Any]) -> int:
    """Inserts a row and returns its number."""
    key = connection.execute(insert(table).values(values)).inserted_primary_key
    return int(key[0])  # type: ignore[index]


def counted(connection: Connection, query: Select[Any]) -> dict[Any, int]:
    """A query of two columns, what and how many, as a mapping."""
    return {row[0]: row[1] for row in connection.execute(query)}
