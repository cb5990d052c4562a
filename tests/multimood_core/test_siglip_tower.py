"""The SigLIP tower gives transformers' own ``hidden_states[-2]``, frame by frame, under the hub's keys."""

from __future__ import annotations

import pytest
import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from multimood_core.errors import ModelError
from multimood_core.siglip_tower import SiglipTower

HUB = "vision_tower.vision_model."


def tiny(**sizes) -> SiglipVisionConfig:
    return SiglipVisionConfig(
        **{
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
            **sizes,
        }
    )


def test_equals_hidden_states_minus_two(seeded):
    tower = SiglipTower(tiny())
    reference = SiglipVisionModel(tiny()).eval()
    reference.load_state_dict({k.removeprefix(HUB): v for k, v in tower.state_dict().items()}, strict=True)
    frames = torch.randn(2, 3, 3, 28, 28, generator=seeded)
    features = tower(frames)
    assert features.shape == (2, 3, 4, 16)
    with torch.no_grad():
        for b in range(2):
            for t in range(3):
                states = reference(frames[b, t][None], output_hidden_states=True).hidden_states
                assert len(states) == 4  # embeddings and three layers
                torch.testing.assert_close(features[b, t], states[-2][0], rtol=1e-5, atol=1e-6)


def test_neither_last_layer_nor_norm_nor_head_has_a_say(seeded):
    tower = SiglipTower(tiny())
    frames = torch.randn(1, 1, 3, 28, 28, generator=seeded)
    before = tower(frames)
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if ".layers.2." in name or ".post_layernorm." in name or ".head." in name:
                parameter.fill_(float("nan"))
    assert torch.equal(tower(frames), before)


def test_paper_scale_has_the_hub_shapes():
    config = SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=384,
        patch_size=14,
    )
    with torch.device("meta"):
        tower = SiglipTower(config)
    shapes = {k: tuple(v.shape) for k, v in tower.state_dict().items()}
    assert all(key.startswith(HUB) for key in shapes)
    assert shapes[f"{HUB}embeddings.patch_embedding.weight"] == (1152, 3, 14, 14)
    assert shapes[f"{HUB}embeddings.position_embedding.weight"] == (729, 1152)
    assert shapes[f"{HUB}encoder.layers.26.mlp.fc1.weight"] == (4304, 1152)
    assert shapes[f"{HUB}head.attention.in_proj_weight"] == (3456, 1152)
    assert (tower.hidden_size, tower.grid) == (1152, 27)


def test_is_frozen_even_inside_a_model_in_training():
    tower = SiglipTower(tiny())
    torch.nn.ModuleList([tower]).train()
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert not tower(torch.zeros(1, 1, 3, 28, 28, requires_grad=True)).requires_grad


@pytest.mark.parametrize("shape", [(1, 3, 28, 28), (1, 2, 1, 28, 28), (1, 2, 3, 28, 42)])
def test_says_which_frames_it_expects(shape):
    with pytest.raises(ModelError, match=r"\(B, T, 3, 28, 28\)"):
        SiglipTower(tiny())(torch.zeros(shape))


def test_one_layer_is_too_few():
    with pytest.raises(ModelError, match="needs 2, but got 1"):
        SiglipTower(tiny(num_hidden_layers=1))
