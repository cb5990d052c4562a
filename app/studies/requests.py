"""A request of the Annotate tab: who may send it, what it carries, and what is read from it before anything is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.requests import Request

from app.studies.errors import InputError, RefusedError
from app.studies.people import Person
from app.studies.records import Submission, expect, integer_of, text_of

PREFIX: Final = "/multimood/studies"
COOKIE: Final = "multimood_person"
HEADER: Final = "x-multimood"  # set by our page; another site's page would have to ask first, and is not answered
MAX_JSON: Final = 2**20  # bytes
MAX_FILE: Final = 64 * 2**20


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


def json_of(data: bytes) -> Mapping[str, Any]:
    """What a request carries.

    Raises:
        InputError: it is no JSON object.
    """
    try:
        raw = json.loads(data or b"{}")
        json.dumps(raw, ensure_ascii=False).encode()  # half a character, as "\ud800" gives it, can be stored nowhere
    except (ValueError, RecursionError) as cause:
        raise InputError(f"Expected a JSON object: {cause}.") from cause
    if not isinstance(raw, dict):
        raise InputError("Expected a JSON object.")
    return raw


def require_own_page(request: Request) -> None:
    """Refuses what another site's page sends in the name of who is signed in here."""
    origin = request.headers.get("origin")
    if request.headers.get(HEADER) != "1" or (origin and urlsplit(origin).netloc != request.headers.get("host")):
        raise RefusedError("This request did not come from MultiMood's own page.")
