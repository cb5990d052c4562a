"""Outputs of the frozen towers, computed once and read by every later stage.

    python -m train.features --config train/configs/features_mini.yaml [--key=value ...] [--dry-run]

An entry's key is the hash of the tower's weights and of the medium's bytes (and of the variant, for augmented views), so
neither a changed tower nor a changed file can meet a stale feature. Entries lie in safetensors shards that appear whole or
not at all; an interrupted run goes on with what is missing, and several processes (``accelerate launch``) share the work.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, overload

import cv2
import numpy as np
import torch
from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from multimood_core.beats import BeatsTower
from multimood_core.dialogues import Dialogue
from multimood_core.errors import DataError
from multimood_core.face_detector import FaceDetector, crop_faces
from multimood_core.face_tower import FaceTower
from multimood_core.media import pad_to_square, read_turn
from multimood_core.records import SAMPLE_RATE, Frames, Turn
from multimood_core.siglip_tower import SiglipTower
from multimood_core.sound import fbank
from multimood_core.speech import is_silent
from multimood_core.voice_tower import VoiceTower
from multimood_core.weights import weights_path
from train.base import EMBEDDED, BaseConfig, audio_tokens, build_towers, read_model_config
from train.config import load_config, run_command
from train.files import write_file
from train.turns import DATA, Clip, data_root, read_clips, read_split
from train.views import FACE_VIEWS, VOICE_VIEWS, face_views, sound_views

SHARD: Final = 256  # entries
SHARD_BYTES: Final = 256 * 2**20  # of a shard; at paper scale a turn's pictures take 27 MB
CACHE: Final = Path("runs/features")


def tower_hash(tower: nn.Module) -> str:
    """Hash of a tower's weights and settings, the standardisation left out: features are stored as they come."""
    digest = hashlib.sha256(repr(getattr(tower, "config", "")).encode())
    for name, value in sorted(tower.state_dict().items()):
        if not name.startswith("feature_"):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def standardised(tower: nn.Module, features: Tensor) -> Tensor:
    """Stored features as the tower gives them once its statistics are known; towers of the paper's scale have none."""
    if not isinstance(tower, FaceTower | VoiceTower):
        return features.float()
    return (features - tower.feature_mean) / tower.feature_std


class FeatureCache:
    """Tensors by key in a folder of shards; what is put is on the disk after ``flush``.

    Raises:
        DataError: a shard is damaged, as by a failing disk; names it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._where: dict[str, Path] = {}
        self._pending: dict[str, Tensor] = {}
        self.find()

    def find(self) -> None:
        """Look for shards that other processes have written."""
        for shard in sorted(self.folder.glob("*.safetensors")):
            self._where |= dict.fromkeys(_opened(shard).keys(), shard)

    def __contains__(self, key: str) -> bool:
        return key in self._where or key in self._pending

    def put(self, key: str, value: Tensor) -> None:
        """Keep a tensor; every ``SHARD`` entries or ``SHARD_BYTES`` a shard is written."""
        self._pending[key] = value.detach().cpu().contiguous()
        if len(self._pending) >= SHARD or sum(t.nbytes for t in self._pending.values()) >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as a shard of its own, whole or not at all.

        Raises:
            ModelError: the disk is full.
        """
        if not self._pending:
            return
        name = hashlib.sha256("".join(sorted(self._pending)).encode()).hexdigest()[:16]
        target, pending = self.folder / f"{name}.safetensors", self._pending
        write_file(target, lambda path: save_file(pending, path))
        self._where |= dict.fromkeys(pending, target)
        self._pending = {}

    def get(self, key: str) -> Tensor:
        """Read one entry.

        Raises:
            KeyError: there is none.
        """
        return self._pending[key] if key in self._pending else _opened(self._where[key]).get_tensor(key)


    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of one entry, read from its shard's header."""
        if key in self._pending:
            return tuple(self._pending[key].shape)
        return tuple(_opened(self._where[key]).get_slice(key).get_shape())


@lru_cache(maxsize=1024)
def _opened(shard: Path) -> Any:
    try:
        return safe_open(shard, "pt").__enter__()
    except (OSError, SafetensorError) as cause:
        raise DataError(
            f"The shard {shard} cannot be read: {cause}. Delete it and run python -m train.features again."
        ) from cause


