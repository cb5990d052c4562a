"""The Privacy tab's requests: what is stored, consent, deletion, retention, models elsewhere.

Whoever may open the page on this computer may see what is kept there without an account; what is kept under an account is
shown to that account and to an admin alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from app.access import person_of
from app.audit import HERE, Audit, verify
from app.consent import GIVERS, ConsentText
from app.keeper import Keeper, Keeping, described
from app.remote import Remote
from app.retention import Retention
from app.session import Session
from app.sessions import Sessions
from app.studies.people import Person
from app.vault_keys import NoKeyError, VaultError, make_key, require_outside
from multimood_core.errors import DataError, MultiMoodError

PREFIX: Final = "/multimood/privacy"
HEADER: Final = "x-multimood"
MAX_BODY: Final = 64 * 1024  # bytes
STATIC: Final = Path(__file__).resolve().parent / "static"
FILES: Final = ("privacy.js", "privacy.css", "element.js", "remote.js")
MEDIA: Final = {".flac": "audio/flac", ".webm": "video/webm"}

log = logging.getLogger("multimood.app")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. Without accounts, whoever is at this computer."""

    person: Person | None

    @property
    def who(self) -> str:
        return self.person.name if self.person else HERE

    @property
    def owner(self) -> str:
        return self.person.name if self.person else ""

    def may_see(self, owner: str) -> bool:
        return owner == self.owner or (self.person is not None and self.person.role == "admin")

    def require_admin(self, what: str) -> None:
        if self.person is not None and self.person.role != "admin":
            raise DataError(f"Only the admin may {what}.")


