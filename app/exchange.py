"""What a session keeps of each turn, and how later turns see it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from app.safety import PreparedAnswer
from app.turn_buffer import CaptureCounts
from multimood_core.records import HistoryTurn, LabelPrediction, Modalities, TurnPrediction
from multimood_core.risk import Reading, Risk

Source = Literal["live", "clip", "typed", "demo"]
Decision = Literal["open", "accepted", "edited", "rejected", "unused"]
Withheld = Literal["", "risk", "alert", "reply"]
"""Why the model's reply is not shown: risk in this turn, an alert that stands, or what the reply itself says."""


@dataclass(slots=True)
class Exchange:
    """A client's turn, what the model said of it, and what the clinician made of that."""

    number: int
    source: Source
    started: datetime.datetime
    capture: CaptureCounts | None = None
    words: str | None = None
    words_corrected: bool = False
    modalities: Modalities | None = None
    expressions: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    labels: dict[str, LabelPrediction] = field(default_factory=dict)
    corrections: dict[str, str] = field(default_factory=dict)
    suggestion: str = ""
    draft: str = ""
    """The model's reply as far as it is written; what is shown of it stands in ``suggestion``."""
    earlier_suggestions: list[str] = field(default_factory=list)
    decision: Decision = "open"
    said: str = ""
    prediction: TurnPrediction | None = None
    regenerations: int = 0
    reading: Reading | None = None
    risks: tuple[Risk, ...] = ()
    withheld: Withheld = ""
    prepared: PreparedAnswer | None = None
    words_alone: LabelPrediction | None = None
    complete: bool = False
    """Whether the turn was answered, with a reply or by withholding it."""

    def label(self, task: str) -> str | None:
        """The label that counts: the clinician's, else the model's, else None."""
        predicted = self.labels.get(task)
        return self.corrections.get(task) or (predicted.label if predicted else None)

    def history(self) -> list[HistoryTurn]:
        """The exchange as later turns see it: the client's words and, where something was said, the reply."""
        confirmed = "client_emotion" in self.corrections
        mine = HistoryTurn("client", self.words or "", self.label("client_emotion"), emotion_confirmed=confirmed)
        if self.decision not in ("accepted", "edited"):
            return [mine]
        reply = HistoryTurn(
            "therapist",
            self.said,
            self.label("therapist_emotion"),
            self.label("strategy"),
            emotion_confirmed="therapist_emotion" in self.corrections,
            strategy_confirmed="strategy" in self.corrections,
        )
        return [mine, reply]


@dataclass(frozen=True, slots=True)
class Note:
    """A session note, and after how many turns it was written."""

    after: int
    written: datetime.datetime
    text: str
