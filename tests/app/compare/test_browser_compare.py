"""The Compare tab in a real browser: a blind comparison judged by keys, names after the lock alone, a reload loses nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Page

from app import build
from app.build import Served, serving
from app.compare.api import CompareApi
from app.compare.votes import KEYS
from multimood_core.engine import Engine
from tests.app.browser import Visitor, browser
from tests.app.compare.conftest import OTHER, cheap_rewards

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
NAMES = ("tiny", OTHER)


@pytest.fixture
def served(engine: Engine, kept: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(build, "CompareApi", partial(CompareApi, rewards=cheap_rewards))
    with serving(engine, port=0) as served:
        yield served


def open_tab(page: Page) -> None:
    page.get_by_role("tab", name="Compare").click()
    page.wait_for_selector("#mm-c-form")


def fill(page: Page, blind: bool) -> None:
    page.fill("#mm-c-words", "Nobody calls any more.")
    page.set_checked("#mm-c-blind", blind)
    page.locator("#mm-c-form details summary").click()
    page.get_by_label("most tokens").first.fill("12")
    page.click("#mm-c-start")


def test_two_checkpoints_are_judged_blind_by_keys_and_named_after_the_lock(
    chromium: str, served: Served, kept: Path
) -> None:
    with browser(chromium, None, None) as opened:
        visitor = Visitor(opened.new_context(viewport={"width": 1280, "height": 900}).new_page(), served.url)
        visitor.acknowledge()
        page, told = visitor.page, list[str]()
        open_tab(page)
        page.on("response", lambda answer: "/comparison/" in answer.url and told.append(answer.text()))
        fill(page, blind=True)
        page.wait_for_selector("#mm-c-vote")
        assert told
        assert not [text for text in told if any(f'"{name}"' in text for name in NAMES)], "a name was sent before the vote"
        shown = page.inner_text("#mm-c-shown")
        assert not [name for name in NAMES if name in shown]
        assert [page.locator(".mm-c-columns article").nth(i).get_attribute("data-key") for i in (0, 1)] == ["A", "B"]
        page.locator("body").press("1")
        page.reload()  # what was chosen is still chosen
        open_tab(page)
        page.wait_for_selector("#mm-c-vote [data-key=fluency] [aria-checked=true]")
        page.wait_for_timeout(100)
        for _ in KEYS:
            page.locator("body").press("1")
        page.locator("body").press("Enter")
        page.wait_for_selector(".mm-c-columns .mm-c-name")
        names = page.locator(".mm-c-columns .mm-c-name").all_inner_texts()
        assert sorted(names) == sorted(NAMES)
        (line,) = (kept / "votes.jsonl").read_text().splitlines()
        assert [one["name"] for one in json.loads(line)["systems"]] == names
        page.reload()
        open_tab(page)
        page.wait_for_selector(".mm-c-columns .mm-c-name")
        assert page.locator(".mm-c-columns .mm-c-name").all_inner_texts() == names
        page.click("summary:has-text('Ranking by blind votes')")
        page.wait_for_selector(".mm-c-ranked")
        assert "never won or tied" in page.inner_text("#mm-c-ranking")
        assert not visitor.elsewhere, "the page asked another host"
        assert not visitor.errors

