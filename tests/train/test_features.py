"""Features are computed once, and neither a changed tower nor a changed file meets a stale one."""

from __future__ import annotations

import random
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from multimood_core.errors import DataError
from multimood_core.face_tower import CROP_SIZE, FaceTower
from multimood_core.records import SAMPLE_RATE
from multimood_core.voice_tower import VoiceTower, VoiceTowerConfig
from tests import synthetic
from tests.multimood_core.tiny import VOICE_SETTINGS
from train import features
from train.data import Clip
from train.features import (
    FACE_VIEWS,
    VOICE_VIEWS,
    ClipFeatures,
    FeatureCache,
    Towers,
    face_views,
    noisy,
    sound_views,
    speed_changed,
    tower_hash,
)


def tiny_towers(seed: int = 0) -> Towers:
    torch.manual_seed(seed)
    return Towers(VoiceTower(VoiceTowerConfig(**VOICE_SETTINGS)), FaceTower())


def test_what_is_put_is_there_again(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    values = {f"clip/{i}": torch.full((i + 1, 2), float(i)) for i in range(5)}
    for key, value in values.items():
        cache.put(key, value)
    assert "clip/3" in cache
    torch.testing.assert_close(cache.load(list(values)), values)
    again = FeatureCache(tmp_path)
    again.put("clip/9", torch.ones(1))
    torch.testing.assert_close(again.load(["clip/4", "clip/9"]), {"clip/4": values["clip/4"], "clip/9": torch.ones(1)})
    assert len(list(tmp_path.iterdir())) == 2


def test_full_shards_are_written_and_half_written_ones_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "SHARD", 2)
    cache = FeatureCache(tmp_path)
    for i in range(3):
        cache.put(str(i), torch.ones(1))
    (tmp_path / "half.partial").write_bytes(b"half")
    after_a_kill = FeatureCache(tmp_path)
    assert [str(i) in after_a_kill for i in range(3)] == [True, True, False]


def test_a_changed_tower_has_another_hash_and_its_statistics_have_not() -> None:
    one, same, other = (tiny_towers(seed).voice for seed in (0, 0, 1))
    assert tower_hash(one) == tower_hash(same) != tower_hash(other)
    one.set_statistics(torch.ones(24), torch.ones(24))
    assert tower_hash(one) == tower_hash(same)
    same.config = VoiceTowerConfig(**VOICE_SETTINGS | {"window_seconds": 2.0})
    assert tower_hash(same) != tower_hash(one)


def clip(path: Path, seed: int) -> Clip:
    synthetic.write_clip(path, sound=synthetic.spoken(0.8, seed=seed), rate=SAMPLE_RATE, audio="pcm_s16le")
    return Clip(path, "joy", "1")


def test_a_clip_is_encoded_once_in_all_its_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    towers, clips = tiny_towers(), [clip(tmp_path / "a.wav", 1), clip(tmp_path / "b.wav", 2)]
    found = ClipFeatures(towers, tmp_path / "cache").compute(clips, "voice")
    assert [len(views) for views in found] == [len(VOICE_VIEWS)] * 2
    for views in found:
        assert all(view.ndim == 2 and view.shape[1] == 24 and view.isfinite().all() for view in views)
        assert all(not torch.equal(view, other) for i, view in enumerate(views) for other in views[:i])

    again = ClipFeatures(towers, tmp_path / "cache")
    monkeypatch.setattr(again, "_views", lambda *_: pytest.fail("it was encoded before"))
    torch.testing.assert_close(again.compute(clips, "voice"), found)

    synthetic.write_clip(clips[0].path, sound=synthetic.spoken(0.8, seed=3), rate=SAMPLE_RATE, audio="pcm_s16le")
    changed = ClipFeatures(towers, tmp_path / "cache").compute(clips, "voice")
    assert not torch.equal(changed[0][0], found[0][0])
    torch.testing.assert_close(changed[1], found[1])


def test_a_picture_is_encoded_in_all_its_views(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (48, 48), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    (views,) = ClipFeatures(tiny_towers(), tmp_path / "cache").compute([Clip(tmp_path / "a.png", "joy", "")], "face")
    assert [tuple(view.shape) for view in views] == [(1, 16, 135)] * len(FACE_VIEWS)
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(DataError, match=r"cannot read .*b\.png"):
        ClipFeatures(tiny_towers(), tmp_path / "cache").compute([Clip(tmp_path / "b.png", "joy", "")], "face")


def test_speed_changes_length_and_pitch() -> None:
    sound = synthetic.tone(1.0, hertz=400, rate=SAMPLE_RATE)
    fast = speed_changed(sound, 1.25)
    assert len(fast) == pytest.approx(len(sound) / 1.25, abs=2)
    peak = np.abs(np.fft.rfft(fast)).argmax() * SAMPLE_RATE / len(fast)
    assert peak == pytest.approx(500, abs=2)


def test_noise_lies_as_far_below_the_voice_as_it_should() -> None:
    sound = synthetic.spoken(1.0)
    noise = noisy(sound, 20.0, np.random.default_rng(0)) - sound
    assert 10 * np.log10(np.mean(sound**2) / np.mean(noise**2)) == pytest.approx(20, abs=0.1)


def test_views_come_again_from_the_same_seed_and_the_first_is_the_sound_itself() -> None:
    sound = synthetic.spoken(0.5)
    one, same = (sound_views(sound, np.random.default_rng(3)) for _ in range(2))
    assert tuple(one) == VOICE_VIEWS
    np.testing.assert_array_equal(one["clean"], sound)
    for name, heard in one.items():
        np.testing.assert_array_equal(heard, same[name])
        assert heard.dtype == np.float32
        assert np.isfinite(heard).all()
    image = np.random.default_rng(0).integers(0, 255, (40, 52), dtype=np.uint8)
    faces = face_views(image, random.Random(0))
    assert tuple(faces) == FACE_VIEWS
    assert {view.shape for view in faces.values()} == {(CROP_SIZE, CROP_SIZE)}
