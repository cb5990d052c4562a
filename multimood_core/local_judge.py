"""A judge that needs no network: small heads on MiniLM's frozen token states, trained on what people labelled.

It judges empathy alone, each sentence on EPITOME's three scales (Sharma et al. 2020): emotional reaction, interpretation
and exploration. For the other six dimensions there are no labels of replies that it could learn from, so it is silent
there. ``train.local_judge`` trains it and writes its agreement with people into the card beside its weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from multimood_core.errors import ModelError
from multimood_core.judges import Judgement
from multimood_core.rewards import ReplySituation
from multimood_core.sentences import sentences_of
from multimood_core.text_encoder import MiniLM, TextStates

SCALES: Final = ("emotional reaction", "interpretation", "exploration")
LEVELS: Final = 3  # none, weak, strong
TOKENS: Final = 64  # of a sentence; 1 in 200 of EPITOME's is longer


class EmpathyHeads(nn.Module):
    """For each scale, attention over a sentence's token states and a linear map to its three levels.

    Args:
        width: of the token states.
        heads: ways of attending to a sentence, for each scale.
        hidden: width of what is attended to, shared by the scales.
        dropout: in training, of token states and of what was attended to.
    """

    def __init__(self, width: int, heads: int = 4, hidden: int = 64, dropout: float = 0.3) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.query = nn.Linear(width, heads * len(SCALES))
        self.value = nn.Linear(width, hidden)
        self.levels = nn.ModuleList(nn.Linear(heads * hidden, LEVELS) for _ in SCALES)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Token states (B, T, D) of length 1 and their mask (B, T) -> logits (B, scales, levels)."""
        states = self.dropout(tokens * self.width**0.5)  # to a variance of 1
        weights = (self.query(states) / self.heads).masked_fill(~mask[..., None], torch.finfo(states.dtype).min).softmax(1)
        seen = torch.einsum("bth,btd->bhd", weights, self.value(states).tanh())
        by_scale = seen.unflatten(1, (len(SCALES), self.heads)).flatten(2)
        return torch.stack([level(self.dropout(by_scale[:, i])) for i, level in enumerate(self.levels)], dim=1)


def pad_tokens(states: Sequence[TextStates]) -> tuple[Tensor, Tensor]:
    """The first tokens of each text as (B, T, D) with their mask (B, T)."""
    rows = [state.tokens[:TOKENS] for state in states]
    mask = torch.arange(max(map(len, rows)))[None] < torch.tensor([len(row) for row in rows])[:, None]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), mask


class LocalJudge:
    """Empathy of each sentence in [0, 1]: expected levels of the three scales, averaged, in units of ``top``.

    ``top`` is the empathy that one real reply in a hundred reaches by the mean over its sentences; it counts as 1.
    """

    name: Final = "local"
    dimensions: Final[Sequence[str]] = ("empathy",)

    def __init__(self, heads: EmpathyHeads, top: float, encoder: MiniLM) -> None:
        self.heads, self.top, self.encoder = heads.eval().requires_grad_(False), top, encoder

    @classmethod
    def from_folder(cls, folder: Path, encoder: MiniLM) -> LocalJudge:
        """Read ``heads.safetensors`` and ``judge.json``.

        Raises:
            ModelError: a file is absent, cannot be read, or does not fit this code.
        """
        try:
            about: dict[str, Any] = json.loads((folder / "judge.json").read_text(encoding="utf-8"))
            heads = EmpathyHeads(encoder.hidden_size, about["heads"], about["hidden"])
            heads.load_state_dict(load_file(folder / "heads.safetensors"))
            top = float(about["top"])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as cause:
            raise ModelError(
                f"Expected the local judge's files in {folder}, but: {cause!r}. Train it with `python -m train.local_judge`."
            ) from cause
        return cls(heads, top, encoder)

    def __call__(self, situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[Judgement | None]:
        """Judge each reply by its own words; the client's are not read."""
        said = [tuple(sentences_of(reply)) for reply in replies]
        levels = self.expected_levels([sentence for sentences in said for sentence in sentences])
        empathy = (levels.mean(1) / self.top).clamp(max=1.0).tolist()
        judgements: list[Judgement | None] = []
        for sentences in said:
            scores: list[Mapping[str, float]] = [{"empathy": value} for value in empathy[: len(sentences)]]
            del empathy[: len(sentences)]
            judgements.append(Judgement(sentences, tuple(scores)))
        return judgements

    @torch.inference_mode()
    def probabilities(self, sentences: Sequence[str]) -> Tensor:
        """Probability of each level of each scale (n, scales, levels)."""
        if not sentences:
            return torch.empty(0, len(SCALES), LEVELS)
        return self.heads(*pad_tokens(self.encoder(sentences))).softmax(-1)

    def expected_levels(self, sentences: Sequence[str]) -> Tensor:
        """The expected level of each scale as a share of the highest (n, scales)."""
        return self.probabilities(sentences) @ torch.arange(LEVELS).float() / (LEVELS - 1)
