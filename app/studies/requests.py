"""A request of the Annotate tab: who may send it, what it carries, and what is read from it before anything is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from app.studies.errors import InputError
from app.studies.people import Person
from app.studies.records import Submission, expect, integer_of, text_of

PREFIX: Final = "/multimood/studies"
COOKIE: Final = "multimood_person"
MAX_FILE: Final = 64 * 2**20  # bytes


@dataclass(frozen=True, slots=True)
class Call:
    """A request whose sender is known."""

    person: Person
    values: Mapping[str, Any]
    data: bytes
    query: Mapping[str, str]
    path: Mapping[str, Any]
    address: str
    host: str
    token: str

    @property
    def study(self) -> int:
        return int(self.path["study"])


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One request: who may send it, and what answers. ``roles`` None is for everybody, signed in or not."""

    method: str
    path: str
    roles: tuple[str, ...] | None
    handler: Callable[[Call], Any]
    file: bool = False


def credentials_of(call: Call) -> tuple[str, str]:
    """Name and password of a request."""
    name, password = (call.values.get(key) for key in ("name", "password"))
    if not isinstance(name, str) or not isinstance(password, str):
        raise InputError("Expected a name and a password.")
    return name, password


def submission_of(call: Call) -> Submission:
    """A judgment as the page sends it."""
    raw = call.values
    verdicts, seconds, replaces = raw.get("verdicts", {}), raw.get("seconds"), raw.get("replaces")
    good = isinstance(verdicts, dict) and all(isinstance(v, str) for v in verdicts.values())
    expect(good, "verdicts as {criterion: a, tie or b}", verdicts)
    expect(isinstance(seconds, int | float) and not isinstance(seconds, bool), "seconds as a number", seconds)
    return Submission(
        integer_of(raw, "assignment"), verdicts, text_of(raw, "reason", 32), text_of(raw, "comment"), float(seconds or 0),
        text_of(raw, "key", 64, 8), None if replaces is None else integer_of(raw, "replaces"),
    )  # fmt: skip
