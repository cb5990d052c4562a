"""Whole turns by the keyboard alone: everything is reached, seen to have the focus, and the focus is never lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page

from app.build import Served
from app.session import Session
from multimood_core.labels import EMOTIONS
from tests.app.browser import Visitor, browser, session_of

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

# What has the focus: the nearest of our ids, the command that it gives, what it is called, and how its ring is drawn.
FOCUSED = """() => { const element = document.activeElement;
  if (!element || element === document.body) return null;
  const style = getComputedStyle(element), box = element.getBoundingClientRect();
  const named = element.labels?.[0] || element;
  return {
    id: element.closest('[id^=mm-]')?.id || '', command: element.dataset.do || '', tag: element.tagName.toLowerCase(),
    name: (element.getAttribute('aria-label') || named.innerText || '').trim(), value: element.value || '',
    ring: style.outlineStyle === 'none' ? 0 : parseFloat(style.outlineWidth),
    seen: box.width > 0 && box.height > 0 && box.bottom > 0 && box.top < innerHeight,
  }; }"""
SETTLED = 400  # ms in which the page gives the focus on


class Keyboard:
    """Someone without a mouse."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def focused(self) -> dict[str, object]:
        """What has the focus; fails where nothing has."""
        found = self.page.evaluate(FOCUSED)
        assert found, "the focus was lost"
        return dict(found)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def to(self, *, id: str = "", command: str = "", tag: str = "", back: bool = False) -> None:
        """Presses Tab until the element with these marks has the focus; each one on the way has a ring and a name."""
        way = []
        for _ in range(90):
            self.press("Shift+Tab" if back else "Tab")
            found = self.page.evaluate(FOCUSED)
            if not found:
                continue  # the browser's own bar stands between the page's end and its beginning
            way.append(found)
            assert found["ring"] >= 2, f"no ring around {found}"
            assert found["name"], f"no name for {found}"
            assert found["seen"], f"out of sight: {found}"
            if all(found[key] == value for key, value in (("id", id), ("command", command), ("tag", tag)) if value):
                return
        pytest.fail(f"Tab does not reach {id or command or tag}: {[(f['id'], f['name']) for f in way]}")

    def rests_on(self, id: str, command: str = "") -> None:
        """After the page has settled, this has the focus."""
        self.page.wait_for_timeout(SETTLED)
        found = self.focused()
        assert (found["id"], found["command"]) == (id, command), found


@pytest.fixture
def visitor(chromium: str, served: Served, devices: tuple) -> Iterator[Visitor]:
    with browser(chromium, *devices) as opened:
        page = opened.new_context(viewport={"width": 1280, "height": 800}).new_page()
        visitor = Visitor(page, served.url)
        yield visitor
        assert not visitor.errors


def until(session: Session, true: Callable[[], bool]) -> None:
    with session.changed:
        assert session.changed.wait_for(true, 200), f"still {session.phase}"


def name_problem(hands: Keyboard, session: Session) -> None:
    """From the note, opens the accordion and types the client's problem at once."""
    hands.to(id="mm-about", tag="button", back=True)
    hands.press("Enter")
    hands.to(id="mm-problem-type")
    hands.page.keyboard.type("work")
    hands.to(id="mm-situation")
    until(session, lambda: bool(session.context.problem))
    assert session.context.problem == "work"


