"""Frozen token states of short texts: MiniLM, which installs with the packaged weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from multimood_core.weights import weights_path

S = TypeVar("S")


class LastTexts(Generic[S]):
    """Encodes texts in batches of about the same length and keeps the last ones: references and clients come again.

    Args:
        encode: a batch of texts -> what is kept of each.
        kept: texts that stay; at 20 tokens of 384 floats each, 4,096 take 130 MB.
        batch: texts encoded at a time.
    """

    def __init__(self, encode: Callable[[Sequence[str]], Sequence[S]], kept: int = 4096, batch: int = 32) -> None:
        self._encode, self._limit, self._batch = encode, kept, batch
        self._kept: OrderedDict[str, S] = OrderedDict()

    def __call__(self, texts: Sequence[str]) -> list[S]:
        found = {text: self._kept[text] for text in texts if text in self._kept}
        fresh = sorted({text for text in texts if text not in found}, key=lambda text: (len(text), text))
        for begin in range(0, len(fresh), self._batch):
            part = fresh[begin : begin + self._batch]
            found |= zip(part, self._encode(part), strict=True)
        for text, value in found.items():
            self._kept[text] = value
            self._kept.move_to_end(text)
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)
        return [found[text] for text in texts]


@dataclass(frozen=True, slots=True)
class TextStates:
    """``tokens`` (n, D) without special tokens, and ``pooled`` (D,), the mean over all tokens; all of length 1."""

    tokens: Tensor
    pooled: Tensor


def late_interaction(query: Tensor, passage: Tensor) -> float:
    """Mean over the query's tokens (n, D) of their best match among the passage's (m, D); 0 where one has no token."""
    if not len(query) or not len(passage):
        return 0.0
    return float((query @ passage.T).max(1).values.mean())


class MiniLM:
    """all-MiniLM-L6-v2 (Wang et al. 2020, as sentence-transformers trained it), with the last texts' states kept.

    Args:
        max_length: tokens, special ones included; what is longer is cut.
        device: where it runs; the states always come back on the CPU.
        kept: texts whose states stay; 0 keeps none, as for what a client said.
    """

    name: Final = "minilm"

    def __init__(
        self, max_length: int = 128, device: str | torch.device = "cpu", folder: Path | None = None, kept: int = 4096
    ) -> None:
        folder = folder or weights_path("minilm")
        self.max_length, self.device = max_length, torch.device(device)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder, dtype=torch.float32).to(self.device).eval().requires_grad_(False)
        self.hidden_size = int(self.model.config.hidden_size)
        self._states = LastTexts(self._encode, kept)

    def __call__(self, texts: Sequence[str]) -> list[TextStates]:
        """States of each text, in order."""
        return self._states(texts)

    @torch.inference_mode()
    def _encode(self, texts: Sequence[str]) -> list[TextStates]:
        inputs: Any = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
            return_special_tokens_mask=True,
        )
        words = (inputs["attention_mask"] * (1 - inputs.pop("special_tokens_mask"))).bool()
        states = self.model(**inputs.to(self.device)).last_hidden_state.cpu()
        mask = inputs["attention_mask"].cpu()[..., None]
        pooled = nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
        tokens = nn.functional.normalize(states, dim=-1)
        return [TextStates(t[w].clone(), p.clone()) for t, w, p in zip(tokens, words, pooled, strict=True)]
