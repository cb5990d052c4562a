"""The requests of the Evaluate and Runs tabs: read only, by id, from this computer's own page.

Nothing that comes with a request is part of a path: an id is looked up among the files that the listed folders hold. Who may
ask is said by ``app.access.require_leader``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from app.access import require_leader
from app.evaluate import pages
from app.evaluate.places import Places
from app.evaluate.runs import Runs
from app.evaluate.shelf import FILES, Shelf
from app.studies.errors import AbsentError, InputError
from app.web import route

PREFIX: Final = "/multimood/evaluate"
MOST_RUNS: Final = 2
WINDOWS: Final = range(1, 501)


class EvaluateApi:
    """Routes of the two tabs.

    Args:
        places: the folders that are read.
    """

    def __init__(self, places: Places) -> None:
        self.shelf, self.runs = Shelf(places), Runs(places)
        self._places = places
        table: dict[str, Callable[[Request], Any]] = {
            "/reports": self._reports,
            "/report/{id}": lambda r: {"html": pages.report(self.shelf.find(_id(r)), self.shelf.blocks(_id(r)))},
            "/report/{id}/file/{kind}": lambda r: _download(r, *self.shelf.file(_id(r), _kind(r))),
            "/compare/{first}/{second}": self._compare,
            "/compare/{first}/{second}/file/{kind}": self._compare_file,
            "/runs": self._runs,
            "/checkpoint/{id}": self._checkpoint,
            "/curves": self._curves,
        }
        self.paths = tuple(table)
        self.routes = [_route(path, handler) for path, handler in table.items()]

    def _reports(self, request: Request) -> Any:
        return {"html": pages.reports(self.shelf.listed(), self._places)}

    def _compare(self, request: Request) -> Any:
        first, second = request.path_params["first"], request.path_params["second"]
        _, blocks = self.shelf.compared(first, second)
        return {"html": pages.comparison(self.shelf.find(first), self.shelf.find(second), blocks)}

    def _compare_file(self, request: Request) -> Response:
        first, second = request.path_params["first"], request.path_params["second"]
        return _download(request, *self.shelf.compared_file(first, second, _kind(request)))

    def _runs(self, request: Request) -> Any:
        return {"html": pages.runs(self.runs.listed(), self.runs.checkpoints(), self._places)}

    def _checkpoint(self, request: Request) -> Any:
        saved = self.runs.checkpoint(_id(request))
        return {"html": pages.checkpoint(saved, self.runs.chain(saved))}

    def _curves(self, request: Request) -> Any:
        """Figures of one or two runs; ``same`` where nothing was logged since the ``seen`` of the answer before."""
        query = request.query_params
        names, window = query.getlist("run"), query.get("window", "20")
        if not 1 <= len(names) <= MOST_RUNS:
            raise InputError(f"Expected one or two runs, got {len(names)}.")
        if not (window.isdecimal() and len(window) < 5 and int(window) in WINDOWS):
            raise InputError(f"Expected a window of {WINDOWS[0]} to {WINDOWS[-1]} steps, got {window[:20]!r}.")
        found = [self.runs.find(name) for name in names]
        seen = " ".join(f"{run.steps}:{run.state}" for run in found)
        live = any(run.state == "running" for run in found)
        if query.get("seen") == seen:
            return {"same": True, "live": live}
        everything = query.get("everything") == "1"
        panels = self.runs.panels(found, int(window), everything)
        return {"html": pages.curves(found, panels, int(window), everything), "live": live, "seen": seen}


def _route(path: str, handler: Callable[[Request], Any]) -> BaseRoute:
    return route("GET", PREFIX + path, lambda request, data: handler(request), require_leader)


def _id(request: Request) -> str:
    return str(request.path_params["id"])


def _kind(request: Request) -> str:
    kind = str(request.path_params["kind"])
    if kind not in FILES:
        raise AbsentError(f"Expected one of {', '.join(FILES)}, got {kind[:20]!r}.")
    return kind


def _download(request: Request, name: str, content: bytes) -> Response:
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name)
    headers = {"Content-Disposition": f'attachment; filename="{safe}"', "Content-Security-Policy": "sandbox; default-src 'none'"}
    return Response(content, headers=headers, media_type=FILES[_kind(request)])
