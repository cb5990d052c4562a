"""LoRA runs are merged over their base as PEFT merges them, or refused."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from multimood_core.checkpoint import hub_audio_projector_kind, load_checkpoint
from multimood_core.errors import ModelError
from multimood_core.lora import LoraConfig, read_lora_config
from tests.multimood_core.hub_layout import Ours, adapt, assert_holds, hub_model, save_hub, save_run

EVERYWHERE = r".*(_proj|\.fc1|\.fc2|sampler\.0|readout\.[02]|mm_projector_a\.[02]|predictor)"  # convolutions among them


@pytest.mark.parametrize(
    "settings_",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}},
        {"target_modules": EVERYWHERE},
    ],
    ids=["plain", "rank-stabilised", "rank-pattern", "everywhere"],
)
def test_a_run_is_merged_as_peft_merges_it(base, tmp_path, settings_):
    run = save_run(adapt(hub_model(), **settings_), tmp_path / "run", hub_model(), trained=["nothing"])
    ours = Ours()
    report = load_checkpoint(ours, run, base=base)
    assert_holds(ours, PeftModel.from_pretrained(hub_model(), run).merge_and_unload())
    assert any("q_proj" in name for name in report.merged)
    adapted = [k for k in load_file(run / "adapter_model.safetensors") if ".predictor." not in k]
    assert len(report.merged) * 2 == len(adapted) > 10
    assert ("model.vision_projector.sampler.0.weight" in report.merged) == ("target_modules" in settings_)


def test_what_a_run_trained_whole_replaces_the_base(hub, base, tmp_path):
    tuned = hub_model(seed=1)
    run = save_run(adapt(hub_model()), tmp_path / "run", tuned)
    ours = Ours()
    load_checkpoint(ours, run, base=base)
    assert_holds(ours, tuned, skip=("model.embed", "model.layers", "model.norm", "lm_head", "model.v", "model.audio_t"))
    assert_holds(ours, hub, skip=("model.layers", "model.mm_projector"))


def test_a_run_may_bring_what_its_base_has_in_another_shape(hub, tmp_path):
    other = save_hub(hub, tmp_path / "base", **{"lm_head.weight": torch.zeros(39, 16)})
    run = save_run(adapt(hub_model()), tmp_path / "run", hub, trained=["lm_head"])
    ours = Ours()
    report = load_checkpoint(ours, run, base=other)
    assert torch.equal(ours.lm_head.weight, hub.lm_head.weight)
    assert "lm_head.weight" in report.loaded


@pytest.mark.parametrize("empty", [False, True])
def test_a_weight_of_another_shape_is_reported_once_though_adapted(hub, tmp_path, empty):
    key = "model.layers.0.self_attn.q_proj.weight"
    other = save_hub(hub, tmp_path / "base", **{key: torch.zeros(15, 16)})
    run = save_run(adapt(hub_model()), tmp_path / "run", hub)
    with init_empty_weights() if empty else nullcontext():
        ours = Ours()
    with pytest.raises(ModelError, match=r"1 mismatched: .*q_proj.weight \(expected \(16, 16\) float, got \(15, 16\)"):
        load_checkpoint(ours, run, base=other)


def test_a_runs_audio_projector_may_be_of_another_kind(base, tmp_path):
    tuned = hub_model(kind="linear", seed=1)
    run = save_run(adapt(hub_model()), tmp_path / "run", tuned)
    assert hub_audio_projector_kind(run) == "linear"
    assert hub_audio_projector_kind(base) == "mlp2x_gelu"
    ours = Ours(kind="linear")
    report = load_checkpoint(ours, run, base=base)
    assert torch.equal(ours.model.audio_projector.weight, tuned.model.mm_projector_a.weight)
    assert any(key.startswith("model.mm_projector_a.2.weight (model-0000") for key in report.unused)


def test_whole_modules_in_the_adapter_replace_the_base(hub, base, tmp_path):
    model = adapt(hub_model(), modules_to_save=["lm_head"])
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["default"].weight.fill_(5.0)
    run = save_run(model, tmp_path / "run", hub, trained=["nothing"])
    ours = Ours()
    load_checkpoint(ours, run, base=base)
    assert ours.lm_head.weight.unique().tolist() == [5.0]


def test_an_update_is_added_before_rounding(hub, base, tmp_path):
    run = save_run(adapt(hub_model()), tmp_path / "run", hub, trained=["nothing"])
    ours = Ours().to(torch.bfloat16)
    load_checkpoint(ours, run, base=base)
    factors = load_file(run / "adapter_model.safetensors")
    for name in ("layers.0.self_attn.q_proj", "layers.1.mlp.down_proj"):
        a, b = (factors[f"base_model.model.model.{name}.lora_{f}.weight"] for f in "AB")
        weight = hub.get_submodule(f"model.{name}").weight.to(torch.bfloat16).float()
        expected = (weight + 12 / 3 * (b @ a)).to(torch.bfloat16)  # lora_alpha / r
        assert torch.equal(ours.model.language_model.get_submodule(name).weight, expected)


def test_a_run_needs_its_base(tmp_path, hub):
    run = save_run(adapt(hub_model()), tmp_path / "run", hub)
    config = json.loads((run / "adapter_config.json").read_text()) | {"base_model_name_or_path": "lab/base-7b"}
    (run / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"LoRA run over 'lab/base-7b'.*base="):
        load_checkpoint(Ours(), run)


def test_a_factor_without_partner_or_place_is_refused(base, tmp_path, hub):
    run = save_run(adapt(hub_model()), tmp_path / "run", hub)
    factors = load_file(run / "adapter_model.safetensors")
    lost = next(key for key in factors if key.endswith("lora_B.weight"))
    factors.pop(lost)
    factors["base_model.model.model.layers.9.mlp.up_proj.lora_A.weight"] = torch.zeros(3, 16)
    factors["base_model.model.model.embed_tokens.lora_embedding_A"] = torch.zeros(3, 40)
    save_file(factors, run / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="3 unexpected") as caught:
        load_checkpoint(Ours(), run, base=base)
    for key in (lost.replace("lora_B", "lora_A"), "layers.9.mlp.up_proj.lora_A.weight", "lora_embedding_A"):
        assert f"{key} (adapter_model.safetensors)" in str(caught.value)


def test_factors_of_another_rank_are_refused(base, tmp_path, hub):
    run = save_run(adapt(hub_model()), tmp_path / "run", hub)
    config = json.loads((run / "adapter_config.json").read_text()) | {"r": 4}
    (run / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"mismatched: .*q_proj.weight \(expected LoRA factors.*of rank 3"):
        load_checkpoint(Ours(), run, base=base)


def test_lora_keys_outside_an_adapter_are_refused(hub, tmp_path):
    key = "model.layers.0.mlp.up_proj.lora_A.weight"
    with pytest.raises(ModelError, match=f"1 unexpected: {key}"):
        load_checkpoint(Ours(), save_hub(hub, tmp_path / "hub", **{key: torch.zeros(3, 16)}))


def test_merging_by_hand():
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]])
    shape = torch.Size([2, 2])
    config = LoraConfig(rank=1, alpha=0.5, rank_stabilised=False, base="")
    assert config.update(a, b, shape).tolist() == [[1.5, 3.0], [2.0, 4.0]]


@settings(max_examples=30)
@given(
    rank=st.integers(1, 9),
    alpha=st.floats(0.5, 64),
    stabilised=st.booleans(),
    layer=st.sampled_from([nn.Linear(4, 6), nn.Conv2d(4, 6, 3), nn.Conv3d(4, 6, 2)]),
)
def test_the_merged_layer_computes_base_plus_update(rank, alpha, stabilised, layer):
    torch.manual_seed(rank)
    kernel = layer.weight.shape[2:]
    a, b = torch.randn(rank, 4, *kernel), torch.randn(6, rank, *(1 for _ in kernel))
    config = LoraConfig(rank=rank, alpha=alpha, rank_stabilised=stabilised, base="")
    weight = layer.weight.detach() + config.update(a, b, layer.weight.shape)
    apply = {0: F.linear, 2: F.conv2d, 3: F.conv3d}[len(kernel)]
    x = torch.randn(2, 4, *(5 for _ in kernel))
    scale = alpha / (rank**0.5 if stabilised else rank)
    expected = apply(x, layer.weight.detach()) + scale * apply(apply(x, a), b)
    torch.testing.assert_close(apply(x, weight), expected, rtol=1e-3, atol=1e-3)


GOOD = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "base_model_name_or_path": "lab/base"}


def test_config_of_a_plain_adapter():
    assert read_lora_config(Path("c"), GOOD) == LoraConfig(8, 16, False, "lab/base")
    assert read_lora_config(Path("c"), GOOD | {"use_rslora": True}).rank_stabilised
    assert read_lora_config(Path("c"), GOOD | {"rank_pattern": {"q": 4}}).rank is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type='IA3'"),
        ({"use_dora": True}, "use_dora=True"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"some_future_kind": {"x": 1}}, "some_future_kind"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"r": 0}, "r=0"),
        ({"lora_alpha": None}, "lora_alpha=None"),
    ],
)
def test_config_of_another_adapter_is_refused(change, words):
    with pytest.raises(ModelError, match=words):
        read_lora_config(Path("c"), GOOD | change)
