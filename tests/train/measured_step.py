"""What a training step of a small model takes, counted on the meta device and measured: ``python -m tests.train.measured_step``.

Prints one JSON object a case. For a process of its own: memory that was given back earlier would be used again unseen.
"""

from __future__ import annotations

import gc
import json
from itertools import product

import psutil
import torch
import torch.nn.functional as F
from transformers import LlamaConfig

from multimood_core.model import MultiMoodForConditionalGeneration
from tests.benchmarks.plan_check import forget_peak, peak_bytes
from tests.multimood_core.tiny import tiny_config, tiny_processor
from train.base import add_lora
from train.plan import language_model_loss, peak_memory

ROWS, WIDTH, LEARNT = 4, 192, 30


def make(device: str, checkpointing: bool) -> MultiMoodForConditionalGeneration:
    config = tiny_config(tiny_processor())
    config.text_config = LlamaConfig(
        vocab_size=2000, hidden_size=384, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=6,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device(device):
        model = MultiMoodForConditionalGeneration(config)
    if checkpointing:
        model.model.language_model.activation_checkpointing_enable()
    add_lora(model, 8, 16, 0.0)
    return model.train()


def step(model: MultiMoodForConditionalGeneration, half: bool) -> None:
    embeds = torch.randn(ROWS, WIDTH, 384).requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        mask = torch.ones(ROWS, WIDTH, dtype=torch.long)
        mask[0, -5:] = 0
        hidden = model.model.language_model(inputs_embeds=embeds, attention_mask=mask, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden.flatten(0, 1)[: ROWS * LEARNT].float())
    F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long)).backward()
    model.zero_grad()


def main() -> None:
    for half, checkpointing in product((False, True), repeat=2):
        meta = make("meta", checkpointing)
        foreseen = peak_memory(meta, language_model_loss(meta, ROWS, WIDTH, LEARNT), half)
        model = make("cpu", checkpointing)
        step(model, half)  # the first allocates what libraries keep
        gc.collect()
        forget_peak()
        before = psutil.Process().memory_info().rss
        step(model, half)
        case = {"half": half, "checkpointing": checkpointing, "foreseen": foreseen, "measured": peak_bytes() - before}
        print(json.dumps(case), flush=True)


if __name__ == "__main__":
    main()
