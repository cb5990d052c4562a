"""Outputs of the frozen towers, computed once and read by every later stage.

    python -m train.features --data ravdess_speech emodb fer2013

An entry's key is the hash of the tower's weights and of the medium's bytes (and of the variant, for augmented views), so
neither a changed tower nor a changed file can meet a stale feature. Entries lie in safetensors shards; an interrupted run
goes on with what is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from multimood_core.face_tower import CROP_SIZE, FaceTower
from multimood_core.media import read_turn
from multimood_core.records import SAMPLE_RATE
from multimood_core.voice_tower import VoiceTower
from multimood_core.weights import weights_path
from train.data import Clip, data_root, read_clip_folder

SHARD: Final = 256  # entries
CACHE: Final = Path("runs/features")
FACE_SETS: Final = frozenset({"fer2013"})


def tower_hash(tower: nn.Module) -> str:
    """Hash of a tower's weights and settings, the standardisation left out: features are stored as they come."""
    digest = hashlib.sha256(repr(getattr(tower, "config", "")).encode())
    for name, value in sorted(tower.state_dict().items()):
        if not name.startswith("feature_"):
            digest.update(name.encode())
            digest.update(value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


class FeatureCache:
    """Tensors by key in a folder of shards; what is put is on the disk after ``flush``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._where: dict[str, Path] = {}
        for shard in sorted(folder.glob("*.safetensors")):
            with safe_open(shard, "pt") as file:
                self._where |= dict.fromkeys(file.keys(), shard)
        self._pending: dict[str, Tensor] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._where or key in self._pending

    def put(self, key: str, value: Tensor) -> None:
        """Keep a tensor; every ``SHARD`` entries a shard is written."""
        self._pending[key] = value.contiguous()
        if len(self._pending) >= SHARD:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as a shard of its own, whole or not at all."""
        if not self._pending:
            return
        name = hashlib.sha256("".join(sorted(self._pending)).encode()).hexdigest()[:16]
        target = self.folder / f"{name}.safetensors"
        save_file(self._pending, target.with_suffix(".partial"))
        target.with_suffix(".partial").rename(target)
        self._where |= dict.fromkeys(self._pending, target)
        self._pending = {}

    def load(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """Read entries, each shard opened once."""
        self.flush()
        by_shard: dict[Path, list[str]] = {}
        for key in keys:
            by_shard.setdefault(self._where[key], []).append(key)
        loaded = {}
        for shard, names in by_shard.items():
            with safe_open(shard, "pt") as file:
                loaded |= {name: file.get_tensor(name) for name in names}
        return loaded


@dataclass(frozen=True, slots=True)
class Towers:
    """The embedded towers, with the standardisation still off."""

    voice: VoiceTower
    face: FaceTower

    @classmethod
    def load(cls) -> Towers:
        return cls(VoiceTower.from_weights(weights_path("voice-tower")), FaceTower.from_file(weights_path("face-tower")))


def speed_changed(samples: np.ndarray, factor: float) -> np.ndarray:
    """The sound played ``factor`` times as fast, pitch included (Ko et al. 2015, speed perturbation)."""
    positions = np.arange(0, len(samples) - 1, factor)
    return np.interp(positions, np.arange(len(samples)), samples).astype(np.float32)


def warped_face(image: np.ndarray, rng: random.Random) -> np.ndarray:
    """A face crop slightly turned, shifted, scaled and re-lit: (h, w) uint8 -> (64, 64) uint8."""
    height, width = image.shape
    scale = CROP_SIZE / max(height, width) * float(np.exp(rng.uniform(-0.1, 0.1)))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-12, 12), scale)
    shift = [CROP_SIZE / 2 + rng.uniform(-4, 4) - width / 2, CROP_SIZE / 2 + rng.uniform(-4, 4) - height / 2]
    matrix[:, 2] += shift
    warped = cv2.warpAffine(image, matrix, (CROP_SIZE, CROP_SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    lit = 255 * (warped / 255.0) ** float(np.exp(rng.uniform(-0.3, 0.3)))
    return np.clip(lit, 0, 255).astype(np.uint8)


class ClipFeatures:
    """Features of labelled clips: voice (S, D) of sounds, face (T, P, D) of pictures, through the cache."""

    def __init__(self, towers: Towers, folder: Path = CACHE) -> None:
        self.towers = towers
        self.voice = FeatureCache(folder / f"voice-{tower_hash(towers.voice)}")
        self.face = FeatureCache(folder / f"face-{tower_hash(towers.face)}")

    def compute(self, clips: Sequence[Clip], modality: str, variants: int = 1) -> list[list[Tensor]]:
        """Features of each clip in ``variants`` views, the first of them unchanged.

        Returns:
            For each clip its views: voice (S, D_voice) or face (1, P, D_face).
        """
        cache = self.voice if modality == "voice" else self.face
        keys = [[f"{_media_hash(clip.path)}/{v}" for v in range(variants)] for clip in clips]
        missing = [i for i, views in enumerate(keys) if any(k not in cache for k in views)]
        for i in tqdm(missing, desc=f"{modality} features", disable=not missing):
            for key, value in zip(keys[i], self._views(clips[i], modality, variants), strict=True):
                cache.put(key, value)
        loaded = cache.load([key for views in keys for key in views])
        return [[loaded[key] for key in views] for views in keys]

    def _views(self, clip: Clip, modality: str, variants: int) -> Iterator[Tensor]:
        rng = random.Random(_media_hash(clip.path))
        if modality == "face":
            image = cv2.imread(str(clip.path), cv2.IMREAD_GRAYSCALE)
            plain = cv2.resize(image, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_LINEAR)
            for v in range(variants):
                crop = warped_face(image, rng) if v else plain
                pixels = torch.from_numpy(crop).float()[None, None, None] / 127.5 - 1
                yield self.towers.face(pixels)[0]
            return
        waveform = read_turn(clip.path).waveform
        samples = np.zeros(SAMPLE_RATE, np.float32) if waveform is None else waveform.samples
        for v in range(variants):
            heard = speed_changed(samples, rng.uniform(0.9, 1.12)) if v else samples
            if v:
                noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(len(heard)).astype(np.float32)
                level = float(np.sqrt(np.mean(heard**2))) * 10 ** (-rng.uniform(15, 40) / 20)
                heard = heard + noise * level
            tensor = torch.from_numpy(heard)[None]
            features, mask = self.towers.voice(tensor, torch.tensor([tensor.shape[1]]))
            yield features[0][mask[0]]


def _media_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:24]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compute tower features of labelled clip folders into the cache.")
    parser.add_argument("--data", nargs="+", default=["ravdess_speech", "emodb", "fer2013"])
    parser.add_argument("--variants", type=int, default=3, help="views of each clip; the first is unchanged")
    args = parser.parse_args(argv)
    features = ClipFeatures(Towers.load())
    for name in args.data:
        clips = read_clip_folder(data_root() / name).clips
        found = features.compute(clips, "face" if name in FACE_SETS else "voice", args.variants)
        print(json.dumps({"data": name, "clips": len(found), "views": args.variants}))


if __name__ == "__main__":
    main()
