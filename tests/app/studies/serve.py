"""Serves the requests of the Annotate tab without a model: ``python -m tests.app.studies.serve DATABASE_URL PORT``."""

from __future__ import annotations

import sys

import uvicorn
from starlette.applications import Starlette

from app.ports import EngineLike
from app.studies.api import StudyApi
from app.worker import Worker


def no_model(name: str) -> EngineLike:
    raise NotImplementedError(name)


if __name__ == "__main__":
    api = StudyApi(Worker(), no_model, sys.argv[1])
    uvicorn.run(Starlette(routes=api.routes), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
