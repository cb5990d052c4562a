"""BGE-M3 (Chen et al. 2024): XLM-R with a sparse and a colbert head, read from the hub's own files.

The folder is that of ``BAAI/bge-m3``: ``config.json``, the tokenizer, ``model.safetensors`` or ``pytorch_model.bin``,
``sparse_linear.pt`` and ``colbert_linear.pt``. Every key has to fit.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, XLMRobertaConfig, XLMRobertaModel

from multimood_core.errors import ModelError
from multimood_core.text_encoder import LastTexts, late_interaction

SPARSE_WEIGHT: Final = 0.3  # paper, eq. 5; dense and colbert weigh 1
MAX_LENGTH: Final = 128  # tokens, special ones included (the paper's)
_UNUSED: Final = ("pooler.", "embeddings.position_ids")  # in the file, and no part of any of the three scores


@dataclass(frozen=True, slots=True)
class BgeStates:
    """A text's three forms: ``dense`` (D,), ``sparse`` weight by token id, ``colbert`` (n, D) without CLS."""

    dense: Tensor
    sparse: Mapping[int, float]
    colbert: Tensor


def dense_score(query: BgeStates, passage: BgeStates) -> float:
    """Cosine of the two CLS states."""
    return float(query.dense @ passage.dense)


def sparse_score(query: BgeStates, passage: BgeStates) -> float:
    """Sum over the tokens that both have of the product of their weights."""
    return sum(weight * passage.sparse[token] for token, weight in query.sparse.items() if token in passage.sparse)


def combined_score(query: BgeStates, passage: BgeStates) -> float:
    """(dense + 0.3 sparse + colbert) / 2.3."""
    parts = dense_score(query, passage), sparse_score(query, passage), late_interaction(query.colbert, passage.colbert)
    return (parts[0] + SPARSE_WEIGHT * parts[1] + parts[2]) / (2 + SPARSE_WEIGHT)


class BgeM3(nn.Module):
    """The encoder with its two heads."""

    def __init__(self, config: XLMRobertaConfig) -> None:
        super().__init__()
        self.backbone = XLMRobertaModel(config, add_pooling_layer=False)
        self.sparse_linear = nn.Linear(config.hidden_size, 1)
        self.colbert_linear = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, L) -> dense (B, D), token weights (B, L), colbert (B, L - 1, D); vectors have length 1."""
        states = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        dense = nn.functional.normalize(states[:, 0], dim=-1)
        weights = torch.relu(self.sparse_linear(states)).squeeze(-1)
        return dense, weights, nn.functional.normalize(self.colbert_linear(states[:, 1:]), dim=-1)

    @classmethod
    def from_folder(cls, folder: Path) -> BgeM3:
        """Load the hub's files strictly.

        Raises:
            ModelError: a file is absent or cannot be read, or tensors are missing, unexpected or of another shape.
        """
        try:
            config = XLMRobertaConfig.from_pretrained(folder)
        except (OSError, ValueError) as cause:
            raise ModelError(f"Expected a folder with the files of BAAI/bge-m3 at {folder}: {cause}") from cause
        whole = folder / "model.safetensors"
        backbone = _read(whole if whole.is_file() else folder / "pytorch_model.bin")
        state = {f"backbone.{key}": value for key, value in backbone.items() if not key.startswith(_UNUSED)}
        for head in ("sparse_linear", "colbert_linear"):
            state |= {f"{head}.{key}": value for key, value in _read(folder / f"{head}.pt").items()}
        model = cls(config)
        own = model.state_dict()
        missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
        shapes = [key for key in sorted(set(own) & set(state)) if own[key].shape != state[key].shape]
        if missing or unexpected or shapes:
            raise ModelError(
                f"{folder} is no BGE-M3: missing {missing[:5]}, unexpected {unexpected[:5]}, other shapes {shapes[:5]} "
                f"({len(missing)}, {len(unexpected)} and {len(shapes)} in all). Download BAAI/bge-m3 anew."
            )
        model.load_state_dict(state)
        return model.eval().requires_grad_(False)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError) as cause:
        raise ModelError(f"Expected the weights of BGE-M3 at {path}, but they cannot be read: {cause}") from cause


class BgeSimilarity:
    """The paper's similarity of two texts, in the order of query (the reply) and passage (the reference)."""

    name: Final = "bge-m3"

    def __init__(self, folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.model = BgeM3.from_folder(folder).to(device, dtype)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError) as cause:
            raise ModelError(f"Expected the tokenizer of BAAI/bge-m3 in {folder}: {cause}") from cause
        token = self.tokenizer
        self._special = {token.cls_token_id, token.eos_token_id, token.pad_token_id, token.unk_token_id}
        self._states = LastTexts(self._encode)

    def __call__(self, queries: Sequence[str], passages: Sequence[str]) -> list[float]:
        states = self.states([*queries, *passages])
        return [combined_score(q, p) for q, p in zip(states[: len(queries)], states[len(queries) :], strict=True)]

    def states(self, texts: Sequence[str]) -> list[BgeStates]:
        """The three forms of each text, in order."""
        return self._states(texts)

    @torch.inference_mode()
    def _encode(self, texts: Sequence[str]) -> list[BgeStates]:
        device = next(self.model.parameters()).device
        inputs: Any = self.tokenizer(list(texts), padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        dense, weights, colbert = (x.float().cpu() for x in self.model(ids.to(device), mask.to(device)))
        found = []
        for i, count in enumerate(mask.sum(1).tolist()):
            sparse: dict[int, float] = {}
            for token, weight in zip(ids[i].tolist(), weights[i].tolist(), strict=True):
                if weight > 0 and token not in self._special:
                    sparse[token] = max(weight, sparse.get(token, 0.0))
            found.append(BgeStates(dense[i].clone(), sparse, colbert[i, : count - 1].clone()))
        return found
