"""Text can be read: its colours stand out from what is behind them, in the light and in the dark (WCAG 2.2, 1.4.3)."""

from __future__ import annotations

import re
from itertools import product

import pytest

from app.theme import style, theme

LEAST = 4.5  # contrast that WCAG's level AA asks of text of usual size


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb`` (WCAG 2.2, definitions)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    lighter, darker = sorted((luminance(a), luminance(b)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def tokens(selector: str) -> dict[str, str]:
    """The style sheet's own colours in one mode."""
    block = re.search(rf"(?:^|\n){re.escape(selector)} {{(.*?)}}", style(), re.DOTALL)
    assert block, f"the style sheet has no {selector}"
    return dict(re.findall(r"--mm-([\w-]+): (#[0-9a-f]{6})", block[1]))


def test_contrast_is_that_of_black_on_white_at_the_most() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # the grey that just fails


@pytest.mark.parametrize("selector", [":root", ".dark"])
def test_words_stand_out_from_every_ground(selector: str) -> None:
    colours = tokens(selector)
    pairs = [*product(("ink", "soft"), ("card", "back")), ("accent", "card"), ("warn", "warn-back")]
    faint = {pair: round(found, 2) for pair in pairs if (found := contrast(*(colours[name] for name in pair))) < LEAST}
    assert not faint


@pytest.mark.parametrize("shade", ["button_primary_background_fill", "button_primary_background_fill_dark"])
def test_the_words_of_the_main_button_stand_out(shade: str) -> None:
    made = theme()
    name = getattr(made, shade)
    assert contrast("#ffffff", getattr(made, name.removeprefix("*"))) >= LEAST
