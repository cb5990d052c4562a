"""Both tabs in a real browser, by keyboard, on one start: compare, take along, follow a run, read a card."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from app import build
from app.build import Served, serving
from multimood_core.engine import Engine
from tests.app.browser import Visitor, browser
from tests.app.evaluate.folders import make

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


@pytest.fixture
def served(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    found = make(tmp_path)
    monkeypatch.setattr(build, "places", lambda: found)
    with serving(engine, port=0) as served:
        yield served


def press(page: Page, selector: str, key: str) -> None:
    page.focus(selector)
    page.keyboard.press(key)


def fits(page: Page) -> bool:
    return page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_reports_and_runs_by_keyboard(chromium: str, served: Served, tmp_path: Path) -> None:
    with browser(chromium, None, None) as opened:
        visitor = Visitor(opened.new_page(), served.url)
        visitor.acknowledge()
        page = visitor.page
        compare_two(page)
        follow_runs(page, tmp_path / "runs" / "grpo" / "metrics.jsonl")
        page.set_viewport_size({"width": 390, "height": 844})
        assert fits(page), "Runs is wider than a telephone"
        page.get_by_role("button", name="More tabs").click()
        page.get_by_role("button", name="Evaluate", exact=True).click()
        page.wait_for_selector("#mm-evaluate .mm-e-list", state="visible")
        assert fits(page), "Evaluate is wider than a telephone"
        assert page.evaluate("() => window.hurt") is None, "words of a file became markup"
        assert not visitor.errors
        assert not visitor.elsewhere


def compare_two(page: Page) -> None:
    press(page, "#mm-tabs [role=tab] >> text=Evaluate", "Enter")
    page.wait_for_selector("#mm-evaluate .mm-e-list")
    assert page.inner_text("#mm-evaluate .mm-e-problems summary").startswith("2 files")
    page.select_option("#mm-evaluate [data-filter=data]", "mesc")
    assert page.inner_text("#mm-evaluate [data-count]") == "2 of 3"
    press(page, "#mm-evaluate th:has-text('report') button", "Enter")
    names = page.locator("#mm-evaluate tbody tr:visible [data-open]").all_inner_texts()
    assert names == ["after", "before"]
    for name in names:
        press(page, f"#mm-evaluate [aria-label='compare {name}']", "Space")
    press(page, "#mm-evaluate [data-compare]", "Enter")
    page.wait_for_selector("#mm-evaluate .pair svg")
    document = page.inner_text("#mm-evaluate [data-document]")
    assert "A after RL (mesc, gold-history) and B before RL" in document
    assert "+40.00" in document
    assert page.evaluate("() => document.activeElement.matches('#mm-evaluate [data-document]')")
    for kind in ("json", "zip", "html"):
        with page.expect_download() as download:
            press(page, f"#mm-evaluate [data-file$={kind}]", "Enter")
        assert download.value.suggested_filename == f"after-and-before.{kind}"
    assert page.locator("#mm-evaluate .mm-problem").count() == 0
    press(page, "#mm-evaluate [data-close]", "Enter")
    assert page.evaluate("() => document.activeElement.matches('[data-compare]')"), "the focus is where it came from"
    press(page, "#mm-evaluate [data-open]:visible", "Enter")
    page.wait_for_selector("#mm-evaluate figure svg")
    page.wait_for_function("() => document.querySelector('#mm-evaluate .mm-e-problems').textContent.includes('no whole JSON')")


def follow_runs(page: Page, metrics: Path) -> None:
    press(page, "#mm-tabs [role=tab] >> text=Runs", "Enter")
    page.wait_for_selector("#mm-runs [data-checkpoint]")
    press(page, "#mm-runs [data-checkpoint]", "Enter")
    page.wait_for_selector("#mm-runs .mm-e-card")
    assert page.locator("#mm-runs .mm-e-chain li").count() == 3
    assert "the same files are on this computer" in page.inner_text("#mm-runs .mm-e-chain")
    assert page.locator("#mm-runs .mm-e-card :is(img, script)").count() == 0
    press(page, "#mm-runs [data-close]", "Enter")
    for name in ("runs/sft", "runs/grpo"):
        press(page, f"#mm-runs [aria-label='show {name}']", "Space")
    page.wait_for_selector("#mm-runs [data-curves] [aria-label^='reward'] svg")
    assert page.locator("#mm-runs [aria-label=loss] tbody tr").count() == 2
    press(page, "#mm-runs [data-window]", "ArrowRight")
    page.wait_for_selector("#mm-runs th:has-text('mean of 21')")
    with metrics.open("a") as file:
        file.write(json.dumps({"step": 41, "reward": 0.8765}) + "\n")
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")  # or ten seconds later
    page.wait_for_selector("#mm-runs td:has-text('0.8765')")