class Views(Sequence[Tensor]):
    """A medium's features in all its views, read from the cache when they are asked for."""

    def __init__(self, cache: FeatureCache, keys: Sequence[str]) -> None:
        self.cache, self.keys = cache, tuple(keys)

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Views: ...
    def __getitem__(self, index: int | slice) -> Tensor | Views:
        """One view (as a tensor) or several."""
        return Views(self.cache, self.keys[index]) if isinstance(index, slice) else self.cache.get(self.keys[index])


    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of one view, which is not read for it."""
        return self.cache.shape(self.keys[index])


@dataclass(frozen=True, slots=True)
class Towers:
    """The two frozen towers, with the standardisation still off, and what finds a face for the face tower."""

    audio: VoiceTower | BeatsTower
    vision: FaceTower | SiglipTower
    detector: FaceDetector | None = None

    @classmethod
    def load(cls) -> Towers:
        """The embedded towers."""
        voice = VoiceTower.from_weights(weights_path("voice-tower"))
        return cls(voice, FaceTower.from_file(weights_path("face-tower")), FaceDetector(weights_path("face-detector")))

    def hear(self, samples: np.ndarray) -> Tensor:
        """A sound (N,) at 16 kHz -> features (S, D)."""
        device = next(self.audio.parameters()).device
        if isinstance(self.audio, BeatsTower):
            bank = torch.from_numpy(fbank(samples))[None].to(device)
            return self.audio(bank)[0]
        features, mask = self.audio(torch.from_numpy(samples)[None].to(device), torch.tensor([len(samples)], device=device))
        return features[0][mask[0]]

    def see(self, frames: Frames) -> Tensor | None:
        """Pictures of a turn -> features (T, P, D); None where the face tower finds no face."""
        parameter = next(self.vision.parameters())
        if isinstance(self.vision, SiglipTower):
            side, mean = self.vision.image_size, (0.5, 0.5, 0.5)
            squares = [cv2.resize(pad_to_square(i, mean), (side, side), interpolation=cv2.INTER_CUBIC) for i in frames.images]
            pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
        else:
            if self.detector is None:
                raise DataError("Expected a face detector beside the face tower.")
            crops = crop_faces(frames, self.detector).crops
            if len(crops) == 0:
                return None
            pixels = torch.from_numpy(np.repeat(crops, 2, axis=0) if len(crops) == 1 else crops)[:, None]
        return self.vision((pixels.to(parameter) / 127.5 - 1)[None])[0]

    def see_crop(self, crop: np.ndarray) -> Tensor:
        """A face crop (64, 64) uint8 -> features (1, P, D) of the face tower."""
        return self.vision(torch.from_numpy(crop).float()[None, None, None] / 127.5 - 1)[0]


@dataclass(frozen=True, slots=True)
class TurnViews:
    """A turn's own clip after the towers: pictures and sound, each None where the clip has none that can be used."""

    video: Views | None
    audio: Views | None


class ClipFeatures:
    """Features of clips through the cache: voice (S, D) of sounds, face (1, P, D) of face pictures, both of a turn's clip.

    Args:
        towers: what computes them.
        folder: of the cache.
        dtype: of what is stored.
    """

    def __init__(self, towers: Towers, folder: Path = CACHE, dtype: torch.dtype = torch.float32) -> None:
        self.towers, self.dtype = towers, dtype
        suffix = "" if dtype == torch.float32 else f"-{str(dtype).removeprefix('torch.')}"
        self.voice = FeatureCache(folder / f"{towers.audio.name}-{tower_hash(towers.audio)}{suffix}")
        self.face = FeatureCache(folder / f"{towers.vision.name}-{tower_hash(towers.vision)}{suffix}")

    def compute(self, clips: Sequence[Clip], modality: str) -> list[Views]:
        """Features of each clip in all its views, the first of them unchanged.

        Args:
            clips: sounds for ``voice``, pictures of one face each for ``face``.
            modality: ``voice`` or ``face``.
        """
        cache = self.voice if modality == "voice" else self.face
        views = VOICE_VIEWS if modality == "voice" else FACE_VIEWS
        keys = [[f"clip/{media_hash(clip.path)}/{view}" for view in views] for clip in clips]
        missing = self._share([i for i, names in enumerate(keys) if any(name not in cache for name in names)])
        for i in tqdm(missing, desc=f"{modality} features", disable=not missing):
            for name, features in zip(keys[i], self._views(clips[i], modality), strict=True):
                cache.put(name, features.to(self.dtype))
        self._finish(cache)
        return [Views(cache, names) for names in keys]

    def turns(self, paths: Sequence[Path]) -> list[TurnViews]:
        """Features of turns' own clips, pictures and sound; what a clip has not is stored as such (an empty tensor)."""
        names = [f"turn/{media_hash(path)}" for path in paths]
        missing = [i for i, name in enumerate(names) if name not in self.face or name not in self.voice]
        missing = self._share(missing)
        for i in tqdm(missing, desc="turn features", disable=not missing):
            turn = read_turn(paths[i])
            seen = self.towers.see(turn.frames) if turn.frames is not None and len(turn.frames) else None
            heard = self.towers.hear(_samples(turn)) if _is_heard(turn) else None
            for cache, found in ((self.face, seen), (self.voice, heard)):
                cache.put(names[i], torch.empty(0) if found is None else found.to(self.dtype))
        self._finish(self.face, self.voice)
        return [TurnViews(_present(self.face, name), _present(self.voice, name)) for name in names]

    def _share(self, missing: list[int]) -> list[int]:
        state = PartialState()
        return missing[state.process_index :: state.num_processes]

    def _finish(self, *caches: FeatureCache) -> None:
        for cache in caches:
            cache.flush()
        PartialState().wait_for_everyone()
        if PartialState().num_processes > 1:
            for cache in caches:
                cache.find()

    def _views(self, clip: Clip, modality: str) -> Iterator[Tensor]:
        seed = int(media_hash(clip.path)[:8], 16)
        if modality == "face":
            image = cv2.imread(str(clip.path), cv2.IMREAD_GRAYSCALE)
            if image is None:
                raise DataError(f"Expected a picture, but OpenCV cannot read {clip.path}.")
            for crop in face_views(image, random.Random(seed)).values():
                yield self.towers.see_crop(crop)
            return
        for heard in sound_views(_samples(read_turn(clip.path)), np.random.default_rng(seed)).values():
            yield self.towers.hear(heard)


