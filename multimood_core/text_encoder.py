"""Frozen token states of short texts: MiniLM, which installs with the packaged weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from multimood_core.weights import weights_path

_KEPT: Final = 4096  # texts whose states stay in memory; at 20 tokens of 384 floats each, 130 MB


@dataclass(frozen=True, slots=True)
class TextStates:
    """``tokens`` (n, D) without special tokens, and ``pooled`` (D,), the mean over all tokens; all of length 1."""

    tokens: Tensor
    pooled: Tensor


class MiniLM:
    """all-MiniLM-L6-v2 (Wang et al. 2020, as sentence-transformers trained it), with the last texts' states kept.

    Args:
        max_length: tokens, special ones included; what is longer is cut.
        device: where it runs; the states always come back on the CPU.
    """

    name: Final = "minilm"

    def __init__(self, max_length: int = 128, device: str | torch.device = "cpu", folder: Path | None = None) -> None:
        folder = folder or weights_path("minilm")
        self.max_length, self.device = max_length, torch.device(device)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder, dtype=torch.float32).to(self.device).eval().requires_grad_(False)
        self.hidden_size = int(self.model.config.hidden_size)
        self._kept: OrderedDict[str, TextStates] = OrderedDict()

    def __call__(self, texts: Sequence[str]) -> list[TextStates]:
        """States of each text, in order."""
        fresh = sorted({text for text in texts if text not in self._kept}, key=lambda text: (len(text), text))
        found = dict(zip(fresh, self._encode(fresh), strict=True))
        for text in texts:
            if text in self._kept:
                self._kept.move_to_end(text)
                found[text] = self._kept[text]
        self._kept.update((text, found[text]) for text in fresh)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return [found[text] for text in texts]

    @torch.inference_mode()
    def _encode(self, texts: Sequence[str], batch: int = 32) -> Iterator[TextStates]:
        for begin in range(0, len(texts), batch):
            part = list(texts[begin : begin + batch])
            inputs = self.tokenizer(
                part,
                padding=True,
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
                return_special_tokens_mask=True,
            )
            words = (inputs["attention_mask"] * (1 - inputs.pop("special_tokens_mask"))).bool()
            states = self.model(**inputs.to(self.device)).last_hidden_state.cpu()
            mask = inputs["attention_mask"].cpu()[..., None]
            pooled = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
            tokens = torch.nn.functional.normalize(states, dim=-1)
            yield from (TextStates(t[w].clone(), p.clone()) for t, w, p in zip(tokens, words, pooled, strict=True))
