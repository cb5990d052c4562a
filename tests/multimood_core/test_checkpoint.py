"""Checkpoints of both hub layouts fill the model exactly, or are refused with the keys that do not fit.

The hub's side is built from Qwen2ForCausalLM with the parts under their published names, and adapters by PEFT itself.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import MambaConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Model, SiglipVisionConfig

from multimood_core.audio_projector import build_audio_projector
from multimood_core.beats import BeatsConfig, BeatsTower
from multimood_core.checkpoint import KEY_MAP, hub_audio_projector_kind, hub_key, load_checkpoint, our_name
from multimood_core.config import AudioConfig, MultiMoodConfig, VisionConfig
from multimood_core.conv_compressor import ConvCompressor
from multimood_core.errors import ModelError
from multimood_core.lora import LoraConfig, read_lora_config
from multimood_core.model import MultiMoodForConditionalGeneration
from multimood_core.siglip_tower import SiglipTower
from multimood_core.stc_connector import STCConnector
from multimood_core.weight_files import open_weights

QWEN = Qwen2Config(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=False,
)
SIGLIP = SiglipVisionConfig(
    hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
)
BEATS = BeatsConfig(
    embed_dim=4,
    encoder_layers=2,
    encoder_embed_dim=8,
    encoder_ffn_embed_dim=12,
    encoder_attention_heads=2,
    conv_pos=4,
    conv_pos_groups=2,
    num_buckets=8,
    max_distance=10,
)
MAMBA = MambaConfig(vocab_size=24, hidden_size=8, state_size=2, num_hidden_layers=1)
MEM = 23
COPIED_BIAS = "model.audio_tower.encoder.layers.1.self_attn.relative_attention_bias.weight"
NEW = {"model.video_mode.weight", "model.audio_mode.weight", "model.history_mode.weight"} | {
    f"model.expression_heads.voice.{part}" for part in ("weight", "bias")
}


class Ours(nn.Module):
    """The parts of the whole model under its names."""

    def __init__(self, kind="mlp2x_gelu", compressor=False):
        super().__init__()
        self.model = nn.Module()
        self.model.language_model = Qwen2Model(QWEN)
        self.model.vision_tower = SiglipTower(SIGLIP)
        self.model.vision_projector = STCConnector(8, 16, depth=2)
        self.model.audio_tower = BeatsTower(BEATS)
        self.model.audio_projector = build_audio_projector(kind, 8, 16)
        if compressor:
            self.model.compressor = ConvCompressor(MAMBA, 16, MEM)
        for mode in ("video", "audio", "history"):
            setattr(self.model, f"{mode}_mode", nn.Embedding(3, 16))
        self.model.expression_heads = nn.ModuleDict({"voice": nn.Linear(8, 6)})
        self.lm_head = nn.Linear(16, 40, bias=False)


def hub_model(kind="mlp2x_gelu", seed=0) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    hub = Qwen2ForCausalLM(QWEN).eval()
    hub.model.vision_tower = SiglipTower(SIGLIP)
    hub.model.mm_projector = STCConnector(8, 16, depth=2)
    hub.model.audio_tower = BeatsTower(BEATS)
    hub.model.audio_tower.predictor = nn.Linear(8, 5)
    hub.model.mm_projector_a = build_audio_projector(kind, 8, 16)
    for parameter in hub.parameters():  # norms and gates start as ones: make every tensor its own
        nn.init.normal_(parameter)
    return hub.requires_grad_(False)


def save_hub(hub: nn.Module, folder: Path, shards=4, bins=True, **changes) -> Path:
    """VideoLLaMA2.1-7B-AV's layout: shards, index, and the two .bin files of the audio stage."""
    folder.mkdir(exist_ok=True, parents=True)
    state = {key: tensor.clone() for key, tensor in hub.state_dict().items()} | changes
    weight_map = {}
    for i in range(shards):
        name = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {key: tensor for n, (key, tensor) in enumerate(state.items()) if n % shards == i and tensor is not None}
        save_file(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    if bins:
        for file, part in (("audio_tower.bin", "audio_tower"), ("mm_projector_a.bin", "mm_projector_a")):
            torch.save({key: t.clone() for key, t in hub.named_parameters() if part in key}, folder / file)
    return folder


def save_run(peft_model, folder: Path, hub: nn.Module, trained=("mm_projector.", "mm_projector_a.")) -> Path:
    """A LoRA run as MultiMood's training script saves it."""
    peft_model.save_pretrained(folder)
    state = {
        f"base_model.model.{key}": t.clone() for key, t in hub.state_dict().items() if any(p in key for p in trained)
    }
    torch.save(state, folder / "non_lora_trainables.bin")
    return folder


def assert_holds(ours: Ours, hub: nn.Module, skip=()):
    """Every tensor of the hub's model stands in ours under the name typed here."""
    names = {
        "model.embed_tokens.": "model.language_model.embed_tokens.",
        "model.layers.": "model.language_model.layers.",
        "model.norm.": "model.language_model.norm.",
        "lm_head.": "lm_head.",
        "model.vision_tower.vision_tower.vision_model.": "model.vision_tower.vision_tower.vision_model.",
        "model.mm_projector.": "model.vision_projector.",
        "model.mm_projector_a.": "model.audio_projector.",
        "model.audio_tower.": "model.audio_tower.",
    }
    state = ours.state_dict()
    for key, tensor in hub.state_dict().items():
        if ".predictor." in key or key.startswith(skip):
            continue
        prefix = next(p for p in names if key.startswith(p))
        torch.testing.assert_close(state[names[prefix] + key.removeprefix(prefix)], tensor, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def hub():
    return hub_model()


@pytest.fixture(scope="module")
def base(hub, tmp_path_factory):
    return save_hub(hub, tmp_path_factory.mktemp("base"))


def test_shards_fill_the_model(hub, base):
    ours = Ours()
    report = load_checkpoint(ours, base)
    assert_holds(ours, hub)
    assert set(report.loaded) == set(ours.state_dict()) - NEW
    assert set(report.initialised) == NEW
    assert (report.missing, report.unexpected, report.mismatched, report.merged) == ((), (), (), ())


def test_the_language_model_computes_the_same(hub, base):
    ours = Ours()
    load_checkpoint(ours, base)
    ids = torch.arange(10)[None]
    with torch.no_grad():
        logits = ours.lm_head(ours.model.language_model.eval()(ids).last_hidden_state)
        torch.testing.assert_close(logits, hub(ids).logits, rtol=1e-4, atol=1e-4)


def test_unused_keys_are_named(base):
    report = load_checkpoint(Ours(), base)
    assert "model.mm_projector_a.0.weight (mm_projector_a.bin)" in report.unused  # the shards have it
    assert "model.audio_tower.predictor.bias (audio_tower.bin)" in report.unused
    assert any(key.startswith("model.audio_tower.predictor.weight (model-0000") for key in report.unused)


def test_bins_fill_what_the_shards_lack(hub, tmp_path):
    audio = [k for k in hub.state_dict() if "audio_tower" in k or "mm_projector_a" in k]
    folder = save_hub(hub, tmp_path / "hub", **dict.fromkeys(audio))
    ours = Ours()
    load_checkpoint(ours, folder)
    assert_holds(ours, hub)


def test_shards_count_before_bins(hub, tmp_path):
    folder = save_hub(hub, tmp_path / "hub")
    torch.save({"model.mm_projector_a.0.bias": torch.full((16,), 7.0)}, folder / "mm_projector_a.bin")
    ours = Ours()
    load_checkpoint(ours, folder)
    assert_holds(ours, hub)


def test_one_file_without_index_is_enough(hub, tmp_path):
    save_file({k: v.clone() for k, v in hub.state_dict().items()}, tmp_path / "model.safetensors")
    ours = Ours()
    load_checkpoint(ours, tmp_path)
    assert_holds(ours, hub)


def test_copied_position_biases_are_one(hub, tmp_path):
    bias = hub.state_dict()[COPIED_BIAS.replace("layers.1", "layers.0")]
    load_checkpoint(Ours(), save_hub(hub, tmp_path / "same", **{COPIED_BIAS: bias.clone()}))
    with pytest.raises(ModelError, match=r"1 mismatched: .*relative_attention_bias.*two different ones"):
        load_checkpoint(Ours(), save_hub(hub, tmp_path / "other", **{COPIED_BIAS: bias + 1}))


def test_precision_is_the_models(hub, base):
    ours = Ours().to(torch.bfloat16)
    load_checkpoint(ours, base)
    expected = hub.lm_head.weight.to(torch.bfloat16)
    assert ours.lm_head.weight.dtype == torch.bfloat16
    assert torch.equal(ours.lm_head.weight, expected)


def test_a_model_on_the_meta_device_is_filled(hub, base):
    with init_empty_weights():
        ours = Ours()
    assert ours.lm_head.weight.is_meta
    report = load_checkpoint(ours, base, initialise=lambda module: nn.init.constant_(module.weight, 3.0))
    assert not any(t.is_meta for t in (*ours.parameters(), *ours.buffers()))
    assert_holds(ours, hub)
    assert set(report.initialised) == NEW
    assert ours.model.video_mode.weight.unique().tolist() == [3.0]
    assert not ours.model.audio_tower.layer_norm.weight.requires_grad
    assert ours.lm_head.weight.requires_grad
    ours.model.vision_tower(torch.zeros(1, 1, 3, 28, 28))  # its position ids are no weight and still there


def test_what_is_loaded_does_not_hang_on_the_file(hub, tmp_path):
    folder = save_hub(hub, tmp_path / "hub", **{k: None for k in hub.state_dict() if "mm_projector_a" in k})
    with init_empty_weights():
        ours = Ours()
    load_checkpoint(ours, folder)
    for path in folder.iterdir():
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
    assert_holds(ours, hub)


def test_modules_of_ours_initialise_themselves(base):
    with init_empty_weights():
        ours = Ours()
    torch.manual_seed(0)
    load_checkpoint(ours, base)
    assert 0.5 < ours.model.video_mode.weight.std() < 1.5  # nn.Embedding's own start


def test_buffers_on_the_meta_device_are_refused(base):
    with torch.device("meta"):
        ours = Ours()
    with pytest.raises(ModelError, match="position_ids.*init_empty_weights"):
        load_checkpoint(ours, base)


@pytest.mark.parametrize("empty", [False, True])
def test_tied_weights_need_one_of_their_names(hub, tmp_path, empty):
    folder = save_hub(hub, tmp_path / "hub", **{"lm_head.weight": None})
    with init_empty_weights() if empty else nullcontext():
        ours = Ours()
    ours.lm_head.weight = ours.model.language_model.embed_tokens.weight
    load_checkpoint(ours, folder)
    assert ours.lm_head.weight is ours.model.language_model.embed_tokens.weight
    assert torch.equal(ours.lm_head.weight, hub.model.embed_tokens.weight)
    with pytest.raises(ModelError, match=r"1 missing: lm_head.weight\. "):
        load_checkpoint(Ours(), folder)


def test_the_error_lists_every_sort_and_counts(hub, tmp_path):
    absent = [k for k in hub.state_dict() if k.startswith("model.mm_projector.s2.")]
    folder = save_hub(
        hub,
        tmp_path / "hub",
        **dict.fromkeys(absent),
        **{"model.surprise.weight": torch.zeros(1), "lm_head.weight": torch.zeros(41, 16)},
    )
    with pytest.raises(ModelError) as caught:
        load_checkpoint(Ours(), folder)
    text = str(caught.value)
    assert f"{len(absent)} missing: model.vision_projector.s2.b1." in text
    assert f"and {len(absent) - 20} more" in text
    assert "1 unexpected: model.surprise.weight (model-0000" in text
    assert "1 mismatched: lm_head.weight (expected (40, 16) float, got (41, 16) float)" in text
    assert text.count("To mend it") == 3


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_one_key_too_few_is_fatal(hub, tmp_path, data):
    keys = sorted(k for k in hub.state_dict() if ".predictor." not in k)
    key = data.draw(st.sampled_from(keys))
    folder = save_hub(hub, tmp_path / "hub", bins=False, shards=2, **{key: None})
    with pytest.raises(ModelError, match=f"1 missing: {our_name(key)}"):
        load_checkpoint(Ours(), folder)


def test_whole_numbers_are_no_weights(hub, tmp_path):
    folder = save_hub(hub, tmp_path / "hub", **{"lm_head.weight": torch.zeros(40, 16, dtype=torch.uint8)})
    with pytest.raises(ModelError, match=r"lm_head.weight \(expected \(40, 16\) float, got \(40, 16\) uint8\)"):
        load_checkpoint(Ours(), folder)


# --- LoRA runs -------------------------------------------------------------------------------------------------------

LINEARS = r"model\.layers\.\d+\..*_proj"
EVERYWHERE = r".*(_proj|\.fc1|\.fc2|sampler\.0|readout\.[02]|mm_projector_a\.[02]|predictor)"  # convolutions among them


def adapt(hub, **settings_):
    """A PEFT model over ``hub`` whose factors are both away from zero."""
    model = get_peft_model(hub, PeftConfig(**{"r": 3, "lora_alpha": 12, "target_modules": LINEARS, **settings_}))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.3)
    return model


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


# --- The compressor --------------------------------------------------------------------------------------------------


def save_compressor(folder: Path, mem=MEM) -> ConvCompressor:
    torch.manual_seed(2)
    compressor = ConvCompressor(MAMBA, 16, mem)
    folder.mkdir()
    compressor.save_pretrained(folder)
    return compressor


@pytest.mark.parametrize("inside", [True, False])
def test_the_compressor_is_found_inside_or_given(hub, tmp_path, inside):
    folder = save_hub(hub, tmp_path / "hub")
    place = folder / "compressor" if inside else tmp_path / "elsewhere"
    compressor = save_compressor(place)
    ours = Ours(compressor=True)
    load_checkpoint(ours, folder, compressor=None if inside else place)
    assert_holds(ours, hub)
    for name, tensor in compressor.state_dict().items():
        assert torch.equal(ours.model.compressor.state_dict()[name], tensor)


def test_the_reference_compressor_folder_fits(hub, base):
    folder = (
        Path(os.environ.get("MULTIMOOD_GOLDEN", Path(__file__).parents[3] / "shared" / "golden")) / "compressor_small"
    )
    if not folder.is_dir():
        pytest.skip(f"no reference outputs at {folder}; set MULTIMOOD_GOLDEN to their folder")
    ours = Ours()
    reference = ConvCompressor(MambaConfig.from_pretrained(folder / "mamba"), 48, 95)
    nn.init.zeros_(reference.memory_projection.weight)
    ours.model.compressor = reference
    load_checkpoint(ours, base, compressor=folder)
    tensors = load_file(folder / "io.safetensors")
    with torch.no_grad():
        memory = reference.eval()(tensors["input_ids"]).memory
    assert (memory - tensors["output"][0]).abs().max() < 1e-5


def test_a_model_with_a_compressor_needs_one(base):
    with pytest.raises(ModelError, match=r"missing: model.compressor.mamba.*compressor="):
        load_checkpoint(Ours(compressor=True), base)


def test_a_compressor_without_a_place_is_refused(hub, base, tmp_path):
    save_compressor(tmp_path / "c")
    with pytest.raises(ModelError, match=r"unexpected: embeddings.weight \(model.safetensors\)"):
        load_checkpoint(Ours(), base, compressor=tmp_path / "c")


def test_another_memory_token_is_refused(base, tmp_path):
    save_compressor(tmp_path / "c", mem=5)
    with pytest.raises(ModelError, match=r"memory_token_id \(expected 23, got 5\)"):
        load_checkpoint(Ours(compressor=True), base, compressor=tmp_path / "c")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"llm_input_size": 16, "mamba_hidden_size": 8}, r"mem_token_id, but has \[16, 8, None\]"),
        ({"llm_input_size": 99, "mamba_hidden_size": 8, "mem_token_id": MEM}, r"\(99, 8\).*holds \(16, 8\)"),
    ],
)
def test_a_compressors_config_has_to_fit(base, tmp_path, config, words):
    save_compressor(tmp_path / "c")
    (tmp_path / "c" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=words):
        load_checkpoint(Ours(compressor=True), base, compressor=tmp_path / "c")


