"""BEATs has the reference's numbers, the hub's keys, and leaves padding out."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from multimood_core.beats import BeatsConfig, BeatsEncoder, BeatsTower, _relative_buckets
from multimood_core.errors import ModelError

TINY = BeatsConfig(
    embed_dim=8,
    encoder_layers=2,
    encoder_embed_dim=12,
    encoder_ffn_embed_dim=16,
    encoder_attention_heads=3,
    conv_pos=4,
    conv_pos_groups=2,
    num_buckets=8,
    max_distance=10,
)


def test_reproduces_the_reference(golden):
    ref = golden("beats_small", "model.audio_tower.")
    config = BeatsConfig(**{field.name: ref.config[field.name] for field in dataclasses.fields(BeatsConfig)})
    encoder = BeatsEncoder(config).eval()
    encoder.load_state_dict(ref.weights, strict=True)
    with torch.no_grad():
        output = encoder(ref.tensors["fbank"])
    assert output.shape == ref.tensors["output"].shape
    assert (output - ref.tensors["output"]).abs().max() < 1e-5


def test_paper_scale_has_the_hub_shapes():
    with torch.device("meta"):
        encoder = BeatsEncoder(BeatsConfig())
    shapes = {k: tuple(v.shape) for k, v in encoder.state_dict().items()}
    assert shapes["patch_embedding.weight"] == (512, 1, 16, 16)
    assert shapes["post_extract_proj.weight"] == (768, 512)
    assert shapes["encoder.pos_conv.0.weight_g"] == (1, 1, 128)
    assert shapes["encoder.pos_conv.0.weight_v"] == (768, 48, 128)
    assert shapes["encoder.layers.11.fc1.weight"] == (3072, 768)
    assert shapes["encoder.layers.11.self_attn.grep_linear.weight"] == (8, 64)
    assert [k for k in shapes if "relative_attention_bias" in k] == [
        "encoder.layers.0.self_attn.relative_attention_bias.weight"
    ]
    assert round(sum(math.prod(shape) for shape in shapes.values()) / 1e6) == 90  # million (BEATs, table 1)


def hub_state(encoder: BeatsEncoder) -> dict[str, torch.Tensor]:
    """The encoder's state dict as the hub has it: with tagging head and a copy of the bias in every layer."""
    state = dict(encoder.state_dict())
    bias = state["encoder.layers.0.self_attn.relative_attention_bias.weight"]
    state["encoder.layers.1.self_attn.relative_attention_bias.weight"] = bias.clone()
    return state | {"predictor.weight": torch.zeros(7, 12), "predictor.bias": torch.zeros(7)}


def test_a_hub_state_dict_loads_strictly():
    source, target = BeatsEncoder(TINY), BeatsEncoder(TINY)
    torch.nn.Sequential(target).load_state_dict({f"0.{k}": v for k, v in hub_state(source).items()}, strict=True)
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor)


def test_a_bias_that_is_no_copy_is_refused():
    state = hub_state(BeatsEncoder(TINY))
    state["encoder.layers.1.self_attn.relative_attention_bias.weight"] += 1
    with pytest.raises(RuntimeError, match="layers.1.self_attn.relative_attention_bias"):
        BeatsEncoder(TINY).load_state_dict(state, strict=True)


def test_any_other_key_is_refused():
    with pytest.raises(RuntimeError, match="encoder.extra"):
        BeatsEncoder(TINY).load_state_dict(hub_state(BeatsEncoder(TINY)) | {"encoder.extra": torch.zeros(1)})


@settings(max_examples=50)
@given(length=st.integers(1, 40), buckets=st.sampled_from([8, 32, 320]), reach=st.sampled_from([100, 800]))
def test_buckets_follow_the_definition(length, buckets, reach):
    half, exact = buckets // 2, buckets // 4
    table = _relative_buckets(length, buckets, reach)
    for query in range(length):
        for key in range(length):
            distance = abs(key - query)
            if distance < exact:
                bucket = distance
            else:
                exponent = math.log(distance / exact) / math.log(reach / exact) * (half - exact)
                # Float32 may fall on the other side of a whole number; the definition has no say there.
                if abs(exponent - round(exponent)) < 1e-4:
                    continue
                bucket = min(exact + int(exponent), half - 1)
            assert table[query, key] == bucket + (half if key > query else 0)


