"""Damaged, absent and harmful files are refused with their name."""

from __future__ import annotations

import json
import os
import pickle

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multimood_core.checkpoint import load_checkpoint
from multimood_core.errors import ModelError
from multimood_core.weight_files import open_weights
from tests.multimood_core.hub_layout import Ours, save_hub


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
