"""One turn answered by several systems at the same time. Knows no page; whoever shows it asks for its state.

The local systems take turns on the model's thread, one event each, in slices after which other work may come between. A
remote endpoint is waited for on a thread of its own.
"""

from __future__ import annotations

import logging
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from app.audit import HERE
from app.compare.errors import StoppedError
from app.compare.slices import on_worker
from app.compare.systems import Catalogue, Choice, Moment
from app.worker import UNEXPECTED, Worker
from multimood_core.decoding import Sampling
from multimood_core.engine import Engine, Event, Finished, Labelled, ReplyPart
from multimood_core.errors import DataError, ModelError, MultiMoodError
from multimood_core.evaluation import Answer
from multimood_core.records import LabelPrediction
from multimood_core.rewards import ReplySituation, Reward, RewardFunction

LEAST: Final = 2  # systems
MOST: Final = 4
SLICE: Final = 0.3  # seconds of the model's thread after which a live turn may come between

log = logging.getLogger("multimood.app")


class Phase(StrEnum):
    LOADING = "loading"
    ANSWERING = "answering"
    SCORING = "scoring"
    DONE = "done"
    STOPPED = "stopped"


@dataclass(slots=True)
class Column:
    """One system's answer as it comes. ``key`` is its letter on the page."""

    key: str
    choice: Choice
    labels: dict[str, LabelPrediction] = field(default_factory=dict)
    reply: str = ""
    text: str = ""
    done: bool = False
    problem: str = ""
    seconds: float = 0.0
    writing: float = 0.0
    parts: int = 0
    tokens: int = 0
    reward: Reward | None = None

    @property
    def rate(self) -> float | None:
        """Tokens a second while the reply was written, the other systems' time left out."""
        count = self.tokens or self.parts
        return count / self.writing if self.writing and count and self.choice.kind != "remote" else None


