"""Work for the model in short pieces, so that a live turn never waits for a whole comparison."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, TypeVar

from app.compare.errors import StoppedError
from app.worker import BusyError, Job, Worker
from multimood_core.errors import ModelError

PATIENCE: Final = 0.5  # seconds between two tries where the model's queue is full
T = TypeVar("T")


def on_worker(worker: Worker, run: Callable[[], T], stopped: threading.Event) -> T:
    """What ``run`` returns, done by the worker when its place in the queue comes.

    Raises:
        StoppedError: stopped, or the app closes.
        ModelError: the sentence of what went wrong.
    """
    done, found, failed = threading.Event(), list[T](), list[str]()

    def job() -> None:
        found.append(run())
        done.set()

    def fail(sentence: str) -> None:
        failed.append(sentence)
        done.set()

    while True:
        if stopped.is_set():
            raise StoppedError("Stopped.")
        try:
            worker.submit(Job(job, fail, lambda place: None))
            break
        except BusyError as error:
            if "closing" in str(error):
                raise StoppedError(str(error)) from error
            stopped.wait(PATIENCE)
    done.wait()
    if failed:
        raise ModelError(failed[0])
    return found[0]
