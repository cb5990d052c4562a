"""The Live tab: connects one session with its page. What happens is in ``session``, how it looks in ``view``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gradio as gr

from app import demo, view
from app.live_layout import (
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

REFRESH: Final = 0.06  # seconds between two updates of the page while a reply is written
HEARTBEAT: Final = 0.25  # seconds between two updates while nothing but the clock moves
_QUIET: Final[dict[str, Any]] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
# Gradio drops an event while an earlier one of the same button is followed, and says nothing; the session itself refuses
# what cannot be done now, and says why.
_ALWAYS: Final[dict[str, Any]] = {**_QUIET, "trigger_mode": "multiple"}


class Renderer:
    """Gives the page what changed since it last did, and leaves alone what did not."""

    def __init__(self) -> None:
        self._last: list[Any] = []
        self._since: float | None = None

    @staticmethod
    def outputs(middle: TurnColumn, panel: gr.HTML, below: Foot) -> list[Any]:
        """The parts that show the session, in the order in which a call returns their updates."""
        return [
            middle.turn, panel, middle.earlier, below.timeline, below.notes,
            middle.accept, middle.edit, middle.again, middle.reject, middle.words,
            middle.reply_editor.group, middle.words_editor.group,
        ]  # fmt: skip

    def __call__(self, session: Session) -> list[Any]:
        with session.changed:
            self._since = (self._since or time.monotonic()) if session.busy else None
            seconds = time.monotonic() - self._since if self._since else 0.0
            deciding = session.phase is Phase.DECIDING
            correctable = not session.busy and bool(session.exchanges) and session.phase is not Phase.LISTENING
            now: list[Any] = [
                view.middle(session, seconds),
                view.panel(session),
                view.earlier(session),
                view.timeline(svg(session.exchanges, session.notes)),
                view.notes(session),
                *[gr.update(interactive=deciding)] * 4,
                gr.update(interactive=correctable),
                # An editor whose turn is over closes; it is opened by its button alone.
                *(gr.skip() if open_ else gr.update(visible=False) for open_ in (deciding, correctable)),
            ]
        last = self._last or [None] * len(now)
        self._last = now
        return [gr.skip() if new == old else new for new, old in zip(now, last, strict=True)]


def follow(session: Session) -> Iterator[list[Any]]:
    """Updates of the page until the session waits for a person again."""
    render, version = Renderer(), -1
    while True:
        version = session.watch(version, HEARTBEAT)
        busy = session.busy
        yield render(session)
        if not busy:
            return
        time.sleep(REFRESH)


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

    def open(self, hint: str, read: str) -> Iterator[list[Any]]:
        """Opens the page's session, or the one that it had before it was loaded again."""
        try:
            session = self.sessions.open(hint or None)
        except MultiMoodError as error:
            raise gr.Error(str(error), print_exception=False) from error
        if read:
            session.acknowledge()
        marks = f'<span data-token="{session.token}" data-capture="{self.capture}"></span>'
        first = [session.token, marks, export_links(session.token), session.context.problem, session.context.situation]
        yield from _before(first, session)

    def doing(self, act: Callable[..., None], *after: Any) -> Callable[..., Iterator[list[Any]]]:
        """An event that acts on the session and then shows it; an error on purpose is shown as its sentence.

        Args:
            act: takes the session and the values of the event's inputs after the key.
            after: updates of the event's outputs before the session's, given where ``act`` succeeded: what a person
                wrote stays where it was refused.
        """

        def handler(key: str, *values: Any) -> Iterator[list[Any]]:
            session = self.session(key)
            updates = list(after)
            try:
                act(session, *values)
            except MultiMoodError as error:
                gr.Warning(str(error), title="Not done")
                updates = [gr.skip()] * len(after)
            yield from _before(updates, session)

        return handler

    def command(self, key: str, event: gr.EventData) -> Iterator[list[Any]]:
        """A click on what the server drew."""
        yield from self.doing(_obey)(key, event.command)

    def show(self, key: str) -> Iterator[list[Any]]:
        yield from follow(self.session(key))

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


