"""Accounts in a real browser: signing in and out by the page's own forms, and one tab that two people use one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from app import access
from app.build import Served
from tests.app.browser import PATIENCE, browser
from tests.app.test_door import PASSWORD, certificate, locked_app

__all__ = ["certificate", "locked_app"]  # fixtures

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

SAID = "My brother sold the piano without a word."


def sign_in(page: Page, name: str, password: str = PASSWORD) -> None:
    page.wait_for_function("() => document.activeElement?.name === 'name'")
    page.keyboard.type(name)
    page.keyboard.press("Tab")
    page.keyboard.type(password)
    page.keyboard.press("Enter")


def token(page: Page) -> str:
    return str(page.evaluate("() => sessionStorage.getItem('multimood.session')"))


def test_two_people_use_one_tab_one_after_the_other(
    chromium: str, locked_app: Served, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with browser(chromium, None, None) as opened:
        size: Any = {"width": 390, "height": 844}
        page = opened.new_context(viewport=size, ignore_https_errors=True).new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(locked_app.url)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
        sign_in(page, "carl", "not the right one")
        page.wait_for_selector("[role=alert]:has-text('do not belong together')")
        sign_in(page, "carl")  # a page that refused once takes the next try
        page.wait_for_selector("#mm-notice[open]")
        page.click("#mm-notice [data-page=acknowledge]")
        page.wait_for_selector("#mm-notice", state="hidden")
        page.fill("#mm-typed textarea", SAID)
        page.keyboard.press("Enter")
        page.wait_for_selector("#mm-accept:not([disabled])")
        carls = token(page)
        assert locked_app.sessions.find(carls) is not None

        # What is open is told when the sign-in has ended, and nothing is done any more.
        with monkeypatch.context() as ended:
            ended.setattr(access, "LONGEST", -1.0)
            page.fill("#mm-typed textarea", "And then?")
            page.keyboard.press("Enter")
            page.wait_for_selector(".toast-body:has-text('not signed in any more')")
            page.goto(locked_app.url)
            page.wait_for_selector("input[name=name]")

        sign_in(page, "clara")  # while his sign-in counts again, as in a second tab
        page.wait_for_selector("#mm-notice[open]")  # she has not read it
        page.wait_for_function("(before) => ![null, before].includes(sessionStorage.getItem('multimood.session'))", arg=carls)
        assert SAID not in page.inner_text("body")
        page.click("#mm-notice [data-page=acknowledge]")
        page.set_viewport_size({"width": 1280, "height": 800})
        page.get_by_role("tab", name="Privacy").click()
        page.get_by_role("button", name="Sign out clara").click()
        page.wait_for_selector("input[name=name]")
    assert [turn.words for turn in locked_app.sessions.open(carls, "carl").exchanges] == [SAID], "his is still his"
    assert locked_app.sessions.open(carls, "clara").token != carls
