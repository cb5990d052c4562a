"""Pairs of replies of which people preferred one, as the app's studies and comparisons export them, for the reward model.

    python -m train.reward_model --config train/configs/reward_model_mini.yaml --preferences=pairs.jsonl

An object a line: ``item``, ``context`` (``problem``, ``situation``), ``history`` and ``client`` (turns), ``chosen``,
``rejected`` and the ``criterion`` that was asked. A turn has ``speaker`` and ``text``, a history's also its labels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multimood_core.errors import DataError
from multimood_core.records import Context, HistoryTurn
from multimood_core.rewards import ReplySituation


@dataclass(frozen=True, slots=True)
class Preference:
    """A situation whose ``reference`` is the reply that was preferred to ``rejected``; ``item`` is its dialogue and place."""

    item: str
    situation: ReplySituation
    rejected: str


def read_preferences(path: Path, criterion: str = "overall") -> list[Preference]:
    """The pairs of a file that were chosen by ``criterion``.

    Raises:
        DataError: no such file, a line that is no such pair (says which, and why), or no pair of this criterion.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as cause:
        raise DataError(f"Expected preference pairs (JSON lines) at {path}: {cause}") from cause
    found, seen = [], set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
            seen.add(raw["criterion"])
            if raw["criterion"] == criterion:
                found.append(_preference(raw))
        except (ValueError, KeyError, TypeError, AttributeError) as cause:
            raise DataError(
                f"{path}, line {number}: expected an object with item, context, history, client, chosen, rejected and "
                f"criterion, as the app exports preference pairs: {cause!r}"
            ) from cause
    if not found:
        known = ", ".join(sorted(seen)) or "none at all"
        raise DataError(f"{path} has no pair chosen by {criterion!r}, but by: {known}. Take another --criterion.")
    return found


def _preference(raw: Mapping[str, Any]) -> Preference:
    chosen, rejected = raw["chosen"].strip(), raw["rejected"].strip()
    if not chosen or not rejected or chosen == rejected:
        raise ValueError("chosen and rejected are two replies with words")
    if raw["client"]["speaker"] != "client":
        raise ValueError("what is answered is a client's turn")
    history = tuple(
        HistoryTurn(turn["speaker"], turn["text"], turn.get("emotion"), turn.get("strategy")) for turn in raw["history"]
    )
    context = Context(raw["context"].get("problem") or "", raw["context"].get("situation") or "")
    item = str(raw["item"])
    situation = ReplySituation(raw["client"]["text"], history, context, reference=chosen)
    return Preference(item if "/" in item else f"{item}/0", situation, rejected)