def test_far_pairs_share_the_last_bucket():
    row = _relative_buckets(2000, 320, 800)[0]
    assert row[800:].unique().tolist() == [319]
    assert row[0] == 0
    assert row[1] == 161


def _functional(w: dict[str, torch.Tensor], fbank: torch.Tensor, config: BeatsConfig) -> torch.Tensor:
    """The encoder once more for one item (frames, 128), patch by patch and head by head."""
    x = (fbank - 15.41663) / 13.11164
    kernel = w["patch_embedding.weight"].flatten(1)
    rows = [
        x[t : t + 16, f : f + 16].flatten() @ kernel.T for t in range(0, len(x) - 15, 16) for f in range(0, 128, 16)
    ]
    x = F.layer_norm(torch.stack(rows), (config.embed_dim,), w["layer_norm.weight"], w["layer_norm.bias"])
    x = F.linear(x, w["post_extract_proj.weight"], w["post_extract_proj.bias"])

    v, g = w["encoder.pos_conv.0.weight_v"], w["encoder.pos_conv.0.weight_g"]
    kernel = torch.stack([g[0, 0, k] * v[..., k] / v[..., k].norm() for k in range(v.shape[-1])], -1)
    left = config.conv_pos // 2
    padded = F.pad(x.T[None], (left, config.conv_pos - 1 - left))
    conv = F.conv1d(padded, kernel, w["encoder.pos_conv.0.bias"], groups=config.conv_pos_groups)[0].T

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    def linear(x, name):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    x = norm(x + F.gelu(conv), "encoder.layer_norm")
    table = w["encoder.layers.0.self_attn.relative_attention_bias.weight"]
    bias = table[_relative_buckets(len(x), config.num_buckets, config.max_distance)]  # (S, S, H)
    alpha = (2 * config.encoder_layers) ** 0.25
    for i in range(config.encoder_layers):
        layer = f"encoder.layers.{i}"
        attn = f"{layer}.self_attn"
        heads = []
        width = x.shape[-1] // config.encoder_attention_heads
        for h in range(config.encoder_attention_heads):
            q, k, val = (linear(x, f"{attn}.{p}_proj")[:, h * width : (h + 1) * width] for p in "qkv")
            parts = linear(q, f"{attn}.grep_linear")
            a, b = parts[:, :4].sum(1).sigmoid(), parts[:, 4:].sum(1).sigmoid()
            gate = a * (b * w[f"{attn}.grep_a"][0, h, 0, 0] - 1) + 2
            scores = q @ k.T / width**0.5 + gate[:, None] * bias[..., h]
            heads.append(scores.softmax(-1) @ val)
        x = norm(x * alpha + linear(torch.cat(heads, -1), f"{attn}.out_proj"), f"{layer}.self_attn_layer_norm")
        x = norm(x * alpha + linear(F.gelu(linear(x, f"{layer}.fc1")), f"{layer}.fc2"), f"{layer}.final_layer_norm")
    return x


@settings(max_examples=15)
@given(frames=st.integers(16, 70), seed=st.integers(0, 10), kernel=st.sampled_from([3, 4]))
def test_equals_the_head_by_head_formulation(frames, seed, kernel):
    torch.manual_seed(seed)
    config = dataclasses.replace(TINY, conv_pos=kernel)
    encoder = BeatsEncoder(config).eval()
    torch.nn.init.normal_(encoder.encoder.layers[1].self_attn.grep_a)
    fbank = 15 + 5 * torch.randn(2, frames, 128)
    with torch.no_grad():
        output = encoder(fbank)
        assert output.shape == (2, encoder.token_count(frames), 12)
        for item, expected in zip(output, fbank, strict=True):
            torch.testing.assert_close(item, _functional(encoder.state_dict(), expected, config), rtol=1e-4, atol=1e-4)


