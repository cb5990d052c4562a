"""Makes the pictures that the README shows, of the real app with the demo's turns: ``python -m tests.app.screenshots``.

Nobody is seen or heard in them: faces are drawn and voices synthetic. Needs Chromium and takes some minutes on two cores.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

from app.build import serving
from app.demo import TURNS
from multimood_core import registry
from multimood_core.engine import Engine
from tests.app.browser import Visitor, browser

FOLDER: Final = Path(__file__).resolve().parents[2] / "assets" / "screenshots"
DESK: Final = {"width": 1280, "height": 800}
PHONE: Final = {"width": 390, "height": 844}


def play(visitor: Visitor) -> None:
    """All turns of the demo: their replies said, the second turn's expression corrected, the last one open."""
    page = visitor.page
    for number in range(1, len(TURNS) + 1):
        page.click("#mm-demo")
        visitor.answered()
        if number < len(TURNS):
            page.click("#mm-accept")
            visitor.decided()
        if number == 2:
            page.click("#mm-panel .mm-bar[data-key='1']")
            page.wait_for_selector("#mm-panel .mm-chosen")
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)


def compare(visitor: Visitor) -> None:
    """The three shipped checkpoints on one typed turn, their labels, replies and rewards."""
    page = visitor.page
    page.get_by_role("tab", name="Compare").click()
    page.wait_for_selector("#mm-c-form")
    page.fill("#mm-c-words", "Nobody calls any more, and I have stopped picking up when they do.")
    for label in page.locator("#mm-c-form .mm-c-systems label").all():
        label.locator("input").set_checked(label.inner_text().split(" ")[0] in registry.available())
    page.click("#mm-c-start")
    page.wait_for_selector(".mm-c-status >> text=Done")
    page.locator(".mm-c-columns").scroll_into_view_if_needed()


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        raise SystemExit("No Chromium was found; install it.")
    engine = Engine(registry.DEFAULT, language="en")
    with serving(engine, port=0) as served, browser(chromium, None, None) as opened:
        desk: Any = {"viewport": DESK, "color_scheme": "light"}
        visitor = Visitor(opened.new_context(**desk).new_page(), served.url)
        visitor.acknowledge()
        play(visitor)
        page = visitor.page
        page.screenshot(path=FOLDER / "live-light.png")
        page.click("[data-page=theme]")
        page.mouse.move(0, 0)
        page.wait_for_timeout(500)
        page.screenshot(path=FOLDER / "live-dark.png")
        page.click("[data-page=theme]")
        page.set_viewport_size(PHONE)  # type: ignore[arg-type]
        page.evaluate("() => document.querySelector('#mm-typed').scrollIntoView()")
        page.mouse.move(0, 0)
        page.wait_for_timeout(500)
        page.screenshot(path=FOLDER / "live-phone.png")
        page.set_viewport_size(DESK)  # type: ignore[arg-type]
        compare(visitor)
        page.screenshot(path=FOLDER / "compare-light.png", full_page=True)


if __name__ == "__main__":
    main()
