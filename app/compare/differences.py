"""What differs between replies, and what in a reply would tell who wrote it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

_WORD: Final = re.compile(r"\w+(?:['’]\w+)*")
_KNOWN: Final = (
    "multimood", "smollm2?", r"chat-?gpt(?:[\w.-]*\w)?", r"gpt-?\d(?:[\w.-]*\w)?", "claude", "gemini", "grok",
    r"llama(?:-?\d[\w.-]*\w)?", r"deep-?seek(?:[\w.-]*\w)?", r"qwen(?:\d[\w.-]*\w)?", "mistral", "mixtral",
    "openai", "anthropic", "hugging ?face",
)  # fmt: skip
_MADE: Final = re.compile(
    r"\b(?:as|i am|i'm|i’m)\s+(?:an?|the)\s+(?:ai|artificial intelligence|large |small )?\s*"
    r"(?:language model|ai model|chat ?bot|assistant|ai)\b"
    r"(?:\s+(?:made|trained|developed|created)\s+by\s+[\w&. -]+?(?=[,.;!?]|$))?",
    re.IGNORECASE,
)


def scrubbed(text: str, names: Iterable[str]) -> str:
    """The reply with ``[model]`` where a system names itself or its kind.

    Args:
        text: a reply.
        names: of the compared systems; families of models that are widely known are found without.
    """
    patterns = [*_KNOWN, *(re.escape(name) for name in sorted(names, key=len, reverse=True) if name.strip())]
    shown = _MADE.sub("[model]", text)
    return re.sub(rf"(?<!\w)(?:{'|'.join(patterns)})(?!\w)", "[model]", shown, flags=re.IGNORECASE)


def marked(replies: Sequence[str]) -> list[list[tuple[str, bool]]]:
    """Each reply in stretches of text, and of each whether it is a word that no other reply has, in any case."""
    words = [{match.group().lower() for match in _WORD.finditer(reply)} for reply in replies]
    found = []
    for place, reply in enumerate(replies):
        others = set().union(*(words[:place] + words[place + 1 :])) if len(replies) > 1 else words[place]
        parts: list[tuple[str, bool]] = []
        end = 0
        for match in _WORD.finditer(reply):
            alone = match.group().lower() not in others
            _add(parts, reply[end : match.start()], False)
            _add(parts, match.group(), alone)
            end = match.end()
        _add(parts, reply[end:], False)
        found.append(parts)
    return found


def _add(parts: list[tuple[str, bool]], text: str, alone: bool) -> None:
    if not text:
        return
    if parts and parts[-1][1] == alone:
        parts[-1] = (parts[-1][0] + text, alone)
    else:
        parts.append((text, alone))
