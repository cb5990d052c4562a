"""The turn loop of one session: listen, wait, answer, decide. Knows no screen; whoever shows it watches ``version``.

The clinician stays the author. A suggestion becomes part of the dialogue only when it was accepted or edited, and the
labels that a person set go into the history as confirmed, the model's own as guesses. Every turn's words are screened for risk
before a reply is written; while an alert stands no reply of the model is shown.
"""

from __future__ import annotations

import datetime
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from app.again import another_reply
from app.exchange import Decision, Exchange, Note, Source
from app.guard import Guard
from app.ports import EngineLike, Run
from app.safety import Safety
from app.turn_buffer import CaptureCounts, TurnBuffer
from app.worker import Job, Worker
from multimood_core.decoding import LABELS
from multimood_core.engine import Event, Labelled, Perceived, ReplyPart, Transcribed
from multimood_core.errors import DataError
from multimood_core.media import read_turn
from multimood_core.prompts import whole_text
from multimood_core.records import CheckpointId, Context, HistoryTurn, Turn

MAX_TEXT: Final = 4000  # characters of a typed turn, an edited reply or a note: pages, not books
# What the model does once it has found something; a label begins the next one, and the last label the reply.
_STAGES: Final = {Transcribed: "looking", Perceived: "predicting", Labelled: "predicting"}


class Phase(StrEnum):
    """Where the session stands."""

    READY = "ready"
    LISTENING = "listening"
    WAITING = "waiting"
    WORKING = "working"
    DECIDING = "deciding"


