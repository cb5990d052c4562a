"""The screen for risk in a client's words: a curated lexicon, and a small head on MiniLM's frozen states.

Each turn is read once (``RiskScreen.read``); the turn and the conversation up to it are judged from such readings
(``RiskScreen.judge``), since sentences that are harmless one by one can add up. It reads English words and nothing else, and
it misses some: it is a second pair of eyes, not an all-clear. ``train.risk`` trains the head and writes its card.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from multimood_core.errors import ModelError
from multimood_core.risk_lexicon import CATEGORIES, Lexicon, Match, Sign
from multimood_core.sentences import sentences_of
from multimood_core.text_encoder import MiniLM

ASSETS: Final = Path(__file__).resolve().parent.parent / "assets" / "risk"
WINDOW: Final = 8  # turns of the client that are judged together, this one among them
PIECE: Final = 40  # words that the head reads at once: a spoken turn has about 15, a post hundreds
LEAST: Final = 8  # words of a piece that the head judges: of posts it knows few shorter ones, and "I cannot sleep" alarmed it
_ENOUGH: Final = 3  # turns from which on a window says more than its turns

Why = Literal["words", "model", "conversation"]


@dataclass(frozen=True, slots=True)
class Risk:
    """A reason for an alert: of which category, found how, and in which words."""

    category: str
    why: Why
    evidence: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What one turn holds: matches and weak signs of the lexicon, the head's probability, and the piece that it is of."""

    matches: tuple[Match, ...]
    signs: tuple[Sign, ...]
    score: float
    piece: str


class RiskHead(nn.Module):
    """From a piece's pooled state (B, D) of length 1 to the log-odds (B,) that somebody at risk of suicide said it.

    Args:
        width: of the states.
        hidden: width between.
        dropout: in training.
    """

    def __init__(self, width: int, hidden: int = 32, dropout: float = 0.3) -> None:
        super().__init__()
        self.scale = width**0.5  # to a variance of 1
        self.layers = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(width, hidden), nn.Tanh(), nn.Dropout(dropout), nn.Linear(hidden, 1)
        )

    def forward(self, pooled: Tensor) -> Tensor:
        return self.layers(pooled * self.scale)[..., 0]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Probabilities from which on a turn, or the mean of the three highest of a window, is a reason for an alert."""

    turn: float
    window: float


def pieces_of(text: str) -> list[str]:
    """A text in pieces of at most ``PIECE`` words, at ends of sentences where there are any; never empty for a text.

    A sentence that is said twice counts once: repeating makes nothing graver, and the head is no judge of it.
    """
    pieces: list[str] = []
    open_: list[str] = []
    for sentence in dict.fromkeys(sentences_of(text) or [text]):
        words = sentence.split()
        while len(words) > PIECE:
            if open_:
                pieces.append(" ".join(open_))
                open_ = []
            pieces.append(" ".join(words[:PIECE]))
            words = words[PIECE:]
        if len(open_) + len(words) > PIECE:
            pieces.append(" ".join(open_))
            open_ = []
        open_ += words
    return [*pieces, " ".join(open_)] if open_ else pieces


def window_score(scores: Sequence[float]) -> float:
    """The mean of the three highest of the last turns' probabilities; 0 for fewer turns."""
    last = sorted(scores[-WINDOW:])
    return sum(last[-_ENOUGH:]) / _ENOUGH if len(last) >= _ENOUGH else 0.0


def head_scores(head: RiskHead, pooled: Tensor, pieces: Sequence[str], lexicon: Lexicon) -> Tensor:
    """The head's probability of each piece (n,); 0 where it has learnt nothing: few words, and idioms or denials."""
    strange = torch.tensor([len(piece.split()) < LEAST or lexicon.explained(piece) for piece in pieces])
    return head(pooled).sigmoid().masked_fill(strange, 0.0)


class RiskScreen:
    """Reads turns and judges them.

    Args:
        lexicon: the words.
        head: the trained head.
        thresholds: of the head's probabilities.
        encoder: MiniLM, which should keep no texts.
    """

    def __init__(self, lexicon: Lexicon, head: RiskHead, thresholds: Thresholds, encoder: MiniLM) -> None:
        self.lexicon, self.thresholds, self.encoder = lexicon, thresholds, encoder
        self.head = head.eval().requires_grad_(False)
        self._lock = threading.Lock()

    @classmethod
    def from_folder(cls, folder: Path = ASSETS, encoder: MiniLM | None = None) -> RiskScreen:
        """Read ``lexicon.yaml``, ``head.safetensors`` and ``risk.json``, which holds the head's SHA-256.

        Raises:
            ModelError: a file is absent, was changed, cannot be read, or does not fit this code.
        """
        encoder = encoder or MiniLM(kept=0)
        try:
            about: dict[str, Any] = json.loads((folder / "risk.json").read_text(encoding="utf-8"))
            weights = (folder / "head.safetensors").read_bytes()
            if (found := hashlib.sha256(weights).hexdigest()) != about["sha256"]:
                raise ValueError(f"head.safetensors has the SHA-256 {found}, risk.json names {about['sha256']}")
            head = RiskHead(encoder.hidden_size, about["hidden"])
            head.load_state_dict(load(weights))
            thresholds = Thresholds(float(about["thresholds"]["turn"]), float(about["thresholds"]["window"]))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as cause:
            raise ModelError(
                f"Expected the risk screen's files in {folder}, but: {cause!r}. Without them no turn is answered; take them "
                "from the repository, or train them with `python -m train.risk`."
            ) from cause
        return cls(Lexicon(folder / "lexicon.yaml"), head, thresholds, encoder)

    @torch.inference_mode()
    def read(self, words: str) -> Reading:
        """What a turn's words hold."""
        if not words.strip():
            return Reading((), (), 0.0, "")
        pieces = pieces_of(words)
        with self._lock:
            states = self.encoder(pieces)
        scores = head_scores(self.head, torch.stack([state.pooled for state in states]), pieces, self.lexicon)
        best = int(scores.argmax())
        matches, signs = self.lexicon.matches(words), self.lexicon.signs(words)
        return Reading(tuple(matches), tuple(signs), float(scores[best]), pieces[best])

    def judge(self, readings: Sequence[Reading]) -> list[Risk]:
        """Reasons for an alert after the last of a conversation's readings: in it, and in the window that ends with it."""
        if not readings:
            return []
        last, window = readings[-1], readings[-WINDOW:]
        found = [Risk(match.category, "words", match.words) for match in last.matches]
        if last.score >= self.thresholds.turn:
            found.append(Risk("self-harm", "model", last.piece))
        signs = {sign.group: sign for reading in window for sign in reading.signs}
        weight = sum(sign.weight for sign in signs.values())
        added = last.signs and weight >= self.lexicon.alarm and len(signs) >= self.lexicon.least_groups
        if added:
            said = "; ".join(f"{sign.group}: {sign.words}" for sign in signs.values())
            found.append(Risk("self-harm", "conversation", said))
        elif window_score([reading.score for reading in window]) >= self.thresholds.window:
            found.append(Risk("self-harm", "conversation", f"the last {len(window)} turns taken together"))
        return sorted(found, key=lambda risk: CATEGORIES.index(risk.category))

    def harmful_reply(self, text: str) -> list[str]:
        """What of a suggested reply encourages harm."""
        return self.lexicon.harmful_reply(text)
