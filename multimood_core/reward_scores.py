"""The reward of a system's replies and what it is made of, as an evaluation shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from multimood_core.bootstrap import interval, mean_of, resamples
from multimood_core.dialogues import Item
from multimood_core.rewards import ReplySituation, RewardFunction


def situation_of(item: Item) -> ReplySituation:
    """What a reply to the item answers, with what the therapist and then the client really said."""
    after = item.dialogue.turns[item.index + 2 : item.index + 3]
    return ReplySituation(
        item.client.text,
        item.history(),
        item.dialogue.context,
        item.therapist.text,
        after[0].text if after and after[0].speaker == "client" else None,
    )


def score_rewards(rewards: RewardFunction, items: Sequence[Item], replies: Sequence[str | None]) -> dict[str, Any]:
    """Mean reward and parts in plain values, each with its interval over dialogues and how many replies have it.

    A part that cannot say anything of a reply is missing there and counted, never 0; an absent reply is an empty one.

    Args:
        rewards: terms and guards.
        items: what was asked.
        replies: one for each item.
    """
    found = rewards([situation_of(item) for item in items], [reply or "" for reply in replies])
    names = ["total", *dict.fromkeys(name for reward in found for name in reward.parts)]
    values = {name: [reward.total if name == "total" else reward.parts.get(name) for reward in found] for name in names}
    groups = [item.dialogue.id for item in items]
    parts: dict[str, Any] = {}
    for name, row in values.items():
        known = [(value, group) for value, group in zip(row, groups, strict=True) if value is not None]
        parts[name] = {"n": len(known), "n_missing": len(row) - len(known)}
        if known:
            across = interval(mean_of([v for v, _ in known]), resamples([g for _, g in known]))
            parts[name] |= {"mean": float(np.mean([v for v, _ in known])), "interval": [across.low, across.high]}
    return {"parts": parts, "items": {"total": values["total"]}}
