"""The Compare tab in a real browser, on two shipped checkpoints: streamed replies, a blind vote, a batch, files."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from app.build import Served
from app.compare import places
from app.compare.votes import KEYS
from multimood_core import registry
from multimood_core.dialogues import write_dialogues
from tests.app.browser import Visitor, browser
from tests.app.compare.conftest import made_dialogues

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
NAMES = ("mini-sft", "mini-grpo")
THIRD = "mini-ppo"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for votes and batches, and no data set."""
    if missing := {*NAMES, THIRD} - set(registry.available()):
        pytest.skip(f"no checkpoint {', '.join(sorted(missing))}")
    monkeypatch.setenv(places.KEPT, str(tmp_path / "kept"))
    monkeypatch.setenv(places.DATA, str(tmp_path / "data"))
    return tmp_path / "kept"


def test_two_checkpoints_are_compared_judged_blind_and_exported(
    chromium: str, served: Served, kept: Path, tmp_path: Path
) -> None:
    with browser(chromium, None, None) as opened:
        visitor = Visitor(opened.new_context(viewport={"width": 1280, "height": 900}).new_page(), served.url)
        visitor.acknowledge()
        page, told = visitor.page, list[dict[str, Any]]()
        page.on("response", lambda answer: "/comparison/" in answer.url and told.append(answer.json()))
        open_tab(page)
        page.fill("#mm-c-words", "x" * 100_000)
        page.click("#mm-c-start")
        page.wait_for_selector("#mm-c-message.mm-problem")
        assert "at most 4,000 characters, got 100,000" in page.inner_text("#mm-c-message")
        compare_open(page, told)
        compare_blind(page, told, kept)
        vote_on_three(page, kept)
        run_batch(page, tmp_path)
        page.set_viewport_size({"width": 400, "height": 844})
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 400
        assert not visitor.elsewhere, "the page asked another host"
        assert not visitor.errors


def open_tab(page: Page) -> None:
    page.get_by_role("tab", name="Compare").click()
    page.wait_for_selector("#mm-c-form")


def begin(page: Page, blind: bool, names: tuple[str, ...] = NAMES) -> None:
    """Checkpoints on one typed turn."""
    page.fill("#mm-c-words", "Nobody calls any more, and I have stopped picking up when they do.")
    page.set_checked("#mm-c-blind", blind)
    for label in page.locator("#mm-c-form .mm-c-systems label").all():
        label.locator("input").set_checked(label.inner_text().split(" ")[0] in names)
    page.eval_on_selector("#mm-c-form .mm-c-more", "(more) => { more.open = true; }")
    page.locator("#mm-c-form").get_by_label("most tokens").fill("40")
    page.click("#mm-c-start")


def names_of(page: Page) -> list[str]:
    page.wait_for_selector(".mm-c-columns .mm-c-name")
    return page.locator(".mm-c-columns .mm-c-name").all_inner_texts()


def compare_open(page: Page, told: list[dict[str, Any]]) -> None:
    """Both replies grow while they are written; a reload in the middle loses nothing."""
    begin(page, blind=False)
    page.wait_for_selector(".mm-c-columns .mm-cursor")
    page.reload()
    open_tab(page)
    page.wait_for_selector(".mm-c-status >> text=Done")
    assert sorted(names_of(page)) == sorted(NAMES)
    for place in (0, 1):
        texts = ["".join(part for part, _ in found["columns"][place]["reply"]) for found in told]
        parts = [text for text in texts if text and text != texts[-1]]
        assert parts, "the reply came at once"
        assert all(texts[-1].startswith(text) for text in parts)
    assert page.locator(".mm-c-rewards .mm-c-strong .mm-value").count() == 2
    told.clear()


