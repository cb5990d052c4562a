"""Locks the vote on a blind comparison: first it is on the disk, then the names are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from app.compare.comparison import LEAST, Comparison
from app.compare.differences import scrubbed
from app.compare.values import text_of
from app.compare.votes import Vote, Votes, ranks_of
from app.session import MAX_TEXT
from app.studies.deidentify import deidentified
from multimood_core.errors import DataError


def lock_vote(comparison: Comparison, votes: Votes, values: Mapping[str, Any], now: float) -> None:
    """Writes the vote of a request and opens the comparison.

    Args:
        comparison: which is blind and has ended.
        votes: where it is kept.
        values: ``ranks``, ``comment``, and ``keep``: whether the words are kept with it.
        now: seconds since 1970.

    Raises:
        DataError: it cannot be voted on, something is open, or the vote could not be written.
    """
    with comparison.lock:
        if not comparison.blind:
            raise DataError("Votes are on blind comparisons alone: names that are known sway.")
        if comparison.locked:
            raise DataError("This comparison has its vote already.")
        if comparison.running:
            raise DataError("Wait until every reply is there.")
        columns = comparison.answered
        if len(columns) < LEAST:
            raise DataError("Fewer than two systems gave a reply: there is nothing to vote on. Begin another comparison.")
        keep = values.get("keep") is True
        if keep and comparison.moment.source == "live":
            raise DataError(
                "Words of a live session are kept by the client's consent alone, in the Privacy tab; lock the vote without them."
            )
        ranks = ranks_of(values.get("ranks"), [column.key for column in columns])
        sampling = {name: asdict(comparison.sampling)[name] for name in ("temperature", "top_p", "seed", "max_tokens")}
        vote = Vote(
            comparison.id,
            now,
            tuple(asdict(column.choice) for column in columns),
            ranks,
            sampling,
            comparison.moment.source,
            comparison.moment.item,
            deidentified(text_of(values, "comment", MAX_TEXT)),
            _words(comparison) if keep else None,
        )
        votes.add(vote)
        comparison.locked = True
        comparison.vote = {"ranks": {k: dict(zip((c.key for c in columns), row, strict=True)) for k, row in ranks.items()}}


def _words(comparison: Comparison) -> dict[str, Any]:
    """What a pair of replies needs to be learnt from, without what points to a person or a system."""
    moment, names = comparison.moment, [column.choice.name for column in comparison.columns]
    return {
        "context": {"problem": deidentified(moment.context.problem), "situation": deidentified(moment.context.situation)},
        "history": [
            {"speaker": t.speaker, "text": deidentified(t.text), "emotion": t.emotion, "strategy": t.strategy}
            for t in moment.history
        ],
        "client": {
            "speaker": "client", "text": deidentified(moment.words), "emotion": moment.truth.get("client_emotion"),
            "strategy": None,
        },
        "replies": [scrubbed(deidentified(column.reply.strip()), names) for column in comparison.answered],
    }  # fmt: skip
