"""Puts the app together: model, worker, read-out, page; and serves it."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import theme
from app.about import about_routes
from app.access import Door, has_admin
from app.annotate import build_annotate
from app.audit import Audit
from app.capture import LocalCapture
from app.compare.api import CompareApi
from app.compare.engines import Engines
from app.compare.tab import build_compare
from app.custody import Custody
from app.evaluate.api import EvaluateApi
from app.evaluate.places import places
from app.evaluate.tabs import build_evaluate, build_runs
from app.glance import Glancer
from app.live import build_live
from app.live_layout import alert_area
from app.logs import discreet
from app.places import records
from app.privacy import build_privacy
from app.remote import Remote
from app.safety import Safety
from app.sessions import Sessions
from app.stream import Stream
from app.studies.api import StudyApi
from app.web import static_route
from app.worker import Worker
from multimood_core.engine import Engine
from multimood_core.errors import DataError

REPOSITORY: Final = Path(__file__).resolve().parents[1]
MAX_UPLOAD: Final = "200mb"  # ten minutes of a phone's video
CACHE_SECONDS: Final = 600  # how long Gradio's own copy of an upload may lie, and how often it looks
# Gradio's page makes functions from text and styles elements, hence the two unsafe words; no other host may be asked.
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
        "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "camera=(self), microphone=(self), geolocation=()",
    "Referrer-Policy": "same-origin",  # with "no-referrer" a browser says of our own forms that they come from nowhere
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Served:
    """A running app."""

    url: str
    sessions: Sessions
    glancer: Glancer
    worker: Worker
    custody: Custody


class Page(gr.Blocks):
    """The page. Gradio's own way of serving it is closed: it knows neither the door nor where uploads may lie."""

    def launch(self, *arguments: Any, **options: Any) -> Any:
        """Refused, above all with ``share=True``, which hands the page to a host elsewhere.

        Raises:
            DataError: always.
        """
        raise DataError("MultiMood is served by `python app.py` alone; launch() and share=True are refused.")


def build(sessions: Sessions, capture: str) -> gr.Blocks:
    """The page: its head, and the tabs from left to right."""
    tabs: dict[str, Callable[[], None]] = {
        "Live": lambda: build_live(sessions, capture, above),
        "Compare": build_compare,
        "Annotate": build_annotate,
        "Evaluate": build_evaluate,
        "Runs": build_runs,
        "Privacy": build_privacy,
    }
    with Page(title="MultiMood", analytics_enabled=False, fill_width=True, delete_cache=(CACHE_SECONDS,) * 2) as page:
        theme.html(
            '<header class="mm-head"><h1>MultiMood</h1><span>research tool for professionals, in simulation</span>'
            '<span class="mm-right"><span class="mm-air"><i></i>an AI is reading</span>'
            '<button type="button" class="mm-plain" data-page="theme">Light, dark</button>'
            '<button type="button" class="mm-plain" data-page="notice">Notice</button></span></header>',
            "mm-top",
        )
        above = alert_area()
        with gr.Tabs(elem_id="mm-tabs"):
            for name, lay_out in tabs.items():
                with gr.Tab(name, id=name.lower(), elem_id=f"mm-tab-{name.lower()}"):
                    lay_out()
    return page


