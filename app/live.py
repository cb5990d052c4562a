"""The Live tab: lays out one session and connects its buttons. What happens is in ``session``, how it looks in ``view``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gradio as gr

from app import demo, view
from app.session import Phase, Session
from app.sessions import Sessions
from app.timeline import svg
from multimood_core.errors import DataError, MultiMoodError
from multimood_core.media import read_turn
from multimood_core.records import Turn

REFRESH: Final = 0.06  # seconds between two updates of the page while a reply is written
HEARTBEAT: Final = 0.25  # seconds between two updates while nothing but the clock moves

NOTICE: Final = """<dialog id="mm-notice" aria-labelledby="mm-notice-title"><h2 id="mm-notice-title">Before you begin</h2>
<p>MultiMood is a research tool for mental-health professionals, in simulation and training. It is no medical device and no
help in a crisis.</p>
<p>While a turn is open, <b>an AI is reading the camera and the microphone</b>: expressions, voice and words. Make sure that
everybody in the picture knows this and agrees.</p>
<p>What it shows are predictions and may be wrong. No suggested reply counts as said until you accept or edit it. Pictures
and sound stay on the computer that runs the app and are not kept.</p>
<p><button type="button" class="mm-solid" data-page="acknowledge">I have read this</button></p></dialog>"""

HELP: Final = """<dialog id="mm-help" aria-labelledby="mm-help-title"><h2 id="mm-help-title">Keys</h2><dl class="mm-keys">
<dt><kbd>Space</kbd></dt><dd>start or end the turn</dd><dt><kbd>A</kbd></dt><dd>accept the suggested reply</dd>
<dt><kbd>E</kbd></dt><dd>edit it</dd><dt><kbd>G</kbd></dt><dd>have it written again</dd><dt><kbd>R</kbd></dt><dd>reject it</dd>
<dt><kbd>1</kbd> to <kbd>7</kbd></dt><dd>set the client's expression</dd><dt><kbd>?</kbd></dt><dd>this help</dd></dl>
<p>Keys rest while you type in a field. A label that you set is confirmed; press it again to take that back.</p>
<p><button type="button" class="mm-plain" data-page="close">Close</button></p></dialog>"""

STAGE: Final = """<div class="mm-stage"><div class="mm-picture"><video id="mm-video" muted playsinline
aria-label="camera"></video>
<img id="mm-local" alt="camera of this computer" hidden><span class="mm-off">camera and microphone are off</span>
<span class="mm-rec"><i></i>an AI is reading · <b id="mm-clock">0:00</b></span></div>
<dl class="mm-live"><dt>face</dt><dd id="mm-face" aria-live="polite">between turns</dd>
<dt>voice <i id="mm-speaking" title="speech"></i></dt><dd id="mm-voice" aria-live="polite">between turns</dd></dl>
<p class="mm-small" id="mm-people"></p><p class="mm-small" id="mm-message" role="status"></p></div>"""

# Clicks on what the server drew come back as commands.
_COMMANDS: Final = """element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-do]');
  if (button && !button.disabled) trigger('click', { command: button.dataset.do });
});"""
_QUIET: Final[dict[str, Any]] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}


@dataclass(frozen=True, slots=True)
class Screen:
    """The parts of the page that show the session, in the order in which ``render`` returns them."""

    middle: gr.HTML
    panel: gr.HTML
    earlier: gr.HTML
    timeline: gr.HTML
    accept: gr.Button
    edit: gr.Button
    again: gr.Button
    reject: gr.Button
    words: gr.Button

    @property
    def outputs(self) -> list[Any]:
        return [getattr(self, name) for name in self.__slots__]


class Renderer:
    """Gives the page what changed since it last did, and leaves alone what did not."""

    def __init__(self) -> None:
        self._last: list[Any] = []
        self._since: float | None = None

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
                svg(session.exchanges, session.notes),
                *[deciding] * 4,
                correctable,
            ]
        last = self._last or [None] * len(now)
        self._last = now
        return [
            gr.skip() if new == old else gr.update(interactive=new) if isinstance(new, bool) else new
            for new, old in zip(now, last, strict=True)
        ]


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


def html(text: str, identifier: str, script: str | None = None) -> gr.HTML:
    """A part of the page whose look is the style sheet's alone."""
    return gr.HTML(text, elem_id=identifier, js_on_load=script, apply_default_css=False)