def build_live(sessions: Sessions, capture: str) -> None:
    """Lays out the tab inside the current ``gr.Blocks``.

    Args:
        sessions: opens and finds the sessions.
        capture: ``browser`` or ``local``: whose camera and microphone a turn is taken with.
    """
    do, key, unseen = Handlers(sessions, capture), gr.State(""), hidden()
    with gr.Row(elem_id="mm-room", equal_height=False):
        left, middle, panel = client_column(), turn_column(), label_column()
    below = foot()
    out = Renderer.outputs(middle, panel, below)

    _connect_page(do, key, unseen, [below.exports, left.problem, left.situation], out)
    left.start.click(None, None, None, js="() => window.multimood.start()", **_QUIET).then(do.show, key, out, **_QUIET)
    left.end.click(
        do.doing(lambda s: s.end_capture()), key, out,
        js="async (...values) => { await window.multimood.stop(); return values; }", **_QUIET,
    )  # fmt: skip
    left.typed.submit(do.doing(lambda s, text: s.type_turn(text), ""), [key, left.typed], [left.typed, *out], **_ALWAYS)
    left.clip.upload(do.doing(_take_clip, None), [key, left.clip], [left.clip, *out], **_ALWAYS)
    left.demo.click(do.doing(_take_demo), key, out, **_QUIET)
    for field in (left.problem, left.situation):
        field.blur(do.describe, [key, left.problem, left.situation], None, **_QUIET)

    middle.accept.click(do.doing(lambda s: s.accept()), key, out, **_QUIET)
    middle.again.click(do.doing(lambda s: s.regenerate()), key, out, **_QUIET)
    middle.reject.click(do.doing(lambda s: s.reject()), key, out, **_QUIET)
    _connect_editor(do, key, middle.edit, do.open_reply, middle.reply_editor, lambda s, text: s.edit(text), out)
    _connect_editor(do, key, middle.words, do.open_words, middle.words_editor, lambda s, text: s.correct_words(text), out)
    for drawn in (panel, middle.earlier):
        drawn.click(do.command, key, out, **_ALWAYS)
    below.note.submit(do.doing(lambda s, text: s.note(text), ""), [key, below.note], [below.note, *out], **_ALWAYS)


def _connect_page(do: Handlers, key: gr.State, unseen: Hidden, rest: list[Any], out: list[Any]) -> None:
    """Connects the page's beginning, and the buttons that its script presses."""
    load = gr.on(
        None, do.open, [unseen.remembered, unseen.acknowledged], [key, unseen.identity, *rest, *out],
        js="() => window.multimood.remembered()", **_QUIET,
    )  # fmt: skip
    load.then(None, None, None, js="() => window.multimood.ready()", **_QUIET)
    unseen.acknowledge.click(do.doing(lambda s: s.acknowledge()), key, out, **_QUIET)
    unseen.refresh.click(do.show, key, out, **_QUIET)


def _connect_editor(
    do: Handlers,
    key: gr.State,
    opens: gr.Button,
    fill: Callable[[str], tuple[Any, str, int]],
    editor: Editor,
    act: Callable[[Session, str], None],
    out: list[Any],
) -> None:
    """Connects an editor: opened by ``opens``, saved by its button or Enter, and left."""
    turn = gr.State(0)

    def save(session: Session, number: int, text: str) -> None:
        current = session.current
        if current is None or current.number != number:
            raise DataError(f"Expected the text of turn {current.number if current else 0}, got that of turn {number}; go back.")
        act(session, text)

    hide = gr.update(visible=False)
    focus = f"() => window.multimood.focus('#{editor.text.elem_id} textarea')"
    opens.click(fill, key, [editor.group, editor.text, turn], **_QUIET).then(None, js=focus, **_QUIET)
    gr.on(
        [editor.save.click, editor.text.submit],
        do.doing(save, hide), [key, turn, editor.text], [editor.group, *out], **_QUIET,
    )  # fmt: skip
    editor.leave.click(lambda: hide, None, editor.group, **_QUIET)


def _before(first: list[Any], session: Session) -> Iterator[list[Any]]:
    """The session's updates, with ``first`` before the first of them."""
    for i, update in enumerate(follow(session)):
        yield [*(first if i == 0 else [gr.skip()] * len(first)), *update]


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