def test_two_compressors_are_one_too_many(hub, tmp_path):
    folder = save_hub(hub, tmp_path / "hub")
    save_compressor(folder / "a")
    save_compressor(folder / "b")
    with pytest.raises(ModelError, match="several compressors"):
        load_checkpoint(Ours(compressor=True), folder)


# --- The whole model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", [False, True])
def test_the_whole_model_is_filled_and_computes_as_its_parts(base, hub, tmp_path, empty):
    compressor = save_compressor(tmp_path / "c")
    config = MultiMoodConfig(
        text_config=QWEN,
        vision_config=VisionConfig(tower="siglip", hidden_size=8, grid=2, settings=SIGLIP.to_dict()),
        audio_config=AudioConfig(tower="beats", hidden_size=8, settings=dataclasses.asdict(BEATS)),
        compressor_config=MAMBA,
        stc_depth=2,
        audio_projector=hub_audio_projector_kind(base),
        expression_heads=True,
        video_token_id=36,
        audio_token_id=37,
        history_token_id=38,
        memory_token_id=MEM,
    )
    with init_empty_weights() if empty else nullcontext():
        model = MultiMoodForConditionalGeneration(config)
    report = load_checkpoint(model, base, compressor=tmp_path / "c")
    assert_holds(model, hub)
    assert {name.split(".")[1] for name in report.initialised} == {
        "video_mode",
        "audio_mode",
        "history_mode",
        "expression_heads",
    }
    assert torch.equal(model.model.compressor.memory_projection.weight, compressor.memory_projection.weight)
    video, audio, history = 36, 37, 38
    ids = torch.tensor([[3, video, video, 4, *[audio] * 8, 5, history, 6]])
    torch.manual_seed(0)
    pixels, fbank = torch.randn(1, 4, 3, 28, 28), 15 + 5 * torch.randn(1, 16, 128)
    with torch.no_grad():
        seen, heard = model.model.vision_tower(pixels), model.model.audio_tower(fbank)
        logits = model.eval()(input_ids=ids, video_features=seen, audio_features=heard).logits
        parts = hub.model
        words = parts.embed_tokens(ids)[0]
        spliced = [
            words[:1],
            parts.mm_projector(parts.vision_tower(pixels))[0],
            words[3:4],
            parts.mm_projector_a(parts.audio_tower(fbank))[0],
            words[12:13],
            model.model.history_mode.weight,  # no history yet
            words[14:],
        ]
        expected = hub(inputs_embeds=torch.cat(spliced)[None]).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


