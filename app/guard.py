"""What stands in a session's way: alerts from risk in the client's words, until the clinician has cleared them.

Whoever calls holds the session's lock, but for ``safety.screen``, which reads words at any time.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from app.exchange import Exchange
from app.safety import Alert, Safety, by_urgency
from multimood_core.errors import DataError
from multimood_core.risk import Reading


class Guard:
    """The alerts of one session.

    Args:
        safety: the screen, the help lines and the prepared answers.
    """

    def __init__(self, safety: Safety) -> None:
        self.safety = safety
        self.alerts: list[Alert] = []
        self._cleared_after = 0  # the turn up to which the clinician has seen to what was found

    @property
    def standing(self) -> list[Alert]:
        """The alerts that nobody has cleared."""
        return [alert for alert in self.alerts if alert.cleared is None]

    @property
    def categories(self) -> tuple[str, ...]:
        """What the standing alerts are about, the most pressing first."""
        return by_urgency(category for alert in self.standing for category in alert.categories)

    def judge(self, exchange: Exchange, reading: Reading, exchanges: Sequence[Exchange]) -> None:
        """Raises an alert where the turn, or those since the last clearing, show risk; withholds the reply while one stands."""
        exchange.reading = reading
        earlier = [e.reading for e in exchanges if self._cleared_after < e.number < exchange.number and e.reading is not None]
        exchange.risks = tuple(self.safety.screen.judge([*earlier, reading]))
        if exchange.risks:
            self.alerts.append(Alert(exchange.number, _now(), exchange.risks))
        if self.standing and exchange.decision == "open":
            exchange.withheld = "risk" if exchange.risks else "alert"
            exchange.prepared = self.safety.answer(self.categories)
            exchange.suggestion = exchange.prepared.text

    def clear(self, reason: str, turns: int) -> None:
        """Clears what stands.

        Args:
            reason: what was done, or why it was a false alarm.
            turns: how many turns there were by now; they are not judged together with later ones.

        Raises:
            DataError: no alert stands.
        """
        standing = self.standing
        if not standing:
            raise DataError("No alert stands; there is nothing to clear.")
        for alert in standing:
            alert.cleared, alert.reason = _now(), reason
        self._cleared_after = turns


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
