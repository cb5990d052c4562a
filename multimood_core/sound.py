"""Samples of sound: resampling to 16 kHz mono, whole or as it comes, and the filter bank that the audio tower reads."""

from __future__ import annotations

import functools
import types
from typing import Any, Final

import av
import numpy as np

from multimood_core.errors import MediaError
from multimood_core.records import SAMPLE_RATE, Waveform

FBANK_MELS: Final = 128
FBANK_WINDOW: Final = 400  # samples, 25 ms
FBANK_SHIFT: Final = 160  # samples, 10 ms


def refuse_sound(rate: int, channels: int) -> None:
    """Rates below make seconds of sound from every few bytes, and memory goes with them."""
    if not 1000 <= rate <= 768_000 or not 1 <= channels <= 64:
        raise MediaError(
            f"expected sound of 1,000 to 768,000 Hz and 1 to 64 channels, got {rate} Hz and {channels}; "
            "choose another device, or export the recording again"
        )


class SoundMixer:
    """Mixes whatever sound comes to 16 kHz mono, also where rate or layout change within the stream."""

    def __init__(self) -> None:
        self.start: float | None = None
        self._chunks: list[np.ndarray] = []
        self._samples = 0
        self._resampler: av.AudioResampler | None = None
        self._shape: tuple[str, int, int] | None = None

    @property
    def seconds(self) -> float:
        return self._samples / SAMPLE_RATE

    def push(self, frame: av.AudioFrame) -> None:
        """Takes the next frame.

        Raises:
            MediaError: its rate or number of channels is out of bounds.
        """
        if self.start is None:
            self.start = frame.time or 0.0
        shape = (frame.format.name, frame.layout.nb_channels, frame.sample_rate)
        if shape != self._shape:
            refuse_sound(frame.sample_rate, frame.layout.nb_channels)
            self._drain(None)
            # The layout stays: FFmpeg's own down-mix of float sound may exceed 1 and knows no layout of 30 channels.
            # Interleaved, as PyAV reads past its eight plane pointers where each of more channels has a plane.
            self._resampler, self._shape = av.AudioResampler(format="flt", rate=SAMPLE_RATE), shape
        frame.pts = None
        self._drain(frame)

    def take(self) -> np.ndarray:
        """The mono samples (N,) float32 that are ready since the last call."""
        ready = np.concatenate(self._chunks) if self._chunks else np.zeros(0, np.float32)
        self._chunks.clear()
        return ready

    def finish(self) -> Waveform | None:
        """What is left, the filter's tail included; None where nothing came."""
        self._drain(None)
        samples = self.take()
        return Waveform(np.nan_to_num(samples).clip(-1.0, 1.0)) if len(samples) else None

    def _drain(self, frame: av.AudioFrame | None) -> None:
        if self._resampler is None:
            return
        for out in self._resampler.resample(frame):
            samples = out.to_ndarray().reshape(-1, out.layout.nb_channels)
            self._chunks.append(samples.mean(axis=1, dtype=np.float32))
            self._samples += out.samples


class LiveResampler:
    """Turns a microphone's chunks into 16 kHz mono without a seam between them.

    Args:
        rate: the microphone's rate in Hz.
        channels: its channels.
    """

    def __init__(self, rate: int, channels: int = 1) -> None:
        refuse_sound(rate, channels)
        self._rate, self._channels = rate, channels
        self._sound = SoundMixer()

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Takes (N,), (N, channels) or interleaved samples, integer at full scale or float in [-1, 1].

        Returns:
            (M,) float32 at 16 kHz; the filter's tail follows with later chunks or ``finish``.
        """
        if samples.size == 0:
            return np.zeros(0, np.float32)
        if samples.size % self._channels:
            raise MediaError(f"expected samples of {self._channels} channels, got the shape {samples.shape}")
        values = samples.reshape(-1, self._channels)
        if np.issubdtype(values.dtype, np.integer):
            info = np.iinfo(values.dtype)
            middle = 0 if info.min < 0 else (info.max + 1) // 2
            values = (values.astype(np.float32) - middle) / float(info.max + 1 - middle)
        # Averaged before, not after: the mean of channels and the resampling filter are linear.
        mono = np.nan_to_num(values.astype(np.float32)).mean(axis=1, dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(mono[None]), format="fltp", layout="mono")
        frame.sample_rate = self._rate
        self._sound.push(frame)
        return self._sound.take()

    def finish(self) -> np.ndarray:
        """The tail (M,) float32 that the filter still holds."""
        rest = self._sound.finish()
        return rest.samples if rest else np.zeros(0, np.float32)


def resample(samples: np.ndarray, rate: int, channels: int = 1) -> Waveform:
    """Turns one piece of raw sound, as ``LiveResampler.push`` takes it, into a waveform."""
    live = LiveResampler(rate, channels)
    return Waveform(np.concatenate([live.push(samples), live.finish()]).clip(-1.0, 1.0))


@functools.cache
def _torchaudio() -> types.ModuleType | None:
    """torchaudio's kaldi module where it imports; its CUDA libraries fail to load beside a CPU torch."""
    try:
        from torchaudio.compliance import kaldi
    except (ImportError, OSError):
        return None
    return kaldi


def fbank(samples: np.ndarray) -> np.ndarray:
    """Kaldi log-mel filter bank of 16 kHz sound scaled to 16-bit range (BEATs sec. 3; paper, audio tower).

    Args:
        samples: (N,) float32 in [-1, 1].

    Returns:
        (T, 128) float32 with T = 1 + (N - 400) // 160, and T = 0 below 25 ms. Not normalised.
    """
    if len(samples) < FBANK_WINDOW:
        return np.zeros((0, FBANK_MELS), np.float32)
    kaldi = _torchaudio()
    return _fbank_kaldi_native(samples) if kaldi is None else _fbank_torchaudio(kaldi, samples)


def _fbank_kaldi_native(samples: np.ndarray) -> np.ndarray:
    import kaldi_native_fbank as knf

    options = knf.FbankOptions()
    options.frame_opts.samp_freq = SAMPLE_RATE
    options.frame_opts.frame_length_ms = 1000 * FBANK_WINDOW / SAMPLE_RATE
    options.frame_opts.frame_shift_ms = 1000 * FBANK_SHIFT / SAMPLE_RATE
    options.frame_opts.dither = 0.0
    options.mel_opts.num_bins = FBANK_MELS
    extractor = knf.OnlineFbank(options)
    extractor.accept_waveform(SAMPLE_RATE, samples.astype(np.float32) * 2**15)
    extractor.input_finished()
    return np.stack([extractor.get_frame(i) for i in range(extractor.num_frames_ready)])


def _fbank_torchaudio(kaldi: Any, samples: np.ndarray) -> np.ndarray:
    import torch

    features = kaldi.fbank(
        torch.from_numpy(samples.astype(np.float32))[None] * 2**15,
        num_mel_bins=FBANK_MELS,
        sample_frequency=SAMPLE_RATE,
        frame_length=1000 * FBANK_WINDOW / SAMPLE_RATE,
        frame_shift=1000 * FBANK_SHIFT / SAMPLE_RATE,
    )
    return np.asarray(features.numpy())
