"""The label sets of MESC (paper, Task definition) and the way other corpora's words map onto them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Final

EMOTIONS: Final = ("anger", "sadness", "disgust", "depression", "neutral", "joy", "fear")
STRATEGIES: Final = (
    "open question",
    "approval",
    "self-disclosure",
    "restatement",
    "interpretation",
    "advisement",
    "communication skills",
    "structuring the therapy",
    "guiding the pace and depth of the conversation",
    "others",
)
SPEAKERS: Final = ("client", "therapist")

# No face or voice corpus acts "depression": the media label sets are the other six.
MEDIA_EMOTIONS: Final = tuple(e for e in EMOTIONS if e != "depression")

_EMOTION_SYNONYMS: Final = {
    # RAVDESS and EmoDB
    "calm": "neutral",
    "happy": "joy",
    "happiness": "joy",
    "sad": "sadness",
    "angry": "anger",
    "fearful": "fear",
    "anxiety": "fear",
    "anxious": "fear",
    "disgusted": "disgust",
    # spelling and inflection
    "scared": "fear",
    "afraid": "fear",
    "joyful": "joy",
    "depressed": "depression",
    # CREMA-D and IEMOCAP
    "ang": "anger",
    "dis": "disgust",
    "fea": "fear",
    "hap": "joy",
    "neu": "neutral",
}
_STRATEGY_SYNONYMS: Final = {
    "open questions": "open question",
    "communication skill": "communication skills",
    "self disclosure": "self-disclosure",
    "other": "others",
}
# Words that other sets use for something outside the seven; they are left out and counted, never guessed.
OUTSIDE: Final = frozenset(
    {
        "surprise", "surprised", "pleasant surprise", "sur", "boredom", "bored", "contempt", "excitement", "excited", "exc",
        "frustration", "frustrated", "fru", "amusement", "amused", "other", "oth", "undefined", "unknown", "xxx", "",
    }
)  # fmt: skip


# Names that would be found in words which mean something else.
_NOT_IN_SENTENCES: Final = frozenset({"other"})


def _fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).strip().lower().split())


def emotion_of(text: str) -> str | None:
    """Maps a corpus's emotion word onto one of the seven.

    Args:
        text: any spelling of an emotion, e.g. ``"Happy"``.

    Returns:
        The label in ``EMOTIONS``, or None when the word stands for an emotion outside the seven.

    Raises:
        ValueError: the word is in neither list.
    """
    word = _fold(text)
    label = _EMOTION_SYNONYMS.get(word, word)
    if label in EMOTIONS:
        return label
    if word in OUTSIDE:
        return None
    raise ValueError(f"expected one of {', '.join(EMOTIONS)} (or a synonym such as happy, calm, angry), got {text!r}")


def strategy_of(text: str) -> str | None:
    """Maps a spelling of a counselling strategy onto one of the ten; None for MESC's ``undefined``.

    Raises:
        ValueError: the words name no strategy.
    """
    words = _fold(text)
    label = _STRATEGY_SYNONYMS.get(words, words)
    if label in STRATEGIES:
        return label
    if words in ("undefined", ""):
        return None
    raise ValueError(f"expected one of {', '.join(STRATEGIES)}, got {text!r}")


def emotion_in(text: str) -> str | None:
    """The emotion that free words name first, by its own name or a synonym: ``"a mix of sad and angry"`` is sadness."""
    return _first_named(text, dict.fromkeys(EMOTIONS) | _EMOTION_SYNONYMS)


def strategy_in(text: str) -> str | None:
    """The strategy that free words name first, see ``emotion_in``."""
    return _first_named(text, dict.fromkeys(STRATEGIES) | _STRATEGY_SYNONYMS)


def _first_named(text: str, known: Mapping[str, str | None]) -> str | None:
    """The label of the name that stands first; of two at one place, the longer. ``known``: name -> label, None for itself."""
    words = _fold(text)
    found = [
        (match.start(), -len(name), label or name)
        for name, label in known.items()
        if name not in _NOT_IN_SENTENCES and (match := re.search(rf"\b{re.escape(name)}\b", words))
    ]
    return min(found)[2] if found else None