class PrivacyApi:
    """Routes of the tab.

    Args:
        sessions: the live ones.
        keeper: keeps and deletes.
        retention: the period.
        remote: the gate for text.
        text: gives the consent's words.
    """

    def __init__(
        self, sessions: Sessions, keeper: Keeper, retention: Retention, remote: Remote, text: Callable[[], ConsentText]
    ) -> None:
        self._sessions, self._keeper, self._retention, self._remote, self._text = sessions, keeper, retention, remote, text
        posts = {
            "keep": self._keep, "revoke": self._revoke, "delete": self._delete, "retention": self._set_retention,
            "key": self._make_key, "remote": self._set_remote, "session": self._reopen,
        }  # fmt: skip
        self.routes: list[BaseRoute] = [
            Route(f"{PREFIX}/static/{{name}}", _static, methods=["GET"]),
            Route(f"{PREFIX}/clip/{{id}}/{{name}}", self._clip, methods=["GET"]),
            *[Route(f"{PREFIX}/{name}", self._post(act), methods=["POST"]) for name, act in posts.items()],
            Route(f"{PREFIX}/state", self._post(lambda caller, values: {}), methods=["POST"]),
        ]

    # -- the way of a request --------------------------------------------------------------------------------------

    def _post(self, act: Callable[[Caller, Mapping[str, Any]], Mapping[str, Any]]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            origin = request.headers.get("origin")
            if request.headers.get(HEADER) != "1" or (origin and urlsplit(origin).netloc != request.headers.get("host")):
                return _refused("This request did not come from MultiMood's own page.", 403)
            data = bytearray()
            async for chunk in request.stream():
                data += chunk
                if len(data) > MAX_BODY:
                    return _refused(f"Expected at most {MAX_BODY:,} bytes.", 413)
            return await run_in_threadpool(self._answer, act, Caller(person_of(request.scope)), bytes(data))

        return answer

    def _answer(self, act: Callable[[Caller, Mapping[str, Any]], Mapping[str, Any]], caller: Caller, data: bytes) -> Response:
        try:
            values = json.loads(data or b"{}")
            if not isinstance(values, dict):
                raise DataError("Expected a JSON object.")
            done = act(caller, values)
            shown = {**self.state(caller, str(values.get("session", ""))), **done}
        except MultiMoodError as error:
            return _refused(str(error), 409)
        except ValueError:
            return _refused("Expected a JSON object.", 400)
        except Exception:
            log.exception("a request of the Privacy tab failed")
            return _refused("MultiMood made a mistake of its own; its log has the place. Nothing was shown or changed.", 500)
        return JSONResponse(shown, headers={"Cache-Control": "no-store"})

    def state(self, caller: Caller, token: str) -> dict[str, Any]:
        """All that the page shows."""
        text, session = self._text(), self._sessions.find(token)
        keeping = self._keeper.of(session) if session is not None else None
        kept, key = [], "made"
        problem = self._retention.problem
        try:
            # Opened to say whether there is a key, but only where something asks for one.
            mine = [one for one in self._keeper.kept() if caller.may_see(one.owner)]
            kept = [described(one, self._keeper.parts(one.id)) for one in mine]
            days = self._retention.days
            if not self._keeper.has_vault:
                key = _key_state(self._keeper)
        except NoKeyError as error:
            key, problem, days = "none", str(error), 0
        except VaultError as error:
            key, problem, days = "wrong", str(error), 0
        return {
            "consent": {"version": text.version, "texts": dict(text.texts), "always": text.always, "givers": GIVERS},
            "key": key,
            "days": days,
            "problem": problem,
            "who": caller.who,
            "admin": caller.person is None or caller.person.role == "admin",
            "signed_in": caller.person is not None,
            "live": None if session is None else {"id": keeping.id if keeping else None, "turns": len(session.exchanges)},
            "kept": kept,
            "remote": self._remote.shown(),
            "audit": _audit_state(self._keeper.audit),
        }

    # -- acts ------------------------------------------------------------------------------------------------------

    def _keep(self, caller: Caller, values: Mapping[str, Any]) -> Mapping[str, Any]:
        self._keeper.keep(self._session(values), _text(values, "person"), _list(values, "parts"), _text(values, "by"), caller.who,
                          caller.owner)  # fmt: skip
        return {}

    def _revoke(self, caller: Caller, values: Mapping[str, Any]) -> Mapping[str, Any]:
        keeping = self._mine(caller, values)
        parts = _list(values, "parts")
        self._keeper.revoke(keeping.id, parts, caller.who)
        return {"revoked": {"id": keeping.id, "parts": parts}}

    def _delete(self, caller: Caller, values: Mapping[str, Any]) -> Mapping[str, Any]:
        if "person" in values:
            person = _text(values, "person")
            mine = [one for one in self._keeper.kept() if one.person == person]
            if not mine or not all(caller.may_see(one.owner) for one in mine):
                raise DataError("There is nothing of this person, or not any more; reload the page.")
            return {"deleted": self._keeper.delete_person(person, caller.who)}
        keeping = self._mine(caller, values)
        parts = _list(values, "parts") if "parts" in values else [None]
        return {"deleted": sum(self._keeper.delete(keeping.id, caller.who, part) for part in parts)}

    def _reopen(self, caller: Caller, values: Mapping[str, Any]) -> Mapping[str, Any]:
        keeping = self._mine(caller, values)
        return {"opened": {"id": keeping.id, "label": keeping.label, "session": self._keeper.reopen(keeping.id, caller.who)}}

    def _set_retention(self, caller: Caller, values: Mapping[str, Any]) -> Mapping[str, Any]:
        caller.require_admin("set how long everything is kept")
        days = values.get("days")
        if not isinstance(days, int) or isinstance(days, bool):
            raise DataError("Expected a whole number of days.")
        return {"purged": self._retention.set_days(days, caller.who)}

    def _make_key(self, caller: Caller, values: Mapping[str, Any]) -> Mapping[str, Any]:
        caller.require_admin("make a key")
        require_outside(self._keeper.folder)
        key, told = make_key("file", self._keeper.folder)
        self._keeper.audit.write("vault.made", caller.who, key=key.id, source="file")
        return {"told": told}

    def _set_remote(self, caller: Caller, values: Mapping[str, Any]) -> Mapping[str, Any]:
        caller.require_admin("let text leave this computer")
        if values.get("on") is True:
            self._remote.turn_on(_text(values, "host"), caller.who)
        else:
            self._remote.turn_off(caller.who)
        return {}

    async def _clip(self, request: Request) -> Response:
        caller, number, name = Caller(person_of(request.scope)), request.path_params["id"], request.path_params["name"]
        blurred = request.query_params.get("blurred") == "1"

        def read() -> Response:
            try:
                self._mine(caller, {"id": number})
                data = self._keeper.clip(number, name, blurred, caller.who)
            except MultiMoodError as error:
                return _refused(str(error), 404)
            told = f"{'faces-covered-' if blurred else ''}{Path(name).name}"
            headers = {"Cache-Control": "no-store", "Content-Disposition": f'attachment; filename="{told}"'}
            return Response(data, headers=headers, media_type=MEDIA[Path(name).suffix])

        return await run_in_threadpool(read)

    # -- what was sent -----------------------------------------------------------------------------------------------

    def _session(self, values: Mapping[str, Any]) -> Session:
        found = self._sessions.find(_text(values, "session"))
        if found is None:
            raise DataError("This page's session is gone; reload the page for a new one.")
        return found

    def _mine(self, caller: Caller, values: Mapping[str, Any]) -> Keeping:
        keeping = self._keeper.find(_text(values, "id"))
        if not caller.may_see(keeping.owner):
            raise DataError("This session is not kept, or not any more; reload the page.")
        return keeping


def _key_state(keeper: Keeper) -> str:
    from app.vault_keys import find_keys

    find_keys(keeper.folder)
    return "made"


def _audit_state(audit: Audit) -> dict[str, Any]:
    problems = verify(audit.path)
    latest = [{"at": e.at, "who": e.who, "what": e.what} for e in audit.entries()[-8:]]
    return {"head": audit.head(), "problems": problems[:3], "latest": latest[::-1]}


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"Expected {name} as text; fill it in.")
    return value


def _list(values: Mapping[str, Any], name: str) -> list[str]:
    value = values.get(name)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise DataError(f"Expected {name} as a list of words.")
    return value


def _refused(text: str, status: int) -> JSONResponse:
    return JSONResponse({"error": text}, status, headers={"Cache-Control": "no-store"})


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in FILES:
        return Response("There is no such file.", 404, media_type="text/plain")
    return FileResponse(STATIC / name, headers={"Cache-Control": "no-cache"})
