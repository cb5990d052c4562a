"""The Evaluate and Runs tabs: places in the page that their own scripts fill from the requests of ``app/evaluate/api.py``."""

from __future__ import annotations

from typing import Final

import gradio as gr

_PLACE: Final = (
    '<link rel="stylesheet" href="multimood/static/evaluate.css">'
    '<div id="{name}" class="mm-e"><p class="mm-faint">{waiting}</p></div>'
)
_SCRIPT: Final = "import(new URL('multimood/static/{script}', document.baseURI).href);"


def build_evaluate() -> None:
    """Lays out the Evaluate tab inside the current ``gr.Blocks``."""
    _place("mm-evaluate", "Reports are being read.", "evaluate.js")


def build_runs() -> None:
    """Lays out the Runs tab inside the current ``gr.Blocks``."""
    _place("mm-runs", "Runs are being read.", "runs.js")


def _place(name: str, waiting: str, script: str) -> None:
    text, code = _PLACE.format(name=name, waiting=waiting), _SCRIPT.format(script=script)
    gr.HTML(text, elem_id=f"{name}-place", js_on_load=code, apply_default_css=False)
