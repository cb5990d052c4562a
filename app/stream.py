"""The page's capture stream: pictures and sound in, the live read-out back, one small request after the other.

Gradio's own streaming keeps the latest value and drops what a busy handler missed, which is right for pictures and wrong
for sound. Here the page numbers its samples, sends a piece again until it was received, and the counts are compared.

A request's body is one line of JSON, then JPEGs, then int16 samples; its token says whose turn it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from app.capture import LocalCapture
from app.glance import Glance, Glancer
from app.report import as_html, as_json
from app.session import Phase, Session
from app.sessions import Sessions
from app.turn_buffer import MAX_FRAME_BYTES, TurnBuffer
from multimood_core.errors import DataError, MediaError, MultiMoodError

PATH: Final = "/multimood/turn/{token}"
EXPORT: Final = "/multimood/session/{token}/{name}"
MAX_BODY: Final = 8 * 2**20  # bytes: sixteen seconds of sound at 48 kHz with sixteen pictures of 400 KB
PICTURES_AT_ONCE: Final = 16


class Stream:
    """The route of ``PATH``.

    Args:
        sessions: whose turns are filled.
        glancer: gives the read-out.
        local: this computer's own camera and microphone, in place of the browser's.
    """

    def __init__(self, sessions: Sessions, glancer: Glancer, local: LocalCapture | None = None) -> None:
        self._sessions, self._glancer, self._local = sessions, glancer, local
        self.routes: list[BaseRoute] = [
            Route(PATH, self.answer, methods=["POST"]),
            Route(EXPORT, self.export, methods=["GET"]),
        ]

    async def export(self, request: Request) -> Response:
        """The session as JSON or as a page to print."""
        session = self._sessions.find(request.path_params["token"])
        if session is None:
            return Response("This session is gone; it cannot be exported any more.", 404, media_type="text/plain")
        headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
        name = f"multimood-{session.started:%Y-%m-%d-%H%M}.json"
        match request.path_params["name"]:
            case "session.json":
                headers["Content-Disposition"] = f'attachment; filename="{name}"'
                return Response(as_json(session), headers=headers, media_type="application/json")
            case "report.html":
                # The report holds a person's words: no script of whatever origin may run in it.
                headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'"
                return Response(as_html(session), headers=headers, media_type="text/html")
        return Response("Expected session.json or report.html.", 404, media_type="text/plain")

    async def answer(self, request: Request) -> JSONResponse:
        """One request. Does nothing slow: what is received is appended, what is returned lies ready."""
        session = self._sessions.find(request.path_params["token"])
        if session is None:
            return JSONResponse({"error": "This page's session is gone; reload the page for a new one."}, 404)
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                return JSONResponse({"error": f"expected at most {MAX_BODY:,} bytes; reload the page"}, 413)
        try:
            return JSONResponse(self.take(session, bytes(body)))
        except MultiMoodError as error:
            return JSONResponse({"error": str(error)}, 409)

    def take(self, session: Session, body: bytes) -> dict[str, Any]:
        """Does what a request's body asks, and says where the turn stands.

        Raises:
            DataError: a body that is not as described above, or a session that cannot do it now.
            MediaError: media or device cannot be used.
        """
        head, rest = _parse(body)
        do = head.get("do")
        if do == "begin":
            session.begin_capture()
            if self._local is not None:
                try:
                    self._local.start(session)
                except MediaError:
                    session.cancel_capture()
                    raise
        elif do == "cancel":
            session.cancel_capture()
        elif do != "data":
            raise DataError(f"Expected begin, data or cancel, got {do!r}; reload the page.")
        buffer = session.buffer
        if session.phase is not Phase.LISTENING or buffer is None:
            return {"open": False}
        rest = self._pictures(buffer, head, rest)
        received = 0
        if "rate" in head:
            if len(rest) % 2:
                raise DataError("Expected whole samples, got a part of one; reload the page.")
            samples = np.frombuffer(rest, "<i2")
            received = buffer.add_sound(samples, _number(head, "rate", 1000, 768_000), _number(head, "offset", 0, 2**40))
        preview = self._local.preview(session) if self._local is not None else None
        return {"open": True, "received": received, **_readout(self._glancer.of(buffer)), "preview": preview}

    def _pictures(self, buffer: TurnBuffer, head: Mapping[str, Any], rest: bytes) -> bytes:
        """Appends the pictures, without those that came before, and returns what follows them."""
        listed = head.get("pictures", [])
        if not isinstance(listed, list) or len(listed) > PICTURES_AT_ONCE:
            raise DataError(f"Expected a list of at most {PICTURES_AT_ONCE} pictures; reload the page.")
        known = buffer.counts.frames - _number(head, "first", 0, 2**31)
        for index, entry in enumerate(listed):
            match entry:
                case [int(size), int(moment)] if 0 < size <= min(MAX_FRAME_BYTES, len(rest)) and 0 <= moment < 2**31:
                    if index >= known:
                        buffer.add_picture(rest[:size], moment / 1000)
                    rest = rest[size:]
                case _:
                    raise DataError(f"Expected a picture's size and milliseconds, got {entry!r}; reload the page.")
        return rest


def _parse(body: bytes) -> tuple[Mapping[str, Any], bytes]:
    line, _, rest = body.partition(b"\n")
    try:
        head = json.loads(line)
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict):
        raise DataError("Expected a line of JSON before picture and sound; reload the page.")
    return head, rest


def _number(head: Mapping[str, Any], name: str, least: int, most: int) -> int:
    value = head.get(name, 0)
    if not isinstance(value, int) or not least <= value <= most:
        raise DataError(f"Expected {name} from {least} to {most}, got {value!r}; reload the page.")
    return value


def _readout(glance: Glance) -> dict[str, Any]:
    return {
        "face": _top(glance.face),
        "voice": _top(glance.voice),
        "people": glance.people,
        "looks": glance.looks,
        "speaking": glance.speaking,
        "spoke": glance.spoke,
        "ended": glance.ended,
        "quiet": glance.quiet,
    }


def _top(expression: Mapping[str, float] | None) -> list[Any] | None:
    if expression is None:
        return None
    label, probability = max(expression.items(), key=lambda item: item[1])
    return [label, round(probability, 3)]
