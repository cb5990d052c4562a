"""The audio projector has the reference's numbers and the hub's keys."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from multimood_core.audio_projector import audio_projector_kind, build_audio_projector
from multimood_core.errors import ModelError


def test_mlp_reproduces_the_reference(golden):
    ref = golden("audio_projector_mlp2x_small", "model.mm_projector_a.")
    x, expected = ref.tensors["input"], ref.tensors["output"]
    projector = build_audio_projector(audio_projector_kind(ref.weights), x.shape[-1], expected.shape[-1])
    projector.load_state_dict(ref.weights, strict=True)
    assert (projector(x) - expected).abs().max() < 1e-5


def test_mlp_is_linear_gelu_linear(seeded):
    projector = build_audio_projector("mlp2x_gelu", 5, 7)
    w = projector.state_dict()
    x = torch.randn(2, 3, 5, generator=seeded)
    expected = F.linear(F.gelu(F.linear(x, w["0.weight"], w["0.bias"])), w["2.weight"], w["2.bias"])
    torch.testing.assert_close(projector(x), expected)


def test_linear_is_one_matrix_and_a_bias():
    projector = build_audio_projector("linear", 2, 1)
    projector.load_state_dict({"weight": torch.tensor([[2.0, -1.0]]), "bias": torch.tensor([0.5])})
    assert projector(torch.tensor([[[3.0, 4.0]]])).tolist() == [[[2.5]]]


@pytest.mark.parametrize("kind", ["mlp2x_gelu", "linear"])
def test_the_keys_tell_the_kind(kind):
    assert audio_projector_kind(build_audio_projector(kind, 3, 4).state_dict()) == kind


@pytest.mark.parametrize(
    "keys",
    [(), ("0.weight",), ("weight", "bias", "2.weight"), ("mm_projector_a.weight", "mm_projector_a.bias")],
)
def test_other_keys_are_refused_by_name(keys):
    with pytest.raises(ModelError, match=keys[0] if keys else "no keys"):
        audio_projector_kind(dict.fromkeys(keys, torch.zeros(1)))


def test_an_unknown_kind_is_refused():
    with pytest.raises(ModelError, match="mlp2x_gelu, linear.*'mlp3x_gelu'"):
        build_audio_projector("mlp3x_gelu", 3, 4)
