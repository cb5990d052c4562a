"""What a client agreed to: which part, in which words, when, and whether it still stands."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import yaml

from multimood_core.errors import DataError

PATH: Final = Path(__file__).resolve().parents[1] / "assets" / "consent.yaml"
PARTS: Final = ("transcript", "audio", "video")
GIVERS: Final = ("client", "guardian")
Part = Literal["transcript", "audio", "video"]


@dataclass(frozen=True, slots=True)
class ConsentText:
    """The words of a version, and the SHA-256 of the file: a text that was changed under its old version still shows."""

    version: str
    texts: Mapping[str, str]
    always: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Consent:
    """One part of one session: ``by`` whom it was given, and who ``recorded`` it. Times are ISO 8601 in UTC."""

    part: str
    version: str
    sha256: str
    given: str
    by: str
    recorded: str
    revoked: str | None = None

    @property
    def stands(self) -> bool:
        return self.revoked is None

    def taken_back(self) -> Consent:
        return self if self.revoked else replace(self, revoked=moment())


def moment() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def read_text(path: Path = PATH) -> ConsentText:
    """The text in force.

    Raises:
        DataError: the file has no version, or not a text for each part.
    """
    try:
        data = path.read_bytes()
        raw = yaml.safe_load(data)
        text = ConsentText(
            raw["version"], {p: " ".join(raw["texts"][p].split()) for p in PARTS}, " ".join(raw["always"].split()),
            hashlib.sha256(data).hexdigest(),
        )  # fmt: skip
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as cause:
        raise DataError(f"Expected version, texts of {', '.join(PARTS)} and always in {path}: {cause!r}; mend it.") from cause
    if not isinstance(text.version, str) or not 0 < len(text.version) <= 40 or not text.version.isascii():
        raise DataError(f"Expected a short version in quotes in {path}, got {text.version!r}.")
    return text


def give(parts: list[str], by: str, recorded: str, text: ConsentText) -> dict[str, Consent]:
    """Consents to ``parts`` from now on.

    Raises:
        DataError: no such part or giver, or none.
    """
    if not parts or not set(parts) <= set(PARTS) or by not in GIVERS:
        raise DataError(f"Expected what may be kept ({', '.join(PARTS)}) and who agreed ({', '.join(GIVERS)}); choose both.")
    now = moment()
    return {part: Consent(part, text.version, text.sha256, now, by, recorded) for part in dict.fromkeys(parts)}
