"""The hash by which lineages name a checkpoint, whoever asks: training writes it, the app checks it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def weights_hash(folder: Path) -> str:
    """SHA-256 over a folder's weights and their configuration; of a sharded checkpoint over its index, which names them."""
    found = sorted(folder.glob("*.safetensors.index.json")) or sorted(folder.glob("*.safetensors"))
    return sha256_of([*found, *filter(Path.is_file, [folder / "config.json", folder / "config.yaml"])])


def sha256_of(paths: Iterable[Path]) -> str:
    """SHA-256 over the names and contents of files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
