"""The Live tab's columns: what stands where. What its buttons do is in ``live``, how a session looks in ``view``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import gradio as gr

from app.theme import html

NOTICE: Final = """<dialog id="mm-notice" aria-labelledby="mm-notice-title"><h2 id="mm-notice-title">Before you begin</h2>
<p><b>You are about to use an AI.</b> MultiMood is a research tool for mental-health professionals, in simulation and
training. It is no medical device and no help in a crisis.</p>
<p>While a turn is open, <b>an AI is reading the camera and the microphone</b>: expressions, voice and words. Make sure that
everybody in the picture knows this and agrees.</p>
<p>What it shows are predictions and may be wrong. No suggested reply counts as said until you accept or edit it. Pictures
and sound stay on the computer that runs the app and are not kept, unless a consent is recorded in the Privacy tab.</p>
<p>A client's words are screened for signs of risk. The screen misses some; it never replaces your own attention.</p>
<p>Some places forbid AI that infers emotions in therapy, at work or in education, or demand that it is disclosed:
<a href="multimood/about/safety#where-it-may-be-used" target="_blank" rel="noopener">where it may be used</a>.</p>
<p><button type="button" class="mm-solid" data-page="acknowledge">I have read this</button></p></dialog>"""

HELP: Final = """<dialog id="mm-help" aria-labelledby="mm-help-title"><h2 id="mm-help-title">Keys</h2><dl class="mm-keys">
<dt><kbd>Space</kbd></dt><dd>start or end the turn</dd><dt><kbd>T</kbd></dt><dd>type what the client says</dd>
<dt><kbd>A</kbd></dt><dd>accept the suggested reply</dd><dt><kbd>E</kbd></dt><dd>edit it</dd>
<dt><kbd>G</kbd></dt><dd>have it written again</dd><dt><kbd>R</kbd></dt><dd>reject it</dd>
<dt><kbd>1</kbd> to <kbd>7</kbd></dt><dd>set the client's expression</dd><dt><kbd>W</kbd></dt><dd>correct the client's words</dd>
<dt><kbd>N</kbd></dt><dd>write a session note</dd><dt><kbd>S</kbd></dt><dd>go to the safety alert</dd>
<dt><kbd>Esc</kbd></dt><dd>leave a field, close what is open</dd>
<dt><kbd>?</kbd></dt><dd>this help</dd></dl>
<p>Letters and digits are keys outside of fields only. In a field, Enter sends and Shift with Enter begins a new line. A label
that you set is confirmed; press it again to take that back.</p>
<p><button type="button" class="mm-plain" data-page="close">Close</button></p></dialog>"""

STAGE: Final = """<div class="mm-stage"><div class="mm-picture"><video id="mm-video" muted playsinline
aria-label="camera"></video>
<img id="mm-local" alt="camera of this computer" hidden><span class="mm-off">camera and microphone are off</span>
<span class="mm-rec"><i></i>an AI is reading · <b id="mm-clock">0:00</b></span></div>
<dl class="mm-live"><dt>face</dt><dd id="mm-face">between turns</dd>
<dt>voice <i id="mm-speaking" title="speech"></i></dt><dd id="mm-voice">between turns</dd></dl>
<p class="mm-small" id="mm-people"></p><p class="mm-small" id="mm-message" role="status"></p></div>"""

# Clicks on what the server drew come back as commands.
_COMMANDS: Final = """element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-do]');
  if (button && !button.disabled) trigger('click', { command: button.dataset.do });
});"""


@dataclass(frozen=True, slots=True)
class ClientColumn:
    """On the left: the camera, and every way in which a client's turn begins."""

    start: gr.Button
    end: gr.Button
    typed: gr.Textbox
    clip: gr.UploadButton
    demo: gr.Button
    problem: gr.Textbox
    situation: gr.Textbox


@dataclass(frozen=True, slots=True)
class Editor:
    """A text with its two ways out, shown when it is asked for, and the number of the turn that it belongs to."""

    group: gr.Group
    turn: gr.Number
    text: gr.Textbox
    save: gr.Button
    leave: gr.Button


@dataclass(frozen=True, slots=True)
class TurnColumn:
    """In the middle: this turn, the decision on its reply, and the turns before it."""

    turn: gr.HTML
    accept: gr.Button
    edit: gr.Button
    again: gr.Button
    reject: gr.Button
    words: gr.Button
    reply_editor: Editor
    words_editor: Editor
    earlier: gr.HTML


@dataclass(frozen=True, slots=True)
class AlertArea:
    """Above all tabs: the alert, and how it is cleared."""

    alert: gr.HTML
    group: gr.Group
    reason: gr.Textbox
    clear: gr.Button


@dataclass(frozen=True, slots=True)
class Foot:
    """At the foot: the session as a whole."""

    timeline: gr.HTML
    note: gr.Textbox
    notes: gr.HTML
    exports: gr.HTML


@dataclass(frozen=True, slots=True)
class Hidden:
    """What the page's script reads and presses, and no person sees.

    The session's key is a field and no ``gr.State``: for a state Gradio keeps one more connection open for each page, and a
    browser has six of them for all pages of a host.
    """

    key: gr.Textbox
    remembered: gr.Textbox
    acknowledged: gr.Textbox
    identity: gr.HTML
    acknowledge: gr.Button
    follow: gr.Button


