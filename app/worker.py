"""One thread that answers turns, for all sessions in the order in which they came: a model has one cache at a time."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from multimood_core.errors import ModelError, MultiMoodError

QUEUE: Final = 24  # turns that may wait: one of each of twenty sessions and a few; who waits sees the place and keeps it
UNEXPECTED: Final = (
    "MultiMood made a mistake of its own with this turn; its log on this computer has the details. "
    "Your session is intact: try again, or type the words."
)

log = logging.getLogger("multimood.app")


class BusyError(ModelError):
    """The queue is full."""


@dataclass(frozen=True, slots=True)
class Job:
    """Work for the model: ``run`` does it, ``fail`` hears the sentence of what went wrong, ``moved`` its new place."""

    run: Callable[[], None]
    fail: Callable[[str], None]
    moved: Callable[[int], None]


class Worker:
    """Runs jobs one after the other.

    Args:
        capacity: jobs that may wait beside the one that runs.
    """

    def __init__(self, capacity: int = QUEUE) -> None:
        self._capacity = capacity
        self._jobs: deque[Job] = deque()
        self._ready = threading.Condition()
        self._closed = False
        self._running = False
        self._thread = threading.Thread(target=self._work, name="multimood-worker", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> int:
        """Queues a job.

        Returns:
            How many jobs come before it.

        Raises:
            BusyError: the queue is full.
        """
        with self._ready:
            if self._closed:
                raise BusyError("MultiMood is closing; start it again to go on.")
            if len(self._jobs) >= self._capacity:
                raise BusyError(
                    f"{len(self._jobs)} turns are waiting already, at most {self._capacity} may; try again in a moment."
                )
            place = len(self._jobs) + self._running
            job.moved(place)
            self._jobs.append(job)
            self._ready.notify()
            return place

    def offer(self, run: Callable[[], None]) -> bool:
        """Has ``run`` done now if the model has nothing else to do; else it is left undone.

        Returns:
            Whether it will be done.
        """
        with self._ready:
            if self._closed or self._running or self._jobs:
                return False
            self._jobs.append(Job(run, lambda sentence: log.warning("the next prompt was not prepared"), lambda place: None))
            self._ready.notify()
            return True

    def close(self) -> None:
        """Finishes the job that runs; jobs that wait are told that they will not run."""
        with self._ready:
            self._closed = True
            waiting, self._jobs = list(self._jobs), deque()
            self._ready.notify()
        for job in waiting:
            _tell(job.fail, "MultiMood was closed before this turn's place in the queue came.")
        self._thread.join(timeout=30)

    def _work(self) -> None:
        while True:
            job = None
            try:
                job = self._next()
                if job is None:
                    return
                job.run()
            except MultiMoodError as error:
                if job is not None:
                    _tell(job.fail, str(error))
            except BaseException:  # also what means to end the thread: every session waits on it
                log.exception("a turn failed")
                if job is not None:
                    _tell(job.fail, UNEXPECTED)

    def _next(self) -> Job | None:
        """Waits for a job and tells those behind it that they moved up; None when the worker is closed."""
        with self._ready:
            self._running = False
            self._ready.wait_for(lambda: self._jobs or self._closed)
            if self._closed:
                return None
            job = self._jobs.popleft()
            self._running = True
            waiting = list(enumerate(self._jobs, 1))
        for place, other in waiting:
            _tell(other.moved, place)
        return job


def _tell(whom: Callable[[Any], None], news: str | int) -> None:
    """A session that cannot take its news does not end the thread on which the others wait."""
    try:
        whom(news)
    except Exception:
        log.exception("a session could not be told of its turn")
