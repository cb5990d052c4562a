"""Every modality reaches the language model, a missing one says so, and checkpoints come back as they went."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor

from multimood_core.config import MultiMoodConfig
from multimood_core.errors import ModelError
from multimood_core.model import AUDIO_MODES, VIDEO_MODES, MultiMoodForConditionalGeneration, MultiMoodModel
from multimood_core.processor import MultiMoodProcessor
from multimood_core.records import HistoryTurn
from tests.multimood_core.tiny import tiny_model

HISTORY = [HistoryTurn("client", "I feel alone", "sadness"), HistoryTurn("therapist", "Since when?", "neutral", "open question")]


def inputs(
    processor: MultiMoodProcessor, video: bool = True, audio: bool = True, history: bool = True
) -> dict[str, torch.Tensor]:
    gen = torch.Generator().manual_seed(1)
    turns = HISTORY if history else []
    counts = {"<video>": 8 if video else 1, "<audio>": 3 if audio else 1, "<history>": len(turns) or 1}
    batch = {"input_ids": torch.tensor([processor.expand(processor.encode_prompt("nobody listens", []), counts)])}
    if video:  # 4 frames of 4 x 4 patches -> 2 x 2 x 2 tokens
        batch["video_features"] = torch.randn(1, 4, 16, 135, generator=gen)
    if audio:
        batch["audio_features"] = torch.randn(1, 3, 24, generator=gen)
    if history:
        batch["history_ids"] = torch.tensor([[i for turn in turns for i in processor.encode_history_turn(turn)]])
    return batch


def test_auto_classes_know_the_model(tmp_path: Path) -> None:
    model, processor = tiny_model()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), MultiMoodConfig)
    assert isinstance(AutoModel.from_pretrained(tmp_path), MultiMoodModel)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), MultiMoodProcessor)
    assert list(tmp_path.glob("*.safetensors"))
    assert not list(tmp_path.glob("*.bin"))
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert isinstance(again, MultiMoodForConditionalGeneration)
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs(processor)).logits, model(**inputs(processor)).logits)


@pytest.mark.parametrize("changed", ["video_features", "audio_features", "history_ids"])
def test_each_modality_changes_the_logits(changed: str) -> None:
    model, processor = tiny_model()
    batch = inputs(processor)
    other = dict(batch)
    if changed == "history_ids":  # another word in the first turn
        other[changed] = batch[changed].clone()
        other[changed][0, 2] += 1
    else:
        other[changed] = batch[changed] + 1
    with torch.no_grad():
        assert not torch.allclose(model(**batch).logits[:, -1], model(**other).logits[:, -1], atol=1e-4)


def test_each_reason_for_a_missing_modality_has_its_own_embedding() -> None:
    model, processor = tiny_model()
    batch = inputs(processor, video=False, audio=False, history=False)
    seen = []
    with torch.no_grad():
        for video, audio in [(1, 1), (2, 1), (1, 2), (2, 2)]:
            modes = {"video_modes": torch.tensor([video]), "audio_modes": torch.tensor([audio])}
            seen.append(model(**batch, **modes).logits[0, -1])
    assert (VIDEO_MODES, AUDIO_MODES) == (("used", "missing", "no_face"), ("used", "missing", "silent"))
    for i, a in enumerate(seen):
        assert all(not torch.allclose(a, b, atol=1e-5) for b in seen[:i])
    assert model.model.video_mode.weight.abs().sum(-1).min() > 0


def test_spliced_embeddings_stand_where_the_placeholders_were() -> None:
    model, processor = tiny_model()
    batch = inputs(processor)
    with torch.no_grad():
        embeds = model.model.embed(**batch)
        ids = batch["input_ids"]
        expected = model.model.project_video(batch["video_features"], torch.tensor([4]))[0]
        torch.testing.assert_close(embeds[ids == model.config.video_token_id], expected)
        expected = model.model.project_audio(batch["audio_features"], torch.ones(1, 3))[0]
        torch.testing.assert_close(embeds[ids == model.config.audio_token_id], expected)
        expected = model.model.compress(batch["history_ids"]).memory
        torch.testing.assert_close(embeds[ids == model.config.history_token_id], expected)
        words = ~torch.isin(ids, torch.tensor(processor.media_token_ids))
        torch.testing.assert_close(embeds[words], model.get_input_embeddings()(ids)[words])


def test_a_padded_batch_gives_each_row_what_it_gets_alone() -> None:
    model, processor = tiny_model()
    one, two = inputs(processor), inputs(processor, video=False)
    ids, mask = processor.pad([one["input_ids"][0].tolist(), two["input_ids"][0].tolist()])
    width = one["history_ids"].shape[1]
    batch = {
        "input_ids": ids,
        "attention_mask": mask,
        "video_features": one["video_features"].expand(2, -1, -1, -1),
        "video_modes": torch.tensor([0, 1]),
        "audio_features": torch.cat([one["audio_features"], two["audio_features"]]),
        "audio_modes": torch.tensor([0, 0]),
        "history_ids": one["history_ids"].expand(2, width),
    }
    with torch.no_grad():
        together = model(**batch).logits
        alone = [model(**single).logits[0] for single in (one, two)]
    for row, single in zip(together, alone, strict=True):
        torch.testing.assert_close(row[: len(single)], single, atol=1e-4, rtol=1e-4)


def test_precomputed_memory_equals_compressing_the_history() -> None:
    model, processor = tiny_model()
    batch = inputs(processor)
    with torch.no_grad():
        expected = model(**batch).logits
        memory = model.model.compress(batch.pop("history_ids")).memory
        torch.testing.assert_close(model(**batch, history_memory=memory[None]).logits, expected)


def test_placeholders_and_features_that_do_not_match_are_refused() -> None:
    model, processor = tiny_model()
    batch = inputs(processor)
    batch["video_features"] = batch["video_features"][:, :2]
    with pytest.raises(ModelError, match=r"<video> placeholders.*\[8\].*\[4\]"):
        model(**batch)


def test_generation_reads_the_media_once_and_as_forward_does() -> None:
    model, processor = tiny_model()
    batch = inputs(processor)
    generated = model.generate(**batch, max_new_tokens=5, do_sample=False, eos_token_id=-1, pad_token_id=0)
    ids = batch["input_ids"]
    with torch.no_grad():
        for _ in range(5):
            step = model(**{**batch, "input_ids": ids}).logits[:, -1].argmax(-1, keepdim=True)
            ids = torch.cat([ids, step], 1)
    assert generated.tolist() == ids.tolist()


def test_the_loss_reaches_projectors_and_compressor_but_no_tower() -> None:
    model, processor = tiny_model()
    batch = inputs(processor)
    model.train()
    model(**batch, labels=batch["input_ids"]).loss.backward()
    base = model.model
    for module in (base.vision_projector, base.audio_projector, base.compressor):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    for tower in (base.vision_tower, base.audio_tower):
        assert not any(p.requires_grad for p in tower.parameters())
        assert not tower.training
