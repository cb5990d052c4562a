"""The app's look: one Gradio theme on the system's own fonts, a style sheet, a script; nothing comes from another host."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import gradio as gr

STATIC: Final = Path(__file__).resolve().parent / "static"
SCRIPTS: Final = ("live.js", "keys.js")  # in this order: the second uses the first
FONTS: Final = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")

# Quiet paper and ink; the accent is a blue-green that none of the seven emotions has.
_ACCENT: Final = gr.themes.Color(
    c50="#eef6f5", c100="#d8eae8", c200="#b3d5d2", c300="#86bab6", c400="#5a9c98", c500="#3d807d", c600="#2f6765",
    c700="#285352", c800="#224343", c900="#1c3737", c950="#0e2021",
)  # fmt: skip
_PAPER: Final = gr.themes.Color(
    c50="#faf9f7", c100="#f3f1ee", c200="#e5e2dd", c300="#d1cdc6", c400="#a29d95", c500="#716c65", c600="#57534d",
    c700="#403d38", c800="#2a2825", c900="#1d1b19", c950="#141312",
)  # fmt: skip


def theme() -> gr.themes.Base:
    """The theme, light and dark."""
    base = gr.themes.Base(
        primary_hue=_ACCENT,
        secondary_hue=_ACCENT,
        neutral_hue=_PAPER,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        text_size=gr.themes.sizes.text_md,
        font=FONTS,
        font_mono=("ui-monospace", "Consolas", "monospace"),
    )
    return base.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="1px",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_title_text_weight="500",
        block_title_text_size="*text_sm",
        input_border_width="1px",
        input_padding="6px 10px",
        input_radius="6px",
        input_background_fill="white",
        input_background_fill_dark="*neutral_900",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_600",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_500",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_600",
        button_border_width="1px",
        button_large_text_weight="500",
        button_medium_text_weight="500",
        button_small_text_weight="500",
        button_transition="none",
    )


def style() -> str:
    """The style sheet's text."""
    return (STATIC / "style.css").read_text(encoding="utf-8")


def head() -> str:
    """What the page's head holds: the scripts, inline, so that they need no address of their own."""
    scripts = [f"<script>\n{(STATIC / name).read_text(encoding='utf-8')}\n</script>" for name in SCRIPTS]
    return "\n".join(['<meta name="referrer" content="same-origin">', *scripts])


def html(text: str, identifier: str, script: str | None = None) -> gr.HTML:
    """A part of the page whose look is the style sheet's alone."""
    return gr.HTML(text, elem_id=identifier, js_on_load=script, apply_default_css=False)