def compare_blind(page: Page, told: list[dict[str, Any]], kept: Path) -> None:
    begin(page, blind=True)
    page.wait_for_selector("#mm-c-vote")
    assert told
    sent = json.dumps(told)
    assert not [name for name in NAMES if name in sent or name in page.inner_text("#mm-c-shown")], "a name before the vote"
    assert [column.get_attribute("data-key") for column in page.locator(".mm-c-columns article").all()] == ["A", "B"]
    page.locator("body").press("1")
    page.reload()  # what was chosen is still chosen
    open_tab(page)
    page.wait_for_selector("#mm-c-vote [data-key=fluency] [aria-checked=true]")
    page.get_by_label("Keep the words with the vote").check()
    page.locator("#mm-c-vote h3").click()  # the keys are the vote's again
    for _ in KEYS:
        page.locator("body").press("1")
    page.locator("body").press("Enter")
    names = names_of(page)
    assert sorted(names) == sorted(NAMES)
    (line,) = (kept / "votes.jsonl").read_text().splitlines()
    assert [one["name"] for one in json.loads(line)["systems"]] == names
    page.click("summary:has-text('Ranking by blind votes')")
    page.wait_for_selector(".mm-c-ranked")
    assert "never won or tied" in page.inner_text("#mm-c-ranking")
    assert json.loads(taken(page, "#mm-c-ranking", "All votes")) == json.loads(line)
    pair = json.loads(taken(page, "#mm-c-ranking", "Preference pairs"))
    assert (pair["chosen_system"], pair["rejected_system"]) == tuple(names)
    assert pair["chosen"] != pair["rejected"]


def vote_on_three(page: Page, kept: Path) -> None:
    """Places are given by keys alone, from the first system of the first criterion to the last one's last."""
    begin(page, blind=True, names=(*NAMES, THIRD))
    page.wait_for_selector("#mm-c-vote select")
    page.locator("#mm-c-vote h3").click()
    for _ in KEYS:
        for key in "122":
            page.locator("body").press(key)
    page.locator("body").press("ArrowLeft")
    page.locator("body").press("3")  # the second system of the last criterion after all
    page.locator("body").press("Enter")
    names_of(page)
    ranks = json.loads((kept / "votes.jsonl").read_text().splitlines()[-1])["ranks"]
    assert [tuple(row) for row in ranks.values()] == [(1, 2, 2)] * (len(KEYS) - 1) + [(1, 3, 2)]


def run_batch(page: Page, folder: Path) -> None:
    """A broken file is refused with its line; a good one is cancelled, gone on with, and gives a table and files."""
    page.click("summary:has-text('A whole data set')")
    page.wait_for_selector("#mm-c-batch-form")
    (folder / "mine.jsonl").write_text("{broken\n")
    page.set_input_files("#mm-c-upload", folder / "mine.jsonl")
    page.wait_for_selector("#mm-c-message.mm-problem")
    assert "mine.jsonl, line 1" in page.inner_text("#mm-c-message")
    write_dialogues(folder / "good.jsonl", made_dialogues(3))
    page.set_input_files("#mm-c-upload", folder / "good.jsonl")
    page.wait_for_selector("#mm-c-batch-form >> text=3 dialogues, 6 items")
    page.eval_on_selector("#mm-c-batch-form .mm-c-more", "(more) => { more.open = true; }")
    page.locator("#mm-c-batch-form").get_by_label("most tokens").fill("12")
    for label in page.locator("#mm-c-batch-form .mm-c-systems label").all():
        label.locator("input").set_checked(label.inner_text().split(" ")[0] in NAMES)
    page.click("#mm-c-batch-start")
    page.click(".mm-c-batch button:has-text('Cancel')")
    page.wait_for_selector(".mm-c-batch button:has-text('Go on')")
    done = int(page.inner_text(".mm-c-batch .mm-c-count").split(" of ")[0])
    assert done < 12, "it was over before it could be cancelled"
    page.click(".mm-c-batch button:has-text('Go on')")
    page.wait_for_selector(".mm-c-batch table")
    assert set(page.locator(".mm-c-batch tbody th").all_inner_texts()) == set(NAMES)
    left = [place["x"] for head in page.locator(".mm-c-batch thead th").all() if (place := head.bounding_box())]
    assert left == sorted(left), "the columns stand in another order than they are read in"
    rows = list(csv.DictReader(io.StringIO(taken(page, ".mm-c-batch", "CSV"))))
    assert [row["item"] for row in rows] == [f"test-{n}/{k}" for n in range(3) for k in (0, 2)] * 2
    whole = json.loads(taken(page, ".mm-c-batch", "JSON"))
    assert [len(system["items"]) for system in whole["systems"]] == [6, 6]
    for line in taken(page, ".mm-c-batch", "Preference pairs").splitlines():
        assert {json.loads(line)["chosen_system"], json.loads(line)["rejected_system"]} == set(NAMES)


def taken(page: Page, place: str, button: str) -> str:
    """The text of a file that a button saves."""
    with page.expect_download() as download:
        page.click(f"{place} button:has-text('{button}')")
    return download.value.path().read_text(encoding="utf-8")