class Comparison:
    """Two to four systems on one turn.

    Args:
        catalogue: the systems.
        worker: the model's thread.
        rewards: gives the reward function; slow the first time.
        moment: the turn.
        choices: who answers, in the person's order.
        sampling: of every reply; the same seed gives the same text of a local system.
        blind: columns in an order drawn anew, whose names are not told until the vote is locked.
        who: asks, for the log of what a remote system is told.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        worker: Worker,
        rewards: Callable[[], RewardFunction],
        moment: Moment,
        choices: Sequence[Choice],
        sampling: Sampling,
        blind: bool = False,
        who: str = HERE,
    ) -> None:
        if not LEAST <= len(choices) <= MOST or len(set(choices)) != len(choices):
            raise DataError(f"Expected {LEAST} to {MOST} different systems, got {', '.join(c.name for c in choices) or 'none'}.")
        self.id = secrets.token_urlsafe(18)
        self.moment, self.sampling, self.blind = moment, sampling, blind
        order = list(choices)
        if blind:
            random.SystemRandom().shuffle(order)
        self.columns = [Column(chr(ord("A") + place), choice) for place, choice in enumerate(order)]
        self.phase, self.problem, self.locked = Phase.LOADING, "", False
        self.vote: Mapping[str, object] | None = None
        self.lock = threading.RLock()
        self.touched = time.monotonic()
        self._catalogue, self._worker, self._rewards, self._who = catalogue, worker, rewards, who
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="multimood-compare", daemon=True)

    @property
    def running(self) -> bool:
        return self.phase not in (Phase.DONE, Phase.STOPPED)

    @property
    def answered(self) -> list[Column]:
        """The columns that have a reply."""
        return [column for column in self.columns if column.done and column.reply.strip()]

    def start(self) -> None:
        self._thread.start()

    def stop(self, wait: float = 0.0) -> None:
        """Ends it after the slice that runs; what is there stays."""
        self._stopped.set()
        if wait and self._thread.is_alive():
            self._thread.join(wait)

    # -- on a thread of its own ------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._load()
            self._answer()
            self._score()
            self._enter(Phase.DONE)
        except StoppedError:
            self._enter(Phase.STOPPED)
        except MultiMoodError as error:
            self._end(str(error))
        except Exception:
            log.exception("a comparison failed")
            self._end(UNEXPECTED)

    def _enter(self, phase: Phase) -> None:
        with self.lock:
            self.phase, self.touched = phase, time.monotonic()

    def _end(self, problem: str) -> None:
        with self.lock:
            self.problem = problem
        self._enter(Phase.STOPPED)

    def _load(self) -> None:
        for column in self.columns:
            if self._stopped.is_set():
                raise StoppedError("Stopped.")
            try:
                column.choice = self._catalogue.loaded(column.choice)
            except MultiMoodError as error:
                self._fail(column, str(error))
        self._enter(Phase.ANSWERING)

    def _hear(self) -> None:
        """The words are recognised once for all, so that no system has heard something else."""
        first, turn = self._catalogue.engines.first, self.moment.turn
        if not self.moment.words.strip() and isinstance(first, Engine):
            words = on_worker(self._worker, lambda: first.hear(turn).text, self._stopped)
            with self.lock:
                self.moment = replace(self.moment, turn=replace(turn, text=words or None))

    def _answer(self) -> None:
        self._hear()
        remote = [column for column in self.columns if column.choice.kind == "remote" and not column.problem]
        if remote and not self.moment.words.strip():
            for column in remote:
                self._fail(column, "A remote endpoint is sent text alone, and this turn has no words; type them.")
            remote = []
        asked = [threading.Thread(target=self._ask, args=(column,), daemon=True) for column in remote]
        for thread in asked:
            thread.start()
        waiting: list[tuple[Column, Iterator[Event]]] = [
            (column, self._catalogue.events(column.choice, self.moment, self.sampling))
            for column in self.columns
            if column.choice.kind != "remote" and not column.problem
        ]
        while waiting:
            still = waiting
            waiting = on_worker(self._worker, lambda still=still: self._slice(still), self._stopped)  # type: ignore[misc]
        for thread in asked:
            while thread.is_alive():
                thread.join(0.2)
                if self._stopped.is_set():
                    raise StoppedError("Stopped.")

    def _slice(self, waiting: list[tuple[Column, Iterator[Event]]]) -> list[tuple[Column, Iterator[Event]]]:
        """One event of each system after the other, until the slice is over."""
        began = time.monotonic()
        while waiting and time.monotonic() - began < SLICE and not self._stopped.is_set():
            waiting = [pair for pair in waiting if self._step(*pair)]
        return waiting

    def _step(self, column: Column, events: Iterator[Event]) -> bool:
        """One event; whether there are more."""
        began = time.monotonic()
        try:
            event = next(events, None)
        except MultiMoodError as error:
            self._fail(column, str(error))
            return False
        except Exception:
            log.exception("a compared system failed")
            self._fail(column, UNEXPECTED)
            return False
        taken = time.monotonic() - began
        with self.lock:
            column.seconds += taken
            if isinstance(event, Labelled):
                column.labels[event.task] = event.prediction
            elif isinstance(event, ReplyPart):
                column.reply += event.text
                column.parts, column.writing = column.parts + 1, column.writing + taken
            elif isinstance(event, Finished):
                column.tokens = event.prediction.tokens.response
            column.done = event is None
        return event is not None

    def _ask(self, column: Column) -> None:
        began = time.monotonic()
        try:
            answer: Answer = self._catalogue.ask_remote(column.choice, self.moment, self.sampling, self._who)
        except MultiMoodError as error:
            self._fail(column, str(error).replace("The judge's endpoint", "The endpoint"))
            return
        except Exception:
            log.exception("the remote endpoint failed")
            self._fail(column, UNEXPECTED)
            return
        with self.lock:
            column.labels = dict(answer.labels)
            column.reply = answer.response or answer.text.strip()
            column.seconds, column.done = time.monotonic() - began, True

    def _fail(self, column: Column, sentence: str) -> None:
        with self.lock:
            column.problem, column.done = sentence, True

    def _score(self) -> None:
        self._enter(Phase.SCORING)
        columns = self.answered
        if not columns:
            return
        moment = self.moment
        situation = ReplySituation(moment.words, moment.history, moment.context, moment.reference, moment.after)
        try:
            rewards = self._rewards()
            found = on_worker(
                self._worker, lambda: rewards([situation] * len(columns), [column.reply for column in columns]), self._stopped
            )
        except ModelError as error:
            with self.lock:
                self.problem = f"The replies could not be scored: {error}"
            return
        with self.lock:
            for column, reward in zip(columns, found, strict=True):
                column.reward = reward