def _samples(turn: Turn) -> np.ndarray:
    return np.zeros(SAMPLE_RATE, np.float32) if turn.waveform is None else turn.waveform.samples


def _is_heard(turn: Turn) -> bool:
    return turn.waveform is not None and len(turn.waveform.samples) > 0 and not is_silent(turn.waveform)


def _present(cache: FeatureCache, name: str) -> Views | None:
    return Views(cache, [name]) if cache.get(name).numel() else None


@lru_cache(maxsize=65536)
def media_hash(path: Path) -> str:
    """Hash of a medium's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class MediaConfig(BaseConfig):
    """Which corpora's voices, faces and turns a stage reads, and where their features are kept."""

    data: Path = field(default=DATA, metadata={"help": "folder that the data stage wrote"})
    root: Path | None = field(default=None, metadata={"help": "where the data sets lie; MULTIMOOD_DATA when null"})
    cache: Path = field(default=CACHE, metadata={"help": "folder of the towers' features"})
    voices: tuple[str, ...] = field(default=("ravdess_speech", "emodb"), metadata={"help": "corpora of labelled sounds"})
    faces: tuple[str, ...] = field(default=("fer2013",), metadata={"help": "corpora of labelled pictures, a face each"})
    films: tuple[str, ...] = field(default=(), metadata={"help": "corpora of labelled clips with picture and sound"})

    @property
    def data_sets(self) -> Path:
        """The data root."""
        return self.root or data_root()


@dataclass(frozen=True, slots=True)
class FeaturesConfig(MediaConfig):
    """What is encoded, by which towers."""

    turns: tuple[str, ...] = field(default=(), metadata={"help": "corpora of dialogues whose turns have clips of their own"})
    splits: tuple[str, ...] = field(default=("train", "val"), metadata={"help": "of each corpus, where it has them"})


def cache_of(config: MediaConfig, towers: Towers | None = None) -> ClipFeatures:
    """The cache in which a stage looks for the features of its base's towers."""
    if config.base == EMBEDDED:
        return ClipFeatures(towers or Towers.load(), config.cache)
    if towers is None:
        towers = Towers(*build_towers(config, torch.bfloat16 if torch.cuda.is_available() else torch.float32))
    return ClipFeatures(towers, config.cache, torch.bfloat16)


def known_splits(corpus: str, config: FeaturesConfig) -> list[str]:
    """Those of the splits to encode that the corpus has."""
    return [split for split in config.splits if (config.data / corpus / f"{split}.jsonl").is_file()]


def media_of(dialogues: Iterable[Dialogue], root: Path) -> list[Path]:
    """The clips of dialogues' turns, each once."""
    return list({root / turn.media: None for dialogue in dialogues for turn in dialogue.turns if turn.media})


def main(argv: Sequence[str] | None = None) -> None:
    config, args = load_config(FeaturesConfig, argv, __doc__ or "")
    root, data = config.data_sets, config.data
    work: list[tuple[str, str, list[Clip]]] = []
    for kind, names in (("voice", config.voices), ("face", config.faces)):
        for name in names:
            clips = [clip for split in known_splits(name, config) for clip in read_clips(name, split, data, root)]
            work.append((kind, name, clips))
    films = [
        path
        for name in (*config.films, *config.turns)
        for split in known_splits(name, config)
        for path in media_of(read_split(name, split, data), root)
    ]
    if args.dry_run:
        print(plan_features(config, sum(len(clips) for _, _, clips in work), len(films)))
        return
    features = cache_of(config)
    for kind, name, clips in work:
        found = features.compute(clips, kind)
        print(json.dumps({"data": name, "clips": len(found), "views": len(found[0]) if found else 0}))
    if films:
        kept = features.turns(films)
        seen, heard = sum(t.video is not None for t in kept), sum(t.audio is not None for t in kept)
        print(json.dumps({"films": len(kept), "with picture": seen, "with sound": heard}))


def plan_features(config: FeaturesConfig, clips: int, films: int) -> str:
    """What the stage would encode, and the room that it takes on the disk."""
    model = read_model_config(config.model)
    size = 4 if config.base == EMBEDDED else 2  # bytes a number
    picture = model.vision.grid**2 * model.vision.hidden_size * size
    sound = audio_tokens(model) * model.audio.hidden_size * size
    most = clips * len(VOICE_VIEWS) * max(picture, sound) + films * (model.num_frames * picture + sound)
    return f"{clips} clips in {len(VOICE_VIEWS)} views and {films} turns' clips; at most {most / 2**30:.2f} GiB in {config.cache}"


if __name__ == "__main__":
    run_command(main)
