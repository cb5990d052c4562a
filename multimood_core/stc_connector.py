"""The spatial-temporal convolution connector from vision tower to language model (VideoLLaMA2, ``stc_connector_v35``).

Every frame's patches pass a RegStage, a strided 3-D convolution halves time and both sides of the grid, a second
RegStage and an MLP bring the result to the language model's width. Module names are those of the hub checkpoints, so a
state dict loads strictly after its prefix is cut off.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from torch import Tensor, nn

from multimood_core.errors import ModelError

STRIDE: Final = 2  # of the sampler in time, height and width; its kernel is as wide, so nothing overlaps
SE_RATIO: Final = 0.25  # squeeze-and-excitation width as a part of the block's input channels (timm's regnet)
_NORM_EPS: Final = 1e-5  # timm's LayerNormAct2d, which its ConvNormAct builds from LayerNorm2d


def stc_tokens(frames: int, grid: int) -> int:
    """Number of tokens that the connector makes of ``frames`` frames of ``grid`` x ``grid`` patches.

    The convolution floors: an odd last frame, row or column is dropped (27 x 27 patches become 13 x 13).

    Raises:
        ModelError: fewer than two frames or two patches a side, of which the convolution makes nothing.
    """
    if frames < STRIDE or grid < STRIDE:
        raise ModelError(
            f"The STC connector needs at least {STRIDE} frames of at least {STRIDE} x {STRIDE} patches, but got "
            f"{frames} frame(s) of {grid} x {grid}. Sample more frames (a still picture: repeat it {STRIDE} times) or "
            "use a vision tower with a finer grid."
        )
    return (frames // STRIDE) * (grid // STRIDE) ** 2


class _ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a picture: (N, C, H, W) -> (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _ConvNorm(nn.Module):
    """Convolution without bias, channel norm and, unless ``act`` is off, SiLU (timm's ``ConvNormAct``)."""

    def __init__(self, in_chs: int, out_chs: int, kernel: int = 1, groups: int = 1, act: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chs, out_chs, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.bn = _ChannelNorm(out_chs, eps=_NORM_EPS)  # the hub's name, though it is no batch norm
        self.act = nn.SiLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class _SqueezeExcite(nn.Module):
    """Gates each channel by what all channels show on average over the picture."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, reduced, 1)
        self.act = nn.SiLU()
        self.fc2 = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(self.act(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()


class _Bottleneck(nn.Module):
    """One RegNet-Y block of bottleneck ratio 1 and group width 1: (N, C_in, H, W) -> (N, C_out, H, W)."""

    def __init__(self, in_chs: int, out_chs: int) -> None:
        super().__init__()
        self.conv1 = _ConvNorm(in_chs, out_chs)
        self.conv2 = _ConvNorm(out_chs, out_chs, kernel=3, groups=out_chs)
        # A width so small that the ratio rounds to nothing still gets one channel.
        self.se = _SqueezeExcite(out_chs, max(1, round(in_chs * SE_RATIO)))
        self.conv3 = _ConvNorm(out_chs, out_chs, act=False)
        self.act3 = nn.SiLU()
        self.downsample = _ConvNorm(in_chs, out_chs, act=False) if in_chs != out_chs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act3(self.conv3(self.se(self.conv2(self.conv1(x)))) + self.downsample(x))


class RegStage(nn.Sequential):
    """``depth`` RegNet-Y blocks named b1, b2, ...: (N, in_chs, H, W) -> (N, out_chs, H, W)."""

    def __init__(self, depth: int, in_chs: int, out_chs: int) -> None:
        super().__init__()
        for i in range(depth):
            self.add_module(f"b{i + 1}", _Bottleneck(in_chs if i == 0 else out_chs, out_chs))


def _readout(depth: int, width: int) -> Iterator[nn.Module]:
    yield nn.Linear(width, width)
    for _ in range(1, depth):
        yield nn.GELU()
        yield nn.Linear(width, width)


class STCConnector(nn.Module):
    """STC connector v35: patch features of the frames to tokens of the language model's width.

    Args:
        input_size: width of the vision tower's features (SigLIP-So400M: 1152).
        output_size: width of the language model (Qwen2-7B: 3584).
        depth: blocks in each of the two RegStages.
        mlp_depth: linear layers of the read-out, GELU between them.

    Raises:
        ModelError: a size or depth below 1.
    """

    def __init__(self, input_size: int, output_size: int, depth: int = 4, mlp_depth: int = 2) -> None:
        super().__init__()
        if min(input_size, output_size, depth, mlp_depth) < 1:
            raise ModelError(
                f"The STC connector's sizes and depths must be 1 or more, but got input_size={input_size}, "
                f"output_size={output_size}, depth={depth}, mlp_depth={mlp_depth}. Correct the model's configuration."
            )
        self.input_size = input_size
        self.output_size = output_size
        self.s1 = RegStage(depth, input_size, output_size)
        self.sampler = nn.Sequential(nn.Conv3d(output_size, output_size, STRIDE, STRIDE), nn.SiLU())
        self.s2 = RegStage(depth, output_size, output_size)
        self.readout = nn.Sequential(*_readout(mlp_depth, output_size))

    def forward(self, features: Tensor) -> Tensor:
        """Connect the vision tower's features to the language model.

        Args:
            features: (B, T, P, input_size), T frames of P = grid x grid patches, row by row.

        Returns:
            (B, ``stc_tokens(T, grid)``, output_size), time slowest, then rows, then columns.

        Raises:
            ModelError: another shape, a patch count that is no square, or too few frames or patches.
        """
        if features.dim() != 4 or features.shape[3] != self.input_size:
            raise ModelError(
                f"The STC connector expects features (B, T, P, {self.input_size}), but got {tuple(features.shape)}. "
                "Use the vision tower that the connector was trained with, and keep the frame axis."
            )
        b, t, p, d = features.shape
        grid = math.isqrt(p)
        if grid * grid != p:
            raise ModelError(
                f"The STC connector expects a square grid of patches, but got {p} patches a frame. "
                "Leave out class tokens and pad frames to a square before the vision tower."
            )
        stc_tokens(t, grid)  # refuses what the sampler would turn into nothing
        x = features.reshape(b * t, grid, grid, d).permute(0, 3, 1, 2)  # (B*T, D, G, G)
        x = self.s1(x)
        x = x.unflatten(0, (b, t)).transpose(1, 2)  # (B, C, T, G, G)
        x = self.sampler(x)
        t = x.shape[2]
        x = self.s2(x.transpose(1, 2).flatten(0, 1))  # (B*T', C, G', G')
        x = x.unflatten(0, (b, t)).permute(0, 1, 3, 4, 2).flatten(1, 3)  # (B, T'*G'*G', C)
        return self.readout(x)
