"""The Compare tab: a place in the page that its own scripts fill from the requests of ``app/compare/api.py``."""

from __future__ import annotations

from typing import Final

import gradio as gr

_PLACE: Final = (
    '<link rel="stylesheet" href="multimood/static/compare.css">'
    '<div id="mm-compare"><p class="mm-faint">Systems are being looked up.</p></div>'
)
_SCRIPT: Final = "import(new URL('multimood/static/compare.js', document.baseURI).href);"


def build_compare() -> None:
    """Lays out the tab inside the current ``gr.Blocks``."""
    gr.HTML(_PLACE, elem_id="mm-compare-place", js_on_load=_SCRIPT, apply_default_css=False)