# --- Names -----------------------------------------------------------------------------------------------------------

WORDS = st.text("abcdefgh_0123456789", min_size=1, max_size=6)


@given(prefix=st.sampled_from([p for p, _ in KEY_MAP]), rest=st.lists(WORDS, min_size=1, max_size=4).map(".".join))
def test_names_keep_what_follows_the_prefix(prefix, rest):
    name = our_name(prefix + rest)
    assert name is not None
    assert name.endswith(f".{rest}")
    assert our_name(hub_key(f"base_model.model.{prefix}{rest}")) == name
    assert hub_key(prefix + rest) == prefix + rest


@pytest.mark.parametrize("key", ["model.mm_projector_b.weight", "mm_projector.s1.weight", "lm_head_extra.weight", ""])
def test_other_keys_have_no_name(key):
    assert our_name(key) is None


def test_no_two_prefixes_meet():
    for column in zip(*KEY_MAP, strict=True):
        assert not [(p, q) for p in column for q in column if p != q and q.startswith(p)]


@pytest.mark.parametrize(
    ("key", "bare"),
    [
        ("base_model.model.lm_head.weight", "lm_head.weight"),
        ("model.model.mm_projector.s1.weight", "model.mm_projector.s1.weight"),
        ("base_model.model.model.layers.0.mlp.up_proj.base_layer.weight", "model.layers.0.mlp.up_proj.weight"),
        ("base_model.model.lm_head.modules_to_save.default.weight", "lm_head.weight"),
    ],
)
def test_what_peft_wraps_around_a_key_is_cut_off(key, bare):
    assert hub_key(key) == bare


