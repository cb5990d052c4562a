"""Features are computed once, and neither a changed tower nor a changed file meets a stale one."""

from __future__ import annotations

import dataclasses
import random
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from transformers import SiglipVisionConfig

from multimood_core.beats import BeatsConfig, BeatsTower
from multimood_core.errors import DataError, ModelError
from multimood_core.face_detector import FaceDetector
from multimood_core.face_tower import CROP_SIZE, FaceTower
from multimood_core.records import SAMPLE_RATE
from multimood_core.siglip_tower import SiglipTower
from multimood_core.voice_tower import VoiceTower, VoiceTowerConfig
from multimood_core.weights import weights_path
from tests import synthetic
from tests.multimood_core.tiny import VOICE_SETTINGS
from train import features
from train.features import ClipFeatures, FeatureCache, Towers, tower_hash
from train.turns import Clip
from train.views import FACE_VIEWS, VOICE_VIEWS, face_views, noisy, sound_views, speed_changed

REPOSITORY = Path(__file__).resolve().parents[2]


def tiny_towers(seed: int = 0) -> Towers:
    torch.manual_seed(seed)
    return Towers(VoiceTower(VoiceTowerConfig(**VOICE_SETTINGS)), FaceTower())


def test_what_is_put_is_there_again(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    values = {f"clip/{i}": torch.full((i + 1, 2), float(i)) for i in range(5)}
    for key, value in values.items():
        cache.put(key, value)
    assert "clip/3" in cache
    assert cache.shape("clip/3") == (4, 2)
    torch.testing.assert_close({key: cache.get(key) for key in values}, values)
    cache.flush()
    again = FeatureCache(tmp_path)
    again.put("clip/9", torch.ones(1))
    again.flush()
    torch.testing.assert_close(again.get("clip/4"), values["clip/4"])
    torch.testing.assert_close(again.get("clip/9"), torch.ones(1))
    assert again.shape("clip/2") == (3, 2)
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(KeyError):
        again.get("clip/10")


def test_full_shards_are_written_and_half_written_ones_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "SHARD", 2)
    cache = FeatureCache(tmp_path)
    for i in range(3):
        cache.put(str(i), torch.ones(1))
    (tmp_path / "half.safetensors.partial").write_bytes(b"half")
    after_a_kill = FeatureCache(tmp_path)
    assert [str(i) in after_a_kill for i in range(3)] == [True, True, False]


def test_large_entries_do_not_wait_for_a_full_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "SHARD_BYTES", 100)
    FeatureCache(tmp_path).put("one", torch.ones(100))
    assert "one" in FeatureCache(tmp_path)


def test_a_full_disk_and_a_damaged_shard_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(tmp_path)
    cache.put("one", torch.ones(1))
    cache.flush()
    (shard,) = tmp_path.glob("*.safetensors")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features, "save_file", full)
    cache.put("two", torch.ones(1))
    with pytest.raises(ModelError, match="No space left on device.*Make room"):
        cache.flush()
    assert list(tmp_path.iterdir()) == [shard]
    (tmp_path / "torn.safetensors").write_bytes(shard.read_bytes()[:20])
    with pytest.raises(DataError, match=r"torn\.safetensors cannot be read.*Delete it"):
        FeatureCache(tmp_path)


def test_a_killed_run_keeps_its_shards_and_goes_on(tmp_path: Path) -> None:
    """Killed for good in the middle, the stage encodes afterwards only what no shard holds."""
    for i in range(6):
        clip(tmp_path / f"{i}.wav", i)
    words = [sys.executable, "-m", "tests.train.killed_features", str(tmp_path)]
    process = subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("encoded 4"):
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    assert process.returncode == -signal.SIGKILL
    second = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    # Two clips a shard: the first four were written, and at most one more was begun.
    assert second.count("encoded") == 2
    assert "6 clips" in second


def test_a_changed_tower_has_another_hash_and_its_statistics_have_not() -> None:
    one, same, other = (tiny_towers(seed).audio for seed in (0, 0, 1))
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
    torch.testing.assert_close(list(map(list, again.compute(clips, "voice"))), list(map(list, found)))

    features.media_hash.cache_clear()  # which holds while a stage runs
    synthetic.write_clip(clips[0].path, sound=synthetic.spoken(0.8, seed=3), rate=SAMPLE_RATE, audio="pcm_s16le")
    changed = ClipFeatures(towers, tmp_path / "cache").compute(clips, "voice")
    assert not torch.equal(changed[0][0], found[0][0])
    torch.testing.assert_close(list(changed[1]), list(found[1]))


def test_another_tower_encodes_anew(tmp_path: Path) -> None:
    clips = [clip(tmp_path / "a.wav", 1)]
    one, other = (ClipFeatures(tiny_towers(seed), tmp_path / "cache").compute(clips, "voice")[0][0] for seed in (0, 1))
    assert not torch.equal(one, other)
    assert len(list((tmp_path / "cache").glob("voice-*"))) == 2


def test_a_turns_clip_gives_what_it_has(tmp_path: Path) -> None:
    sound = clip(tmp_path / "a.wav", 1).path
    blank = synthetic.write_clip(tmp_path / "b.mp4", images=synthetic.moving_pattern(10))
    towers = dataclasses.replace(tiny_towers(), detector=FaceDetector(weights_path("face-detector")))
    heard, seen = ClipFeatures(towers, tmp_path / "cache").turns([sound, blank])
    assert heard.video is None
    assert heard.audio is not None
    assert heard.audio[0].shape[1] == 24
    assert (seen.video, seen.audio) == (None, None)  # pictures without a face, and no sound


def test_the_towers_of_the_papers_scale_are_read_through_the_same_cache(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vision = SiglipTower(
        SiglipVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28)
    )
    audio = BeatsTower(
        BeatsConfig(
            embed_dim=16, encoder_layers=1, encoder_embed_dim=16, encoder_ffn_embed_dim=16, encoder_attention_heads=2,
            conv_pos=8, conv_pos_groups=2,
        )
    )  # fmt: skip
    film = synthetic.write_clip(tmp_path / "a.mp4", images=synthetic.moving_pattern(50), sound=synthetic.tone(2.0))
    (turn,) = ClipFeatures(Towers(audio, vision), tmp_path / "cache", torch.bfloat16).turns([film])
    assert turn.video is not None
    assert turn.audio is not None
    assert turn.video.shape(0) == (16, (28 // 16) ** 2, 16)
    assert turn.video[0].dtype == torch.bfloat16
    # 2 s are 198 frames of 25 ms every 10 ms: 12 whole patches of 8 bands
    assert turn.audio.shape(0) == (96, 16)


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
