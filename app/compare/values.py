"""What comes with a request, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from multimood_core.decoding import MAX_REPLY_TOKENS, Sampling
from multimood_core.errors import DataError

MAX_TOKENS: Final = 256


@dataclass(frozen=True, slots=True)
class Call:
    """A request."""

    values: Mapping[str, Any]
    data: bytes
    query: Mapping[str, str]
    path: Mapping[str, Any]
    who: str


def number_of(values: Mapping[str, Any], name: str, least: float, most: float, default: float) -> float:
    """A number from ``least`` to ``most``.

    Raises:
        DataError: it is none.
    """
    value = values.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise DataError(f"Expected {name.replace('_', ' ')} from {least:g} to {most:g}, got {value!r}.")
    return value


def whole_of(values: Mapping[str, Any], name: str, least: int, most: int, default: int) -> int:
    """A whole number from ``least`` to ``most``.

    Raises:
        DataError: it is none.
    """
    value = number_of(values, name, least, most, default)
    if value != int(value):
        raise DataError(f"Expected a whole number as {name.replace('_', ' ')}, got {value!r}.")
    return int(value)


def text_of(values: Mapping[str, Any], name: str, most: int) -> str:
    """A text of at most ``most`` characters.

    Raises:
        DataError: it is none, or longer.
    """
    value = values.get(name, "")
    if not isinstance(value, str) or len(value) > most:
        shown = f"{len(value):,} characters" if isinstance(value, str) else repr(value)[:60]
        raise DataError(f"Expected {name} as text of at most {most:,} characters, got {shown}.")
    return value.strip()


def sampling_of(raw: object) -> Sampling:
    """Temperature, top-p, seed and most tokens.

    Raises:
        DataError: one of them is none.
    """
    values = raw if isinstance(raw, dict) else {}
    return Sampling(
        temperature=float(number_of(values, "temperature", 0, 2, 0)),
        top_p=float(number_of(values, "top_p", 0.05, 1, 0.9)),
        seed=whole_of(values, "seed", 0, 2**31 - 1, 0),
        max_tokens=whole_of(values, "max_tokens", 1, MAX_TOKENS, MAX_REPLY_TOKENS),
    )
