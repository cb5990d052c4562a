"""The Annotate tab: a place in the page that the tab's own script fills from the requests of ``app/studies/api.py``."""

from __future__ import annotations

from typing import Final

import gradio as gr

_PLACE: Final = (
    '<link rel="stylesheet" href="multimood/static/annotate.css">'
    '<div id="mm-studies"><p class="mm-faint">Studies are being opened.</p></div>'
)
_SCRIPT: Final = "import(new URL('multimood/static/annotate.js', document.baseURI).href);"


def build_annotate() -> None:
    """Lays out the tab inside the current ``gr.Blocks``."""
    gr.HTML(_PLACE, elem_id="mm-studies-place", js_on_load=_SCRIPT, apply_default_css=False)
