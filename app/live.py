"""The Live tab: connects one session with its page. What happens is in ``session``, how it looks in ``view``.

What a person does only acts on the session; one event for each page, which ends with it, shows what came of it. So two
windows on one session show the same, and Gradio's stream of updates is never closed: it closes when the last event ends, and
an event that begins in that moment is never heard of.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

import gradio as gr

from app import alert_view, demo, view
from app.access import person_of
from app.audit import HERE
from app.live_layout import (
    AlertArea,
    Editor,
    Foot,
    Hidden,
    TurnColumn,
    client_column,
    export_links,
    foot,
    hidden,
    label_column,
    turn_column,
)
from app.session import Phase, Session
from app.sessions import Sessions
from app.timeline import svg
from multimood_core.errors import DataError, MultiMoodError
from multimood_core.media import read_turn
from multimood_core.records import Turn

REFRESH: Final = 0.05  # seconds between two looks at what changed
HEARTBEAT: Final = 0.25  # seconds between two updates while nothing but the clock moves
QUEUED: Final = 5.0  # the same while others come first: an update costs Gradio 13 ms, and all pages share one thread for them
CHECK: Final = 10.0  # seconds between two updates of a page at rest: with one, Gradio notices that a page was closed
_QUIET: Final[dict[str, Any]] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
# Gradio drops an event while an earlier one of the same element is under way, and says nothing; the session itself
# refuses what cannot be done now, and says why.
_ALWAYS: Final[dict[str, Any]] = {**_QUIET, "trigger_mode": "multiple"}


class Renderer:
    """Gives the page what changed since it last did, and leaves alone what did not."""

    def __init__(self) -> None:
        self._last: list[Any] = []
        self._since: float | None = None

    @staticmethod
    def outputs(middle: TurnColumn, panel: gr.HTML, below: Foot, above: AlertArea) -> list[Any]:
        """The parts that show the session, in the order in which a call returns their updates."""
        return [
            middle.turn, panel, middle.earlier, below.timeline, below.notes,
            middle.accept, middle.edit, middle.again, middle.reject, middle.words,
            middle.reply_editor.group, middle.words_editor.group, above.alert, above.group,
        ]  # fmt: skip

    def __call__(self, session: Session) -> list[Any]:
        with session.changed:
            self._since = (self._since or time.monotonic()) if session.busy else None
            seconds = time.monotonic() - self._since if self._since else 0.0
            deciding, alerted = session.phase is Phase.DECIDING, bool(session.guard.standing)
            correctable = not session.busy and bool(session.exchanges) and session.phase is not Phase.LISTENING
            now: list[Any] = [
                view.middle(session, seconds),
                view.panel(session),
                view.earlier(session),
                view.timeline(svg(session.exchanges, session.notes)),
                view.notes(session),
                *[gr.update(interactive=deciding)] * 2,
                gr.update(interactive=deciding and not alerted),
                gr.update(interactive=deciding),
                gr.update(interactive=correctable),
                # An editor whose turn is over closes; it is opened by its button alone.
                *(gr.skip() if open_ else gr.update(visible=False) for open_ in (deciding, correctable)),
                alert_view.banner(session),
                gr.update(visible=alerted),
            ]
        last = self._last or [None] * len(now)
        self._last = now
        return [gr.skip() if new == old else new for new, old in zip(now, last, strict=True)]


@dataclass(frozen=True, slots=True)
class Handlers:
    """What the page's events do.

    Args:
        sessions: opens and finds the sessions.
        capture: ``browser`` or ``local``.
    """

    sessions: Sessions
    capture: str

    def session(self, key: str) -> Session:
        found = self.sessions.find(key)
        if found is None:
            raise gr.Error("This page's session is gone; reload the page for a new one.", print_exception=False)
        return found

    def open(self, hint: str, read: str, request: gr.Request) -> list[Any]:
        """Opens the page's session, or the one that it had before it was loaded again."""
        person = person_of(request.request.scope) if request.request is not None else None
        who = person.name if person else HERE
        try:
            session = self.sessions.open(hint or None, who)
        except MultiMoodError as error:
            raise gr.Error(str(error), print_exception=False) from error
        if who in read.split("\n"):
            session.acknowledge()
        marks = f'<span data-token="{session.token}" data-capture="{self.capture}" data-who="{escape(who)}"></span>'
        # A closed accordion applies an update when it opens, over what was typed by then: none is given of an empty field.
        said = [text or gr.skip() for text in (session.context.problem, session.context.situation)]
        return [session.token, marks, export_links(session.token), *said]

    async def follow(self, key: str) -> AsyncIterator[list[Any]]:
        """Updates of the page as long as it is open and its session known."""
        session, render, seen, shown = self.session(key), Renderer(), -1, 0.0
        while self.sessions.find(key) is session:
            now = time.monotonic()
            pause = QUEUED if session.phase is Phase.WAITING else HEARTBEAT if session.busy else CHECK
            if session.version != seen or now - shown >= pause:
                seen, shown = session.version, now
                yield await asyncio.to_thread(render, session)  # the worker may hold the session's lock
            await asyncio.sleep(REFRESH)

    def doing(self, act: Callable[..., None], *after: Any) -> Callable[..., Any]:
        """An event that acts on the session; an error on purpose is shown as its sentence.

        Args:
            act: takes the session and the values of the event's inputs after the key.
            after: the update of the event's output, if it has one, given where ``act`` succeeded: what a person wrote
                stays where it was refused.
        """

        def handler(key: str, *values: Any) -> Any:
            session = self.session(key)
            try:
                act(session, *values)
            except MultiMoodError as error:
                gr.Warning(str(error))
                return gr.skip() if after else None
            return after[0] if after else None

        return handler

    def command(self, key: str, event: gr.EventData) -> None:
        """A click on what the server drew."""
        self.doing(_obey)(key, event.command)

    def open_reply(self, key: str) -> tuple[Any, str, int]:
        """Shows the editor with the suggestion, and keeps whose it is."""
        current = self.session(key).current
        return gr.update(visible=True), current.suggestion if current else "", current.number if current else 0

    def open_words(self, key: str) -> tuple[Any, str, int]:
        """The same with the client's words."""
        current = self.session(key).current
        return gr.update(visible=True), (current.words or "") if current else "", current.number if current else 0

    def describe(self, key: str, problem: str, situation: str) -> None:
        self.session(key).describe(problem, situation)


