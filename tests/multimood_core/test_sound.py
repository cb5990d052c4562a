"""Sound of any microphone becomes 16 kHz mono without a seam, and the filter bank is Kaldi's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimood_core import sound
from multimood_core.errors import MediaError
from tests import synthetic


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("kind", ["int16", "int32", "uint8", "float32"])
def test_a_microphone_of_any_rate_and_format_becomes_16_khz(rate: int, kind: str) -> None:
    x = synthetic.tone(1.0, rate=rate)
    if kind == "uint8":
        x = np.round(128 + 127 * x).astype(np.uint8)
    elif kind != "float32":
        x = np.round(x.astype(np.float64) * np.iinfo(kind).max).astype(kind)
    waveform = sound.resample(x, rate)
    assert len(waveform.samples) == pytest.approx(16_000, abs=2)
    assert synthetic.spectrum_peak(waveform.samples) == pytest.approx(440, abs=1.5)
    assert np.abs(waveform.samples[500:-500]).max() == pytest.approx(0.5, abs=0.01)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 9000), min_size=1, max_size=12), st.sampled_from([16_000, 44_100, 48_000]))
def test_chunks_leave_no_seam_and_lose_no_sample(sizes: list[int], rate: int) -> None:
    x = synthetic.tone(sum(sizes) / rate + 0.01, rate=rate)[: sum(sizes)]
    live = sound.LiveResampler(rate)
    pieces = [live.push(piece) for piece in np.split(x, np.cumsum(sizes)[:-1])] + [live.finish()]
    whole = sound.resample(x, rate).samples
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-5)
    # 3 samples are 0.2 ms; of a handful of samples in all the filter gives nothing back.
    assert len(whole) == pytest.approx(len(x) * 16_000 / rate, abs=3)


def test_stereo_chunks_may_be_interleaved_or_columns() -> None:
    left = synthetic.tone(0.5)
    both = np.stack([left, 0 * left], 1)
    columns = sound.resample(both, 48_000, 2).samples
    np.testing.assert_allclose(columns, sound.resample(both.ravel(), 48_000, 2).samples)
    assert np.abs(columns[500:-500]).max() == pytest.approx(0.25, abs=0.005)


def test_an_impossible_microphone_is_refused() -> None:
    with pytest.raises(MediaError, match="0 Hz"):
        sound.LiveResampler(0)
    with pytest.raises(MediaError, match="channels"):
        sound.resample(np.zeros(5, np.float32), 48_000, 2)


def _independent_fbank(samples: np.ndarray) -> np.ndarray:
    """Kaldi's filter bank as transformers computes it, in NumPy."""
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    filters = mel_filter_bank(257, 128, 20, 8000, 16_000, mel_scale="kaldi", triangularize_in_mel_space=True)
    return spectrogram(
        samples.astype(np.float64) * 2**15,
        window_function(400, "povey", periodic=False),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=filters,
        log_mel="log",
        mel_floor=1.192092955078125e-07,
        remove_dc_offset=True,
    ).T


def _recorded() -> np.ndarray:
    """Sound with a room's noise: without any, filters between harmonics hold little but each library's rounding."""
    return synthetic.spoken(1.5) + np.random.default_rng(0).normal(0, 0.01, 24_000).astype(np.float32)


def test_the_filter_bank_agrees_with_an_independent_one() -> None:
    samples = _recorded()
    features = sound.fbank(samples)
    assert features.shape == (148, 128)  # 1 + (24000 - 400) // 160
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, _independent_fbank(samples), atol=2e-3)


def test_sound_below_one_window_has_no_features() -> None:
    assert sound.fbank(np.zeros(399, np.float32)).shape == (0, 128)
    assert sound.fbank(np.zeros(400, np.float32)).shape == (1, 128)


def test_both_filter_banks_agree_where_torchaudio_loads() -> None:
    kaldi = sound._torchaudio()
    if kaldi is None:
        pytest.skip("torchaudio does not load here (it needs a CUDA build of torch)")
    samples = _recorded()
    np.testing.assert_allclose(
        sound._fbank_torchaudio(kaldi, samples), sound._fbank_kaldi_native(samples), atol=1e-3
    )
