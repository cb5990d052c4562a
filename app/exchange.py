"""What a session keeps of each turn, how the model's answer grows in it, and how later turns see it.

Whoever calls holds the session's lock.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from app.safety import PreparedAnswer
from app.turn_buffer import CaptureCounts
from multimood_core.decoding import LABELS
from multimood_core.engine import Event, Finished, Labelled, Perceived, Transcribed
from multimood_core.errors import DataError
from multimood_core.records import HistoryTurn, LabelPrediction, Modalities, TurnPrediction
from multimood_core.risk import Reading, Risk

HELD_BACK: Final = 4  # words of a reply being written that wait for the next ones: what they begin is screened first

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
    """What the model predicted; where a label was set by hand, those after it as predicted under it."""
    under: dict[str, str] = field(default_factory=dict)
    """The labels under which the reply was written: the model's own, or those set by hand before it was written again."""
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

    def take(self, event: Event) -> None:
        """What the model found next: words, modalities, a label or the whole prediction."""
        if isinstance(event, Transcribed):
            self.words = event.text
        elif isinstance(event, Perceived):
            self.modalities, self.expressions = event.modalities, event.expressions
        elif isinstance(event, Labelled):
            self.labels[event.task] = event.prediction
            self.under[event.task] = event.prediction.label
        elif isinstance(event, Finished):
            self.prediction = event.prediction

    def show_draft(self) -> None:
        """Shows the reply as far as it is written, but for its last words."""
        words = list(re.finditer(r"\S+\s*", self.draft))
        self.suggestion = self.draft[: words[-HELD_BACK].start()] if len(words) > HELD_BACK else ""

    def withhold_draft(self) -> None:
        """Takes the reply away for what it says itself."""
        self.withheld, self.suggestion, self.draft = "reply", "", ""

    def put_aside(self) -> None:
        """Makes room for another reply; the one that stood is kept among the earlier ones."""
        self.earlier_suggestions.append(self.suggestion)
        self.suggestion, self.withheld, self.prepared = "", "", None
        self.regenerations += 1

    def close(self) -> None:
        """Nothing more comes: what is written is what is suggested."""
        if not self.withheld:
            self.suggestion = self.draft
        self.draft, self.complete = "", True

    def again(self) -> Exchange:
        """A new start of the same turn for its corrected words, with what the clinician did so far."""
        return Exchange(
            self.number, self.source, self.started, self.capture, words_corrected=True,
            corrections=dict(self.corrections), earlier_suggestions=[*self.earlier_suggestions, self.suggestion],
        )  # fmt: skip

    def correct(self, task: str, label: str) -> None:
        """Sets a label by hand; choosing the predicted one confirms it, choosing the same again takes it back.

        Raises:
            DataError: no such task or label.
        """
        if task not in LABELS or label not in LABELS[task][1]:
            raise DataError(f"Expected a label of {', '.join(LABELS)}, got {task}: {label}.")
        if self.corrections.get(task) == label:
            del self.corrections[task]
        else:
            self.corrections[task] = label

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
