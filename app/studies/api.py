"""The Annotate tab's requests. Every one passes ``_answer``, which checks who asks before its handler runs.

An ``Endpoint`` names the roles that may call it; what a person may see inside (their own studies, their own items) is checked
by the parts that read it. A request that changes something has to carry a header that another site's page cannot send.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final, cast

from argon2 import PasswordHasher
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute

from app.places import is_loopback
from app.ports import EngineLike
from app.remote import Remote
from app.studies import downloads, export, report
from app.studies.assignment import Desk, Work
from app.studies.errors import InputError, RefusedError
from app.studies.guidelines import CRITERIA
from app.studies.items import Drawing, Kind, read_dialogue_upload, read_upload
from app.studies.judging import Judging
from app.studies.lookup import criteria_in, led_study
from app.studies.overview import listed, overview, preview
from app.studies.people import LEADERS, RATERS, ROLES, SESSION_SECONDS, People, Person, require_role
from app.studies.records import REASONS, as_plain, criteria_of, expect, integer_of, settings_of, text_of
from app.studies.requests import (
    COOKIE,
    MAX_FILE,
    PREFIX,
    Call,
    Endpoint,
    credentials_of,
    submission_of,
)
from app.studies.responses import Writer
from app.studies.results import results
from app.studies.store import Store
from app.studies.studies import Studies
from app.web import MAX_JSON, STATIC, anybody, json_of, require_own_page, route
from app.worker import Worker
from multimood_core import registry
from multimood_core.checksums import checkpoint_sha256


@dataclass(frozen=True, slots=True)
class Parts:
    """What the handlers work with, once the database is open."""

    store: Store
    people: People
    studies: Studies
    desk: Desk
    writer: Writer
    judging: Judging


_NOBODY: Final = Person(0, "", "")
_ADMIN: Final = ("admin",)


class StudyApi:
    """Routes of the tab. The database is opened by the first request: who never opens the tab has none.

    Args:
        worker: answers for the checkpoints.
        load: the engine of a checkpoint by its name.
        remote: the gate before a judge elsewhere.
        url: of the database; the default or ``MULTIMOOD_DATABASE_URL`` where None.
        hasher: of passwords, as in ``People``.
    """

    def __init__(
        self,
        worker: Worker,
        load: Callable[[str], EngineLike],
        remote: Remote,
        url: str | None = None,
        hasher: PasswordHasher | None = None,
    ) -> None:
        self._worker, self._load, self._remote, self._url, self._hasher = worker, load, remote, url, hasher
        self._opening = threading.Lock()
        self._parts: Parts | None = None
        self.endpoints = self._table()
        self.routes: list[BaseRoute] = [
            route("GET", f"{PREFIX}/invitation", _invitation, anybody),
            *[self._route(endpoint) for endpoint in self.endpoints],
        ]

    @property
    def parts(self) -> Parts:
        """The open database and all that works on it.

        Raises:
            StoreError: it cannot be opened; the next request tries again.
        """
        with self._opening:
            if self._parts is None:
                store = Store(self._url)
                people, writer = People(store, hasher=self._hasher), Writer(store, self._worker, self._load)
                self._parts = Parts(store, people, Studies(store), Desk(store), writer, Judging(store, self._remote))
            return self._parts

    def close(self) -> None:
        """Ends what runs and closes the database."""
        if self._parts is not None:
            self._parts.writer.stop()
            self._parts.judging.stop()
            self._parts.store.close()

    def _table(self) -> list[Endpoint]:
        s = "/study/{study:int}"
        return [
            Endpoint("GET", "/me", None, self._me),
            Endpoint("POST", "/first", None, self._first),
            Endpoint("POST", "/sign-in", None, self._sign_in),
            Endpoint("POST", "/accept", None, self._accept),
            Endpoint("POST", "/sign-out", ROLES, self._sign_out),
            Endpoint("POST", "/password", ROLES, self._password),
            Endpoint("GET", "/list", ROLES, lambda c: listed(self.parts.store, c.person)),
            Endpoint("GET", "/people", LEADERS, self._people),
            Endpoint("POST", "/invite", LEADERS, self._invite),
            Endpoint("POST", "/people/{account:int}", _ADMIN, self._enable),
            Endpoint("GET", "/choices", LEADERS, self._choices),
            Endpoint("POST", "/create", LEADERS, self._create),
            Endpoint("POST", "/import", LEADERS, self._import, file=True),
            Endpoint("GET", s, LEADERS, lambda c: overview(self.parts.store, c.person, c.study)),
            Endpoint("GET", s + "/preview", LEADERS, self._preview),
            Endpoint("POST", s + "/settings", LEADERS, self._settings),
            Endpoint("POST", s + "/criteria", LEADERS, self._criteria),
            Endpoint("POST", s + "/upload", LEADERS, self._upload, file=True),
            Endpoint("POST", s + "/sample", LEADERS, self._sample, file=True),
            Endpoint("POST", s + "/clear", LEADERS, self._clear),
            Endpoint("POST", s + "/checkpoints", LEADERS, self._checkpoints),
            Endpoint("GET", s + "/writing", LEADERS, lambda c: self.parts.writer.status(c.person, c.study)),
            Endpoint("POST", s + "/writing", LEADERS, self._writing),
            Endpoint("GET", s + "/gold", LEADERS, self._next_gold),
            Endpoint("POST", s + "/gold", LEADERS, self._set_gold),
            Endpoint("POST", s + "/state", LEADERS, self._state),
            Endpoint("POST", s + "/raters", LEADERS, self._add_rater),
            Endpoint("POST", s + "/raters/{rater:int}", LEADERS, self._rater),
            Endpoint("POST", s + "/put-back", LEADERS, self._put_back),
            Endpoint("POST", s + "/judge", LEADERS, self._judge_file, file=True),
            Endpoint("GET", s + "/judges", LEADERS, lambda c: self.parts.judging.overview(c.person, c.study)),
            Endpoint("POST", s + "/judges", LEADERS, self._run_judge),
            Endpoint("GET", s + "/results", LEADERS, self._results),
            Endpoint("GET", s + "/export/{name}", LEADERS, self._export),
            Endpoint("POST", "/work/{study:int}/next", RATERS, self._next),
            Endpoint("GET", "/work/{study:int}/previous", RATERS, self._previous),
            Endpoint("POST", "/work/{study:int}/judge", RATERS, self._judge),
        ]

    def _route(self, endpoint: Endpoint) -> BaseRoute:
        """A download is a link, which carries no header: only what changes something has to come from our own page."""
        check = require_own_page if endpoint.method == "POST" else anybody
        most = MAX_FILE if endpoint.file else MAX_JSON
        return route(endpoint.method, PREFIX + endpoint.path, partial(self._answer, endpoint), check, most)

    def _answer(self, endpoint: Endpoint, request: Request, data: bytes) -> Any:
        person, token = _NOBODY, request.cookies.get(COOKIE, "")
        if endpoint.roles is not None:
            person = require_role(self.parts.people.who(token) if token else None, endpoint.roles)
        address = request.client.host if request.client else ""
        values = {} if endpoint.file or endpoint.method == "GET" else json_of(data)
        host = request.url.hostname or ""
        return endpoint.handler(Call(person, values, data, request.query_params, request.path_params, address, host, token))

    # -- coming in -------------------------------------------------------------------------------------------------

    def _me(self, call: Call) -> Any:
        people = self.parts.people
        person = people.who(call.token) if call.token else None
        if person is not None:
            return {"state": "in", "name": person.name, "role": person.role}
        return {"state": "out" if people.any() else "first"}

    def _first(self, call: Call) -> Response:
        # A page of another site can reach this address under a name of its own; this computer's names it cannot have.
        if not is_loopback(call.host):
            raise RefusedError("The first account is made on the computer that runs MultiMood, under http://127.0.0.1.")
        name, password = credentials_of(call)
        self.parts.people.create_first(name, password)
        return self._signed_in(name, password, call.address)

    def _sign_in(self, call: Call) -> Response:
        return self._signed_in(*credentials_of(call), call.address)

    def _accept(self, call: Call) -> Response:
        name, password = credentials_of(call)
        self.parts.people.accept(text_of(call.values, "token", 100, 1), name, password, self.parts.studies.join)
        return self._signed_in(name, password, call.address)

    def _signed_in(self, name: str, password: str, address: str) -> Response:
        person, token = self.parts.people.sign_in(name, password, address)
        answer = JSONResponse({"state": "in", "name": person.name, "role": person.role})
        answer.set_cookie(COOKIE, token, int(SESSION_SECONDS), path="/", httponly=True, samesite="strict")
        return answer

    def _sign_out(self, call: Call) -> Response:
        self.parts.people.sign_out(call.token)
        answer = JSONResponse({"state": "out"})
        answer.delete_cookie(COOKIE, path="/")
        return answer

    def _password(self, call: Call) -> Any:
        old, new = (call.values.get(name) for name in ("old", "new"))
        expect(isinstance(old, str) and isinstance(new, str), "the present and the new password", "something else")
        self.parts.people.change_password(call.person, str(old), str(new))
        return {}

    def _people(self, call: Call) -> Any:
        return self.parts.people.listed(ROLES if call.person.role == "admin" else RATERS)

    def _invite(self, call: Call) -> Any:
        number = call.values.get("study")
        if number is not None:
            number = integer_of(call.values, "study")
            with self.parts.store.read() as connection:
                led_study(connection, call.person, number)
        return {"token": self.parts.people.invite(call.person, text_of(call.values, "role"), number)}

    def _enable(self, call: Call) -> Any:
        enabled = call.values.get("enabled")
        expect(isinstance(enabled, bool), "enabled as true or false", enabled)
        self.parts.people.set_enabled(call.person, int(call.path["account"]), bool(enabled), self.parts.studies.leave_all)
        return {}

    # -- set-up ----------------------------------------------------------------------------------------------------

    def _choices(self, call: Call) -> Any:
        return {"checkpoints": registry.available(), "criteria": [as_plain(c) for c in CRITERIA], "reasons": REASONS}

    def _create(self, call: Call) -> Any:
        name, settings = text_of(call.values, "name", 120, 1), settings_of(call.values.get("settings", {}))
        return {"study": self.parts.studies.create(call.person, name, settings)}

    def _import(self, call: Call) -> Any:
        return {"study": export.read_bundle(self.parts.store, call.person, call.data)}

    def _settings(self, call: Call) -> Any:
        self.parts.studies.configure(call.person, call.study, settings_of(call.values))
        return {}

    def _criteria(self, call: Call) -> Any:
        return {"version": self.parts.studies.reword(call.person, call.study, criteria_of(call.values.get("criteria")))}

    def _upload(self, call: Call) -> Any:
        with self.parts.store.read() as connection:
            led_study(connection, call.person, call.study)
            _, criteria = criteria_in(connection, call.study)
        return {"added": self.parts.studies.add_items(call.person, call.study, read_upload(call.data, criteria))}

    def _sample(self, call: Call) -> Any:
        kind, count = call.query.get("kind", ""), call.query.get("count", "")
        expect(kind in ("official", "gate"), "official or gate", kind)
        expect(count.isdecimal() and len(count) < 6, "a number of items", count)
        how = Drawing(int(count), cast(Kind, kind), stratified=call.query.get("by") != "chance",
                      with_person=call.query.get("person") == "1")  # fmt: skip
        return {"added": self.parts.studies.sample(call.person, call.study, read_dialogue_upload(call.data), how)}

    def _clear(self, call: Call) -> Any:
        self.parts.studies.clear(call.person, call.study)
        return {}

    def _preview(self, call: Call) -> Any:
        after = call.query.get("from", "0")
        expect(after.isdecimal() and len(after) < 10, "the number of an item", after)
        return preview(self.parts.store, call.person, call.study, int(after))

    def _checkpoints(self, call: Call) -> Any:
        names = call.values.get("names")
        good = isinstance(names, list) and set(names) <= set(registry.available())
        expect(good, f"checkpoints of {', '.join(registry.available()) or 'none'}", names)
        hashes = {name: checkpoint_sha256(registry.resolve(name)) for name in names or []}
        self.parts.studies.add_checkpoints(call.person, call.study, hashes)
        return {}

    def _writing(self, call: Call) -> Any:
        if call.values.get("run") is True:
            self.parts.writer.start(call.person, call.study)
        else:
            with self.parts.store.read() as connection:
                led_study(connection, call.person, call.study)
            self.parts.writer.stop(call.study)
        return self.parts.writer.status(call.person, call.study)

    def _next_gold(self, call: Call) -> Any:
        return {"task": self.parts.studies.next_gold(call.person, call.study)}

    def _set_gold(self, call: Call) -> Any:
        verdicts = call.values.get("verdicts")
        if not isinstance(verdicts, dict):
            raise InputError(f"Expected verdicts, got {verdicts!r}.")
        self.parts.studies.set_gold(call.person, call.study, integer_of(call.values, "pair"), verdicts)
        return {}

    def _state(self, call: Call) -> Any:
        match call.values.get("state"):
            case "open":
                self.parts.studies.open(call.person, call.study)
            case "closed":
                self.parts.studies.close(call.person, call.study)
            case other:
                raise InputError(f"Expected open or closed, got {other!r}.")
        return {}

    def _add_rater(self, call: Call) -> Any:
        self.parts.studies.add_rater(call.person, call.study, integer_of(call.values, "account"))
        return {}

    def _rater(self, call: Call) -> Any:
        number = int(call.path["rater"])
        match call.values.get("do"):
            case "remove":
                return {"released": self.parts.studies.remove_rater(call.person, call.study, number)}
            case "release":
                return {"released": self.parts.studies.release_rater(call.person, call.study, number)}
            case other:
                raise InputError(f"Expected remove or release, got {other!r}.")

    def _put_back(self, call: Call) -> Any:
        self.parts.studies.put_back(call.person, call.study, integer_of(call.values, "pair"))
        return {}

    # -- results ---------------------------------------------------------------------------------------------------

    def _judge_file(self, call: Call) -> Any:
        return {"added": export.add_judge(self.parts.store, call.person, call.study, call.data)}

    def _run_judge(self, call: Call) -> Any:
        judging = self.parts.judging
        if call.values.get("run") is True:
            judging.start(call.person, call.study, text_of(call.values, "judge"), text_of(call.values, "host"))
        else:
            with self.parts.store.read() as connection:
                led_study(connection, call.person, call.study)
            judging.stop(call.study)
        return judging.overview(call.person, call.study)

    def _results(self, call: Call) -> Any:
        with self.parts.store.read() as connection:
            led_study(connection, call.person, call.study)
            return {"html": report.fragment(results(connection, call.study))}

    def _export(self, call: Call) -> Response:
        return downloads.answer(self.parts.store, call)

    # -- a rater's -------------------------------------------------------------------------------------------------

    def _next(self, call: Call) -> Any:
        return _work(self.parts.desk.next(call.person, call.study))

    def _previous(self, call: Call) -> Any:
        before = call.query.get("before", "")
        expect(before == "" or (before.isdecimal() and len(before) < 10), "the number of an assignment", before)
        return self.parts.desk.previous(call.person, call.study, int(before) if before else None)

    def _judge(self, call: Call) -> Any:
        return asdict(self.parts.desk.judge(call.person, call.study, submission_of(call)))


def _work(work: Work) -> dict[str, Any]:
    plain = asdict(work)
    return plain | plain.pop("about") | {"criteria": [as_plain(c) for c in work.criteria]}


def _invitation(request: Request, data: bytes) -> Response:
    return FileResponse(STATIC / "invitation.html")
