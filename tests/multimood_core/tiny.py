"""A whole model with random weights of a few thousand parameters, for tests of its wiring."""

from __future__ import annotations

from functools import cache

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, MambaConfig, PreTrainedTokenizerFast

from multimood_core.config import AudioConfig, MultiMoodConfig, VisionConfig
from multimood_core.labels import EMOTIONS, STRATEGIES
from multimood_core.model import MultiMoodForConditionalGeneration
from multimood_core.processor import MultiMoodProcessor
from multimood_core.records import HistoryTurn
from multimood_core.registry import Calibration, Scaling

_CORPUS = [*EMOTIONS, *STRATEGIES, "Client's emotion: Therapist's strategy: response", "I feel so alone and nobody listens"]
CALIBRATION = Calibration(Scaling(1.5), Scaling(1.25, {"joy": -0.5}), Scaling(2.0))
VOICE_SETTINGS = {"mel_bins": 8, "width": 12, "heads": 2, "ffn": 16, "read_layers": (1,), "window_seconds": 1.0}


@cache
def tokenizer_file() -> str:
    """A byte-level BPE of 400 tokens with ChatML's markers, as JSON."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer.to_str()


def tiny_processor(prompt: str = "brief", recent_turns: int = 2, guesses: bool = False) -> MultiMoodProcessor:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer_file()), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    return MultiMoodProcessor(tokenizer, prompt=prompt, recent_turns=recent_turns, guesses=guesses)


def tiny_config(processor: MultiMoodProcessor, shared: bool = True) -> MultiMoodConfig:
    config = MultiMoodConfig(
        text_config=LlamaConfig(
            vocab_size=len(processor.tokenizer), hidden_size=24, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, initializer_range=0.3,
        ),
        vision_config=VisionConfig(tower="face", hidden_size=135, grid=4),
        audio_config=AudioConfig(tower="voice", hidden_size=24, settings=VOICE_SETTINGS),
        compressor_config=MambaConfig(
            vocab_size=1 if shared else len(processor.tokenizer), hidden_size=8, num_hidden_layers=2, state_size=4,
            initializer_range=0.5,
        ),
        compressor_shares_embeddings=shared,
        stc_depth=1,
        expression_heads=True,
    )
    processor.register(config)
    return config


def tiny_model(seed: int = 0, shared: bool = True) -> tuple[MultiMoodForConditionalGeneration, MultiMoodProcessor]:
    processor = tiny_processor()
    torch.manual_seed(seed)
    return MultiMoodForConditionalGeneration(tiny_config(processor, shared)).eval(), processor


def next_token_logits(model: MultiMoodForConditionalGeneration, processor: MultiMoodProcessor) -> torch.Tensor:
    """What ``model`` says (vocabulary,) after a prompt with video, sound and an earlier turn, all made of noise."""
    noise = torch.Generator().manual_seed(4)
    ids = processor.encode_prompt("nobody listens", [])
    counts = {"<video>": model.config.video_tokens(4), "<audio>": 3, "<history>": 1}
    with torch.no_grad():
        return model(
            input_ids=torch.tensor([processor.expand(ids, counts)]),
            video_features=torch.randn(1, 4, 16, model.config.vision.hidden_size, generator=noise),
            audio_features=torch.randn(1, 3, model.config.audio.hidden_size, generator=noise),
            history_ids=torch.tensor([processor.encode_history_turn(HistoryTurn("client", "alone", "sadness"))]),
            logits_to_keep=1,
        ).logits[0, -1]