def hidden() -> Hidden:
    """The dialogs, and the places where page and server leave each other word."""
    html(NOTICE + HELP, "mm-dialogs")
    return Hidden(
        gr.Textbox(visible="hidden"),
        gr.Textbox(visible=False),
        gr.Textbox(visible=False),
        html("", "mm-token"),
        gr.Button("acknowledge", elem_id="mm-acknowledge", visible="hidden"),
        gr.Button("follow", elem_id="mm-follow", visible="hidden"),
    )


def alert_area() -> AlertArea:
    with gr.Column(elem_id="mm-alert-box"):
        alert = html("", "mm-alert-area")
        with gr.Group(visible=False, elem_id="mm-alert-clear") as group, gr.Row():
            reason = gr.Textbox(
                label="What was done, or why it was a false alarm (kept in the session's export)", lines=1, max_lines=4,
                elem_id="mm-alert-reason", scale=1,
            )  # fmt: skip
            clear = gr.Button("Clear the alert", elem_id="mm-alert-button", size="md", min_width=144, scale=0)
    return AlertArea(alert, group, reason, clear)


def client_column() -> ClientColumn:
    with gr.Column(elem_id="mm-left", scale=0, min_width=264):
        html(STAGE, "mm-stage")
        with gr.Row(elem_id="mm-turn-buttons"):
            start = gr.Button("Start turn", elem_id="mm-start", variant="primary", min_width=80)
            end = gr.Button("End turn", elem_id="mm-end", variant="primary", min_width=80)
            html('<button type="button" class="mm-plain" data-page="cancel">Discard</button>', "mm-cancel")
        gr.Checkbox(True, label="End it when speech pauses", elem_id="mm-auto", container=False, interactive=True)
        typed = _text("Or type what the client says", "mm-typed", submit_btn="Send")
        with gr.Row(elem_id="mm-other"):
            clip = gr.UploadButton(
                "Choose a clip", file_types=["video", "audio", "image"], elem_id="mm-clip", size="sm", min_width=96
            )
            demo = gr.Button("Demo turn", elem_id="mm-demo", size="sm", min_width=96)
        with gr.Accordion("Problem and situation", open=False, elem_id="mm-about"):
            problem = gr.Textbox(label="Problem", placeholder="e.g. work, a partner, health", elem_id="mm-problem-type")
            situation = gr.Textbox(label="Situation", lines=2, elem_id="mm-situation")
    return ClientColumn(start, end, typed, clip, demo, problem, situation)


def turn_column() -> TurnColumn:
    with gr.Column(elem_id="mm-middle", scale=1, min_width=320):
        turn = html("", "mm-now")
        with gr.Row(elem_id="mm-decide"):
            accept, edit, again, reject = (
                gr.Button(name, elem_id=f"mm-{name.lower()}", interactive=False, min_width=64, size="md")
                for name in ("Accept", "Edit", "Again", "Reject")
            )
            words = gr.Button("Correct words", elem_id="mm-words-open", interactive=False, min_width=112, size="md")
        reply_editor = _editor("mm-editor", "Reply in your words", "mm-draft", "Said this", "mm-save")
        words_editor = _editor("mm-transcript", "The client's words", "mm-corrected", "Use these words", "mm-use")
        earlier = html("", "mm-earlier", _COMMANDS)
    return TurnColumn(turn, accept, edit, again, reject, words, reply_editor, words_editor, earlier)


def label_column() -> gr.HTML:
    """On the right: the labels, each a button, and how they came about."""
    with gr.Column(elem_id="mm-right", scale=0, min_width=288):
        return html("", "mm-panel", _COMMANDS)


def foot() -> Foot:
    with gr.Column(elem_id="mm-below"):
        timeline = html("", "mm-timeline")
        with gr.Row(elem_id="mm-foot"):
            note = gr.Textbox(
                label="Session note", placeholder="Session note", max_lines=8, elem_id="mm-note", submit_btn="Add",
                container=False, show_label=False, scale=1,
            )  # fmt: skip
            exports = html("", "mm-exports")
        notes = html("", "mm-notes")
    return Foot(timeline, note, notes, exports)


def export_links(token: str) -> str:
    """The session's files, and the help."""
    return (
        '<div class="mm-links">'
        f'<a href="multimood/session/{token}/report.html" target="_blank" rel="noopener">Report to print</a>'
        f'<a href="multimood/session/{token}/session.json" download>Session as JSON</a>'
        '<button type="button" class="mm-plain" data-page="help">Keys <kbd>?</kbd></button></div>'
    )


def _text(label: str, identifier: str, submit_btn: str | bool = False) -> gr.Textbox:
    """A field of several lines. With ``lines=1`` Enter sends; the style sheet gives it the height of more."""
    return gr.Textbox(label=label, lines=1, max_lines=8, elem_id=identifier, submit_btn=submit_btn)


def _editor(identifier: str, label: str, field: str, doing: str, save: str) -> Editor:
    with gr.Group(visible=False, elem_id=identifier) as group:
        text = _text(label, field)
        with gr.Row():
            return Editor(
                group,
                gr.Number(0, precision=0, visible="hidden"),
                text,
                gr.Button(doing, variant="primary", size="sm", elem_id=save),
                gr.Button("Back", size="sm", elem_id=f"{identifier}-back"),
            )
