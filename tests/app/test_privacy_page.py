"""The Privacy tab in a real browser: a consent and its end by the keyboard alone, and nothing of a person left on the screen."""

from __future__ import annotations

from typing import Any

import pytest

from app.build import Served
from tests.app.browser import Visitor, browser, session_of
from tests.app.test_keyboard import Keyboard

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

SAID = "My brother sold the piano without a word."
PERSON = "Person Eleven"


def test_a_consent_and_its_end_by_the_keyboard_alone(chromium: str, served: Served) -> None:
    keeper = served.custody.keeper
    with browser(chromium, None, None) as opened:
        size: Any = {"width": 1280, "height": 800}
        visitor = Visitor(opened.new_context(viewport=size).new_page(), served.url)
        visitor.acknowledge()
        page, hands, session = visitor.page, Keyboard(visitor.page), session_of(visitor, served)
        page.fill("#mm-typed textarea", SAID)
        page.keyboard.press("Enter")
        visitor.answered()
        page.click("#mm-accept")
        visitor.decided()
        page.focus("#mm-tab-live-button")
        hands.press("ArrowLeft")
        page.wait_for_selector("#mm-privacy .mm-card")
        if page.locator("#mm-make-key").count():
            hands.to(id="mm-make-key")
            hands.press("Enter")
            page.wait_for_selector("#mm-consent-person")

        # Nothing is agreed to before it is ticked; what is ticked can be seen to be.
        assert not page.locator("#mm-privacy .mm-agree input:checked").count()
        hands.to(id="mm-consent-person")
        page.keyboard.type(PERSON)
        hands.to(id="mm-agree-transcript")
        hands.press("Space")
        drawn = page.eval_on_selector_all(".mm-agree input", "all => all.map((e) => getComputedStyle(e).appearance)")
        assert drawn == ["auto"] * 3, "the browser draws the tick; Gradio's own is white on white here"
        assert page.locator("#mm-privacy .mm-agree input:checked").count() == 1
        hands.to(id="mm-keep")
        hands.press("Enter")
        page.wait_for_selector("[data-kept]")
        hands.rests_on("mm-privacy-message")
        (kept,) = [one for one in keeper.kept() if one.label == PERSON]
        assert set(kept.consents) == {"transcript"}
        assert SAID not in page.inner_text("#mm-privacy"), "what is kept is shown once it is asked for"

        hands.to(id=f"mm-open-{kept.id}")
        hands.press("Enter")
        page.wait_for_selector(".mm-words-kept")
        assert SAID in page.inner_text(".mm-words-kept")
        hands.rests_on(f"mm-open-{kept.id}")
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
        page.set_viewport_size(size)

        # Taking back stops at once; deletion is offered, asked once more, and can be left.
        hands.to(id=f"mm-revoke-{kept.id}-transcript", back=True)
        hands.press("Enter")
        page.wait_for_selector(f"#mm-clear-{kept.id}")
        assert not kept.stands("transcript")
        hands.to(id=f"mm-clear-{kept.id}")
        hands.press("Enter")
        hands.rests_on(f"mm-clear-{kept.id}-yes")
        hands.press("Escape")
        hands.rests_on(f"mm-clear-{kept.id}")
        assert "transcript" in keeper.parts(kept.id)
        hands.press("Enter", "Enter")
        page.wait_for_selector(f"#mm-clear-{kept.id}", state="detached")
        hands.rests_on("mm-privacy-message")
        assert keeper.parts(kept.id) == {}

        # The person goes with this page's own session: it is loaded anew, and shows no word any more.
        hands.to(id=f"mm-person-{kept.id}")
        hands.press("Enter")
        hands.rests_on(f"mm-person-{kept.id}-yes")
        hands.press("Enter")
        page.wait_for_function("(words) => !document.body.innerText.includes(words)", arg=SAID)
        assert served.sessions.find(session.token) is None
        assert PERSON not in [one.label for one in keeper.kept()]
        assert not visitor.errors
        assert not visitor.elsewhere
