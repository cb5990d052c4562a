"""A safety alert in a real browser: seen on every tab, reached by the keyboard, there after a reload, gone when it is cleared."""

from __future__ import annotations

from typing import Any

import pytest

from app.build import Served
from tests.app.browser import Visitor, browser, session_of

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


def test_an_alert_cannot_be_missed_and_stays_until_it_is_cleared(chromium: str, served: Served) -> None:
    with browser(chromium, None, None) as opened:
        size: Any = {"width": 390, "height": 844}
        visitor = Visitor(opened.new_context(viewport=size).new_page(), served.url)
        visitor.acknowledge()
        page = visitor.page
        session = session_of(visitor, served)
        page.fill("#mm-typed textarea", "I want to die.")
        page.click("#mm-typed button")
        page.wait_for_selector("#mm-alert-area [role=alert]")
        visitor.answered()
        assert "Safety alert" in page.title()
        assert page.locator("#mm-now .mm-prepared dt").count() == 4
        assert page.is_disabled("#mm-again")
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
        for tab in page.locator("#mm-tabs [role=tab]").all():
            tab.click()
            assert page.is_visible("#mm-alert-title"), tab.inner_text()
        strip = page.locator(".mm-alert-strip")
        strip.wait_for(state="hidden")  # it covers nothing while the alert itself is in sight
        page.get_by_role("tab", name="Live").click()
        page.evaluate("() => scrollTo(0, document.body.scrollHeight)")
        strip.wait_for(state="visible")
        assert strip.evaluate("e => getComputedStyle(e).position") == "fixed"
        page.reload()
        page.wait_for_selector("#mm-alert-area [role=alert]")
        page.locator("body").press("s")
        page.wait_for_function("() => document.activeElement.closest('#mm-alert-reason')")
        page.keyboard.press("Enter")
        page.wait_for_selector(".toast-body")
        assert session.guard.standing, "without a reason it stays"
        page.keyboard.type("Spoke with her; her sister is with her.")
        page.keyboard.press("Enter")
        page.wait_for_selector("#mm-alert-area [role=alert]", state="detached")
        page.wait_for_function("() => !document.title.includes('alert')")
        assert not session.guard.standing
        assert not page.is_visible("#mm-alert-clear")
        assert not visitor.errors
        assert not visitor.elsewhere
