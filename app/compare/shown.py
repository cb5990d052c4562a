"""A comparison as the page gets it: of a blind one nothing that tells who is who, until its vote is locked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.compare.comparison import Column, Comparison
from app.compare.differences import marked, scrubbed
from app.view import COLOURS
from multimood_core.decoding import LABELS
from multimood_core.records import Turn
from multimood_core.rewards import Reward

UNTOLD = "This system gave no reply to judge."


def shown(comparison: Comparison) -> dict[str, Any]:
    """The state in plain values."""
    with comparison.lock:
        hidden = comparison.blind and not comparison.locked
        moment, sampling = comparison.moment, comparison.sampling
        return {
            "id": comparison.id,
            "phase": comparison.phase,
            "running": comparison.running,
            "problem": "" if hidden and comparison.problem else comparison.problem,
            "blind": comparison.blind,
            "locked": comparison.locked,
            "vote": comparison.vote,
            "turn": {
                "source": moment.source,
                "item": moment.item,
                "words": moment.words,
                "heard": _heard(moment.turn),
                "history": [{"speaker": t.speaker, "text": t.text} for t in moment.history],
                "problem": moment.context.problem,
                "situation": moment.context.situation,
                "reference": moment.reference,
                "truth": dict(moment.truth),
            },
            "sampling": {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "seed": sampling.seed,
                "max_tokens": sampling.max_tokens,
            },
            "columns": _covered(comparison) if hidden else _open(comparison.columns),
        }


def _heard(turn: Turn) -> list[str]:
    parts = (("picture", turn.frames is not None), ("sound", turn.waveform is not None), ("words", bool(turn.text)))
    return [name for name, there in parts if there]


def _covered(comparison: Comparison) -> list[dict[str, Any]]:
    """Letters and replies alone, all of them at once: who is quick, and who has probabilities, would tell who is who."""
    ready = not comparison.running
    names = [column.choice.name for column in comparison.columns]
    there = comparison.answered if ready else []
    replies = [scrubbed(column.reply.strip(), names) if column in there else "" for column in comparison.columns]
    return [
        {"key": column.key, "done": ready, "reply": parts, "problem": UNTOLD if ready and not reply else ""}
        for column, parts, reply in zip(comparison.columns, marked(replies), replies, strict=True)
    ]


def _open(columns: Sequence[Column]) -> list[dict[str, Any]]:
    differing = {task: len({c.labels[task].label for c in columns if task in c.labels}) > 1 for task in LABELS}
    return [
        {
            "key": column.key,
            "name": column.choice.name,
            "kind": column.choice.kind,
            "sha256": column.choice.sha256,
            "done": column.done,
            "problem": column.problem,
            "labels": {task: _label(column, task, differing[task]) for task in LABELS},
            "reply": parts,
            "seconds": round(column.seconds, 2),
            "rate": None if column.rate is None else round(column.rate, 1),
            "reward": None if column.reward is None else _reward(column.reward),
        }
        for column, parts in zip(columns, marked([column.reply.strip() for column in columns]), strict=True)
    ]


def _label(column: Column, task: str, differs: bool) -> dict[str, Any] | None:
    prediction = column.labels.get(task)
    if prediction is None:
        return None
    ranked = sorted(prediction.probabilities.items(), key=lambda pair: -pair[1])
    top = [{"label": name, "share": round(share, 4), "colour": COLOURS.get(name, "")} for name, share in ranked]
    return {"label": prediction.label, "colour": COLOURS.get(prediction.label, ""), "differs": differs, "shares": top}


def _reward(reward: Reward) -> dict[str, Any]:
    return {"total": reward.total, "parts": dict(reward.parts)}
