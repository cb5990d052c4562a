"""Guards of the reward: factors that take from replies which only look good. Their bounds come from real replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from multimood_core.rewards import ReplySituation
from multimood_core.sentences import words_of

_RUN: Final = 4  # words: shorter runs are shared by chance


@dataclass(frozen=True, slots=True)
class LengthGuard:
    """0 for an empty reply; 1 up to ``longest`` words, then as ``longest`` over the number of words."""

    longest: int
    name: str = "length"

    def __call__(self, situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[float]:
        counts = [len(words_of(reply)) for reply in replies]
        return [min(1.0, self.longest / count) if count else 0.0 for count in counts]


@dataclass(frozen=True, slots=True)
class RepetitionGuard:
    """The share of the reply's word pairs that are not there already; 1 where at most ``usual`` of them repeat."""

    usual: float
    name: str = "repetition"

    def __call__(self, situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[float]:
        return [_beyond(repeated_share(reply), self.usual) for reply in replies]


@dataclass(frozen=True, slots=True)
class CopyGuard:
    """1 minus the share of the reply that stands word for word in the dialogue before, beyond what is ``usual``.

    A therapist does say back what the client said (restatement), so a share that real replies have is free.
    """

    usual: float
    name: str = "copying"

    def __call__(self, situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[float]:
        return [_beyond(copied_share(s, reply), self.usual) for s, reply in zip(situations, replies, strict=True)]


def _beyond(share: float, usual: float) -> float:
    return 1.0 - max(0.0, share - usual) / (1.0 - usual)


def repeated_share(reply: str) -> float:
    """The share of word pairs that occurred earlier in the reply."""
    words = words_of(reply)
    pairs = list(pairwise(words))
    return 1.0 - len(set(pairs)) / len(pairs) if pairs else 0.0


def copied_share(situation: ReplySituation, reply: str) -> float:
    """The share of the reply's words in runs of at least four that the dialogue before has too.

    A reply of fewer words is copied when it is the client's whole turn.
    """
    words = words_of(reply)
    turns = [words_of(situation.client), *(words_of(turn.text) for turn in situation.history)]
    if len(words) < _RUN:
        return float(bool(words) and words == turns[0])
    runs = {tuple(turn[i : i + _RUN]) for turn in turns for i in range(len(turn) - _RUN + 1)}
    copied = [False] * len(words)
    for i in range(len(words) - _RUN + 1):
        if tuple(words[i : i + _RUN]) in runs:
            copied[i : i + _RUN] = [True] * _RUN
    return sum(copied) / len(words)
