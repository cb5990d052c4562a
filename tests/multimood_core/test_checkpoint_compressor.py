"""A compressor's folder is found, fills the model, or is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import MambaConfig

from multimood_core.checkpoint import load_checkpoint
from multimood_core.conv_compressor import ConvCompressor
from multimood_core.errors import ModelError
from tests.multimood_core.hub_layout import MEM, Ours, assert_holds, save_compressor, save_hub


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
