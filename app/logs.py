"""Logs and crash reports without words: what an error quotes may be what a client said, so only its place is written.

Libraries quote their input in errors (a parser its text, a database its parameters), and Gradio and uvicorn print what they
did not expect. ``discreet`` stands before all of them: the page still shows the sentences that are meant for it, and a
log has the kind of an error and the lines of code that it went through.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, Final

log = logging.getLogger("multimood.app")

_DEEPEST: Final = 8  # causes of causes that are followed


def places(error: BaseException | None) -> str:
    """The kind of an error and the way it took, with its causes, and without its message."""
    lines = []
    for _ in range(_DEEPEST):
        if error is None:
            break
        lines.append(f"{type(error).__module__}.{type(error).__qualname__} (what it says is left out) at")
        lines += [f"  {f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(lines)


def _told(error: BaseException | None) -> None:
    print(places(error), file=sys.stderr, flush=True)


def _bare(value: Any) -> Any:
    return type(value).__name__ if isinstance(value, BaseException) else value


def _record_factory(make: Any) -> Any:
    def record(*arguments: Any, **options: Any) -> logging.LogRecord:
        made: logging.LogRecord = make(*arguments, **options)
        if isinstance(made.args, tuple):
            made.args = tuple(map(_bare, made.args))
        if made.name == "asyncio":  # its further lines show the failed task, and with it the error's words
            made.msg, made.args = made.getMessage().split("\n", 1)[0], ()
        if made.exc_info:
            # Every formatter takes a text that is there already.
            made.exc_text, made.exc_info = places(made.exc_info[1]), None
        return made

    return record


@contextmanager
def discreet() -> Iterator[None]:
    """Keeps the words of errors out of whatever this process writes, as long as the block runs."""
    from gradio import queueing, route_utils, routes

    shown = SimpleNamespace(print_exc=lambda *a, **k: _told(sys.exc_info()[1]))
    with ExitStack() as undo:
        undo.callback(logging.setLogRecordFactory, logging.getLogRecordFactory())
        logging.setLogRecordFactory(_record_factory(logging.getLogRecordFactory()))
        for module in (queueing, routes, route_utils):
            _replace(undo, module, "traceback", shown)
        _replace(undo, sys, "excepthook", lambda kind, error, trace: _told(error))
        _replace(undo, sys, "unraisablehook", lambda args: _told(args.exc_value))
        _replace(undo, threading, "excepthook", lambda args: _told(args.exc_value))
        yield


def _replace(undo: ExitStack, owner: Any, name: str, value: Any) -> None:
    undo.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)