def build_live(sessions: Sessions, capture: str) -> None:
    """Lays out the tab inside the current ``gr.Blocks``.

    Args:
        sessions: opens and finds the sessions.
        capture: ``browser`` or ``local``: whose camera and microphone a turn is taken with.
    """
    token = gr.State("")
    remembered, acknowledged = gr.Textbox(visible=False), gr.Textbox(visible=False)
    identity = html("", "mm-token")
    html(NOTICE + HELP, "mm-dialogs")
    with gr.Row(elem_id="mm-room", equal_height=False):
        with gr.Column(elem_id="mm-left", scale=0, min_width=264):
            html(STAGE, "mm-stage")
            with gr.Row(elem_id="mm-turn-buttons"):
                start = gr.Button("Start turn", elem_id="mm-start", variant="primary", min_width=80)
                end = gr.Button("End turn", elem_id="mm-end", variant="primary", min_width=80)
                html('<button type="button" class="mm-plain" data-page="cancel">Discard</button>', "mm-cancel")
            gr.Checkbox(True, label="End it when speech pauses", elem_id="mm-auto", container=False, interactive=True)
            typed = gr.Textbox(
                label="Or type what the client says", lines=2, max_lines=6, elem_id="mm-typed", submit_btn="Send"
            )
            with gr.Accordion("A clip, or a demo turn", open=False):
                clip = gr.File(
                    label="Clip with picture, sound or both", file_types=["video", "audio", "image"], elem_id="mm-clip",
                    height=96,
                )  # fmt: skip
                play = gr.Button("Next demo turn", elem_id="mm-demo", size="sm")
            with gr.Accordion("Problem and situation", open=False):
                problem = gr.Textbox(label="Problem", placeholder="e.g. work, a partner, health", elem_id="mm-problem-type")
                situation = gr.Textbox(label="Situation", lines=2, elem_id="mm-situation")
        with gr.Column(elem_id="mm-middle", scale=1, min_width=320):
            middle = html("", "mm-now")
            with gr.Row(elem_id="mm-decide"):
                accept = gr.Button("Accept", elem_id="mm-accept", interactive=False, min_width=64, size="md")
                edit = gr.Button("Edit", elem_id="mm-edit", interactive=False, min_width=64, size="md")
                again = gr.Button("Again", elem_id="mm-again", interactive=False, min_width=64, size="md")
                reject = gr.Button("Reject", elem_id="mm-reject", interactive=False, min_width=64, size="md")
                words = gr.Button("Correct words", elem_id="mm-words-open", interactive=False, min_width=112, size="md")
            with gr.Group(visible=False, elem_id="mm-editor") as editor:
                draft = gr.Textbox(label="Reply in your words", lines=3, elem_id="mm-draft")
                with gr.Row():
                    save = gr.Button("Said this", variant="primary", size="sm", elem_id="mm-save")
                    leave = gr.Button("Back", size="sm")
            with gr.Group(visible=False, elem_id="mm-transcript") as transcript:
                corrected = gr.Textbox(label="The client's words", lines=2, elem_id="mm-corrected")
                with gr.Row():
                    use = gr.Button("Use these words", variant="primary", size="sm", elem_id="mm-use")
                    back = gr.Button("Back", size="sm")
            earlier = html("", "mm-earlier", _COMMANDS)
        with gr.Column(elem_id="mm-right", scale=0, min_width=288):
            panel = html("", "mm-panel", _COMMANDS)
    timeline = html("", "mm-timeline")
    with gr.Row(elem_id="mm-foot"):
        note = gr.Textbox(label="Session note", elem_id="mm-note", submit_btn="Add", scale=1)
        exports = html("", "mm-exports")
        # Pressed by the page's script, not by people.
        acknowledge = gr.Button("acknowledge", elem_id="mm-acknowledge", visible="hidden")
        refresh = gr.Button("refresh", elem_id="mm-refresh", visible="hidden")

    screen = Screen(middle, panel, earlier, timeline, accept, edit, again, reject, words)

    def session_of(key: str) -> Session:
        found = sessions.find(key)
        if found is None:
            raise gr.Error("This page's session is gone; reload the page for a new one.", print_exception=False)
        return found

    def doing(act: Callable[..., None]) -> Callable[..., Iterator[list[Any]]]:
        """An event that acts on the session and then shows it; an error on purpose is shown as its sentence."""

        def handler(key: str, *values: Any) -> Iterator[list[Any]]:
            session = session_of(key)
            try:
                act(session, *values)
            except MultiMoodError as error:
                gr.Warning(str(error), title="Not done")
            yield from follow(session)

        return handler

    def opened(hint: str, read: str) -> Iterator[list[Any]]:
        try:
            session = sessions.open(hint or None)
        except MultiMoodError as error:
            raise gr.Error(str(error), print_exception=False) from error
        if read:
            session.acknowledge()
        marks = f'<span data-token="{session.token}" data-capture="{capture}"></span>'
        first = [session.token, marks, _export_links(session.token), session.context.problem, session.context.situation]
        for i, update in enumerate(follow(session)):
            yield [*(first if i == 0 else [gr.skip()] * len(first)), *update]

    def command(key: str, event: gr.EventData) -> Iterator[list[Any]]:
        session = session_of(key)
        try:
            _obey(session, event.command)
        except MultiMoodError as error:
            gr.Warning(str(error), title="Not done")
        yield from follow(session)

    def show(key: str) -> Iterator[list[Any]]:
        yield from follow(session_of(key))

    out = screen.outputs
    load = gr.on(
        None, opened, [remembered, acknowledged], [token, identity, exports, problem, situation, *out],
        js="() => window.multimood.remembered()", **_QUIET,
    )  # fmt: skip
    load.then(None, None, None, js="() => window.multimood.ready()", **_QUIET)
    acknowledge.click(doing(lambda s: s.acknowledge()), token, out, **_QUIET)
    start.click(None, None, None, js="() => window.multimood.start()", **_QUIET).then(show, token, out, **_QUIET)
    refresh.click(show, token, out, **_QUIET)
    end.click(
        doing(lambda s: s.end_capture()), token, out,
        js="async (...values) => { await window.multimood.stop(); return values; }", **_QUIET,
    )  # fmt: skip
    sent = gr.State("")
    typed.submit(lambda text: ("", text), typed, [typed, sent], **_QUIET).then(
        doing(lambda s, text: s.type_turn(text)), [token, sent], out, **_QUIET
    )
    clip.upload(doing(_take_clip), [token, clip], out, **_QUIET).then(lambda: None, None, clip, **_QUIET)
    play.click(doing(_take_demo), token, out, **_QUIET)
    for field in (problem, situation):
        field.blur(lambda key, p, s: session_of(key).describe(p, s), [token, problem, situation], None, **_QUIET)
    accept.click(doing(lambda s: s.accept()), token, out, **_QUIET)
    again.click(doing(lambda s: s.regenerate()), token, out, **_QUIET)
    reject.click(doing(lambda s: s.reject()), token, out, **_QUIET)

    def open_editor(key: str) -> tuple[Any, str]:
        current = session_of(key).current
        return gr.update(visible=True), current.suggestion if current else ""

    def open_words(key: str) -> tuple[Any, str]:
        current = session_of(key).current
        return gr.update(visible=True), (current.words or "") if current else ""

    def hide() -> Any:
        return gr.update(visible=False)

    edit.click(open_editor, token, [editor, draft], **_QUIET).then(None, js=_focus("mm-draft"), **_QUIET)
    save.click(doing(lambda s, text: s.edit(text)), [token, draft], out, **_QUIET).then(hide, None, editor, **_QUIET)
    leave.click(hide, None, editor, **_QUIET)
    words.click(open_words, token, [transcript, corrected], **_QUIET).then(None, js=_focus("mm-corrected"), **_QUIET)
    use.click(hide, None, transcript, **_QUIET).then(
        doing(lambda s, text: s.correct_words(text)), [token, corrected], out, **_QUIET
    )
    back.click(hide, None, transcript, **_QUIET)
    panel.click(command, token, out, **_QUIET)
    earlier.click(command, token, out, **_QUIET)
    note.submit(doing(lambda s, text: s.note(text)), [token, note], out, **_QUIET).then(lambda: "", None, note, **_QUIET)


def _focus(identifier: str) -> str:
    return f"() => {{ document.querySelector('#{identifier} textarea')?.focus(); }}"


def _take_clip(session: Session, path: str) -> None:
    def read() -> Turn:
        try:
            return read_turn(path)
        finally:
            Path(path).unlink(missing_ok=True)  # the upload's copy; nothing of a client is kept on the disk

    session.take(read, "clip")


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


def _export_links(token: str) -> str:
    return (
        '<div class="mm-links">'
        f'<a href="multimood/session/{token}/report.html" target="_blank" rel="noopener">Report to print</a>'
        f'<a href="multimood/session/{token}/session.json" download>Session as JSON</a>'
        '<button type="button" class="mm-plain" data-page="help">Keys <kbd>?</kbd></button></div>'
    )
