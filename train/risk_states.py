"""MiniLM's pooled states of many pieces of text, kept on the disk so that a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from multimood_core.risk import pieces_of
from multimood_core.text_encoder import MiniLM
from train.files import write_file

_CHUNK: Final = 32  # pieces encoded at a time
_SAVE: Final = 64  # chunks between two saves


def _key(piece: str) -> bytes:
    return hashlib.sha256(piece.encode()).digest()[:16]


class PieceStates:
    """States by piece; the file holds hashes and numbers, and no text.

    Args:
        path: the file.
        encoder: MiniLM, needed for what is not in the file.
    """

    def __init__(self, path: Path, encoder: MiniLM) -> None:
        self._path, self._encoder = path, encoder
        self._rows: dict[bytes, np.ndarray] = {}
        if path.is_file():
            kept = load_file(path)
            self._rows = {key.tobytes(): row for key, row in zip(kept["keys"], kept["states"], strict=True)}

    def prepare(self, texts: Sequence[str]) -> None:
        """Encode the pieces that are not there yet."""
        pieces = {_key(piece): piece for text in texts for piece in pieces_of(text)}
        fresh = sorted((piece for key, piece in pieces.items() if key not in self._rows), key=len)
        for number, begin in enumerate(tqdm(range(0, len(fresh), _CHUNK), desc="states of pieces", disable=not fresh), 1):
            part = fresh[begin : begin + _CHUNK]
            for piece, state in zip(part, self._encoder(part), strict=True):
                self._rows[_key(piece)] = state.pooled.float().numpy()
            if number % _SAVE == 0:
                self._save()
        if fresh:
            self._save()

    def of(self, text: str) -> Tensor:
        """States (pieces, D) of a prepared text."""
        return torch.from_numpy(np.stack([self._rows[_key(piece)] for piece in pieces_of(text)]))

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        keys = np.stack([np.frombuffer(key, np.uint8) for key in self._rows])
        arrays = {"keys": keys, "states": np.stack(list(self._rows.values()))}
        write_file(self._path, lambda path: save_file(arrays, path))