# --- Files -----------------------------------------------------------------------------------------------------------


class Payload:
    """Pickled, it makes a folder when it is read."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("save", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))], ids=["zip", "pickle"])
@pytest.mark.parametrize("name", ["audio_tower.bin", "mm_projector_a.bin"])
def test_a_payload_does_not_run(hub, tmp_path, save, name):
    folder = save_hub(hub, tmp_path / "hub")
    harm = tmp_path / "harm"
    save({"model.mm_projector_a.0.bias": torch.zeros(16), "x": Payload(harm)}, folder / name)
    with pytest.raises(ModelError, match=f"{name} was refused"):
        load_checkpoint(Ours(), folder)
    assert not harm.exists()


def test_the_payload_is_a_live_one(tmp_path):
    """Else the test above could not fail."""
    torch.save(Payload(tmp_path / "harm"), tmp_path / "x.bin")
    torch.load(tmp_path / "x.bin", weights_only=False)
    assert (tmp_path / "harm").is_dir()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), name=st.sampled_from(["x.bin", "x.pt", "x.safetensors"]))
def test_any_damage_is_a_model_error(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=name), open_weights(tmp_path / name):
        pass


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(1, 1000), zipped=st.booleans())
def test_a_download_cut_short_is_a_model_error(tmp_path, cut, zipped):
    path = tmp_path / "x.bin"
    torch.save({"a": torch.arange(100.0)}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ModelError, match="x.bin was refused"), open_weights(path) as (_, read):
        read("a")


def test_a_bin_of_other_things_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "x.bin")
    with pytest.raises(ModelError, match="tensors by name"), open_weights(tmp_path / "x.bin"):
        pass


def test_an_old_format_bin_is_read(tmp_path):
    torch.save({"a": torch.arange(3)}, tmp_path / "x.bin", _use_new_zipfile_serialization=False)
    with open_weights(tmp_path / "x.bin") as (keys, read):
        assert keys == ["a"]
        assert read("a").tolist() == [0, 1, 2]


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"holds no model.safetensors"):
        load_checkpoint(Ours(), tmp_path)


def test_a_shard_that_is_absent_is_named(hub, tmp_path):
    folder = save_hub(hub, tmp_path / "hub")
    (folder / "model-00003-of-00004.safetensors").unlink()
    with pytest.raises(ModelError, match="model-00003-of-00004.safetensors is missing"):
        load_checkpoint(Ours(), folder)


def test_index_and_shards_have_to_agree(hub, tmp_path):
    folder = save_hub(hub, tmp_path / "hub")
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.norm.extra"] = "model-00002-of-00004.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"00002-of-00004.safetensors lacks 1 .*model.norm.extra"):
        load_checkpoint(Ours(), folder)


@pytest.mark.parametrize("content", ['{"weight_map": {"a": "../x.safetensors"}}', '{"weight_map": 3}', "[]", "{"])
def test_a_damaged_index_is_refused(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError, match=r"index.json"):
        load_checkpoint(Ours(), tmp_path)
