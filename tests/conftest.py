"""What every test shares: no network, synthetic clips, and the way to data that lies outside the repository."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
_OFFLINE = Path(__file__).resolve().parent / "offline"

# Before anything imports a library that reads them. A proxy would take local requests to another machine.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    GRADIO_ANALYTICS_ENABLED="False",
    DO_NOT_TRACK="1",
    TOKENIZERS_PARALLELISM="false",
)
for _variable in ("http_proxy", "https_proxy", "all_proxy"):
    os.environ.pop(_variable, None)
    os.environ.pop(_variable.upper(), None)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_OFFLINE), os.environ.get("PYTHONPATH")]))

import network_guard  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from tests import synthetic  # noqa: E402

settings.register_profile("multimood", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("multimood")


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Refuses every connection but loopback and fails the session where one was tried, even if its error was caught."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "attempts"
        os.environ[network_guard.LOG] = str(log)
        network_guard.block()
        yield
        del os.environ[network_guard.LOG]
        attempts = log.read_text(encoding="utf-8") if log.exists() else ""
    assert not attempts, f"the tests tried to leave this machine:\n{attempts}"


def _outside(variable: str, default: str, what: str) -> Path:
    folder = Path(os.environ.get(variable) or REPOSITORY.parent / "shared" / default)
    if not folder.is_dir():
        pytest.skip(f"no {what} at {folder}; set {variable} to its folder")
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of research data, which is no part of the repository."""
    return _outside("MULTIMOOD_DATA", "data", "research data")


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The folder of the reference modules' outputs."""
    return _outside("MULTIMOOD_GOLDEN", "golden", "reference output")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium that Playwright can drive."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("MULTIMOOD_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if not found:
        pytest.skip("no Chromium; install it or set MULTIMOOD_CHROMIUM to its path")
    return found


@pytest.fixture(scope="session")
def media_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="session")
def moving_clip(media_dir: Path) -> Path:
    """Two seconds, 50 frames whose red is 4 x their index, a tone of 440 Hz at half of full scale; MP4."""
    return synthetic.write_clip(
        media_dir / "moving.mp4", images=synthetic.moving_pattern(50), sound=synthetic.tone(2.0)
    )


@pytest.fixture(scope="session")
def browser_clip(media_dir: Path) -> Path:
    """The same as a browser records it: VP8 and Opus in a WebM without duration or frame count."""
    return synthetic.write_clip(
        media_dir / "browser.webm",
        images=synthetic.moving_pattern(50),
        sound=synthetic.tone(2.0),
        video="libvpx",
        audio="libopus",
        streamed=True,
    )


@pytest.fixture(scope="session")
def silent_clip(media_dir: Path) -> Path:
    """One second of pictures whose sound is digital silence."""
    sound = 0 * synthetic.tone(1.0)
    return synthetic.write_clip(media_dir / "silent.mp4", images=synthetic.moving_pattern(25), sound=sound)


@pytest.fixture(scope="session")
def tone_clip(media_dir: Path) -> Path:
    """Sound alone: two seconds of 440 Hz at half of full scale, 16-bit WAV at 48 kHz."""
    return synthetic.write_clip(media_dir / "tone.wav", sound=synthetic.tone(2.0), audio="pcm_s16le")
