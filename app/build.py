"""Puts the app together: model, worker, read-out, page; and serves it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import gradio as gr

from app import theme
from app.capture import LocalCapture
from app.glance import Glancer
from app.live import build_live, html
from app.sessions import Sessions
from app.stream import Stream
from app.worker import Worker
from multimood_core.engine import Engine

MAX_UPLOAD: Final = "200mb"  # ten minutes of a phone's video
CACHE_SECONDS: Final = 600  # how long Gradio's own copy of an upload may lie, and how often it looks


@dataclass(frozen=True, slots=True)
class Served:
    """A running app."""

    url: str
    sessions: Sessions
    glancer: Glancer
    worker: Worker


def build(sessions: Sessions, capture: str) -> gr.Blocks:
    """The page."""
    with gr.Blocks(title="MultiMood", analytics_enabled=False, fill_width=True, delete_cache=(CACHE_SECONDS,) * 2) as page:
        html(
            '<header class="mm-head"><b>MultiMood</b><span>research tool for professionals, in simulation</span>'
            '<span class="mm-right"><button type="button" class="mm-plain" data-page="theme">Light, dark</button>'
            '<button type="button" class="mm-plain" data-page="notice">Notice</button></span></header>',
            "mm-top",
        )
        with gr.Tabs(elem_id="mm-tabs"), gr.Tab("Live"):
            build_live(sessions, capture)
    return page


@contextmanager
def serving(engine: Engine, host: str = "127.0.0.1", port: int | None = 7860, capture: str = "browser") -> Iterator[Served]:
    """Serves the app as long as the block runs.

    Args:
        engine: the loaded model.
        host: a loopback address.
        port: None takes any free one from 7860 on.
        capture: ``browser`` or ``local``.
    """
    worker = Worker()
    sessions = Sessions(engine, worker)
    glancer = Glancer(engine, sessions)
    stream = Stream(sessions, glancer, LocalCapture() if capture == "local" else None)
    page = build(sessions, capture)
    with tempfile.TemporaryDirectory(prefix="multimood-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # uploads lie in a folder of this user alone, which goes with the app
        try:
            _, url, _ = page.queue(default_concurrency_limit=None, api_open=False).launch(
                server_name=host,
                server_port=port,
                share=False,
                prevent_thread_lock=True,
                quiet=True,
                show_error=False,
                allowed_paths=[],
                max_file_size=MAX_UPLOAD,
                footer_links=[],
                theme=theme.theme(),
                css=theme.style(),
                head=theme.head(),
                app_kwargs={"routes": stream.routes},
            )
            yield Served(url, sessions, glancer, worker)
        finally:
            page.close(verbose=False)
            glancer.close()
            worker.close()
