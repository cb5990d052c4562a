"""BEATs, the paper-scale audio tower (Chen et al. 2022, "BEATs: Audio Pre-Training with Acoustic Tokenizers").

The encoder takes the raw filterbank, normalises it, cuts it into 16 x 16 patches and runs a post-norm transformer with
DeepNorm and gated relative position bias. Only the shape of the released iter3+ AS2M checkpoint is built, at any size.
Module names are those of the hub checkpoints, whose state dicts load strictly. Two kinds of key that those hold have no
place of their own: ``predictor.*``, AudioSet tags that the tower does not give, and the position bias of the layers
after the first, a copy of the first's that all share.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from multimood_core.errors import ModelError

MEL_BINS: Final = 128
_FBANK_MEAN: Final = 15.41663  # of AudioSet, as released with the checkpoint
_FBANK_STD: Final = 6.55582
_GATE_PARTS: Final = 4  # the gate's linear layer gives 2 x 4 numbers, each four summed
UNUSED_PREFIX: Final = "predictor."  # the hub's AudioSet tagging head
BIAS_COPY: Final = re.compile(r"encoder\.layers\.(?!0\.)\d+(?=\.self_attn\.relative_attention_bias\.weight$)")
FIRST_BIAS: Final = "encoder.layers.0"  # what a match of BIAS_COPY stands for
_WEIGHT_NORM_EPS: Final = 1e-6  # VideoLLaMA2's weight norm, which keeps half precision from dividing by nought


@dataclass(frozen=True, slots=True)
class BeatsConfig:
    """Sizes of a BEATs encoder, by the names of the released configuration; the defaults are iter3+ AS2M.

    Attributes:
        input_patch_size: side of a patch, in 10 ms frames and in mel bins.
        embed_dim: width of a patch embedding.
        encoder_layers: transformer layers.
        encoder_embed_dim: width of the transformer, hence of the output.
        encoder_ffn_embed_dim: width of the feed-forward layers.
        encoder_attention_heads: attention heads.
        conv_pos: kernel of the convolution that encodes the absolute position, in tokens.
        conv_pos_groups: groups of that convolution.
        num_buckets: buckets of the relative position bias.
        max_distance: distance, in tokens, from which on all share the last bucket.

    Raises:
        ModelError: sizes that do not fit together.
    """

    input_patch_size: int = 16
    embed_dim: int = 512
    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    conv_pos: int = 128
    conv_pos_groups: int = 16
    num_buckets: int = 320
    max_distance: int = 800

    def __post_init__(self) -> None:
        for part in ("encoder_attention_heads", "conv_pos_groups"):
            if self.encoder_embed_dim % getattr(self, part):
                raise ModelError(
                    f"BEATs' encoder_embed_dim must be a multiple of {part}, but {self.encoder_embed_dim} is none of "
                    f"{getattr(self, part)}. Correct the audio tower's configuration."
                )
        if MEL_BINS % self.input_patch_size:
            raise ModelError(
                f"BEATs' input_patch_size must divide the {MEL_BINS} mel bins, but {self.input_patch_size} does not. "
                "Correct the audio tower's configuration."
            )
        if self.num_buckets < 4 or self.max_distance <= self.num_buckets // 4:
            raise ModelError(
                "BEATs' position bias needs 4 or more buckets and a max_distance above a quarter of them, but got "
                f"num_buckets={self.num_buckets}, max_distance={self.max_distance}. "
                "Correct the audio tower's configuration."
            )


def _relative_buckets(length: int, num_buckets: int, max_distance: int) -> Tensor:
    """Bucket of every (query, key) pair, (S, S): half for either direction, fine up close, logarithmic beyond."""
    position = torch.arange(length)
    relative = position[None, :] - position[:, None]  # key - query
    half = num_buckets // 2
    exact = half // 2
    distance = relative.abs()
    # The clamp only keeps log(0) out of the branch that is not taken.
    scale = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (scale * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(distance < exact, distance, far) + (relative > 0) * half


class _WeightNormConv(nn.Module):
    """1-D convolution (B, C, S) -> (B, C, S) whose kernel is kept as length ``weight_g`` and direction ``weight_v``.

    The length is one number per kernel position. torch's own weight norm would name the parameters otherwise.
    """

    def __init__(self, channels: int, kernel: int, groups: int) -> None:
        super().__init__()
        std = math.sqrt(4 / (kernel * channels))
        self.weight_v = nn.Parameter(torch.randn(channels, channels // groups, kernel) * std)
        self.weight_g = nn.Parameter(self.weight_v.detach().norm(dim=(0, 1), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        direction = self.weight_v.float()
        direction = direction * torch.rsqrt(direction.square().sum((0, 1), keepdim=True) + _WEIGHT_NORM_EPS)
        kernel = self.weight_g * direction.to(self.weight_g.dtype)
        length = x.shape[-1]
        # An even kernel padded on both sides gives one position too many.
        return F.conv1d(x, kernel, self.bias, padding=kernel.shape[-1] // 2, groups=self.groups)[..., :length]


class _Attention(nn.Module):
    """Self-attention (B, S, D) -> (B, S, D) with a position bias that each query gates (WavLM's, BEATs sec. 3)."""

    def __init__(self, config: BeatsConfig, holds_bias: bool) -> None:
        super().__init__()
        dim, self.heads = config.encoder_embed_dim, config.encoder_attention_heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.grep_linear = nn.Linear(dim // self.heads, 2 * _GATE_PARTS)
        self.grep_a = nn.Parameter(torch.ones(1, self.heads, 1, 1))
        if holds_bias:
            self.relative_attention_bias = nn.Embedding(config.num_buckets, self.heads)

    def forward(self, x: Tensor, position_bias: Tensor, padding: Tensor | None) -> Tensor:
        """``position_bias`` (1, H, S, S); ``padding`` (B, 1, 1, S), True where a key is padding."""
        q, k, v = (
            proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )  # each (B, H, S, D/H)
        gate = self.grep_linear(q).unflatten(-1, (2, _GATE_PARTS)).sum(-1).sigmoid()  # (B, H, S, 2)
        a, b = gate.split(1, dim=-1)
        bias = (a * (b * self.grep_a - 1.0) + 2.0) * position_bias  # (B, H, S, S)
        if padding is not None:
            bias = bias.masked_fill(padding, -math.inf)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class _Layer(nn.Module):
    """Post-norm transformer layer whose residual is weighted by DeepNorm's alpha."""

    def __init__(self, config: BeatsConfig, first: bool) -> None:
        super().__init__()
        dim = config.encoder_embed_dim
        self.self_attn = _Attention(config, holds_bias=first)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, config.encoder_ffn_embed_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_embed_dim, dim)
        self.final_layer_norm = nn.LayerNorm(dim)
        self.alpha = (2 * config.encoder_layers) ** 0.25

    def forward(self, x: Tensor, position_bias: Tensor, padding: Tensor | None) -> Tensor:
        x = self.self_attn_layer_norm(x * self.alpha + self.self_attn(x, position_bias, padding))
        return self.final_layer_norm(x * self.alpha + self.fc2(F.gelu(self.fc1(x))))


class _Transformer(nn.Module):
    """Position convolution and layers: (B, S, D) -> (B, S, D)."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.encoder_embed_dim
        # A Sequential for the hub's key pos_conv.0.
        self.pos_conv = nn.Sequential(_WeightNormConv(dim, config.conv_pos, config.conv_pos_groups), nn.GELU())
        self.layers = nn.ModuleList(_Layer(config, first=i == 0) for i in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """``padding`` (B, S), True where a token is padding."""
        if padding is not None:
            x = x.masked_fill(padding[..., None], 0.0)
            padding = padding[:, None, None]
        x = self.layer_norm(x + self.pos_conv(x.transpose(1, 2)).transpose(1, 2))
        buckets = _relative_buckets(x.shape[1], self.config.num_buckets, self.config.max_distance)
        table = cast(_Layer, self.layers[0]).self_attn.relative_attention_bias
        position_bias = table(buckets.to(x.device)).permute(2, 0, 1)[None]  # (1, H, S, S)
        for layer in self.layers:
            x = layer(x, position_bias, padding)
        return x


def _drop_hub_extras(
    module: nn.Module, state: dict[str, Any], prefix: str, metadata: object, strict: bool, *lists: list[str]
) -> None:
    """Take out of a hub state dict what has no place of its own (see the module's docstring).

    A bias that is no copy of the first layer's stays, and a strict load then refuses it.
    """
    for key in [key for key in state if key.startswith(prefix)]:
        name = key[len(prefix) :]
        first = prefix + BIAS_COPY.sub(FIRST_BIAS, name)
        copy = first != key and first in state and torch.equal(state[key], state[first])
        if copy or name.startswith(UNUSED_PREFIX):
            del state[key]


class BeatsEncoder(nn.Module):
    """BEATs from the raw filterbank to frame-and-band tokens."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.config = config
        patch = config.input_patch_size
        self.patch_embedding = nn.Conv2d(1, config.embed_dim, patch, patch, bias=False)
        self.layer_norm = nn.LayerNorm(config.embed_dim)
        self.post_extract_proj = (
            nn.Linear(config.embed_dim, config.encoder_embed_dim)
            if config.embed_dim != config.encoder_embed_dim
            else nn.Identity()
        )
        self.encoder = _Transformer(config)
        self.register_load_state_dict_pre_hook(_drop_hub_extras)

    def token_count(self, frames: int) -> int:
        """Number of tokens S that ``frames`` filterbank frames give; frames short of a whole patch are dropped."""
        patch = self.config.input_patch_size
        return (frames // patch) * (MEL_BINS // patch)

    def token_padding(self, padding_mask: Tensor) -> Tensor:
        """Bring a padding mask from frames (B, frames) to tokens (B, S) as BEATs does.

        A token stands for the frames of its patch; BEATs deals them out over the patch's tokens, two to each at the
        released size, so of a patch that sound fills by half, half the tokens count as padding.
        """
        patch = self.config.input_patch_size
        tokens = self.token_count(padding_mask.shape[1])
        whole = padding_mask[:, : padding_mask.shape[1] // patch * patch]
        return whole.unflatten(1, (tokens, -1)).all(-1)

    def forward(self, fbank: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Encode filterbanks.

        Args:
            fbank: (B, frames, 128), kaldi log mel energies of 16 kHz sound scaled by 2**15, 25 ms windows every 10 ms,
                not normalised.
            padding_mask: (B, frames) bool, True where a frame only fills the batch up.

        Returns:
            (B, S, encoder_embed_dim), time slowest, then from low to high bands. Tokens of padding hold no meaning.

        Raises:
            ModelError: another shape, less than one patch of frames, or an item that is nothing but padding.
        """
        if fbank.dim() != 3 or fbank.shape[2] != MEL_BINS:
            raise ModelError(
                f"BEATs expects a filterbank (B, frames, {MEL_BINS}), but got {tuple(fbank.shape)}. "
                f"Compute it with {MEL_BINS} mel bins, frames before bins."
            )
        patch = self.config.input_patch_size
        if fbank.shape[1] < patch:
            raise ModelError(
                f"BEATs needs at least {patch} frames of 10 ms, but got {fbank.shape[1]}. "
                "Record longer, or treat the turn's sound as missing."
            )
        padding = None
        if padding_mask is not None:
            if padding_mask.shape != fbank.shape[:2]:
                raise ModelError(
                    f"BEATs expects a padding mask {tuple(fbank.shape[:2])}, one per frame, but got "
                    f"{tuple(padding_mask.shape)}. Give the mask of the filterbank, not of the samples."
                )
            padding = self.token_padding(padding_mask.bool())
            if padding.all(1).any():
                raise ModelError(
                    f"BEATs got an item with less than {patch} frames of sound before its padding. "
                    "Leave it out of the batch and treat its sound as missing."
                )
        x = (fbank - _FBANK_MEAN) / (2 * _FBANK_STD)
        x = self.patch_embedding(x.to(self.patch_embedding.weight.dtype)[:, None])  # (B, E, frames/16, 8)
        x = self.post_extract_proj(self.layer_norm(x.flatten(2).transpose(1, 2)))  # (B, S, D)
        return self.encoder(x, padding)


class BeatsTower(BeatsEncoder):
    """The encoder as a frozen tower: never in training mode, no gradient. Its keys are the encoder's, no prefix."""

    name = "beats"

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__(config)
        self.hidden_size = config.encoder_embed_dim
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> BeatsTower:
        """Stay in evaluation mode, whatever the model around does."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, fbank: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        return super().forward(fbank, padding_mask)
