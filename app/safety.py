"""What happens on a sign of risk: the screen, the alert that stands until it is cleared, help lines, and prepared answers;
and from when on face, voice and words conflict.

Lines and answers are files in ``assets/risk`` that whoever runs the app edits. Nothing here is sent to anybody.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from multimood_core.conflict import Conflicts
from multimood_core.errors import ModelError
from multimood_core.risk import ASSETS, Risk, RiskScreen
from multimood_core.risk_lexicon import CATEGORIES

ANYWHERE: Final = "INT"
PARTS: Final = ("acknowledge", "boundary", "transition", "guide")
MOST_PRESSING: Final = ("acute crisis", "self-harm", "harm to others", "abuse")


@dataclass(frozen=True, slots=True)
class Line:
    """A help line: for which categories, how it is reached, and who says so."""

    categories: tuple[str, ...]
    name: str
    contact: str
    source: str


@dataclass(frozen=True, slots=True)
class Country:
    """Where help comes from, and the date of the list."""

    code: str
    name: str
    emergency: str
    lines: tuple[Line, ...]
    compiled: str
    note: str


@dataclass(frozen=True, slots=True)
class PreparedAnswer:
    """The compassionate completion of a turn that the model must not answer, part by part."""

    category: str
    acknowledge: str
    boundary: str
    transition: str
    guide: str

    @property
    def text(self) -> str:
        return " ".join(getattr(self, part) for part in PARTS)


@dataclass(slots=True)
class Alert:
    """Risk found in a turn; it stands until somebody clears it and says why."""

    turn: int
    raised: datetime.datetime
    risks: tuple[Risk, ...]
    cleared: datetime.datetime | None = None
    reason: str = ""

    @property
    def categories(self) -> tuple[str, ...]:
        """Each category once, the most pressing first."""
        return by_urgency(risk.category for risk in self.risks)


def by_urgency(categories: Iterable[str]) -> tuple[str, ...]:
    """Each of the categories once, the most pressing first."""
    found = set(categories)
    return tuple(category for category in MOST_PRESSING if category in found)


@dataclass(frozen=True, slots=True)
class Safety:
    """What a session needs: the screen, the country's help, and the prepared answers."""

    screen: RiskScreen
    country: Country
    answers: Mapping[str, Mapping[str, str]]
    conflicts: Conflicts

    @classmethod
    def load(cls, country: str = ANYWHERE, folder: Path = ASSETS) -> Safety:
        """Read everything below ``folder``.

        Raises:
            ModelError: a file is absent or not as its head says, or the country is not in the list.
        """
        return cls(shared_screen(folder), read_country(country, folder), _read_answers(folder), Conflicts.read())

    def lines(self, categories: Sequence[str]) -> list[Line]:
        """The country's lines for any of the categories."""
        return [line for line in self.country.lines if set(line.categories) & set(categories)]

    def answer(self, categories: Sequence[str]) -> PreparedAnswer:
        """The prepared answer for the most pressing of the categories, with the country's help in it."""
        category = by_urgency(categories)[0]
        lines = [line for line in self.lines([category]) if line.contact]
        line = f"{lines[0].name} can be reached here: {lines[0].contact}." if lines else ""
        parts = {
            part: " ".join(text.format(emergency=self.country.emergency, line=line).split())
            for part, text in self.answers[category].items()
        }
        return PreparedAnswer(category, **parts)


@functools.cache
def shared_screen(folder: Path = ASSETS) -> RiskScreen:
    """One screen for all sessions: it keeps nothing of what it reads."""
    return RiskScreen.from_folder(folder)


def read_country(code: str, folder: Path = ASSETS) -> Country:
    """One country of ``resources.yaml``.

    Raises:
        ModelError: the file is absent or not as its head says, or there is no such country.
    """
    path = folder / "resources.yaml"
    raw = _read(path)
    try:
        found = raw["countries"].get(code.upper())
        if found is None:
            known = ", ".join(f"{key} ({value['name']})" for key, value in raw["countries"].items())
            raise ModelError(f"Expected --country to be one of {known}, got {code}; add yours to {path}.")
        lines = [Line(tuple(one["for"]), str(one["name"]), str(one["contact"]), str(one["source"])) for one in found["lines"]]
        if strange := {category for line in lines for category in line.categories} - set(CATEGORIES):
            raise ModelError(f"{path}: expected lines for {', '.join(CATEGORIES)}, got {', '.join(sorted(strange))}.")
        return Country(
            code.upper(), found["name"], str(found["emergency"]), tuple(lines), str(raw["compiled"]), str(raw["note"])
        )
    except (KeyError, TypeError, AttributeError) as cause:
        raise ModelError(f"{path} is not as its first lines say: {cause!r}. Mend it, or take the delivered one.") from cause


def _read_answers(folder: Path) -> Mapping[str, Mapping[str, str]]:
    path = folder / "answers.yaml"
    raw = _read(path)
    for category in CATEGORIES:
        parts = raw.get(category)
        if not isinstance(parts, dict) or set(parts) != set(PARTS) or not all(str(text).strip() for text in parts.values()):
            raise ModelError(f"{path}: expected the parts {', '.join(PARTS)} under {category}, got {parts!r}.")
    return {category: {part: str(raw[category][part]) for part in PARTS} for category in CATEGORIES}


def _read(path: Path) -> Any:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as cause:
        raise ModelError(f"Expected a YAML file at {path}: {cause}. Take the delivered one.") from cause
    if not isinstance(raw, dict):
        raise ModelError(f"{path}: expected names with what belongs to them, got {type(raw).__name__}.")
    return raw
