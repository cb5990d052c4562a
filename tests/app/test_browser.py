"""Whole turns through a real browser: fake camera and microphone in, labels, reply, correction and export out."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from types import AsyncGeneratorType
from typing import Any

import av
import numpy as np
import pytest

from app.build import Served
from app.exchange import Exchange
from app.live import CHECK
from multimood_core.labels import EMOTIONS
from multimood_core.sound import resample
from tests.app.browser import Visitor, browser, session_of, write_camera, write_microphone

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
WATCH = """() => { window.seen = {replies: []}; const look = () => {
  const now = performance.now(), first = (name, is) => { if (is && !(name in seen)) seen[name] = now; };
  const words = document.querySelector('#mm-now .mm-words');
  first('words', words && !words.querySelector('.mm-faint'));
  first('client', document.querySelector('#mm-panel .mm-client .mm-top'));
  first('therapist', document.querySelector('#mm-panel .mm-chip.mm-on'));
  first('strategy', document.querySelector('#mm-panel .mm-wide .mm-top'));
  const reply = document.querySelector('#mm-now .mm-reply'), faint = reply?.querySelector('.mm-faint');
  const text = reply && !faint ? reply.textContent.replace('▍', '') : '';
  first('reply', text);
  if (text && text !== seen.replies.at(-1)) seen.replies.push(text); };
  const all = {subtree: true, childList: true, characterData: true};
  new MutationObserver(look).observe(document.querySelector('#mm-room'), all); }"""


# The parts of the page that an answer pushed elsewhere.
MOVED = """() => { window.moved = new Set(); new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) for (const { node, previousRect: a, currentRect: b } of entry.sources)
    if (node?.id && (a.x !== b.x || a.y !== b.y)) window.moved.add(`${node.id} ${a.x},${a.y} > ${b.x},${b.y}`);
  }).observe({type: 'layout-shift'}); }"""


def assert_nothing_lost(visitor: Visitor, exchange: Exchange) -> None:
    """What the page captured, what the session received, and what the clock expects are the same."""
    page: dict[str, Any] = visitor.page.evaluate("() => window.multimood.state.counts")
    capture = exchange.capture
    assert capture is not None
    seconds = page["milliseconds"] / 1000
    assert page["samples"] == page["sent"] == capture.samples
    assert capture.lost == 0
    assert page["frames"] == capture.frames
    # Sound runs from the microphone's start to the last flush; a buffer or two at either end may be missing or more.
    assert capture.sound_seconds == pytest.approx(seconds, abs=0.4 + 0.03 * seconds), (page, capture)
    # A browser that has to wait for the processor takes a picture late, so the usual distance between two is judged,
    # and that none which was taken is missing.
    assert len(page["times"]) == capture.frames
    usual = float(np.median(np.diff([0.0, *page["times"]])))
    assert 90 <= usual <= 200, f"a picture each {usual:.0f} ms, expected 5 to 10 a second"
    assert capture.frames / seconds >= 2.5, (page, capture)


def take_turn(visitor: Visitor, served: Served, by_pause: bool, seconds: float = 6.0) -> Exchange:
    """Speaks a turn, sees the live read-out meanwhile, and waits for the answer."""
    page = visitor.page
    page.locator("body").press(" ")
    page.wait_for_selector("#mm-end:visible, #mm-message.mm-problem")
    assert page.is_visible("#mm-end"), page.inner_text("#mm-message")
    page.wait_for_selector("#mm-now .mm-empty")
    page.evaluate(WATCH)
    page.wait_for_function("() => /^[a-z]+ \\.\\d\\d$|not enough signal/.test(document.querySelector('#mm-face').textContent)")
    page.wait_for_function("() => /^[a-z]+ \\.\\d\\d$|not enough signal/.test(document.querySelector('#mm-voice').textContent)")
    if not by_pause:
        page.wait_for_timeout(1000 * seconds)
        page.locator("body").press(" ")
    page.wait_for_selector("#mm-start:visible")
    visitor.answered()
    exchange = session_of(visitor, served).current
    assert exchange is not None
    seen = page.evaluate("() => window.seen")
    assert seen["words"] <= seen["client"] <= seen["therapist"] <= seen["strategy"] <= seen["reply"], seen
    assert seen["replies"][-1] == exchange.suggestion.strip()
    if len(exchange.suggestion.split()) > 8:
        assert len(seen["replies"]) >= 3, "the reply did not come in pieces"
    assert all(later.startswith(earlier.rstrip()) for earlier, later in zip(seen["replies"], seen["replies"][1:], strict=False))
    assert page.locator("#mm-panel .mm-client .mm-value").count() == len(EMOTIONS)
    assert_nothing_lost(visitor, exchange)
    return exchange


def whole_session(
    chromium: str, served: Served, camera: Path, microphone: Path, words: set[str], by_pause: bool
) -> dict[str, Any]:
    """Two turns with a correction between them, all decisions by keys, and the export."""
    with browser(chromium, camera, microphone) as opened:
        visitor = Visitor(opened.new_page(), served.url)
        visitor.acknowledge()
        page = visitor.page
        if not by_pause:
            page.uncheck("#mm-auto input")
        first = take_turn(visitor, served, by_pause)
        assert words & set((first.words or "").lower().replace(".", "").split()), first.words
        assert first.modalities is not None
        assert (first.modalities.audio, first.modalities.text) == ("used", "transcribed")
        page.locator("body").press("7")
        page.wait_for_selector("#mm-panel .mm-client .mm-chosen[data-key='7']")
        assert first.corrections == {"client_emotion": EMOTIONS[6]}
        page.locator("body").press("a")
        visitor.decided()
        assert (first.decision, first.said) == ("accepted", first.suggestion.strip())
        second = take_turn(visitor, served, by_pause=False)
        assert second.prediction is not None
        assert second.prediction.tokens.history_compressed == 2
        page.locator("body").press("r")
        visitor.decided()
        page.locator("#mm-earlier .mm-mini", has_text="joy").click()
        page.wait_for_selector("#mm-earlier .mm-ring", state="attached")
        assert first.corrections == {"client_emotion": "joy"}
        with page.expect_download() as download:
            page.click("#mm-exports a[download]")
        assert not visitor.elsewhere, "the page asked another host"
        assert not visitor.errors
        return json.loads(download.value.path().read_text(encoding="utf-8"))


def check_export(found: dict[str, Any], served: Served) -> None:
    assert found["checkpoint"]["sha256"] == served.sessions.engine.checkpoint.id.sha256
    assert [turn["reply"]["decision"] for turn in found["turns"]] == ["accepted", "rejected"]
    assert found["turns"][0]["labels"]["client_emotion"]["set_by_clinician"] == "joy"
    assert [turn["speaker"] for turn in found["history"]] == ["client", "therapist", "client"]
    assert [turn["emotion_confirmed"] for turn in found["history"]] == [True, False, False]
    assert all(turn["capture"]["lost"] == 0 for turn in found["turns"])


def test_a_made_face_and_voice_go_through_the_browser(chromium: str, served: Served, devices: tuple[Path, Path]) -> None:
    found = whole_session(chromium, served, *devices, words={"sleeping", "job", "awake"}, by_pause=True)
    check_export(found, served)
    assert found["turns"][0]["modalities"]["video"] == "used"


def test_a_real_face_and_voice_go_through_the_browser(
    chromium: str, served: Served, data_dir: Path, tmp_path: Path
) -> None:
    clip = data_dir / "ravdess_video" / "av_360p" / "01-01-06-02-01-01-05.mp4"  # of the eight, one that is loud enough
    if not clip.is_file():
        pytest.skip(f"no {clip}")
    images, sound = [], []
    with av.open(str(clip)) as container:
        for frame in container.decode():
            if isinstance(frame, av.VideoFrame):
                images.append(frame.to_ndarray(format="rgb24", width=640, height=360))
            else:
                mono = frame.to_ndarray().astype(np.float32).reshape(-1, frame.samples).mean(0)
                sound.append(mono)
                rate = frame.sample_rate
    camera = write_camera(tmp_path / "camera.y4m", images, fps=30)
    waveform = resample(np.concatenate(sound), rate)
    microphone = write_microphone(tmp_path / "microphone.wav", waveform.samples, waveform.rate)
    # RAVDESS has two sentences: "Kids are talking by the door" and "Dogs are sitting by the door".
    found = whole_session(chromium, served, camera, microphone, words={"door", "talking", "sitting"}, by_pause=False)
    check_export(found, served)
    assert all(turn["modalities"]["video"] == "used" for turn in found["turns"])
    assert set(found["turns"][0]["expressions"]) == {"face", "voice"}


def test_without_devices_the_words_still_work(chromium: str, served: Served) -> None:
    with browser(chromium, None, None) as opened:
        visitor = Visitor(opened.new_page(), served.url)
        visitor.acknowledge()
        page = visitor.page
        page.click("#mm-start")
        page.wait_for_function("() => document.querySelector('#mm-message').textContent.includes('Type the client')")
        message = page.inner_text("#mm-message")
        assert "microphone" in message
        assert "camera" in message
        page.fill("#mm-typed textarea", "I am here anyway.")
        page.click("#mm-typed button")
        visitor.answered()
        assert "face: not recorded" in page.inner_text("#mm-now .mm-signals")
        page.click("#mm-edit")
        page.fill("#mm-draft textarea", "I am glad you are.")
        page.click("#mm-save")
        visitor.decided()
        assert session_of(visitor, served).history()[-1].text == "I am glad you are."
        page.reload()
        page.wait_for_selector("#mm-now .mm-edited")  # the session outlives its page


def test_under_another_name_the_page_is_refused_in_a_sentence(chromium: str, served: Served) -> None:
    from playwright.sync_api import sync_playwright

    from tests.app.browser import FLAGS

    flags = [*FLAGS, "--host-resolver-rules=MAP clinic.test 127.0.0.1"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=flags)
        page = opened.new_page()
        answer = page.goto(served.url.replace("127.0.0.1", "clinic.test"))
        assert answer is not None
        assert answer.status == 421
        assert "not served under this name" in page.inner_text("body")
        opened.close()


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_two_browsers_see_their_own_and_nothing_sticks_out(chromium: str, served: Served, width: int, height: int) -> None:
    with browser(chromium, None, None) as opened:
        size: Any = {"width": width, "height": height}
        mine, other = (Visitor(opened.new_context(viewport=size).new_page(), served.url) for _ in range(2))
        for visitor in (mine, other):
            visitor.acknowledge()
        mine.page.evaluate(MOVED)
        mine.page.fill("#mm-typed textarea", "Only mine.")
        mine.page.click("#mm-typed button")
        mine.answered()
        assert mine.page.evaluate("() => [...window.moved]") == [], "what stands in the page moved while the answer came"
        assert "Only mine." in mine.page.inner_text("#mm-now")
        other.page.wait_for_timeout(500)
        assert "No turn yet" in other.page.inner_text("#mm-now")
        assert session_of(other, served).exchanges == []
        for visitor in (mine, other):
            assert visitor.page.evaluate("() => document.documentElement.scrollWidth") <= width
            assert not visitor.errors


def test_keys_rest_while_someone_types(chromium: str, served: Served) -> None:
    with browser(chromium, None, None) as opened:
        visitor = Visitor(opened.new_page(), served.url)
        visitor.acknowledge()
        page = visitor.page
        page.fill("#mm-typed textarea", "I am.")
        page.click("#mm-typed button")
        visitor.answered()
        page.locator("#mm-note textarea, #mm-note input").first.press_sequentially("a r 1 7 ?")
        session = session_of(visitor, served)
        current = session.current
        assert current is not None
        assert (current.decision, current.corrections) == ("open", {})
        page.locator("#mm-note textarea, #mm-note input").first.blur()
        page.locator("body").press("?")
        page.wait_for_selector("#mm-help[open]")
        page.locator("#mm-help").press("a")  # a dialogue is open: keys rest
        assert current.decision == "open"
        page.locator("#mm-help").press("Escape")
        page.locator("body").press("g")
        with session.changed:
            assert session.changed.wait_for(lambda: current.regenerations == 1 and not session.busy, 120)


def test_what_is_refused_stays_in_its_field_and_a_double_click_is_one(chromium: str, served: Served, tmp_path: Path) -> None:
    with browser(chromium, None, None) as opened:
        visitor = Visitor(opened.new_page(), served.url)
        visitor.acknowledge()
        page = visitor.page
        session = session_of(visitor, served)
        page.fill("#mm-typed textarea", "word " * 20_000)
        page.click("#mm-typed button")
        page.wait_for_selector(".toast-body")
        assert "4,000 characters" in page.inner_text(".toast-body")
        assert len(page.input_value("#mm-typed textarea")) == 100_000
        page.fill("#mm-typed textarea", "\u05d0\u05e0\u05d9 \U0001f622 <b>{{7}}</b>")
        page.dblclick("#mm-typed button")
        page.wait_for_selector("#mm-accept:not([disabled])")
        assert page.inner_text("#mm-now .mm-words") == "\u05d0\u05e0\u05d9 \U0001f622 <b>{{7}}</b>"
        assert page.input_value("#mm-typed textarea") == ""
        assert len(session.exchanges) == 1
        page.dblclick("#mm-panel .mm-bar[data-key='3']")
        page.wait_for_selector("#mm-panel .mm-chosen[data-key='3']")
        page.wait_for_timeout(500)
        assert session.exchanges[0].corrections == {"client_emotion": EMOTIONS[2]}
        clip = tmp_path / "words.mp4"
        clip.write_text("no film")
        with page.expect_file_chooser() as chooser:
            page.click("#mm-clip")
        chooser.value.set_files(clip)
        page.wait_for_selector("#mm-now .mm-problem")
        assert "words.mp4" in page.inner_text("#mm-now .mm-problem")
        assert not visitor.errors


def followed() -> int:
    """How many pages are shown what happens in their session."""
    running = [g for g in gc.get_objects() if type(g) is AsyncGeneratorType and g.__name__ == "follow" and g.ag_frame]
    return len(running)


def test_two_windows_show_one_session_and_a_closed_one_is_let_go(chromium: str, served: Served) -> None:
    with browser(chromium, None, None) as opened:
        context = opened.new_context()
        visitor = Visitor(context.new_page(), served.url)
        visitor.acknowledge()
        session = session_of(visitor, served)
        visitor.page.wait_for_timeout(1000 * (CHECK + 5))  # those of earlier tests are gone by then
        mine = followed()
        assert mine >= 1
        other = context.new_page()
        other.add_init_script(f"sessionStorage.setItem('multimood.session', '{session.token}')")
        other.goto(served.url)
        other.wait_for_selector("#mm-now .mm-empty")
        visitor.page.fill("#mm-note textarea", "tired")
        visitor.page.press("#mm-note textarea", "Enter")
        other.wait_for_function("() => document.querySelector('#mm-notes').innerText.includes('tired')")
        assert followed() == 2 * mine
        other.close()
        visitor.page.wait_for_timeout(1000 * (CHECK + 5))
        assert followed() == mine


def test_no_event_is_lost_when_another_ends(chromium: str, served: Served) -> None:
    """Gradio closes its stream with the last event that runs; one that begins then would never be heard of."""
    with browser(chromium, None, None) as opened:
        visitor = Visitor(opened.new_page(), served.url)
        visitor.acknowledge()
        page = visitor.page
        field = page.locator("#mm-note textarea")
        for number in range(40):
            gap = 20 * (number % 8)
            page.evaluate("(gap) => { setTimeout(() => document.querySelector('#mm-acknowledge').click(), gap); }", gap)
            page.wait_for_timeout(gap)
            field.fill(f"note {number}.")
            field.press("Enter")
            page.wait_for_selector(f"#mm-notes p:has-text('note {number}.')", timeout=30_000)
            page.wait_for_function("() => document.querySelector('#mm-note textarea').value === ''", timeout=30_000)


def test_a_slow_computer_stops_collecting_before_it_sends_the_rest(
    chromium: str, served: Served, devices: tuple[Path, Path]
) -> None:
    with browser(chromium, *devices) as opened:
        visitor = Visitor(opened.new_page(), served.url)
        visitor.acknowledge()
        page = visitor.page
        page.uncheck("#mm-auto input")
        page.locator("body").press(" ")
        page.wait_for_selector("#mm-end:visible")
        page.wait_for_timeout(1000)
        page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": 15})
        page.click("#mm-end")
        visitor.answered()
        counts = page.evaluate("() => window.multimood.state.counts")
        capture = session_of(visitor, served).exchanges[0].capture
        assert capture is not None
        assert counts["samples"] == counts["sent"] == capture.samples
        assert (counts["frames"], capture.lost) == (capture.frames, 0)