class Guarded:
    """Adds the headers by which the browser itself keeps the page to this server, and tells it not to be framed.

    Args:
        app: the ASGI app around which this stands.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if scope.get("scheme") == "https":
                    headers.setdefault("Strict-Transport-Security", "max-age=31536000")
                    for at, (name, value) in enumerate(message["headers"]):
                        if name.lower() == b"set-cookie" and b"; secure" not in value.lower():
                            message["headers"][at] = (name, value + b"; Secure")
            await send(message)

        await self._app(scope, receive, guarded if scope["type"] == "http" else send)


def web_app(
    sessions: Sessions,
    glancer: Glancer,
    host: str,
    port: int,
    capture: str,
    studies: StudyApi | None = None,
    compare: CompareApi | None = None,
    custody: Custody | None = None,
    names: Sequence[str] = (),
    accounts: bool = False,
) -> FastAPI:
    """The page, the capture stream and the requests of the other tabs as one ASGI app, behind its door."""
    engines, remote = Engines(sessions.engine), Remote(Audit())
    studies, compare = studies or study_api(sessions, engines, remote), compare or CompareApi(sessions, engines, remote)
    stream = Stream(sessions, glancer, LocalCapture() if capture == "local" else None)
    routes = [*about_routes(), static_route(), *stream.routes, *compare.routes, *studies.routes, *EvaluateApi(places()).routes]
    if custody is not None:
        routes += custody.routes
    people, audit = studies.parts.people if accounts else None, custody.audit if custody else None
    door = Middleware(Door, names=(host, *names), people=people, audit=audit)
    web = FastAPI(openapi_url=None, routes=routes, middleware=[Middleware(Guarded), door])
    return gr.mount_gradio_app(
        web,
        build(sessions, capture).queue(default_concurrency_limit=None, api_open=False),
        path="/",
        server_name=host,
        server_port=port,
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        blocked_paths=[str(REPOSITORY), str(records())],
        show_error=False,
        max_file_size=MAX_UPLOAD,
        ssr_mode=False,
        theme=theme.theme(),
        css=theme.style(),
        head=theme.head(),
    )


def study_api(sessions: Sessions, engines: Engines, remote: Remote) -> StudyApi:
    """The requests of the Annotate tab; their checkpoints answer on the sessions' worker."""
    return StudyApi(sessions.worker, engines.get, remote)


@contextmanager
def serving(
    engine: Engine,
    host: str = "127.0.0.1",
    port: int = 7860,
    capture: str = "browser",
    safety: Safety | None = None,
    *,
    tls: tuple[Path, Path] | None = None,
    names: Sequence[str] = (),
    accounts: bool = False,
) -> Iterator[Served]:
    """Serves the app as long as the block runs.

    Args:
        engine: the loaded model.
        host: a loopback address, or another with ``tls`` and ``accounts``.
        port: 0 takes any free one.
        capture: ``browser`` or ``local``.
        safety: risk screen, help lines and prepared answers; those without a country when None.
        tls: the files of certificate and key; without them the connection is not encrypted.
        names: under which the app is reached beside ``host`` and this computer's own.
        accounts: whether everybody has to sign in before anything is shown.

    Raises:
        DataError: accounts are asked for and nobody is admin, or what is kept cannot be looked after.
        ModelError: the files of the risk screen are not there.
        OSError: the address cannot be served on.
    """
    with contextlib.ExitStack() as cleanup:
        cleanup.enter_context(discreet())
        listener = cleanup.enter_context(socket.create_server((host, port), family=_family(host)))
        folder = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="multimood-"))
        os.environ["GRADIO_TEMP_DIR"] = folder  # uploads lie in a folder of this user alone, which goes with the app
        worker = Worker()
        cleanup.callback(worker.close)
        sessions = Sessions(engine, worker, safety)
        glancer = Glancer(engine, sessions)
        cleanup.callback(glancer.close)
        engines, remote = Engines(engine), Remote(Audit())
        studies, compare = study_api(sessions, engines, remote), CompareApi(sessions, engines, remote)
        cleanup.callback(studies.close)
        cleanup.callback(compare.close)
        if accounts and not has_admin(studies.parts.people):
            raise DataError("There is no admin's account yet; make it on this computer with `python -m app.access admin NAME`.")
        custody = Custody(sessions, host, accounts, remote)
        cleanup.callback(custody.close)
        port = listener.getsockname()[1]
        certificate, key = tls or (None, None)
        config = uvicorn.Config(
            web_app(sessions, glancer, host, port, capture, studies, compare, custody, names, accounts), log_level="warning",
            timeout_graceful_shutdown=5, ssl_certfile=certificate, ssl_keyfile=key, server_header=False,
        )  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="multimood-web", daemon=True)
        thread.start()
        cleanup.callback(thread.join, 15)
        cleanup.callback(setattr, server, "should_exit", True)
        while not server.started:
            if not thread.is_alive():
                raise OSError(f"the web server did not start on {host}:{port}; its messages are above")
            time.sleep(0.05)
        shown = f"[{host}]" if ":" in host else host
        yield Served(f"{'https' if tls else 'http'}://{shown}:{port}/", sessions, glancer, worker, custody)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
