"""Words of risk: a curated list of patterns with idioms taken out and negations heeded (``assets/risk/lexicon.yaml``).

The list is English and the project's own. It finds what is said in words that somebody thought of, and nothing else.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from multimood_core.errors import ModelError

CATEGORIES: Final = ("self-harm", "harm to others", "abuse", "acute crisis")
_NAMED: Final = "death"  # the group of signs that only names it, as a denial does too
REACH: Final = 5  # words between a negation and what it denies, at most
_GAP: Final = r"(?:(?: \w+){0,3} )"
_FILLER: Final = re.compile(r",\s*(?:like|um+|uh+|er+m?|you know|i mean|honestly|sort of|kind of|well)\s*,")
_BREAK: Final = re.compile(r"[.,!?;:()\n…–—]+|\bbut\b|\bhowever\b|\balthough\b")
_INVISIBLE: Final = re.compile(r"[\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\u00ad]")


@dataclass(frozen=True, slots=True)
class Match:
    """Words of the folded text that fit a pattern of ``category``."""

    category: str
    words: str


@dataclass(frozen=True, slots=True)
class Sign:
    """A weak sign: its group, what it adds, and the words."""

    group: str
    weight: float
    words: str


def fold(text: str) -> str:
    """Lower case without apostrophes and invisible characters, one space between words, ``|`` where a clause ends."""
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).casefold()
    text = re.sub(r"['’‘`´]", "", text)
    text = _BREAK.sub(" | ", _FILLER.sub(" ", text))
    return " ".join(re.sub(r"[^\w|]+|_", " ", text).split())


class Lexicon:
    """The patterns of one file.

    Raises:
        ModelError: the file is absent or holds something else than described in its head.
    """

    def __init__(self, path: Path) -> None:
        try:
            raw: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
            words = {name: str(value) for name, value in raw["words"].items()} | {"rest": r"[^|]*"}
            compiled = {
                key: {category: _join(patterns, words) for category, patterns in raw[key].items()}
                for key in ("risks", "denied counts")
            }
            self._risks, self._denied_counts = compiled["risks"], compiled["denied counts"]
            self._idioms, self._replies = _join(raw["idioms"], words), _join(raw["replies"], words)
            self._negation = re.compile(rf"\b{raw['negators']}\b(?: \w+){{0,{REACH}}} ?$")
            self._no_denial = re.compile(rf"\b{raw['no_denial']}\b(?: \w+){{0,{REACH}}} ?$")
            signs = raw["signs"]
            self.alarm, self.least_groups = float(signs["alarm"]), int(signs["least groups"])
            self._signs = {
                name: (float(group["weight"]), _join(group["patterns"], words)) for name, group in signs["groups"].items()
            }
        except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError, re.error) as cause:
            raise ModelError(
                f"Expected the risk screen's words in {path}, but: {cause!r}. Mend the file, or take the one that was delivered."
            ) from cause
        unknown = {*self._risks, *self._denied_counts} - set(CATEGORIES)
        if unknown:
            raise ModelError(f"{path}: expected the categories {', '.join(CATEGORIES)}, got {', '.join(sorted(unknown))}.")

    def matches(self, text: str) -> list[Match]:
        """What stands in a client's words, without idioms and without what is denied."""
        folded = self._without_idioms(fold(text))
        found = [
            Match(category, match[0].strip())
            for category, pattern in self._risks.items()
            for match in pattern.finditer(folded)
            if not self._denied(folded[: match.start()])
        ]
        found += [
            Match(category, match[0].strip())
            for category, pattern in self._denied_counts.items()
            for match in pattern.finditer(folded)
        ]
        return sorted(set(found), key=lambda match: (CATEGORIES.index(match.category), match.words))

    def signs(self, text: str) -> list[Sign]:
        """The first weak sign of each group."""
        folded = self._without_idioms(fold(text))
        found = ((name, weight, pattern.search(folded)) for name, (weight, pattern) in self._signs.items())
        return [Sign(name, weight, match[0].strip()) for name, weight, match in found if match]

    def explained(self, text: str) -> bool:
        """Whether grave words of a text are an idiom or denied, and nothing else in it is a sign."""
        folded = fold(text)
        plain = self._without_idioms(folded)
        denied = (m for pattern in self._risks.values() for m in pattern.finditer(plain) if self._denied(plain[: m.start()]))
        if plain == folded and next(denied, None) is None:
            return False
        return not self.matches(text) and all(sign.group == _NAMED for sign in self.signs(text))

    def harmful_reply(self, text: str) -> list[str]:
        """What of a suggested reply encourages harm; a question that asks about it does not."""
        found = []
        for sentence in re.split(r"(?<=[.!?…\n])\s*", text):
            if sentence.rstrip().endswith("?") and not re.match(r"\s*why (?:not|don)", sentence, re.IGNORECASE):
                continue
            folded = fold(sentence)  # an idiom of a client is none in advice: "hit him back"
            found += [m[0].strip(" |") for m in self._replies.finditer(folded) if not self._denied(folded[: m.start()])]
        return found

    def _without_idioms(self, folded: str) -> str:
        return self._idioms.sub("|", folded)

    def _denied(self, before: str) -> bool:
        clause = before.rsplit("|", 1)[-1]
        return bool(self._negation.search(clause)) and not self._no_denial.search(clause)


def _join(patterns: Sequence[str], words: Mapping[str, str]) -> re.Pattern[str]:
    def whole(pattern: str) -> str:
        for name, value in words.items():
            pattern = pattern.replace(f"<{name}>", value)
        # An underscore is no letter here; folded text has none.
        return pattern.replace("_", _GAP).strip()

    return re.compile("|".join(rf"(?:\b|(?<=\|)|^)(?:{whole(pattern)})(?!\w)" for pattern in patterns))
