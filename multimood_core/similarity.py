"""r_sim: how close a reply comes to what the therapist really said (paper, eq. 5).

The paper's similarity is BGE-M3's (``bge_m3.BgeSimilarity``): dense, sparse and late interaction (colbert). Where its
weights are not at hand, ``MiniLMSimilarity`` stands in under a name of its own: it has the dense and the colbert term,
and no sparse one, as MiniLM was never trained to weigh words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch

from multimood_core.rewards import ReplySituation
from multimood_core.text_encoder import MiniLM, late_interaction


class Similarity(Protocol):
    """Scores of pairs of texts."""

    @property
    def name(self) -> str: ...

    def __call__(self, queries: Sequence[str], passages: Sequence[str]) -> list[float]: ...


class MiniLMSimilarity:
    """(dense + colbert) / 2 of MiniLM's token states: eq. 5 without its sparse term, renormalised. A stand-in."""

    name: Final = "minilm"

    def __init__(self, encoder: MiniLM) -> None:
        self.encoder = encoder

    def __call__(self, queries: Sequence[str], passages: Sequence[str]) -> list[float]:
        states = self.encoder([*queries, *passages])
        pairs = zip(states[: len(queries)], states[len(queries) :], strict=True)
        return [(float(q.pooled @ p.pooled) + late_interaction(q.tokens, p.tokens)) / 2 for q, p in pairs]


@dataclass(frozen=True, slots=True)
class SimilarityReward:
    """r_sim in [0, 1]: 0 where unrelated replies score on average (``floor``), 1 where the reply is the reference.

    Missing where the data set has no reference.
    """

    similarity: Similarity
    floor: float

    @property
    def name(self) -> str:
        return "r_sim" if self.similarity.name == "bge-m3" else f"r_sim/{self.similarity.name}"

    def __call__(self, situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[float | None]:
        known = [(i, s.reference, r) for i, (s, r) in enumerate(zip(situations, replies, strict=True)) if s.reference]
        values: list[float | None] = [None] * len(replies)
        references = [reference for _, reference, _ in known]
        scores = self.similarity([reply for *_, reply in known], references)
        tops = self.similarity(references, references)
        for (i, _, reply), score, top in zip(known, scores, tops, strict=True):
            values[i] = min(1.0, max(0.0, (score - self.floor) / (top - self.floor))) if reply.strip() else 0.0
        return values


def random_pair_mean(similarity: Similarity, texts: Sequence[str], shifts: int = 3, seed: int = 0) -> float:
    """Mean score of pairs of texts that have nothing to do with each other: each against ``shifts`` others."""
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    drawn = [texts[i] for i in order]
    pairs = [(text, drawn[(i + k) % len(drawn)]) for i, text in enumerate(drawn) for k in range(1, shifts + 1)]
    different = [(a, b) for a, b in pairs if a.strip().lower() != b.strip().lower()]
    scores = similarity([a for a, _ in different], [b for _, b in different])
    return sum(scores) / len(scores)
