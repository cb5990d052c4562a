"""Words and sentences of a reply, as the rewards count them."""

from __future__ import annotations

import re
from typing import Final

_WORD: Final = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_END: Final = re.compile(r"(?:(?<=[.!?…])|(?<=[.!?…][\"'”’)\]]))\s+(?=[\"'“‘(\[]?[A-Z0-9À-ÝĀ-Ž])")
# A point after these ends no sentence.
_ABBREVIATION: Final = re.compile(r"\b(?:Dr|Mr|Mrs|Ms|Prof|St|Jr|Sr|vs|e\.g|i\.e|etc)\.$", re.IGNORECASE)


def words_of(text: str) -> list[str]:
    """The words, lower case, without punctuation; ``don't`` is one word."""
    return [word.replace("’", "'") for word in _WORD.findall(text.lower())]


def sentences_of(text: str) -> list[str]:
    """Split a reply after ``.``, ``!``, ``?`` or ``…`` where a capital or a number follows; no empty sentences."""
    found: list[str] = []
    for part in _END.split(text.strip()):
        if found and _ABBREVIATION.search(found[-1]):
            found[-1] += f" {part}"
        elif words_of(part):
            found.append(part)
        elif found:  # punctuation alone belongs to what was said before
            found[-1] += f" {part}"
    return found
