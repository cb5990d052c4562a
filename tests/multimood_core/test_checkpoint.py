"""Shards in the hub's layout fill the model exactly, or are refused with the keys that do not fit."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext

import pytest
import torch
from accelerate import init_empty_weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from multimood_core.checkpoint import hub_audio_projector_kind, load_checkpoint, our_name
from multimood_core.config import AudioConfig, MultiMoodConfig, VisionConfig
from multimood_core.errors import ModelError
from multimood_core.model import MultiMoodForConditionalGeneration
from tests.multimood_core.hub_layout import (
    BEATS,
    MAMBA,
    MEM,
    QWEN,
    SIGLIP,
    Ours,
    assert_holds,
    save_compressor,
    save_hub,
)

COPIED_BIAS = "model.audio_tower.encoder.layers.1.self_attn.relative_attention_bias.weight"
NEW = {"model.video_mode.weight", "model.audio_mode.weight", "model.history_mode.weight"} | {
    f"model.expression_heads.voice.{part}" for part in ("weight", "bias")
}


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
