"""The STC connector has the reference's numbers, the hub's keys, and says what it cannot connect."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from multimood_core.errors import ModelError
from multimood_core.stc_connector import STCConnector, stc_tokens


def test_reproduces_the_reference(golden):
    ref = golden("stc_connector_v35_small", "model.mm_projector.")
    connector = STCConnector(ref.config["mm_hidden_size"], ref.config["hidden_size"])
    connector.load_state_dict(ref.weights, strict=True)
    with torch.no_grad():
        output = connector(ref.tensors["input"])
    assert output.shape == ref.tensors["output"].shape
    assert (output - ref.tensors["output"]).abs().max() < 1e-5


def test_paper_scale_has_1352_tokens():
    assert stc_tokens(16, 27) == 8 * 13 * 13 == 1352


def test_paper_scale_has_the_hub_shapes():
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in STCConnector(1152, 3584).state_dict().items()}
    assert shapes["s1.b1.conv1.conv.weight"] == (3584, 1152, 1, 1)
    assert shapes["s1.b1.downsample.bn.weight"] == (3584,)
    assert shapes["s1.b1.se.fc1.weight"] == (288, 3584, 1, 1)
    assert shapes["s1.b4.conv2.conv.weight"] == (3584, 1, 3, 3)
    assert shapes["s2.b1.se.fc2.weight"] == (3584, 896, 1, 1)
    assert shapes["sampler.0.weight"] == (3584, 3584, 2, 2, 2)
    assert shapes["readout.2.weight"] == (3584, 3584)
    assert not any(key.startswith("s2.b1.downsample") for key in shapes)
    assert {key.split(".")[1] for key in shapes if key.startswith("s2.")} == {"b1", "b2", "b3", "b4"}


def _functional(w: dict[str, torch.Tensor], x: torch.Tensor, depth: int) -> torch.Tensor:
    """The connector once more, frame by frame and from functions alone: (T, P, D) -> (N, C)."""

    def conv_norm(x, name, groups=1):
        kernel = w[f"{name}.conv.weight"]
        x = F.conv2d(x, kernel, padding=kernel.shape[-1] // 2, groups=groups)
        centred = x - x.mean(1, keepdim=True)
        x = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        return x * w[f"{name}.bn.weight"][:, None, None] + w[f"{name}.bn.bias"][:, None, None]

    def stage(x, name):
        for i in range(1, depth + 1):
            block = f"{name}.b{i}"
            y = F.silu(conv_norm(x, f"{block}.conv1"))
            y = F.silu(conv_norm(y, f"{block}.conv2", groups=y.shape[1]))
            gate = F.adaptive_avg_pool2d(y, 1)
            gate = F.silu(F.conv2d(gate, w[f"{block}.se.fc1.weight"], w[f"{block}.se.fc1.bias"]))
            y = y * torch.sigmoid(F.conv2d(gate, w[f"{block}.se.fc2.weight"], w[f"{block}.se.fc2.bias"]))
            y = conv_norm(y, f"{block}.conv3")
            x = F.silu(y + (conv_norm(x, f"{block}.downsample") if f"{block}.downsample.conv.weight" in w else x))
        return x

    side = round(x.shape[1] ** 0.5)
    frames = [stage(frame.T.reshape(1, -1, side, side), "s1") for frame in x]
    rows = []
    for first, second in zip(frames[::2], frames[1::2], strict=False):  # an odd last frame has no partner
        kernel = w["sampler.0.weight"]
        both = F.conv2d(first, kernel[:, :, 0], stride=2) + F.conv2d(second, kernel[:, :, 1], stride=2)
        y = stage(F.silu(both + w["sampler.0.bias"][:, None, None]), "s2")
        rows.append(y[0].flatten(1).T)
    y = torch.cat(rows)
    y = F.gelu(F.linear(y, w["readout.0.weight"], w["readout.0.bias"]))
    return F.linear(y, w["readout.2.weight"], w["readout.2.bias"])


@settings(max_examples=20)
@given(
    frames=st.integers(2, 5),
    grid=st.integers(2, 5),
    sizes=st.sampled_from([(8, 8), (6, 10), (12, 4), (1, 2)]),
    depth=st.integers(1, 3),
)
def test_equals_the_frame_by_frame_formulation(frames, grid, sizes, depth):
    torch.manual_seed(frames * 100 + grid * 10 + depth)
    connector = STCConnector(*sizes, depth=depth).double()  # a norm over few channels makes a rounding of float32 large
    x = torch.randn(2, frames, grid * grid, sizes[0], dtype=torch.float64)
    with torch.no_grad():
        output = connector(x)
        assert output.shape == (2, stc_tokens(frames, grid), sizes[1])
        for item, expected in zip(output, x, strict=True):
            torch.testing.assert_close(item, _functional(connector.state_dict(), expected, depth), rtol=1e-9, atol=1e-9)


def test_an_odd_last_frame_is_dropped(seeded):
    connector = STCConnector(8, 8, depth=1)
    x = torch.randn(1, 5, 9, 8, generator=seeded)
    torch.testing.assert_close(connector(x), connector(x[:, :4]))


def test_every_parameter_gets_a_gradient(seeded):
    connector = STCConnector(8, 12, depth=2)
    connector(torch.randn(1, 2, 16, 8, generator=seeded)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in connector.parameters())


@pytest.mark.parametrize("mlp_depth", [1, 3])
def test_the_readout_has_mlp_depth_linear_layers(mlp_depth):
    keys = STCConnector(4, 4, depth=1, mlp_depth=mlp_depth).state_dict()
    assert [k for k in keys if k.startswith("readout") and k.endswith("weight")] == [
        f"readout.{2 * i}.weight" for i in range(mlp_depth)
    ]


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 1, 4, 8), "at least 2 frames.*1 frame"),
        ((1, 2, 1, 8), "2 x 2 patches.*1 x 1"),
        ((1, 2, 12, 8), "square grid.*12 patches"),
        ((1, 2, 4, 9), r"\(B, T, P, 8\).*\(1, 2, 4, 9\)"),
        ((2, 4, 8), r"\(2, 4, 8\)"),
    ],
)
def test_says_what_it_cannot_connect(shape, words):
    with pytest.raises(ModelError, match=words):
        STCConnector(8, 8, depth=1)(torch.zeros(shape))


@pytest.mark.parametrize("sizes", [{"depth": 0}, {"mlp_depth": 0}, {"input_size": 0}, {"output_size": -1}])
def test_refuses_sizes_below_one(sizes):
    with pytest.raises(ModelError, match=f"{next(iter(sizes))}={next(iter(sizes.values()))}"):
        STCConnector(**{"input_size": 4, "output_size": 4, **sizes})
