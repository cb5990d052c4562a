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
from scipy.signal import butter, fftconvolve, lfilter, sosfilt
from torch import Tensor, nn
from tqdm import tqdm

from multimood_core.errors import DataError
from multimood_core.face_tower import CROP_SIZE, FaceTower
from multimood_core.media import read_turn
from multimood_core.records import SAMPLE_RATE
from multimood_core.voice_tower import VoiceTower
from multimood_core.weights import weights_path
from train.config import run_command
from train.data import Clip, data_root, read_clip_folder

SHARD: Final = 256  # entries
CACHE: Final = Path("runs/features")
FACE_SETS: Final = frozenset({"fer2013"})
VOICE_VIEWS: Final = ("clean", "slow", "fast", "noise", "room")
FACE_VIEWS: Final = ("clean", "warp0", "warp1", "warp2", "warp3")


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
        loaded: dict[str, Tensor] = {}
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


def noisy(samples: np.ndarray, decibels: float, rng: np.random.Generator) -> np.ndarray:
    """The sound with pink noise that lies ``decibels`` below it."""
    noise = lfilter([1.0], [1.0, -0.95], rng.standard_normal(len(samples)))
    power = np.mean(np.square(samples)) / 10 ** (decibels / 10)
    return (samples + noise * np.sqrt(power / np.mean(np.square(noise)))).astype(np.float32)


def in_a_room(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The sound with a room's echo (RT60 of 0.15 to 0.5 s) through a microphone of narrow band."""
    times = np.arange(int(0.3 * SAMPLE_RATE)) / SAMPLE_RATE
    echo = 0.15 * rng.standard_normal(len(times)) * np.exp(-6.9 * times / rng.uniform(0.15, 0.5))  # -60 dB at RT60
    echo[0] = 1.0
    band = butter(2, [rng.uniform(60, 200), rng.uniform(3500, 7500)], "band", fs=SAMPLE_RATE, output="sos")
    return sosfilt(band, fftconvolve(samples, echo)[: len(samples)]).astype(np.float32)


def sound_views(samples: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A sound as it is, slower, faster, in noise, and in a room: what microphones do to a voice."""
    return {
        "clean": samples,
        "slow": speed_changed(samples, 0.9),
        "fast": speed_changed(samples, 1.1),
        "noise": noisy(samples, 20.0, rng),
        "room": in_a_room(samples, rng),
    }


def face_views(image: np.ndarray, rng: random.Random, warps: int = 4) -> dict[str, np.ndarray]:
    """A face crop (h, w) uint8 as it is and slightly warped, each (64, 64)."""
    plain = cv2.resize(image, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_LINEAR)
    return {"clean": plain} | {f"warp{i}": warped_face(image, rng) for i in range(warps)}


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

    def compute(self, clips: Sequence[Clip], modality: str) -> list[list[Tensor]]:
        """Features of each clip in all its views, the first of them unchanged.

        Returns:
            For each clip its views: voice (S, D_voice) or face (1, P, D_face).
        """
        cache = self.voice if modality == "voice" else self.face
        names = [f"clip/{_media_hash(clip.path)}" for clip in clips]
        views = VOICE_VIEWS if modality == "voice" else FACE_VIEWS
        missing = [i for i, name in enumerate(names) if any(f"{name}/{view}" not in cache for view in views)]
        for i in tqdm(missing, desc=f"{modality} features", disable=not missing):
            for view, features in self._views(clips[i], modality):
                cache.put(f"{names[i]}/{view}", features)
        loaded = cache.load([f"{name}/{view}" for name in names for view in views])
        return [[loaded[f"{name}/{view}"] for view in views] for name in names]

    def _views(self, clip: Clip, modality: str) -> Iterator[tuple[str, Tensor]]:
        seed = int(_media_hash(clip.path)[:8], 16)
        if modality == "face":
            image = cv2.imread(str(clip.path), cv2.IMREAD_GRAYSCALE)
            if image is None:
                raise DataError(f"Expected a picture, but OpenCV cannot read {clip.path}.")
            for name, crop in face_views(image, random.Random(seed)).items():
                pixels = torch.from_numpy(crop).float()[None, None, None] / 127.5 - 1
                yield name, self.towers.face(pixels)[0]
            return
        waveform = read_turn(clip.path).waveform
        samples = np.zeros(SAMPLE_RATE, np.float32) if waveform is None else waveform.samples
        for name, heard in sound_views(samples, np.random.default_rng(seed)).items():
            features, mask = self.towers.voice(torch.from_numpy(heard)[None], torch.tensor([len(heard)]))
            yield name, features[0][mask[0]]


def _media_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:24]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compute tower features of labelled clip folders into the cache.")
    parser.add_argument("--data", nargs="+", default=["ravdess_speech", "emodb", "fer2013"])
    args = parser.parse_args(argv)
    features = ClipFeatures(Towers.load())
    for name in args.data:
        clips = read_clip_folder(data_root() / name).clips
        found = features.compute(clips, "face" if name in FACE_SETS else "voice")
        print(json.dumps({"data": name, "clips": len(found), "views": len(found[0])}))


if __name__ == "__main__":
    run_command(main)
