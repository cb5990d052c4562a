"""Serves the requests of the Annotate tab without a model."""

from __future__ import annotations

import uvicorn
from starlette.applications import Starlette

from app.audit import Audit
from app.ports import EngineLike
from app.remote import Remote
from app.studies.api import StudyApi
from app.worker import Worker


def no_model(name: str) -> EngineLike:
    raise NotImplementedError(name)


def serve(database: str, port: int) -> None:
    """Answers on a port of this computer until the process ends."""
    api = StudyApi(Worker(), no_model, Remote(Audit()), database)
    uvicorn.run(Starlette(routes=api.routes), host="127.0.0.1", port=port, log_level="warning")
