"""Checkpoints that share frozen weights answer as if each were alone, and lie in memory once."""

from __future__ import annotations

import threading
from itertools import chain
from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from multimood_core.errors import ModelError
from multimood_core.registry import ADAPTER, Checkpoint, load, save
from multimood_core.sharing import base_language_model, beside, fits_beside, load_beside
from tests.multimood_core.tiny import CALIBRATION, next_token_logits, tiny_model

LAYERS = r".*language_model\.layers\.\d+\.self_attn\.[qv]_proj"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two checkpoints on the same frozen weights, each with an adapter, modules and statistics of its own."""
    made = []
    for number in (1, 2):
        model, _ = tiny_model(seed=0)
        torch.manual_seed(number)
        for name, tensor in chain(model.named_parameters(), model.named_buffers()):
            own = not name.startswith(("model.language_model", "model.vision_tower", "model.audio_tower", "lm_head"))
            if own or name.endswith(("feature_mean", "feature_std")):
                tensor.data += 0.1 * torch.randn_like(tensor)
        model.add_adapter(LoraConfig(r=2, target_modules=LAYERS, init_lora_weights=False), adapter_name=ADAPTER)
        folder = tmp_path_factory.mktemp("shared") / f"tiny-{number}"
        folder.mkdir()
        save(folder, model, CALIBRATION, {}, dtype=torch.float32)
        made.append(folder)
    return made


def alone(folder: Path) -> Checkpoint:
    return load(folder, build=lambda config, dtype: tiny_model(seed=0))


def said(checkpoint: Checkpoint) -> torch.Tensor:
    return next_token_logits(checkpoint.model, checkpoint.processor)


def storages(checkpoint: Checkpoint, prefix: tuple[str, ...]) -> dict[str, int]:
    named = chain(checkpoint.model.named_parameters(remove_duplicate=False), checkpoint.model.named_buffers())
    return {
        name.replace(".base_layer.", "."): tensor.untyped_storage().data_ptr()
        for name, tensor in named
        if name.startswith(prefix) and ".lora_" not in name
    }


def test_each_answers_as_alone_and_holds_only_its_own(folders: list[Path]) -> None:
    first = alone(folders[0])
    second = load_beside(folders[1], first)
    expected = [said(alone(folder)) for folder in folders]
    assert not torch.allclose(*expected, atol=1e-3)
    torch.testing.assert_close(said(second), expected[1], rtol=0, atol=0)
    torch.testing.assert_close(said(first), expected[0], rtol=0, atol=0)
    frozen = ("model.language_model.", "model.vision_tower.", "model.audio_tower.", "lm_head.")
    one, two = storages(first, frozen), storages(second, frozen)
    assert one.keys() == two.keys()
    apart = {name for name in one if one[name] != two[name]}
    assert apart == {name for name in one if name.endswith(("feature_mean", "feature_std"))}
    trained = ("model.vision_projector.", "model.compressor.", "model.video_mode.")
    assert not set(storages(first, trained).values()) & set(storages(second, trained).values())
    assert not any(tensor.is_meta for tensor in chain(second.model.parameters(), second.model.buffers()))


def test_two_threads_answer_at_the_same_time_as_each_would_alone(folders: list[Path]) -> None:
    first = alone(folders[0])
    loaded = [first, load_beside(folders[1], first)]
    expected = [said(checkpoint) for checkpoint in loaded]
    wrong: list[int] = []

    def work(place: int) -> None:
        for _ in range(10):
            if not torch.equal(said(loaded[place]), expected[place]):
                wrong.append(place)

    threads = [threading.Thread(target=work, args=(place,)) for place in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_model_under_a_checkpoint_is_the_one_before_training(folders: list[Path]) -> None:
    first = alone(folders[0])
    base = base_language_model(first)
    plain, processor = tiny_model(seed=0)
    ids = torch.tensor([processor.tokenizer("nobody listens").input_ids])
    with torch.no_grad():
        expected = plain.lm_head(plain.model.language_model(input_ids=ids).last_hidden_state)
        torch.testing.assert_close(base(input_ids=ids).logits, expected)
    held = set(storages(first, ("model.language_model.", "lm_head.")).values())
    assert {tensor.untyped_storage().data_ptr() for tensor in chain(base.parameters(), base.buffers())} <= held


def test_other_frozen_weights_are_refused_and_named(folders: list[Path]) -> None:
    first = alone(folders[0])
    assert fits_beside(folders[1], first)
    model, processor = tiny_model()
    model.config.text.num_hidden_layers = 1
    other = Checkpoint(first.id, first.folder, model, processor)
    assert not fits_beside(folders[1], other)
    del model.model.language_model.layers[1]
    model.config.text.num_hidden_layers = 2
    with pytest.raises(ModelError, match=r"layers\.1\..*none.*Load it alone"):
        load_beside(folders[1], other)
    with pytest.raises(ModelError, match="float32.*bfloat16"):
        load(folders[1], torch.bfloat16, beside(first))
