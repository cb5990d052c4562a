"""How long what is kept stays, and its deletion when that time is over: at each start, and daily."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from app.audit import HERE
from app.keeper import Keeper
from multimood_core.errors import DataError, MultiMoodError

DEFAULT_DAYS: Final = 90
MOST_DAYS: Final = 3650  # ten years, as records of treatment are kept in many places
DAY: Final = 86_400.0  # seconds
SETTING: Final = "retention_days"

log = logging.getLogger("multimood.app")


class Retention:
    """Deletes sessions that were last changed longer ago than the clinic's period.

    Args:
        keeper: deletes them.
        every: seconds between two purges.
        clock: seconds since 1970.
    """

    def __init__(self, keeper: Keeper, every: float = DAY, clock: Callable[[], float] = time.time) -> None:
        self._keeper, self._every, self._clock = keeper, every, clock
        self._closed = threading.Event()
        self.problem: str | None = None
        self._try()
        self._thread = threading.Thread(target=self._work, name="multimood-retention", daemon=True)
        self._thread.start()

    @property
    def days(self) -> int:
        if not self._keeper.has_vault:
            return DEFAULT_DAYS
        return int(self._keeper.vault.setting(SETTING, str(DEFAULT_DAYS)))

    def set_days(self, days: int, who: str = HERE) -> int:
        """Sets the period, and deletes what it has passed already.

        Returns:
            How many sessions were deleted.

        Raises:
            DataError: no such number of days.
        """
        if not 1 <= days <= MOST_DAYS:
            raise DataError(f"Expected 1 to {MOST_DAYS:,} days, got {days}.")
        self._keeper.vault.set(SETTING, str(days))
        self._keeper.audit.write("retention.set", who, days=days)
        return self.purge(who)

    def purge(self, who: str = HERE) -> int:
        """Deletes what is over; returns how many sessions that were."""
        if not self._keeper.has_vault:
            return 0
        vault, days = self._keeper.vault, self.days
        over = [row.id for row in vault.sessions() if row.kept < self._clock() - days * DAY]
        if over:
            count = vault.drop_all(over)
            self._keeper.audit.write("retention.purged", who, sessions=len(over), parts=count, days=days)
        return len(over)

    def close(self) -> None:
        self._closed.set()
        self._thread.join(timeout=10)

    def _work(self) -> None:
        while not self._closed.wait(self._every):
            self._try()

    def _try(self) -> None:
        try:
            self.purge()
            self.problem = None
        except MultiMoodError as error:  # a key that is not at hand: shown on the page, and tried again
            self.problem = str(error)
            log.warning("what is over was not deleted: %s", type(error).__name__)
