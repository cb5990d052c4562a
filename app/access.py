"""Who may reach the app at all: a door before every route, Gradio's and ours.

    python -m app.access admin NAME     makes the first account, whose password it asks for

On this computer the door asks for no account; it refuses other names than this computer's (a page elsewhere may let its name
point here) and requests that another site's page makes. Served to others, it asks every request for a session of an
account, and lets a stranger see the sign-in page and the page of an invitation alone.
"""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final
from urllib.parse import parse_qs, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.audit import HERE, Audit
from app.places import is_loopback
from app.studies.errors import StudyError
from app.studies.people import LEADERS, People, Person, require_role
from app.studies.requests import COOKIE, PREFIX
from app.studies.store import Store, StoreError
from app.web import STATIC_PREFIX, require_own_page
from multimood_core.errors import MultiMoodError

SIGN_IN: Final = "/multimood/sign-in"
SIGN_OUT: Final = "/multimood/sign-out"
LONGEST: Final = 12 * 3600.0  # seconds; a working day after signing in, somebody has to do it again
INVITATION: Final = f"{PREFIX}/invitation"
# What who was invited and has no account yet may ask for: the page of the link, its script, and its one request.
INVITED: Final = (("GET", INVITATION), ("GET", f"{STATIC_PREFIX}/invitation.js"), ("POST", f"{PREFIX}/accept"))
MAX_FORM: Final = 4096  # bytes
# What Gradio's page asks for. The rest of its routes (a proxy, direct calls, recordings, code editing) answers nobody.
GRADIO: Final = (
    "/gradio_api/queue/", "/gradio_api/upload", "/gradio_api/heartbeat/", "/gradio_api/startup-events", "/gradio_api/cancel",
    "/gradio_api/reset", "/gradio_api/file=", "/gradio_api/info", "/gradio_api/app_id", "/gradio_api/theme.css",
)  # fmt: skip
CLOSED: Final = (
    "/monitoring", "/gradio_api/", "/proxy=", "/file=", "/file/", "/run/", "/api/", "/call/", "/stream/", "/upload", "/login",
    "/logout", "/custom_component/", "/component_server", "/process_recording", "/vibe-", "/undo-vibe-", "/deep_link", "/runs",
    "/run-history", "/openapi.json", "/profiling", "/dev/", "/token", "/user", "/mcp",
)  # fmt: skip
_SAFE: Final = ("GET", "HEAD", "OPTIONS")
_PAGE: Final = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>MultiMood</title><style>:root{{color-scheme:light dark}}body{{font:15px/1.5 system-ui,sans-serif;max-width:360px;
margin:15vh auto;padding:0 16px}}label,input,button{{display:block;width:100%;box-sizing:border-box;font:inherit}}
input{{margin:4px 0 12px;padding:8px}}button{{padding:8px;background:#2f6765;color:#fff;border:0;border-radius:6px}}
:focus-visible{{outline:2px solid #3d807d;outline-offset:2px}}</style>
<h1 style="font-size:20px">MultiMood</h1><p>Research tool for professionals, in simulation. Sign in with your account.</p>
<p role="alert">{problem}</p><form method="post" action="{action}"><label>Name<input name="name" required maxlength="64"
autocomplete="username" autofocus></label><label>Password<input name="password" type="password" required maxlength="256"
autocomplete="current-password"></label><button>Sign in</button></form></html>"""


class Door:
    """The outermost part of the app.

    Args:
        app: what lies behind it.
        names: by which the app may be addressed beside this computer's own.
        people: whose sessions count; None where no account is asked for.
        audit: hears of who signs in.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] = (), people: People | None = None, audit: Audit | None = None) -> None:
        self._app, self._people, self._audit = app, people, audit
        self._names = {name.casefold() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is None and self._people is not None:
            request = Request(dict(scope) | {"type": "http", "method": scope.get("method", "GET")}, receive)
            try:
                refusal = await self._unless_known(request, scope)
            except StoreError as error:
                refusal = JSONResponse({"error": str(error)}, 503)
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            refusal.headers["Cache-Control"] = "no-store"
            await refusal(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """What no session would change: another name, another site, a route that the page does not use."""
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        if not (is_loopback(host) or host in self._names):
            return JSONResponse({"error": "MultiMood is not served under this name."}, 421)
        path, safe = scope["path"], scope.get("method", "GET") in _SAFE and scope["type"] == "http"
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        foreign = origin is not None and urlsplit(origin).netloc != headers.get("host")
        opened = safe and headers.get("sec-fetch-mode") == "navigate" and path in ("/", INVITATION)  # a link to the page
        if (foreign and not opened) or (site in ("cross-site", "same-site") and not opened):
            return JSONResponse({"error": "This request did not come from MultiMood's own page."}, 403)
        if path.startswith(CLOSED) and not path.startswith(GRADIO):
            return JSONResponse({"error": "There is no such page."}, 404)
        return None

    async def _unless_known(self, request: Request, scope: Scope) -> Response | None:
        assert self._people is not None
        token = request.cookies.get(COOKIE, "")
        person = await run_in_threadpool(self._people.who, token, LONGEST) if token else None
        if request.url.path == SIGN_IN and request.method == "POST":
            return await self._sign_in(request)  # also in a second tab, by whoever it is now
        if request.url.path == SIGN_IN and person is not None:
            return RedirectResponse("/", 303)
        if request.url.path == SIGN_OUT and request.method == "POST" and person is not None:
            await run_in_threadpool(self._people.sign_out, token)
            self._told("sign-out", person.name)
            answer: Response = RedirectResponse("/", 303)
            answer.delete_cookie(COOKIE, path="/")
            return answer
        if person is not None:
            scope["multimood_person"] = person
            return None
        if scope["type"] == "http" and (request.method, request.url.path) in INVITED:
            return None
        if request.method == "GET" and request.url.path in ("/", SIGN_IN):
            return _page("", 401 if request.url.path == "/" else 200)
        return JSONResponse({"error": "You are not signed in any more: load this page again and sign in."}, 401)

    async def _sign_in(self, request: Request) -> Response:
        assert self._people is not None
        data = bytearray()
        async for chunk in request.stream():
            data += chunk
            if len(data) > MAX_FORM:
                return _page("Expected a name and a password.", 413)
        sent = parse_qs(data.decode("utf-8", "replace"))
        name, password = sent.get("name", [""])[0], sent.get("password", [""])[0]
        address = request.client.host if request.client else ""
        try:
            person, token = await run_in_threadpool(self._people.sign_in, name, password, address)
        except StudyError as error:
            self._told("sign-in.refused", HERE, address)
            return _page(str(error), error.status)
        except MultiMoodError as error:
            return _page(str(error), 503)
        self._told("sign-in.succeeded", person.name, address)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            COOKIE, token, int(LONGEST), path="/", httponly=True, samesite="strict", secure=request.url.scheme == "https"
        )
        return answer

    def _told(self, what: str, who: str, address: str | None = None) -> None:
        if self._audit is not None:
            self._audit.write(what, who, **({} if address is None else {"address": address}))


def person_of(scope: Scope) -> Person | None:
    """Who asks, where accounts are asked for."""
    found = scope.get("multimood_person")
    return found if isinstance(found, Person) else None


def require_leader(request: Request) -> None:
    """Lets our own page pass for who may know which system said what: raters of studies may not.

    Where everybody signs in these are researchers and admins; elsewhere it is whoever is at this computer. The door has
    looked at the name by which the app was addressed.

    Raises:
        RefusedError: it is another page or role.
    """
    require_own_page(request)
    if (person := person_of(request.scope)) is not None:
        require_role(person, LEADERS)


def _page(problem: str, status: int) -> Response:
    policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
    headers = {"Content-Security-Policy": policy}
    return HTMLResponse(_PAGE.format(problem=escape(problem), action=SIGN_IN), status, headers=headers)


def has_admin(people: People) -> bool:
    """Whether an admin can sign in."""
    return any(not one["disabled"] for one in people.listed(("admin",)))


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the first account; returns 1 where it could not be made."""
    parser = argparse.ArgumentParser(prog="python -m app.access", description="Makes the first account, an admin's.")
    parser.add_argument("do", choices=("admin",))
    parser.add_argument("name")
    options = parser.parse_args(argv)
    try:
        store = Store()
        try:
            password = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
            person = People(store).create_first(options.name, password)
        finally:
            store.close()
    except MultiMoodError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{person.name} is the admin.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
