"""Guards of the reward: factors that take from replies which only look good. Their bounds come from real replies."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from multimood_core.rewards import ReplySituation
from multimood_core.sentences import sentences_of, words_of

_RUN: Final = 4  # words: shorter runs are shared by chance
_LAST_END: Final = re.compile(r".*[.!?…]", re.DOTALL)
_FEW: Final = 16  # situations that count as having shared nothing, so that two of three are no template yet


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


@dataclass(frozen=True, slots=True)
class EndingGuard:
    """The share of the reply's words that stand in sentences with an end: what breaks off was no sentence.

    Of MESC's 3,721 replies in the training split 22 break off, fewer than the one in a hundred that other guards bear.
    """

    name: str = "ending"

    def __call__(self, situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[float]:
        return [_finished_share(reply) for reply in replies]


class TemplateGuard:
    """1 minus the share of a reply that was lately said to other clients too, beyond what real replies share.

    A sentence that suits everybody says nothing to anybody, and no judge who sees one reply at a time can tell. So this
    guard remembers the replies to the last situations, those of the same call included; replies to one situation do not
    count against each other. Its memory is part of a training run's state: ``state`` and ``restore``.

    Args:
        usual: share that real replies have.
        window: situations that are remembered.
    """

    name: Final = "template"

    def __init__(self, usual: float, window: int = 256) -> None:
        self.usual, self.window = usual, window
        self._said: OrderedDict[str, frozenset[str]] = OrderedDict()  # situation -> the runs of words of its replies

    def __call__(self, situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[float]:
        return [_beyond(share, self.usual) for share in self.shares(situations, replies)]

    def shares(self, situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[float]:
        """For each reply, the mean over its words of the share of other situations that had the word there: in the same
        run of four words of a sentence, or in the same shorter sentence."""
        keys = [_key(situation) for situation in situations]
        for key in set(keys):
            self._said.pop(key, None)  # what was said to it in an earlier epoch is no other client's
        for key, reply in zip(keys, replies, strict=True):
            self._said[key] = self._said.get(key, frozenset()) | {run for said in _sentences(reply) for run in _runs(said)}
        while len(self._said) > max(self.window, len(set(keys))):
            self._said.popitem(last=False)
        counts = Counter(run for runs in self._said.values() for run in runs)
        others = len(self._said) - 1 + _FEW
        return [_mean_over_words(_sentences(reply), lambda run: (counts[run] - 1) / others) for reply in replies]

    def state(self) -> list[tuple[str, list[str]]]:
        """The memory in plain values, oldest first."""
        return [(key, sorted(runs)) for key, runs in self._said.items()]

    def restore(self, state: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Take up a memory that ``state`` gave."""
        self._said = OrderedDict((key, frozenset(runs)) for key, runs in state)


def _key(situation: ReplySituation) -> str:
    earlier = "\n".join(turn.text for turn in situation.history)
    return hashlib.sha256(f"{earlier}\n{situation.client}".encode()).hexdigest()[:16]


def _beyond(share: float, usual: float) -> float:
    return 1.0 - max(0.0, share - usual) / (1.0 - usual)


def repeated_share(reply: str) -> float:
    """The share of word pairs that occurred earlier in the reply."""
    words = words_of(reply)
    pairs = list(pairwise(words))
    return 1.0 - len(set(pairs)) / len(pairs) if pairs else 0.0


def _finished_share(reply: str) -> float:
    end = _LAST_END.search(reply)
    count = len(words_of(reply))
    return len(words_of(reply[: end.end()])) / count if end and count else 0.0


def copied_share(situation: ReplySituation, reply: str) -> float:
    """The share of the reply's words in runs of at least four that the dialogue before has too.

    A reply of fewer words is copied when it is the client's whole turn.
    """
    words, client = words_of(reply), words_of(situation.client)
    if len(words) < _RUN:
        return float(bool(words) and words == client)
    before = {run for turn in (client, *(words_of(turn.text) for turn in situation.history)) for run in _runs(turn)}
    return _mean_over_words([words], lambda run: float(run in before))


def _sentences(reply: str) -> list[list[str]]:
    return [words_of(sentence) for sentence in sentences_of(reply)]


def _runs(words: Sequence[str]) -> list[str]:
    """Every run of four words; the whole where there are fewer."""
    return [" ".join(words[i : i + _RUN]) for i in range(max(1, len(words) - _RUN + 1))] if words else []


def _mean_over_words(parts: Sequence[Sequence[str]], value: Callable[[str], float]) -> float:
    """Mean over the words of all parts of the highest value among the runs that each stands in; 0 where there is no word."""
    every: list[float] = []
    for words in parts:
        highest = [0.0] * len(words)
        for begin, run in enumerate(_runs(words)):
            found = value(run)
            for i in range(begin, min(begin + _RUN, len(words))):
                highest[i] = max(highest[i], found)
        every += highest
    return sum(every) / len(every) if every else 0.0
