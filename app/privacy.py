"""The Privacy tab: a place in the page that the tab's own script fills from the requests of ``app/privacy_api.py``."""

from __future__ import annotations

from typing import Final

import gradio as gr

_PLACE: Final = (
    '<link rel="stylesheet" href="multimood/static/privacy.css">'
    '<div id="mm-privacy"><p class="mm-faint">What is stored is being looked up.</p></div>'
)
_SCRIPT: Final = "import(new URL('multimood/static/privacy.js', document.baseURI).href);"


def build_privacy() -> None:
    """Lays out the tab inside the current ``gr.Blocks``."""
    gr.HTML(_PLACE, elem_id="mm-privacy-place", js_on_load=_SCRIPT, apply_default_css=False)
