"""The compressor's loss: turns are written again from their states alone, and padding changes nothing."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig

from multimood_core.conv_compressor import ConvCompressor
from multimood_core.dialogues import Dialogue, DialogueTurn
from multimood_core.processor import MultiMoodProcessor
from multimood_core.prompts import MEMORY_TOKEN
from multimood_core.records import HistoryTurn
from tests.multimood_core.tiny import tiny_processor
from train.compressor import CompressorConfig, CompressorTask, Reconstruction, adapt, merged, units_of
from train.loop import Loop

DIALOGUES = [
    Dialogue(
        str(number),
        "train",
        tuple(
            DialogueTurn("client" if i % 2 == 0 else "therapist", f"words number {i}", "joy", None if i % 2 == 0 else "others")
            for i in range(5)
        ),
    )
    for number in range(2)
]


def tiny_reconstruction() -> tuple[MultiMoodProcessor, Reconstruction]:
    processor = tiny_processor()
    torch.manual_seed(0)
    llm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(processor.tokenizer), hidden_size=24, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3,
        )
    )  # fmt: skip
    memory_id = processor.tokenizer.convert_tokens_to_ids(MEMORY_TOKEN)
    mamba = MambaConfig(vocab_size=1, hidden_size=16, num_hidden_layers=2, state_size=4, initializer_range=0.5)
    return processor, Reconstruction(llm, ConvCompressor(mamba, 24, memory_id, shared_embeddings=True))


def task(**settings: object) -> CompressorTask:
    processor, model = tiny_reconstruction()
    return CompressorTask(dataclasses.replace(CompressorConfig(), **settings), processor, model, DIALOGUES)


def test_padding_changes_nothing() -> None:
    processor, model = tiny_reconstruction()
    long = [
        *processor.encode_history_turn(HistoryTurn("client", "I feel so alone and nobody listens", "sadness")),
        *processor.encode_history_turn(HistoryTurn("therapist", "Since when?", "neutral", "open question")),
    ]
    short = processor.encode_history_turn(HistoryTurn("client", "response"))
    together = model(*processor.pad([long, short]), *processor.pad([long, short]))
    alone = [model(*processor.pad([row]), *processor.pad([row])) for row in (long, short)]
    assert [float(one["count"]) for one in alone] == [len(long), len(short)]
    sizes = torch.tensor([len(long), len(short)], dtype=torch.float)
    for key in ("loss", "accuracy"):
        mean = (torch.stack([one[key] for one in alone]) * sizes).sum() / sizes.sum()
        torch.testing.assert_close(together[key], mean, atol=1e-4, rtol=1e-4)
    padded = processor.pad([short, long])
    ids = padded[0].clone()
    ids[0, len(short) :] = 7  # whatever stands in the padding
    torch.testing.assert_close(model(ids, padded[1], ids, padded[1])["loss"], together["loss"], atol=1e-5, rtol=1e-5)


def test_only_the_states_carry_the_turn() -> None:
    processor, model = tiny_reconstruction()
    one = processor.pad([processor.encode_history_turn(HistoryTurn("client", "alone", "sadness"))])
    other = processor.pad([processor.encode_history_turn(HistoryTurn("client", "alone", "joy"))])
    assert not torch.allclose(model(*one, *one)["loss"], model(*other, *one)["loss"], atol=1e-5)


def test_samples_are_turns_or_stretches_of_conversations() -> None:
    assert units_of(DIALOGUES)[0][1] == HistoryTurn("therapist", "words number 1", "joy", "others")
    assert [len(sample) for sample in task(stage="utterances").samples] == [1] * 10
    # five turns in stretches of three leave two; stretches of four would leave one alone, which is no conversation
    assert [len(sample) for sample in task(stage="conversations", max_turns=3).samples] == [3, 2, 3, 2]
    assert [len(sample) for sample in task(stage="conversations", max_turns=4).samples] == [4, 4]


@pytest.mark.parametrize(("dropout", "labelled"), [(0.0, True), (1.0, False)])
def test_labels_are_left_out_as_often_as_configured(dropout: float, labelled: bool) -> None:
    one = task(label_dropout=dropout)
    text = one.processor.tokenizer.decode(one._read(HistoryTurn("client", "alone", "sadness"), random.Random(0)))
    assert ("[sadness]" in text) is labelled


def test_the_stage_trains_the_compressor_alone(tmp_path: Path) -> None:
    config = CompressorConfig(epochs=12, lr=1e-2, batch_tokens=200, precision="no", out=tmp_path / "run")
    processor, model = tiny_reconstruction()
    one = CompressorTask(config, processor, model, DIALOGUES)
    frozen = {name: value.clone() for name, value in model.llm.state_dict().items()}
    loop = Loop(config, model, one.lengths, one.loss, config.out)
    before = one.evaluate(loop.measure)
    loop.run()
    assert one.evaluate(loop.measure)["loss"] < before["loss"] - 0.2
    torch.testing.assert_close(dict(model.llm.state_dict()), frozen, rtol=0, atol=0)


def test_lora_learns_on_a_frozen_mamba_and_is_merged_into_it(tmp_path: Path) -> None:
    settings = CompressorConfig(out=tmp_path, epochs=4, lr=1e-2, batch_tokens=200, precision="no", lora_rank=2, lora_alpha=4)
    processor, model = tiny_reconstruction()
    model.llm.requires_grad_(False)
    model.compressor.requires_grad_(True)
    before = {name: value.clone() for name, value in model.compressor.state_dict().items()}
    adapt(model.compressor, settings)
    learnt = CompressorTask(settings, processor, model, DIALOGUES)
    Loop(settings, model, learnt.lengths, learnt.loss, tmp_path).run()
    plain = merged(model.compressor)
    assert set(plain) == set(before)
    moved = {name for name in before if not torch.equal(plain[name], before[name])}
    assert {"mamba.layers.0.mixer.in_proj.weight", "mamba.layers.1.mixer.x_proj.weight", "memory_projection.weight"} <= moved
    assert not {name for name in moved if "A_log" in name or "conv1d" in name or "out_proj" in name or "dt_proj" in name}
    _, fresh = tiny_reconstruction()
    fresh.compressor.load_state_dict(plain)
    ids = torch.tensor([processor.encode_history_turn(HistoryTurn("client", "I feel so alone", "sadness"))])
    words = model.llm.get_input_embeddings()(ids)
    with torch.no_grad():
        adapted, whole = (one.compressor(ids, words).memory for one in (model, fresh))
    torch.testing.assert_close(whole, adapted, atol=1e-5, rtol=1e-4)