def build_live(sessions: Sessions, capture: str, above: AlertArea) -> None:
    """Lays out the tab inside the current ``gr.Blocks``.

    Args:
        sessions: opens and finds the sessions.
        capture: ``browser`` or ``local``: whose camera and microphone a turn is taken with.
        above: where the alert stands, outside of the tabs.
    """
    do, unseen = Handlers(sessions, capture), hidden()
    key = unseen.key
    with gr.Row(elem_id="mm-room", equal_height=False):
        left, middle, panel, below = client_column(), turn_column(), label_column(), foot()

    _connect_page(do, unseen, [below.exports, left.problem, left.situation], Renderer.outputs(middle, panel, below, above))
    left.start.click(None, None, None, js="() => window.multimood.start()", **_QUIET)
    left.end.click(
        do.doing(lambda s: s.end_capture()), key, None,
        js="async (...values) => { await window.multimood.stop(); return values; }", **_QUIET,
    )  # fmt: skip
    left.typed.submit(do.doing(lambda s, text: s.type_turn(text), ""), [key, left.typed], left.typed, **_ALWAYS)
    left.clip.upload(do.doing(_take_clip, None), [key, left.clip], left.clip, **_ALWAYS)
    left.demo.click(do.doing(_take_demo), key, None, **_QUIET)
    for field in (left.problem, left.situation):
        field.blur(do.describe, [key, left.problem, left.situation], None, **_QUIET)

    middle.accept.click(do.doing(lambda s: s.accept()), key, None, **_QUIET)
    middle.again.click(do.doing(lambda s: s.regenerate()), key, None, **_QUIET)
    middle.reject.click(do.doing(lambda s: s.reject()), key, None, **_QUIET)
    _connect_editor(do, key, middle.edit, do.open_reply, middle.reply_editor, lambda s, text: s.edit(text))
    _connect_editor(do, key, middle.words, do.open_words, middle.words_editor, lambda s, text: s.correct_words(text))
    for drawn in (panel, middle.earlier):
        drawn.click(do.command, key, None, **_ALWAYS)
    gr.on(
        [above.clear.click, above.reason.submit], do.doing(lambda s, text: s.clear_alerts(text), ""), [key, above.reason],
        above.reason, **_QUIET,
    )  # fmt: skip
    below.note.submit(do.doing(lambda s, text: s.note(text), ""), [key, below.note], below.note, **_ALWAYS)


