"""A whole study through a real browser: set-up, four raters with training and gate, adjudication, agreement, files."""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import krippendorff
import numpy as np
import pytest
from playwright.sync_api import Browser, Page
from statsmodels.stats import inter_rater

from app.build import Served, serving
from multimood_core.engine import Engine
from tests.app.browser import Visitor, browser
from tests.app.studies.scene import KEYS, PASSWORD, gate_gold, line

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
ITEMS, GATE, POOL = 4, 5, 12
CODES = {"win": 0, "tie": 1, "loss": 2}
PRESS = {"win": "1", "tie": "2", "loss": "3"}


@pytest.fixture
def served(engine: Engine, database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("MULTIMOOD_DATABASE_URL", database)
    with serving(engine, port=0) as served:
        yield served


@pytest.fixture(scope="module")
def opened(chromium: str) -> Iterator[Browser]:
    """One Chromium for both databases."""
    with browser(chromium, None, None) as opened:
        yield opened


def upload(folder: Path) -> Path:
    """Items of which the left response is recognised by its first word, so that a rater of the test can have opinions."""
    lines = [line(f"item-{i}", {"one": f"Left words for item {i}.", "two": f"Right words for item {i}."}) for i in range(ITEMS)]
    for i in range(POOL):
        lines.append(line(f"gate-{i}", {"x": f"Left words, gate {i}.", "y": f"Right words, gate {i}."}, gate_gold(i)))
    path = folder / "items.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def opinion(rater: int, item: int) -> dict[str, str]:
    """What the test's raters think of the left response; they differ so that a third and a fourth are needed."""
    verdicts = {key: ("win", "tie", "loss")[(item + i) % 3] for i, key in enumerate(KEYS)}
    if item % 2:
        verdicts["comfort"] = ("win", "loss", "tie", "loss")[rater]
    if item % 3 == 0 and rater == 1:
        verdicts["overall"] = ("tie", "loss", "win")[(item + 4) % 3]
    return verdicts


def open_tab(page: Page) -> None:
    page.get_by_role("tab", name="Annotate").click()
    page.wait_for_selector("#mm-studies form, #mm-studies .mm-list")


def make_account(page: Page, name: str) -> None:
    page.fill("#mm-studies input[name=name]", name)
    page.fill("#mm-studies input[name=password]", PASSWORD)
    page.click("#mm-studies form .mm-solid")
    page.wait_for_selector("#mm-studies .mm-list")


def state_of(page: Page) -> tuple[str, str]:
    """What stands before the rater: ``begin``, ``judge`` with the client's words, or ``rest``."""
    page.wait_for_selector("#mm-begin, #mm-criteria, #mm-resting")
    if page.locator("#mm-begin").count():
        return "begin", ""
    if page.locator("#mm-criteria").count():
        return "judge", page.inner_text("#mm-studies .mm-turns p:last-child")
    return "rest", ""


def judge(page: Page, verdicts: dict[str, str]) -> None:
    """By keys alone, in the places in which this rater sees the two."""
    left_is_a = page.inner_text("#mm-studies .mm-response:first-child p").startswith("Left")
    turned = {"win": "loss", "loss": "win", "tie": "tie"}
    page.keyboard.type("".join(PRESS[verdicts[key] if left_is_a else turned[verdicts[key]]] for key in KEYS))
    page.evaluate("() => { document.querySelector('#mm-criteria').id = 'mm-done'; }")
    page.keyboard.press("Enter")
    page.wait_for_selector("#mm-feedback .mm-explained, #mm-criteria, #mm-begin, #mm-resting")
    if page.locator("#mm-feedback .mm-explained").count():
        page.keyboard.press("Enter")


def work(page: Page, rater: int, careless_rounds: int = 0, most: int = 200) -> int:
    """Goes on until nothing is left; returns how many official items were judged."""
    official, phase = 0, ""
    for _ in range(most):
        kind, words = state_of(page)
        if kind == "rest":
            break
        if kind == "begin":
            page.keyboard.press("Enter")
            page.wait_for_selector("#mm-criteria")
            continue
        phase = page.inner_text("#mm-studies .mm-bar-top b")
        gate, item = re.search(r"gate-(\d+)", words), re.search(r"item-(\d+)", words)
        if gate:
            again = re.search(r"round (\d)", page.inner_text("#mm-studies .mm-bar-top"))
            careless = (int(again[1]) if again else 1) <= careless_rounds
            judge(page, dict.fromkeys(KEYS, "tie") if careless else gate_gold(int(gate[1])))
        elif item:
            assert phase == "study"
            judge(page, opinion(rater, int(item[1])))
            official += 1
        else:
            judge(page, dict.fromkeys(KEYS, "tie"))
    return official


def undone(page: Page, then: str) -> None:
    """Takes the last judgment back and gives it again, which adds a row and changes nothing; ``then`` is what follows."""
    page.keyboard.press("u")
    page.wait_for_function("() => document.querySelector('#mm-studies-message').textContent.includes('earlier item')")
    chosen = page.locator("#mm-criteria [aria-checked=true]")
    assert chosen.count() == len(KEYS), "what was chosen stands there"
    page.evaluate("() => { document.querySelector('#mm-criteria').id = 'mm-done'; }")
    page.click("#mm-done .mm-criterion:last-child [aria-checked=true]")
    page.keyboard.press("Enter")  # goes on also where the mouse has left the focus on an answer
    page.wait_for_selector(then)


def reminded(page: Page, rater: int) -> None:
    """After half an hour of work the next judgment brings a break up, which stays until it is answered."""
    page.evaluate("() => { const now = performance.now.bind(performance); performance.now = () => now() + 31 * 60000; }")
    _, words = state_of(page)
    found = re.search(r"item-(\d+)", words)
    assert found
    judge(page, opinion(rater, int(found[1])))
    page.wait_for_selector("#mm-studies dialog[open]")
    assert "Time for a break" in page.inner_text("#mm-studies dialog")
    page.keyboard.press("1")
    assert page.locator("#mm-criteria [aria-checked=true]").count() == 0, "keys rest meanwhile"
    page.keyboard.press("Escape")
    page.wait_for_selector("#mm-studies dialog", state="detached")
    page.get_by_role("button", name="Pause").click()
    page.keyboard.press("Escape")
    page.wait_for_selector("#mm-studies dialog", state="detached")  # Enter now goes on, and does not pause again


def from_csv(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Criterion -> (items, raters) of the first two current judgments of each item, NaN where there is none."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [r for r in csv.DictReader(file) if (r["kind"], r["current"], r["reason"]) == ("official", "True", "")]
    by_item: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in sorted(rows, key=lambda r: int(r["assignment"])):
        by_item[row["item"]].append(row)
    raters = sorted({r["rater"] for r in rows})
    tables = {}
    for key in KEYS:
        table = np.full((len(by_item), len(raters)), np.nan)
        for i, judged in enumerate(by_item.values()):
            for row in judged[:2]:
                table[i, raters.index(row["rater"])] = CODES[row[key]]
        tables[key] = table
    return tables, raters


def check_agreement(page: Page, path: Path) -> None:
    """The page's figures are those that statsmodels and krippendorff compute from the export."""
    tables, raters = from_csv(path)
    compared = 0
    for key, table in tables.items():
        row = page.locator(f"#mm-results tr[data-criterion={key}]")
        counts = np.stack([(table == code).sum(1) for code in CODES.values()], 1)
        assert (counts.sum(1) == 2).all()
        printed = float(row.locator("[data-fleiss]").get_attribute("data-fleiss") or "nan")
        assert printed == pytest.approx(inter_rater.fleiss_kappa(counts, method="fleiss"), abs=1e-6, nan_ok=True)
        alpha = krippendorff.alpha(reliability_data=table.T, level_of_measurement="nominal")
        assert float(row.locator("[data-alpha]").get_attribute("data-alpha") or "nan") == pytest.approx(alpha, abs=1e-6)
        for i, one in enumerate(raters):
            for j in range(i + 1, len(raters)):
                both = ~np.isnan(table[:, [i, j]]).any(1)
                if not both.any():
                    continue
                cells = np.zeros((3, 3))
                np.add.at(cells, tuple(table[both][:, [i, j]].astype(int).T), 1)
                mark = f"{one}/{raters[j]}/{key}/"
                shown = page.locator(f'#mm-results [data-cohen^="{mark}"]').get_attribute("data-cohen")
                assert shown is not None
                with np.errstate(all="ignore"):
                    expected = inter_rater.cohens_kappa(cells).kappa
                assert float(shown.removeprefix(mark) or "nan") == pytest.approx(expected, abs=1e-6, nan_ok=True)
                compared += 1
    assert compared >= len(KEYS)


def visit(opened: Browser, address: str) -> Page:
    visitor = Visitor(opened.new_context(viewport={"width": 1280, "height": 800}).new_page(), address)
    visitor.page.set_default_timeout(90_000)
    visitor.acknowledge()
    open_tab(visitor.page)
    return visitor.page


def invited(opened: Browser, link: str, name: str, address: str) -> Page:
    """Makes the account on the invitation's own page, which leads to the Annotate tab."""
    page = opened.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.goto(link)
    page.fill("input[name=name]", name)
    page.fill("input[name=password]", PASSWORD)
    page.click("button")
    page.wait_for_url(f"{address}#annotate")
    page.click("#mm-notice [data-page=acknowledge]")
    page.wait_for_selector("#mm-studies .mm-list", timeout=90_000)
    return page


@pytest.mark.filterwarnings("ignore")
def test_a_study_from_set_up_to_export(opened: Browser, served: Served, tmp_path: Path) -> None:
    lead = visit(opened, served.url)
    make_account(lead, "lead")
    lead.fill("#mm-new-study", "Whole study")
    lead.keyboard.press("Enter")
    lead.wait_for_selector("#mm-part .mm-missing")
    lead.fill("input[name=gate_size]", str(GATE))
    lead.fill("input[name=attention_every]", "0")
    lead.click("#mm-part form .mm-solid")
    lead.wait_for_function("() => document.querySelector('#mm-studies-message').textContent === 'Kept.'")
    lead.set_input_files("#mm-upload", upload(tmp_path))
    lead.wait_for_function(f"() => document.querySelector('#mm-items').textContent.includes('{POOL} with gold')")
    lead.click("#mm-open")
    lead.wait_for_selector("#mm-invite")
    pages = []
    for i in range(4):
        lead.click("#mm-invite")
        lead.wait_for_function("() => document.querySelector('#mm-invitation').value.includes('/invitation#')")
        link = lead.input_value("#mm-invitation")
        lead.evaluate("() => { document.querySelector('#mm-invitation').value = ''; }")
        page = invited(opened, link, f"rater-{i}", served.url)
        page.click("#mm-studies .mm-study")
        pages.append(page)
    assert work(pages[0], 0, most=1 + 6 + 1 + GATE + 1 + 2) == 2
    kind, waiting = state_of(pages[0])
    pages[0].reload()  # a browser that was closed goes on where it was
    open_tab(pages[0])
    pages[0].click("#mm-studies .mm-study")
    assert state_of(pages[0]) == (kind, waiting) == ("judge", waiting)
    undone(pages[0], "#mm-criteria")
    reminded(pages[0], 0)
    work(pages[0], 0)
    undone(pages[0], "#mm-resting")
    work(pages[1], 1)
    work(pages[2], 2)
    work(pages[3], 3, careless_rounds=1)
    for i, page in enumerate(pages):  # what has become theirs to adjudicate meanwhile
        if page.get_by_role("button", name="Look again").count():
            page.get_by_role("button", name="Look again").click()
            work(page, i)
    lead.get_by_role("button", name="Raters", exact=True).click()
    settled = f"{ITEMS} settled, 0 open"
    lead.wait_for_function(f"() => document.querySelector('#mm-studies .mm-bar-top').textContent.includes('{settled}')")
    table = lead.inner_text("#mm-part table")
    assert "round 1 not passed" in table
    assert "round 2 passed" in table
    lead.get_by_role("button", name="Files", exact=True).click()
    files = {}
    for name in ("judgments.csv", "preferences.jsonl", "bundle.zip"):
        with lead.expect_download() as download:
            lead.click(f"#mm-part a[href$='{name}']")
        files[name] = tmp_path / name
        download.value.save_as(files[name])
    lead.get_by_role("button", name="Results", exact=True).click()
    lead.wait_for_selector("#mm-results table")
    unfold(lead)
    check_agreement(lead, files["judgments.csv"])
    labels = labels_of(opinion)
    chosen = [json.loads(text) for text in files["preferences.jsonl"].read_text().splitlines()]
    assert {one["item"]: one["chosen_system"] for one in chosen} == {
        f"item-{i}": "one" if label["overall"] == "win" else "two" for i, label in labels.items() if label["overall"] != "tie"
    }
    before = lead.inner_text("#mm-results")
    lead.get_by_role("button", name="All studies").click()
    lead.set_input_files("#mm-studies input[aria-label='study bundle']", files["bundle.zip"])
    lead.wait_for_function("() => document.querySelector('#mm-state')?.textContent.includes('imported')")
    lead.wait_for_selector("#mm-results table")
    unfold(lead)
    assert lead.inner_text("#mm-results") == before


def unfold(page: Page) -> None:
    page.evaluate("() => document.querySelectorAll('#mm-results details').forEach((one) => { one.open = true; })")


def labels_of(opinions: Any) -> dict[int, dict[str, str]]:
    """The labels that the four raters' opinions lead to, worked out apart from the program: the plurality by the 2-3-4 rule."""
    found: dict[int, dict[str, str]] = {}
    for item in range(ITEMS):
        found[item] = {}
        for key in KEYS:
            votes = [opinions(rater, item)[key] for rater in range(4)]
            settled = votes[0] if votes[0] == votes[1] else votes[2] if votes[2] in votes[:2] else votes[3]
            found[item][key] = settled
    return found
