"""All that looks after people's data in one running app: what is kept, for how long, what may leave, and the log of it."""

from __future__ import annotations

from contextlib import ExitStack

from starlette.routing import BaseRoute

from app.consent import read_text
from app.keeper import Keeper
from app.privacy_api import PrivacyApi
from app.remote import Remote
from app.retention import Retention
from app.sessions import Sessions


class Custody:
    """Opened with the app and closed with it.

    Args:
        sessions: the live ones.
        host: that is served on.
        accounts: whether everybody signs in.
        remote: the gate before models elsewhere.

    Raises:
        DataError: the consent's text or the audit log cannot be used.
    """

    def __init__(self, sessions: Sessions, host: str, accounts: bool, remote: Remote) -> None:
        read_text()  # a broken file is found now, not when a client agrees
        with ExitStack() as undo:
            self.keeper = Keeper(sessions, read_text)
            undo.callback(self.keeper.close)
            self.audit, checkpoint = self.keeper.audit, sessions.engine.checkpoint.id
            name = "".join(c if c.isalnum() or c in "._-" else "_" for c in checkpoint.name)[:120]
            self.audit.write("app.started", host=host, checkpoint=name, sha256=checkpoint.sha256, accounts=accounts)
            self.retention = Retention(self.keeper)
            undo.callback(self.retention.close)
            self._undo = undo.pop_all()
        self.routes: list[BaseRoute] = PrivacyApi(sessions, self.keeper, self.retention, remote, read_text).routes

    def close(self) -> None:
        """Brings what is kept up to date, and says in the log that the app was closed."""
        self._undo.close()
        self.audit.write("app.closed")