class Session:
    """One clinician's session. Methods are called from the page's threads and from the worker's; a lock orders them."""

    def __init__(
        self, engine: EngineLike, worker: Worker, safety: Safety | None = None, token: str | None = None
    ) -> None:
        self.token = token or secrets.token_urlsafe(24)
        self.started = _now()
        self.checkpoint: CheckpointId = engine.checkpoint.id
        self.phase = Phase.READY
        self.exchanges: list[Exchange] = []
        self.notes: list[Note] = []
        self.guard = Guard(safety or Safety.load())
        self.context = Context()
        self.acknowledged: datetime.datetime | None = None
        self.place = 0
        self.stage = ""
        self.problem: str | None = None
        self.buffer: TurnBuffer | None = None
        self.demo_step = 0
        self.version = 0
        self.touched = time.monotonic()
        self._engine, self._worker = engine, worker
        self._memory = engine.memory()
        self.on_captured: Callable[[int, TurnBuffer], None] | None = None  # hears of each captured turn that was queued
        self._run: Run | None = None
        self._turn: Turn | None = None
        self.changed = threading.Condition(threading.RLock())

    # -- watching --------------------------------------------------------------------------------------------------

    def watch(self, version: int, timeout: float) -> int:
        """Waits until the session differs from ``version``, at most ``timeout`` seconds; returns its version."""
        with self.changed:
            self.changed.wait_for(lambda: self.version != version, timeout)
            return self.version

    def _change(self) -> None:
        self.version += 1
        self.touched = time.monotonic()
        self.changed.notify_all()

    @property
    def busy(self) -> bool:
        return self.phase in (Phase.WAITING, Phase.WORKING)

    @property
    def current(self) -> Exchange | None:
        return self.exchanges[-1] if self.exchanges else None

    def history(self, before: Exchange | None = None) -> list[HistoryTurn]:
        """The dialogue before ``before``, or all of it."""
        turns: list[HistoryTurn] = []
        for exchange in self.exchanges:
            if exchange is before:
                break
            turns += exchange.history()
        return turns

    def last_turn(self) -> tuple[Turn, list[HistoryTurn], Context] | None:
        """The last turn as it was captured, its words as they stand now, with what it was answered by; None before one.

        Raises:
            DataError: its reply is withheld for safety.
        """
        with self.changed:
            current, turn = self.current, self._turn
            if current is None or turn is None:
                return None
            if current.withheld:
                raise DataError("The reply to the last turn is withheld for safety, so its turn is not compared.")
            return replace(turn, text=current.words or turn.text), self.history(before=current), self.context

    # -- the client's turn -----------------------------------------------------------------------------------------

    def begin_capture(self) -> TurnBuffer:
        """Opens the turn that camera and microphone fill.

        Raises:
            DataError: the model still works on the last turn, or the notice was not acknowledged.
        """
        with self.changed:
            self._require_idle()
            self.buffer, self.problem = TurnBuffer(), None
            self.phase = Phase.LISTENING
            self._prepare()
            self._change()
            return self.buffer

    def _prepare(self) -> None:
        """While the client speaks the model reads what it can of the next prompt; it changes no answer, only its time."""
        history, context = self.history(), self.context
        self._worker.offer(lambda: self._engine.prepare(history, context, self._memory))

    def cancel_capture(self) -> None:
        """Throws away what was captured of an open turn."""
        with self.changed:
            if self.phase is Phase.LISTENING:
                self.buffer, self.phase = None, self._rest()
                self._change()

    def end_capture(self) -> None:
        """Closes the open turn and queues it.

        Raises:
            DataError: no turn is open.
            BusyError: the queue is full; the turn stays open.
        """
        with self.changed:
            buffer = self.buffer
            if self.phase is not Phase.LISTENING or buffer is None:
                raise DataError("No turn is open. Start a turn first, or type the client's words.")
            self.phase = Phase.READY
            try:
                self._submit(buffer.turn, "live", buffer.counts)
            except Exception:
                self.phase = Phase.LISTENING
                raise
            if self.on_captured is not None:
                self.on_captured(len(self.exchanges), buffer)
            self.buffer = None

    def type_turn(self, text: str) -> None:
        """Queues a turn of which only the words are known.

        Raises:
            DataError: no words, or too many.
        """
        words = _text(text, "the client's words")
        self.take(lambda: Turn(text=words), "typed")

    def take_clip(self, path: str | Path) -> None:
        """Queues a recorded or uploaded clip; it is read when its turn comes."""
        self.take(lambda: read_turn(path), "clip")

    def take(self, read: Callable[[], Turn], source: Source) -> None:
        """Queues whatever ``read`` gives as the client's turn.

        Raises:
            DataError: a turn is open or being answered.
            BusyError: the queue is full.
        """
        with self.changed:
            self._require_idle()
            self._submit(read, source, None)

    def _require_idle(self) -> None:
        if self.acknowledged is None:
            raise DataError("Please read and acknowledge the notice first.")
        if self.busy:
            raise DataError("The last turn is still being answered; wait for its reply.")
        if self.phase is Phase.LISTENING:
            raise DataError("A turn is open already; end it first.")

    def _submit(self, read: Callable[[], Turn], source: Source, capture: CaptureCounts | None) -> None:
        exchange = Exchange(len(self.exchanges) + 1, source, _now(), capture)

        def run() -> None:
            self._start("reading the turn")
            begun = time.monotonic()
            turn = read()
            self._answer(exchange, turn, time.monotonic() - begun)

        self._queue(run)
        current = self.current
        if current is not None and current.decision == "open":
            current.decision = "unused"
        self.exchanges.append(exchange)
        self._change()

    def _rest(self) -> Phase:
        current = self.current
        return Phase.DECIDING if current is not None and current.decision == "open" else Phase.READY

    # -- the model's part, on the worker's thread ------------------------------------------------------------------

    def _queue(self, run: Callable[[], None]) -> None:
        before = self.phase
        self.phase, self.problem, self.stage = Phase.WAITING, None, ""
        try:
            self._worker.submit(Job(run, self._fail, self._moved))
        except Exception:
            self.phase = before
            raise

    def _moved(self, place: int) -> None:
        with self.changed:
            self.place = place
            self._change()

    def _start(self, stage: str) -> None:
        with self.changed:
            self.phase, self.stage, self.place = Phase.WORKING, stage, 0
            self._change()

    def _fail(self, sentence: str) -> None:
        with self.changed:
            self.problem = sentence
            current = self.current
            if current is not None and not current.complete:
                self.exchanges.remove(current)  # nothing of it may reach the history; an alert that it raised stands
            self.phase = self._rest()
            self._change()

    def _answer(self, exchange: Exchange, turn: Turn, media_seconds: float) -> None:
        with self.changed:
            self._turn, self._run = turn, None
            history, context = self.history(before=exchange), self.context
        run = self._engine.begin(turn, history, context, self._memory, media_seconds)
        self._start("transcribing" if turn.waveform is not None and not turn.text else "reading the words")
        for event in run.events():
            if isinstance(event, Transcribed):
                self._screen(exchange, event.text)
            if isinstance(event, Labelled):
                self._run = run  # from here on it can write another reply
            if isinstance(event, ReplyPart):
                if not self._write(exchange, event.text):
                    break
                continue
            self._apply(exchange, event)
            if exchange.withheld and len(exchange.labels) == len(LABELS):
                break  # the labels are shown, and no reply is written
        self._end(exchange)
        if self.phase is Phase.DECIDING:  # nobody waits for the model: what the words show alone, for the comparison
            alone = run.words_alone()
            with self.changed:
                exchange.words_alone = alone
                self._change()

    def _apply(self, exchange: Exchange, event: Event) -> None:
        with self.changed:
            exchange.take(event)
            last = isinstance(event, Labelled) and event.task == "strategy"
            self.stage = "writing a reply" if last else _STAGES.get(type(event), self.stage)
            self._change()

    def _write(self, exchange: Exchange, part: str) -> bool:
        """Takes the next part of the model's reply; False for a harmful one, of which nothing is shown."""
        exchange.draft += part
        harmful = self.guard.safety.screen.harmful_reply(exchange.draft)
        with self.changed:
            if harmful:
                exchange.withhold_draft()
            else:
                exchange.show_draft()
            self._change()
        return not harmful

    def _end(self, exchange: Exchange) -> None:
        with self.changed:
            exchange.close()
            self.phase, self.stage = Phase.DECIDING, ""
            self._change()

    def _screen(self, exchange: Exchange, words: str) -> None:
        """Reads the client's words for risk, alone and with the turns since the last alert was cleared."""
        reading = self.guard.safety.screen.read(words)
        with self.changed:
            self.guard.judge(exchange, reading, self.exchanges)
            self._change()

    # -- the clinician's part --------------------------------------------------------------------------------------

    def _suggested(self) -> Exchange:
        current = self.current
        if current is None or self.phase is not Phase.DECIDING:
            raise DataError("There is no suggested reply to decide on; take a turn first.")
        return current

    def accept(self) -> None:
        """The clinician said, or will say, the suggestion as it stands.

        Raises:
            DataError: there is no suggestion, or it is empty.
        """
        with self.changed:
            current = self._suggested()
            if not current.suggestion.strip():
                raise DataError("There is no suggested reply to accept; write your own, or have it written again.")
            self._decide("accepted", current.suggestion.strip())

    def edit(self, text: str) -> None:
        """The clinician said this instead.

        Raises:
            DataError: there is no suggestion, or the text is empty.
        """
        with self.changed:
            self._suggested()
            self._decide("edited", _text(text, "the reply"))

    def reject(self) -> None:
        """Nothing of the suggestion was said."""
        with self.changed:
            self._suggested()
            self._decide("rejected", "")

    def _decide(self, decision: Decision, said: str) -> None:
        current = self._suggested()
        current.decision, current.said = decision, said
        self.phase = Phase.READY
        self._prepare()
        self._change()

    def clear_alerts(self, reason: str) -> None:
        """The clinician has seen to what was found; replies are suggested again from the next turn on.

        Raises:
            DataError: no alert stands, or no reason was given.
        """
        with self.changed:
            self.guard.clear(_text(reason, "what was done, or why it was a false alarm"), len(self.exchanges))
            self._change()

    def regenerate(self) -> None:
        """Has another reply written, under the labels as the clinician corrected them.

        Raises:
            DataError: there is no suggestion.
        """
        with self.changed:
            current = self._suggested()
            run = self._run
            if self.guard.standing:
                raise DataError("While the safety alert stands no reply is written; clear it first, or write your own.")
            if run is None:
                raise DataError("This turn's state is gone; take the turn again for another reply.")
            chosen = dict(current.corrections)
            self._queue(lambda: self._again(current, run, chosen))
            self._change()

    def _again(self, exchange: Exchange, run: Run, chosen: Mapping[str, str]) -> None:
        self._start("writing another reply")
        with self.changed:
            exchange.put_aside()
            used = dict(exchange.under)
        # Labels after the first that changed are predicted again under it; without a change the draw is random.
        stale = False
        for task in LABELS:
            wanted = chosen.get(task, exchange.labels[task].label)
            stale = stale or wanted != used[task]
            if stale:
                self._apply(exchange, Labelled(task, run.decoder.label(task, chosen.get(task))))
                exchange.under[task] = chosen.get(task, exchange.labels[task].label)
        for part in another_reply(run.decoder, exchange.earlier_suggestions, exchange.regenerations, stale):
            if not self._write(exchange, part):
                break
        self._end(exchange)

    def correct_words(self, text: str) -> None:
        """Answers the last turn again with the words as the clinician has them.

        Raises:
            DataError: no turn to correct, or no words.
        """
        words = _text(text, "the client's words")
        with self.changed:
            current, turn = self.current, self._turn
            if self.busy or self.phase is Phase.LISTENING or current is None or turn is None:
                raise DataError("There is no turn whose words could be corrected now.")
            if current.decision in ("accepted", "edited"):
                current.words, current.words_corrected = words, True
                self._screen(current, words)
                return
            again, corrected = current.again(), replace(turn, text=words)

            def run() -> None:
                with self.changed:
                    self.exchanges[self.exchanges.index(current)] = again
                try:
                    self._answer(again, corrected, 0.0)
                except Exception:
                    with self.changed:
                        self.exchanges[self.exchanges.index(again)] = current
                    raise

            self._queue(run)
            self._change()

    def correct(self, number: int, task: str, label: str) -> None:
        """Sets a label by hand; choosing the predicted one confirms it, choosing the same again takes it back.

        Raises:
            DataError: no such turn, task or label.
        """
        with self.changed:
            if not 1 <= number <= len(self.exchanges):
                raise DataError(f"Expected a turn from 1 to {len(self.exchanges)}, got {number}.")
            self.exchanges[number - 1].correct(task, label)
            self._change()

    def note(self, text: str) -> None:
        """Writes a session note.

        Raises:
            DataError: the note is empty or too long.
        """
        with self.changed:
            self.notes.append(Note(len(self.exchanges), _now(), _text(text, "the note")))
            self._change()

    def describe(self, problem: str, situation: str) -> None:
        """Sets the problem and the situation that the next turns are read with."""
        with self.changed:
            self.context = Context(*(whole_text(text).strip()[:MAX_TEXT] for text in (problem, situation)))
            self._change()

    def acknowledge(self) -> None:
        """The clinician has read the notice."""
        with self.changed:
            if self.acknowledged is None:
                self.acknowledged = _now()
                self._change()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _text(text: str, what: str) -> str:
    text = whole_text(text).strip()
    if not text:
        raise DataError(f"Expected {what}, got nothing; type a few words.")
    if len(text) > MAX_TEXT:
        raise DataError(f"Expected {what} in at most {MAX_TEXT:,} characters, got {len(text):,}; shorten the text.")
    return text

