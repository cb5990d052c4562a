"""Takes out of a text what points to one person, before it is stored for a study. Patterns, not understanding.

Recognised: mail and web addresses, handles, telephone and other long numbers, dates, streets with a number, names after a
title or an introduction, and the names that the study lists. A name without any of these stays: the researcher reads the
items before the study opens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_NAME: Final = r"[A-ZÀ-ÖØ-Þ][\w'’-]+(?:\s+[A-ZÀ-ÖØ-Þ][\w'’-]+)?"
_MONTHS: Final = "January|February|March|April|May|June|July|August|September|October|November|December"
_ROADS: Final = "Street|St|Road|Rd|Avenue|Ave|Lane|Drive|Way|Square|Boulevard"
_PATTERNS: Final = tuple(
    (re.compile(pattern), shown)
    for pattern, shown in (
        (r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+", "[mail]"),
        (r"(?:https?://|www\.)\S+", "[address]"),
        (r"(?<![\w@])@\w{2,}", "[handle]"),
        (r"\b\d{1,4}[./-]\d{1,2}[./-]\d{1,4}\b", "[date]"),
        (rf"\b(?:{_MONTHS})\s+\d{{1,2}}(?:st|nd|rd|th)?(?:,?\s+\d{{4}})?\b", "[date]"),
        (rf"\b\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?(?:{_MONTHS})(?:\s+\d{{4}})?\b", "[date]"),
        (r"(?<!\w)\+?\(?\d(?:[\s()./-]{0,2}\d){5,}\b", "[number]"),
        (rf"\b\d{{1,4}}[a-z]?\s+(?:[A-Z]\w+\s+){{1,3}}(?:{_ROADS})\b\.?", "[street]"),
        (r"\b[A-ZÄÖÜ]\w+(?:straße|strasse|weg|platz|gasse)\s+\d+\w?\b", "[street]"),
    )
)  # fmt: skip
# No text's; PostgreSQL refuses the first of them, and no database keeps half of a surrogate pair.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_TITLED: Final = re.compile(rf"\b(Mr|Mrs|Ms|Miss|Dr|Prof|Herr|Frau)(\.?)\s+{_NAME}")
_INTRODUCED: Final = re.compile(rf"\b((?i:my name is|my name's|call me|ich heiße|mein Name ist))\s+{_NAME}")


def deidentified(text: str, names: Iterable[str] = ()) -> str:
    """The text with placeholders such as ``[name]`` where a person could be recognised.

    Args:
        text: what somebody said.
        names: further names to take out, whole words in any case.
    """
    text = _CONTROL.sub("", text)
    for pattern, shown in _PATTERNS:
        text = pattern.sub(shown, text)
    text = _TITLED.sub(r"\1\2 [name]", text)
    text = _INTRODUCED.sub(r"\1 [name]", text)
    for name in names:
        if name.strip():
            text = re.sub(rf"(?<!\w){re.escape(name.strip())}(?!\w)", "[name]", text, flags=re.IGNORECASE)
    return text