def test_a_session_by_the_keyboard_alone(visitor: Visitor, served: Served) -> None:
    page, hands = visitor.page, Keyboard(visitor.page)
    session = session_of(visitor, served)

    # The notice keeps the focus until it was read.
    hands.press("Escape", "Escape", "Tab", "Tab", "Tab")
    page.wait_for_selector("#mm-notice[open]")
    hands.to(id="mm-notice", tag="button")
    hands.press("Enter")
    page.wait_for_selector("#mm-notice", state="hidden")
    until(session, lambda: session.acknowledged is not None)

    # A typed turn: the field keeps the focus while the page is redrawn around it.
    hands.press("t")
    page.keyboard.type("I cannot sleep")
    hands.press("Shift+Enter")
    page.keyboard.type("since I lost my job.")
    hands.press("Enter")
    visitor.answered()
    hands.rests_on("mm-typed")
    assert hands.focused()["value"] == ""
    current = session.current
    assert current is not None
    assert current.words == "I cannot sleep\nsince I lost my job."

    # A label by key, a label by its button, and one of those that are shown on request.
    hands.press("Escape")
    assert page.evaluate(FOCUSED) is None
    hands.press("7")
    until(session, lambda: current.corrections == {"client_emotion": EMOTIONS[6]})
    joy = f"correct:1:client_emotion:{EMOTIONS[5]}"
    hands.to(command=joy)
    hands.press("Space")
    until(session, lambda: current.corrections == {"client_emotion": EMOTIONS[5]})
    hands.rests_on("mm-panel", joy)
    hands.to(tag="summary")
    hands.press("Enter")
    for _ in range(3):
        hands.press("Tab")
    fourth = str(hands.focused()["command"])
    assert ":strategy:" in fourth
    hands.press("Enter")
    until(session, lambda: current.corrections.get("strategy") == fourth.split(":")[-1])
    hands.rests_on("mm-panel", fourth)  # it moved to the top, and the focus with it

    # Again: the button is disabled while the reply is written, and has the focus when that is done.
    hands.to(id="mm-again", back=True)
    hands.press("Enter")
    until(session, lambda: current.regenerations == 1 and not session.busy)
    hands.rests_on("mm-again")

    # Edit: into the field, back by Escape to where it was opened, and saved by Enter.
    hands.to(id="mm-edit", back=True)
    hands.press("Enter")
    page.wait_for_selector("#mm-draft textarea")
    hands.rests_on("mm-draft")
    hands.press("Escape")
    page.wait_for_selector("#mm-draft", state="hidden")
    hands.rests_on("mm-edit")
    hands.press("Enter")
    page.wait_for_selector("#mm-draft textarea")
    hands.rests_on("mm-draft")
    hands.press("Control+a", "Delete", "Enter")  # nothing is no reply
    page.wait_for_selector(".toast-body")
    hands.rests_on("mm-draft")
    page.keyboard.type("You lie awake.")
    hands.press("Enter")
    until(session, lambda: current.said == "You lie awake.")
    page.wait_for_selector("#mm-draft", state="hidden")
    hands.rests_on("mm-typed")  # where the next turn begins

    # The client's words.
    hands.press("Escape", "w")
    page.wait_for_selector("#mm-corrected textarea")
    hands.rests_on("mm-corrected")
    hands.press("Control+a")
    page.keyboard.type("I cannot sleep.")
    hands.press("Enter")
    until(session, lambda: current.words == "I cannot sleep.")
    page.wait_for_selector("#mm-corrected", state="hidden")
    hands.rests_on("mm-words-open")

    # Help and a note.
    hands.press("?")
    page.wait_for_selector("#mm-help[open]")
    assert hands.focused()["id"] == "mm-help"
    hands.press("a", "n", "Escape")
    page.wait_for_selector("#mm-help", state="hidden")
    hands.rests_on("mm-words-open")
    hands.press("n")
    page.keyboard.type("tired")
    hands.press("Enter")
    until(session, lambda: [note.text for note in session.notes] == ["tired"])
    hands.rests_on("mm-note")

    # What stands behind an accordion.
    name_problem(hands, session)

    # A turn of the demo and its rejection; the earlier turn's labels stay where they are.
    hands.to(id="mm-demo", back=True)
    hands.press("Enter")
    until(session, lambda: len(session.exchanges) == 2 and not session.busy)
    hands.rests_on("mm-demo")
    hands.to(command="correct:1:client_emotion:fear")
    hands.press("Space")
    until(session, lambda: current.corrections["client_emotion"] == "fear")
    hands.rests_on("mm-earlier", "correct:1:client_emotion:fear")
    hands.to(id="mm-reject", back=True)
    hands.press("Space")
    second = session.exchanges[1]
    until(session, lambda: second.decision == "rejected")
    hands.rests_on("mm-demo")

    # Camera and microphone: the button that ends the turn stands where the one that began it stood.
    hands.to(id="mm-auto", tag="input", back=True)
    hands.press("Space")
    hands.to(id="mm-start", back=True)
    hands.press("Enter")
    page.wait_for_selector("#mm-end:visible")
    hands.rests_on("mm-end")
    page.wait_for_timeout(3000)
    hands.press("Enter")
    page.wait_for_selector("#mm-start:visible")
    until(session, lambda: len(session.exchanges) == 3 and not session.busy)
    hands.rests_on("mm-start")

    # The files.
    hands.to(id="mm-exports", tag="a")
    hands.press("Tab")
    with page.expect_download() as download:
        hands.press("Enter")
    assert download.value.suggested_filename.endswith(".json")


def test_what_is_typed_as_soon_as_its_field_is_there_is_kept_on_a_slow_computer(visitor: Visitor, served: Served) -> None:
    visitor.acknowledge()
    page, hands = visitor.page, Keyboard(visitor.page)
    session = session_of(visitor, served)
    page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": 15})
    page.focus("#mm-note textarea")
    name_problem(hands, session)


def test_keys_of_this_tab_rest_while_another_is_shown(visitor: Visitor, served: Served) -> None:
    visitor.acknowledge()
    page, hands = visitor.page, Keyboard(visitor.page)
    session = session_of(visitor, served)
    page.focus("#mm-tab-live-button")
    hands.press("ArrowRight")
    page.wait_for_selector("#mm-room", state="hidden")
    assert hands.focused()["name"] == "Compare"
    page.evaluate("() => document.activeElement.blur()")
    hands.press("Space", "t", "?")
    page.wait_for_timeout(SETTLED)
    assert not page.is_visible("#mm-help")
    assert session.phase == "ready"
    page.focus("#mm-tab-privacy-button")
    hands.press("ArrowRight")  # from the last to the first
    page.wait_for_selector("#mm-room")
    hands.press("?")
    page.wait_for_selector("#mm-help[open]")


def test_an_open_turn_goes_on_and_is_said_while_another_tab_is_shown(visitor: Visitor, served: Served) -> None:
    visitor.acknowledge()
    page = visitor.page
    session = session_of(visitor, served)
    page.uncheck("#mm-auto input")
    page.locator("body").press(" ")
    page.wait_for_selector("#mm-end:visible")
    page.click("#mm-tab-annotate-button")
    page.wait_for_selector("#mm-room", state="hidden")
    assert page.is_visible("#mm-top .mm-air")
    buffer = session.buffer
    assert buffer is not None
    before = buffer.counts
    page.wait_for_timeout(1500)
    assert (buffer.counts.samples, buffer.counts.frames) > (before.samples, before.frames)
    page.click("#mm-tab-live-button")
    page.wait_for_selector("#mm-video:visible")
    assert not page.is_visible("#mm-stage .mm-off")
    page.click("[data-page=cancel]")
    page.wait_for_selector("#mm-start:visible")
    until(session, lambda: session.phase == "ready")
    assert not page.is_visible("#mm-top .mm-air")
