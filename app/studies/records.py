"""The records of a study that pass between its parts, and the reading of what the page sends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from app.studies.adjudication import MAX_OVERLAP
from app.studies.errors import InputError
from multimood_core.preference import VERDICTS

MAX_TEXT: Final = 4000  # characters of a comment, a definition or an example
MAX_CRITERIA: Final = 9
REASONS: Final = ("unclear", "distressing", "not my language", "technical", "other")


@dataclass(frozen=True, slots=True)
class Criterion:
    """One question that each pair is judged on, with an example of a response that does well and of one that does not."""

    key: str
    name: str
    definition: str
    good: str
    bad: str


@dataclass(frozen=True, slots=True)
class StudySettings:
    """How a study is run. Fixed once it is open."""

    overlap: int = 2
    """raters who judge each pair first (1 to 3)"""
    gate_size: int = 100
    """items of the entrance test; 0 lets raters in without one"""
    gate_kappa: float = 0.4
    """Cohen's kappa against the gold that each criterion must exceed"""
    attention_every: int = 25
    """an attention check after so many judgments; 0 for none"""
    break_minutes: int = 30
    """minutes of work after which a break is suggested"""
    seed: int = 0
    """of every random choice: items, their order, which response stands first"""
    support: str = ""
    """whom a rater can turn to, shown with the way out"""
    hidden_names: tuple[str, ...] = ()
    """names that are replaced in every text, beside what is recognised"""

    def __post_init__(self) -> None:
        expect(1 <= self.overlap <= MAX_OVERLAP, f"1 to {MAX_OVERLAP} first raters", self.overlap)
        expect(self.gate_size == 0 or self.gate_size >= 5, "an entrance test of 5 items or more, or 0 for none", self.gate_size)
        expect(0 <= self.gate_kappa < 1, "a kappa from 0 to below 1", self.gate_kappa)
        expect(self.attention_every >= 0, "0 or more judgments between attention checks", self.attention_every)
        expect(5 <= self.break_minutes <= 240, "5 to 240 minutes before a break", self.break_minutes)


@dataclass(frozen=True, slots=True)
class Submission:
    """One judgment as the page sends it, already read: verdicts are of the *left* response, whichever was shown first."""

    assignment: int
    verdicts: Mapping[str, str]
    reason: str
    comment: str
    seconds: float
    key: str
    replaces: int | None


def expect(condition: bool, what: str, got: object) -> None:
    """Raises InputError where ``condition`` does not hold."""
    if not condition:
        raise InputError(f"Expected {what}, got {got!r}.")


def storable(text: str) -> str:
    """The text without what databases refuse: NUL, and halves of characters that an escape left alone."""
    return text.replace("\x00", "").encode("utf-8", "ignore").decode()


def text_of(raw: Mapping[str, Any], name: str, most: int = MAX_TEXT, least: int = 0) -> str:
    """A text of the request without surrounding space; what is no text or too long is refused."""
    value = raw.get(name, "")
    expect(isinstance(value, str), f"{name} as text", value)
    value = storable(value).strip()
    expect(len(value) <= most, f"{name} of at most {most:,} characters", f"{len(value):,}")
    expect(len(value) >= least, f"{name} of at least {least} character{'s' if least > 1 else ''}", value)
    return value


def integer_of(raw: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """A whole number of the request."""
    value = raw.get(name, default)
    expect(isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31, f"{name} as a whole number", value)
    return int(value)


def settings_of(raw: Mapping[str, Any]) -> StudySettings:
    """Settings that the page or a bundle holds.

    Raises:
        InputError: an unknown key, or a value of another kind or out of its range.
    """
    known = {field.name: field.default for field in fields(StudySettings)}
    unknown = sorted(set(raw) - set(known))
    expect(not unknown, f"settings of {', '.join(known)}", unknown)
    values: dict[str, Any] = {}
    for name, value in raw.items():
        default = known[name]
        if isinstance(default, tuple):
            expect(isinstance(value, list) and all(isinstance(v, str) for v in value), f"{name} as a list of words", value)
            values[name] = tuple(v.strip() for v in value if v.strip())
        elif isinstance(default, str):
            values[name] = text_of(raw, name)
        elif isinstance(default, float):
            good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            expect(good, f"{name} as a number", value)
            values[name] = float(value)
        else:
            values[name] = integer_of(raw, name)
    return StudySettings(**values)


def criteria_of(raw: object) -> tuple[Criterion, ...]:
    """Criteria that the page or a bundle holds.

    Raises:
        InputError: none, too many, a key twice, or an empty definition.
    """
    expect(isinstance(raw, list) and 1 <= len(raw) <= MAX_CRITERIA, f"1 to {MAX_CRITERIA} criteria", raw)
    found = []
    for entry in raw:  # type: ignore[attr-defined]
        expect(isinstance(entry, dict), "a criterion with key, name, definition, good and bad", entry)
        key, name = text_of(entry, "key", 32, 1).lower(), text_of(entry, "name", 40, 1)
        texts = (text_of(entry, "definition", least=1), text_of(entry, "good"), text_of(entry, "bad"))
        found.append(Criterion(key, name, *texts))
    keys = [criterion.key for criterion in found]
    expect(len(set(keys)) == len(keys), "a different key for each criterion", keys)
    return tuple(found)


def verdicts_of(raw: object, criteria: tuple[Criterion, ...]) -> dict[str, str]:
    """A verdict for each criterion.

    Raises:
        InputError: a criterion is absent or unknown, or a verdict is none of win, tie, loss.
    """
    keys = [criterion.key for criterion in criteria]
    good = isinstance(raw, dict) and set(raw) == set(keys) and all(value in VERDICTS for value in raw.values())
    expect(good, f"win, tie or loss for each of {', '.join(keys)}", raw)
    return {key: raw[key] for key in keys}  # type: ignore[index]


def as_plain(record: Any) -> dict[str, Any]:
    """A record as what JSON can hold."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(record).items()}
