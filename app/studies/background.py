"""Long work for one study at a time: begun, stopped, told of while it runs. What it has done is in the database alone."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from app.studies.errors import StudyError
from multimood_core.errors import MultiMoodError

UNEXPECTED: Final = "MultiMood made a mistake of its own; its log has the details. What was done is kept."
LEAVE: Final = 60.0  # seconds that stopping waits for the step that runs

log = logging.getLogger("multimood.app")


class Background:
    """One thread at most, for one study.

    Args:
        name: of the thread.
        busy: what is told to who begins while it runs.
    """

    def __init__(self, name: str, busy: str) -> None:
        self._name, self._busy = name, busy
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._study: int | None = None
        self._problem = ""
        self._begun = (0.0, 0)
        self.stopped = threading.Event()

    def begin(self, study: int, done: int, run: Callable[[], str]) -> None:
        """Starts ``run``, which looks at ``stopped`` between its steps and returns what its leader should know.

        Args:
            study: that it works for.
            done: steps that are done already; the time left is measured from there.
            run: the work.

        Raises:
            StudyError: other work runs.
        """
        with self._lock:
            if self._running():
                raise StudyError(self._busy)
            self.stopped.clear()
            self._study, self._problem, self._begun = study, "", (time.monotonic(), done)
            self._thread = threading.Thread(target=self._run, args=(run,), name=self._name, daemon=True)
            self._thread.start()

    def stop(self, study: int | None = None) -> None:
        """Ends the work after the step that runs; that of ``study`` alone where one is given."""
        with self._lock:
            thread = self._thread
            if thread is None or study not in (None, self._study):
                return
            self.stopped.set()
        thread.join(LEAVE)

    def status(self, study: int, count: Callable[[], tuple[int, int]]) -> dict[str, Any]:
        """Steps done and wanted, whether it runs for this study, seconds that it may take, and what went wrong.

        Args:
            study: that is asked for.
            count: steps done and wanted; asked after whether it runs, so that what has ended is told with all that it did.
        """
        running = self._running() and self._study == study
        done, wanted = count()
        started, before = self._begun
        left = (time.monotonic() - started) / (done - before) * (wanted - done) if running and done > before else None
        problem = self._problem if self._study == study else ""
        return {"done": done, "wanted": wanted, "running": running, "seconds_left": left, "problem": problem}

    def _running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self, run: Callable[[], str]) -> None:
        try:
            self._problem = run()
        except MultiMoodError as error:
            self._problem = str(error)
        except Exception:
            log.exception("%s failed", self._name)
            self._problem = UNEXPECTED
