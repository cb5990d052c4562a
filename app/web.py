"""What the requests of all tabs have in common: who may ask, how much is read, errors told in a sentence, and the files of pages.

The door (``app/access.py``) stands before all of this: it knows by which names the app may be addressed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from app.studies.errors import AbsentError, InputError, RefusedError, TooLargeError
from multimood_core.errors import DataError, MediaError, MultiMoodError

STATIC_PREFIX: Final = "/multimood/static"
HEADER: Final = "x-multimood"  # set by our page; another site's page would have to ask first, and is not answered
MAX_JSON: Final = 2**20  # bytes
LARGEST: Final = 2**63 - 1  # whole number that a database takes
STATIC: Final = Path(__file__).resolve().parent / "static"
UNEXPECTED: Final = (
    "MultiMood made a mistake of its own; its log has the details. What you entered is still on this page: try again."
)

log = logging.getLogger("multimood.app")


def anybody(request: Request) -> None:
    """Lets everybody pass: the handler looks itself, or a link is followed, which can carry no header."""


def require_own_page(request: Request) -> None:
    """Refuses what another site's page sends in the name of who is at this computer.

    Raises:
        RefusedError: the header is not there.
    """
    if request.headers.get(HEADER) != "1":
        raise RefusedError("This request did not come from MultiMood's own page.")


def route(
    method: str,
    path: str,
    handler: Callable[[Request, bytes], Any],
    check: Callable[[Request], None] = require_own_page,
    most: int = MAX_JSON,
) -> BaseRoute:
    """A route whose handler runs beside the event loop.

    Args:
        method: of the request.
        path: as Starlette writes it.
        handler: gets the request and what it carries; returns an answer, or what an answer holds as JSON.
        check: refuses, before anything is read, who may not ask.
        most: bytes that a request may carry.
    """

    def made(request: Request, data: bytes) -> Response:
        try:
            if any(isinstance(number, int) and number > LARGEST for number in request.path_params.values()):
                raise AbsentError("There is nothing of this number.")
            found = handler(request, data)
            answer = found if isinstance(found, Response) else JSONResponse(found)
        except MultiMoodError as error:
            return _refused(error)
        except Exception:
            log.exception("%s %s failed", method, path)
            answer = JSONResponse({"error": UNEXPECTED}, 500)
        answer.headers.setdefault("Cache-Control", "no-store")
        return answer

    async def answer(request: Request) -> Response:
        data = bytearray()
        try:
            check(request)
            async for chunk in request.stream():
                data += chunk
                if len(data) > most:
                    raise TooLargeError(f"Expected at most {most:,} bytes; send a smaller file.")
        except MultiMoodError as error:
            return _refused(error)
        return await run_in_threadpool(made, request, bytes(data))

    return Route(path, answer, methods=[method])


def _refused(error: MultiMoodError) -> Response:
    """What was asked wrongly stands against what is there; everything else that fails on purpose is not to be had now."""
    status = getattr(error, "status", 409 if isinstance(error, DataError | MediaError) else 503)
    return JSONResponse({"error": str(error)}, status, headers={"Cache-Control": "no-store"})


def json_of(data: bytes) -> Mapping[str, Any]:
    """What a request carries.

    Raises:
        InputError: it is no JSON object.
    """
    try:
        raw = json.loads(data or b"{}", parse_int=_whole)
        json.dumps(raw, ensure_ascii=False).encode()  # half a character, as "\ud800" gives it, can be stored nowhere
    except (ValueError, RecursionError) as cause:
        raise InputError(f"Expected a JSON object: {cause}.") from cause
    if not isinstance(raw, dict):
        raise InputError("Expected a JSON object.")
    return raw


def _whole(digits: str) -> int:
    number = int(digits)
    if abs(number) > LARGEST:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return number


def static_route() -> BaseRoute:
    """Scripts and styles of all tabs."""
    return Route(f"{STATIC_PREFIX}/{{name}}", _static, methods=["GET"])


def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in {path.name for path in STATIC.iterdir()}:
        return Response("There is no such file.", 404, media_type="text/plain")
    return FileResponse(STATIC / name, headers={"Cache-Control": "no-cache"})