@settings(max_examples=15)
@given(patches=st.integers(1, 3), extra=st.integers(1, 40), garbage=st.floats(-50, 50))
def test_what_stands_in_the_padding_changes_nothing(patches, extra, garbage):
    torch.manual_seed(0)
    encoder = BeatsEncoder(TINY).eval()
    frames = 16 * patches
    sound = 15 + 5 * torch.randn(1, frames, 128)
    mask = torch.zeros(1, frames + extra, dtype=torch.bool)
    mask[:, frames:] = True
    with torch.no_grad():
        alone = encoder(sound)
        padded = encoder(torch.cat([sound, torch.full((1, extra, 128), garbage)], 1), mask)
    torch.testing.assert_close(padded[:, : alone.shape[1]], alone, rtol=1e-4, atol=1e-5)


def test_a_mask_of_no_padding_is_no_mask(seeded):
    encoder = BeatsEncoder(TINY).eval()
    fbank = torch.randn(2, 40, 128, generator=seeded)
    torch.testing.assert_close(encoder(fbank, torch.zeros(2, 40, dtype=torch.bool)), encoder(fbank))


def test_frames_of_a_patch_are_dealt_out_over_its_tokens():
    encoder = BeatsEncoder(TINY)
    mask = torch.zeros(1, 39, dtype=torch.bool)  # two patches and seven frames that make none
    mask[0, 21:] = True
    # Frames 20, 21 belong to token 10, and frame 20 is sound; from token 11 on both frames are padding.
    assert encoder.token_padding(mask)[0].tolist() == [False] * 11 + [True] * 5


def test_half_precision_weights_take_a_float_filterbank(seeded):
    encoder = BeatsEncoder(TINY).eval()
    fbank = 15 + 5 * torch.randn(1, 48, 128, generator=seeded)
    full = encoder(fbank)
    half = encoder.to(torch.bfloat16)(fbank)
    assert half.dtype == torch.bfloat16
    assert F.cosine_similarity(full.flatten(), half.float().flatten(), dim=0) > 0.99


def test_tower_is_frozen_even_inside_a_model_in_training():
    tower = BeatsTower(TINY)
    torch.nn.ModuleList([tower]).train()
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert not tower(torch.zeros(1, 16, 128, requires_grad=True)).requires_grad
    assert tower.hidden_size == 12
    assert set(tower.state_dict()) == set(BeatsEncoder(TINY).state_dict())


@pytest.mark.parametrize(
    ("fbank", "mask", "words"),
    [
        ((1, 128), None, r"\(B, frames, 128\).*\(1, 128\)"),
        ((1, 40, 64), None, r"\(1, 40, 64\)"),
        ((1, 15, 128), None, "at least 16 frames.*got 15"),
        ((1, 32, 128), torch.zeros(1, 31), r"\(1, 32\).*\(1, 31\)"),
        ((2, 32, 128), torch.tensor([[0] * 32, [1] * 32]), "less than 16 frames of sound"),
    ],
)
def test_says_what_it_cannot_encode(fbank, mask, words):
    with pytest.raises(ModelError, match=words):
        BeatsEncoder(TINY)(torch.zeros(fbank), mask)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"encoder_attention_heads": 5}, "encoder_attention_heads.*12 is none of 5"),
        ({"conv_pos_groups": 5}, "conv_pos_groups"),
        ({"input_patch_size": 24}, "128 mel bins, but 24"),
        ({"num_buckets": 320, "max_distance": 80}, "max_distance=80"),
    ],
)
def test_refuses_sizes_that_do_not_fit(sizes, words):
    with pytest.raises(ModelError, match=words):
        dataclasses.replace(TINY, **sizes)
