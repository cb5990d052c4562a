"""Another reply to the same turn: one that differs from those before it, where one can be drawn."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from app.ports import Decoder
from multimood_core.decoding import Sampling

AGAIN: Final = Sampling(temperature=0.8)  # another reply must be able to differ from the likeliest one
DRAWS: Final = 4  # until one differs from all before it


def another_reply(decoder: Decoder, earlier: Sequence[str], number: int, relabelled: bool) -> Iterator[str]:
    """The parts of another reply, of which nothing is given while they may still become an earlier one again.

    Args:
        decoder: has its labels.
        earlier: the replies that were suggested before.
        number: how often the reply was asked for again; the same number draws the same replies.
        relabelled: the reply follows other labels than the last one, so the likeliest is worth a try.
    """
    draws = [replace(AGAIN, seed=seed) for seed in range(DRAWS * number, DRAWS * (number + 1))]
    *tries, last = [Sampling(), *draws] if relabelled else draws
    for sampling in tries:
        parts = _unlike(decoder.reply(sampling), earlier)
        if parts is not None:
            return parts
    return decoder.reply(last)


def _unlike(parts: Iterator[str], earlier: Sequence[str]) -> Iterator[str] | None:
    """The parts of a reply from where it is known to be another; None where it is one of the earlier ones."""
    text, held = "", []
    for part in parts:
        text += part
        held.append(part)
        if not any(known.startswith(text) for known in earlier):
            return itertools.chain(held, parts)
    return None if text in earlier else iter(held)