def _connect_page(do: Handlers, unseen: Hidden, rest: list[Any], out: list[Any]) -> None:
    """Connects the page's beginning, and the buttons that its script presses."""
    key = unseen.key
    load = gr.on(
        None, do.open, [unseen.remembered, unseen.acknowledged], [key, unseen.identity, *rest],
        js="() => window.multimood.remembered()", **_QUIET,
    )  # fmt: skip
    load.then(None, None, None, js="() => window.multimood.ready()", **_QUIET)
    unseen.acknowledge.click(do.doing(lambda s: s.acknowledge()), key, None, **_QUIET)
    unseen.follow.click(do.follow, key, out, **_QUIET)  # at most one at a time: Gradio drops the click while it runs


def _connect_editor(
    do: Handlers,
    key: gr.Textbox,
    opens: gr.Button,
    fill: Callable[[str], tuple[Any, str, int]],
    editor: Editor,
    act: Callable[[Session, str], None],
) -> None:
    """Connects an editor: opened by ``opens``, saved by its button or Enter, and left."""

    def save(session: Session, number: int, text: str) -> None:
        current = session.current
        if current is None or current.number != number:
            raise DataError(f"Expected the text of turn {current.number if current else 0}, got that of turn {number}; go back.")
        act(session, text)

    hide = gr.update(visible=False)
    focus = f"() => window.multimood.focus('#{editor.text.elem_id} textarea')"
    opens.click(fill, key, [editor.group, editor.text, editor.turn], **_QUIET).then(None, js=focus, **_QUIET)
    gr.on([editor.save.click, editor.text.submit], do.doing(save, hide), [key, editor.turn, editor.text], editor.group, **_QUIET)
    editor.leave.click(lambda: hide, None, editor.group, **_QUIET)


def _take_clip(session: Session, path: str) -> None:
    def read() -> Turn:
        try:
            return read_turn(path)
        finally:
            Path(path).unlink(missing_ok=True)  # the upload's copy; nothing of a client is kept on the disk

    try:
        session.take(read, "clip")
    except MultiMoodError:
        Path(path).unlink(missing_ok=True)
        raise


def _take_demo(session: Session) -> None:
    step = session.demo_step
    if not session.exchanges and not session.context.problem:
        session.describe(demo.CONTEXT.problem, demo.CONTEXT.situation)
    session.take(lambda: demo.demo_turn(step), "demo")
    session.demo_step += 1


def _obey(session: Session, text: str) -> None:
    """Does what a click on a label asks: ``correct:NUMBER:TASK:LABEL``."""
    match text.split(":"):
        case ["correct", number, task, label] if number.isdecimal():
            session.correct(int(number), task, label)
        case _:
            raise DataError(f"Expected correct:NUMBER:TASK:LABEL, got {text!r}; reload the page.")
