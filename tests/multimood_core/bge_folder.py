"""A small BGE-M3 with drawn weights, in the files of the hub."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "i", "cannot", "sleep", "since", "when", "my", "cat", "sings"]
CONFIG = {
    "vocab_size": len(WORDS), "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 16, "max_position_embeddings": 140, "type_vocab_size": 1,
}  # fmt: skip


def write_folder(folder: Path) -> Path:
    """A checkpoint of the hub's layout: drawn weights, a tokenizer of twelve words."""
    torch.manual_seed(0)
    config = XLMRobertaConfig(**CONFIG)
    config.save_pretrained(folder)
    backbone = XLMRobertaModel(config)  # with the pooler, as the hub's file
    state = backbone.state_dict() | {"embeddings.position_ids": torch.arange(140)[None]}
    torch.save(state, folder / "pytorch_model.bin")
    torch.save({"weight": torch.randn(1, 8), "bias": torch.tensor([0.1])}, folder / "sparse_linear.pt")
    torch.save({"weight": torch.randn(8, 8), "bias": torch.randn(8)}, folder / "colbert_linear.pt")
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    names |= {"pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder
