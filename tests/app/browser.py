"""What the browser tests share: the app on a free port, Chromium, and files for its fake camera and microphone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import soundfile
from playwright.sync_api import Browser, Page, sync_playwright

from app.build import Served
from app.session import Session

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
)
PATIENCE = 240_000  # ms; a machine that trains beside it is slow


def write_camera(path: Path, images: Sequence[np.ndarray], fps: int = 10) -> Path:
    """Pictures (H, W, 3) uint8 as YUV4MPEG2, which Chromium plays in a loop as its camera."""
    with av.open(str(path), "w", format="yuv4mpegpipe") as container:
        stream = container.add_stream("wrapped_avframe", rate=fps)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for image in images:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_microphone(path: Path, samples: np.ndarray, rate: int) -> Path:
    """Sound (N,) as 16-bit WAV, which Chromium plays in a loop as its microphone."""
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return path


@contextmanager
def browser(executable: str, camera: Path | None, microphone: Path | None) -> Iterator[Browser]:
    """Chromium whose camera and microphone are files; without files it has none."""
    flags = list(FLAGS)
    if camera is None and microphone is None:
        flags = [flag for flag in flags if "fake-device" not in flag]
    if camera is not None:
        flags.append(f"--use-file-for-fake-video-capture={camera}")
    if microphone is not None:
        flags.append(f"--use-file-for-fake-audio-capture={microphone}")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=flags)
        try:
            yield chromium
        finally:
            chromium.close()


class Visitor:
    """A person before the page; collects what a good page never does."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.elsewhere: list[str] = []
        self.errors: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: self._requested(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(url)
        page.wait_for_selector("#mm-notice[open]")

    def _requested(self, address: str) -> None:
        if not address.startswith((self.url, "blob:", "data:")):
            self.elsewhere.append(address)

    def acknowledge(self) -> None:
        self.page.click("#mm-notice [data-page=acknowledge]")
        self.page.wait_for_selector("#mm-notice", state="hidden")

    def answered(self) -> None:
        """Waits until a reply can be decided on."""
        self.page.wait_for_selector("#mm-accept:not([disabled]), #mm-now .mm-problem, .toast-body")
        assert self.page.is_enabled("#mm-accept"), self.page.inner_text("#mm-now") + self.page.inner_text("body")[-300:]

    def decided(self) -> None:
        """Waits until it was."""
        self.page.wait_for_selector("#mm-accept[disabled]")


def session_of(visitor: Visitor, served: Served) -> Session:
    session = served.sessions.find(visitor.page.evaluate("() => sessionStorage.getItem('multimood.session')"))
    assert session is not None
    return session


