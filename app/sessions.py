"""All sessions of one running app: each under a secret token, none known to another."""

from __future__ import annotations

import threading
import time
from typing import Final

from app.audit import HERE
from app.ports import EngineLike
from app.safety import Safety
from app.session import Session
from app.worker import BusyError, Worker

MAX_SESSIONS: Final = 64
IDLE_SECONDS: Final = 12 * 3600.0  # a working day; a session that was not touched for longer is forgotten


class Sessions:
    """Opens and finds sessions.

    Args:
        engine: the model that they share.
        worker: the thread that answers.
        safety: the risk screen with help lines and prepared answers; those without a country when None.
    """

    def __init__(self, engine: EngineLike, worker: Worker, safety: Safety | None = None) -> None:
        self.engine, self.worker = engine, worker
        self.safety = safety or Safety.load()
        self._sessions: dict[str, Session] = {}
        self._owners: dict[str, str] = {}
        self._lock = threading.Lock()

    def open(self, token: str | None = None, owner: str = HERE) -> Session:
        """The session of ``token`` (a page that was reloaded), or a new one.

        Args:
            token: that the browser's tab remembers.
            owner: the account that asks: who signs in after somebody else in the same tab gets a session of their own.

        Raises:
            BusyError: as many sessions as may be are in use.
        """
        with self._lock:
            if token and token in self._sessions and self._owners[token] == owner:
                return self._sessions[token]
            now = time.monotonic()
            self._sessions = {t: s for t, s in self._sessions.items() if now - s.touched < IDLE_SECONDS or s.guard.standing}
            if len(self._sessions) >= MAX_SESSIONS:
                empty = [s for s in self._sessions.values() if not s.exchanges and not s.busy and s.buffer is None]
                if not empty:
                    raise BusyError(f"{MAX_SESSIONS} sessions are open, more may not be; close one or restart MultiMood.")
                del self._sessions[min(empty, key=lambda s: s.touched).token]
            session = Session(self.engine, self.worker, self.safety)
            self._sessions[session.token] = session
            self._owners = {t: self._owners.get(t, owner) for t in self._sessions}
            return session

    def find(self, token: str) -> Session | None:
        """The session of ``token``, or None."""
        with self._lock:
            return self._sessions.get(token)

    def close(self, token: str) -> None:
        """Forgets a session with everything in it."""
        with self._lock:
            session = self._sessions.pop(token, None)
        if session is not None:
            session.cancel_capture()

    def listening(self) -> list[Session]:
        """The sessions whose turn is open."""
        with self._lock:
            return [s for s in self._sessions.values() if s.buffer is not None]
