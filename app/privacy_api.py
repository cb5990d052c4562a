"""The Privacy tab's requests: what is stored, consent, deletion, retention, models elsewhere.

Whoever may open the page on this computer may see what is kept there without an account; what is kept under an account is
shown to that account and to an admin alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from app.access import person_of
from app.audit import HERE, Audit, verify
from app.consent import GIVERS, ConsentText
from app.keeper import Keeper, Keeping, described
from app.remote import Remote
from app.retention import Retention
from app.session import Session
from app.sessions import Sessions
from app.studies.errors import AbsentError
from app.studies.people import Person
from app.vault_keys import NoKeyError, VaultError, make_key, require_outside
from app.web import anybody, json_of, route
from multimood_core.errors import DataError, MultiMoodError

PREFIX: Final = "/multimood/privacy"
MEDIA: Final = {".flac": "audio/flac", ".webm": "video/webm"}


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
            route("GET", f"{PREFIX}/clip/{{id}}/{{name}}", self._clip, anybody),
            *[self._post(name, act) for name, act in posts.items()],
            self._post("state", lambda caller, values: {}),
        ]

    def _post(self, name: str, act: Callable[[Caller, Mapping[str, Any]], Mapping[str, Any]]) -> BaseRoute:
        def answer(request: Request, data: bytes) -> Any:
            caller, values = Caller(person_of(request.scope)), json_of(data)
            done = act(caller, values)
            return {**self.state(caller, str(values.get("session", ""))), **done}

        return route("POST", f"{PREFIX}/{name}", answer)

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

    def _clip(self, request: Request, data: bytes) -> Response:
        caller, number, name = Caller(person_of(request.scope)), request.path_params["id"], request.path_params["name"]
        blurred = request.query_params.get("blurred") == "1"
        try:
            self._mine(caller, {"id": number})
            clip = self._keeper.clip(number, name, blurred, caller.who)
        except MultiMoodError as error:
            raise AbsentError(str(error)) from error
        told = f"{'faces-covered-' if blurred else ''}{Path(name).name}"
        headers = {"Content-Disposition": f'attachment; filename="{told}"'}
        return Response(clip, headers=headers, media_type=MEDIA[Path(name).suffix])

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
