"""The features stage over a folder of sounds, to be killed: ``python killed_features.py FOLDER``; tells of each clip."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from multimood_core.face_tower import FaceTower
from multimood_core.voice_tower import VoiceTower, VoiceTowerConfig
from tests.multimood_core.tiny import VOICE_SETTINGS
from train import features
from train.turns import Clip
from train.views import VOICE_VIEWS


def main(folder: Path) -> None:
    features.SHARD = 2 * len(VOICE_VIEWS)  # type: ignore[misc]
    torch.manual_seed(0)
    towers = features.Towers(VoiceTower(VoiceTowerConfig(**VOICE_SETTINGS)), FaceTower())
    cache = features.ClipFeatures(towers, folder / "cache")
    put, done = cache.voice.put, 0

    def told(key: str, value: torch.Tensor) -> None:
        nonlocal done
        put(key, value)
        if key.endswith(VOICE_VIEWS[-1]):
            done += 1
            print(f"encoded {done}", flush=True)

    cache.voice.put = told  # type: ignore[method-assign]
    clips = [Clip(path, "joy", "") for path in sorted(folder.glob("*.wav"))]
    print(f"{len(cache.compute(clips, 'voice'))} clips")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
