"""The cases of ``train.gpu_check``: real training steps of a model with random weights and the full-length prompt, each timed.

Dialogues are synthetic. Every client turn has a picture and a sound, whose features are drawn once, as the cache of
``train.features`` would give them; the towers themselves are in the model and do not run. The reward is a count of letters:
it costs nothing, so that a step is the policy's alone.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, cast
from unittest.mock import patch

import psutil
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import MambaConfig, PreTrainedTokenizerFast

from multimood_core import conv_compressor
from multimood_core.config import MultiMoodConfig
from multimood_core.conv_compressor import ConvCompressor, scan_kernel, scan_with, selective_scan
from multimood_core.dialogues import Dialogue, DialogueTurn
from multimood_core.errors import DataError
from multimood_core.labels import EMOTIONS, STRATEGIES
from multimood_core.model import MultiMoodForConditionalGeneration
from multimood_core.processor import MultiMoodProcessor
from multimood_core.prompts import prompt_pieces
from multimood_core.records import CheckpointId
from multimood_core.registry import Calibration, Checkpoint
from multimood_core.rewards import ReplySituation, Reward
from train.base import RANDOM, BaseConfig, add_lora, build_base, default_dtype, own_device, read_model_config
from train.features import TurnViews
from train.loop import Loop
from train.mixture import SftConfig, SftTask
from train.plan import PEAK, language_model_loss, peak_operations, projector_operations, step_operations
from train.plan_rounds import round_operations

TOLERANCE: Final = 1e-3  # of mamba-ssm's kernel to the loop
_DIALOGUES: Final = 10
_SAID: Final = (
    "I lost my job last month and I have not told anybody at home, because I do not know how they would take it",
    "Every morning I get up as if I went to work, and I sit in the park until the evening",
    "That sounds like a heavy thing to carry alone, and I am glad that you say it here",
    "What do you think would happen if you told one of them this week",
)


@dataclass(frozen=True, slots=True)
class Scale:
    """How large what is measured is."""

    model: Path = field(default=Path("train/configs/model_h100.yaml"), metadata={"help": "MultiMoodConfig as YAML"})
    frames: int = field(default=16, metadata={"help": "pictures a turn"})
    sounds: int = field(default=1496, metadata={"help": "tokens of sound a turn"})
    turns: int = field(default=12, metadata={"help": "of a dialogue, all of them in the last item's history but its own"})
    rows: int = field(default=4, metadata={"help": "samples a step of SFT"})
    rank: int = field(default=128, metadata={"help": "of LoRA (paper: 128)"})
    alpha: int = field(default=256, metadata={"help": "of LoRA (paper: 256)"})
    checkpointing: bool = field(default=True, metadata={"help": "gradients recompute the layers"})
    prompts: int = field(default=2, metadata={"help": "prompts a step of GRPO and PPO"})
    group: int = field(default=4, metadata={"help": "completions of each"})
    max_tokens: int = field(default=128, metadata={"help": "of a completion; random weights seldom end one before"})
    steps: int = field(default=4, metadata={"help": "that are timed, after a first one that is not"})


# -- the model and its data --------------------------------------------------------------------------------------------


def own_processor(config: MultiMoodConfig) -> MultiMoodProcessor:
    """A byte-level tokenizer made here of the words that are tokenised here, so that nothing has to be at hand."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1000, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    prompt = [piece.text for piece in prompt_pieces(config.prompt, lambda turns: "\n".join(t["content"] for t in turns), "")]
    tokenizer.train_from_iterator([*EMOTIONS, *STRATEGIES, *_SAID, *prompt], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    processor = MultiMoodProcessor(fast, prompt=config.prompt, recent_turns=config.recent_turns)
    processor.register(config)
    return processor


def build_model(scale: Scale, quantise: str = "no") -> tuple[MultiMoodForConditionalGeneration, MultiMoodProcessor]:
    """Random weights of the scale's shape with fresh LoRA, in bfloat16 or nf4.

    Raises:
        DataError: the shape is none for a CPU, and there is no GPU.
    """
    config = read_model_config(scale.model)
    if config.llm_size > 1024 and not torch.cuda.is_available():
        raise DataError(
            f"{scale.model} needs a GPU, and torch sees none. train/configs/gpu_check_smoke.yaml takes the same way at toy size."
        )
    torch.manual_seed(0)
    settings = BaseConfig(base=RANDOM, model=scale.model, quantise=quantise, checkpointing=scale.checkpointing)
    model, processor = build_base(settings, config, own_processor(config))
    cast(nn.Module, model).to(own_device())
    add_lora(model, scale.rank, scale.alpha, 0.0)
    return model, processor


def build_task(scale: Scale, model: MultiMoodForConditionalGeneration, processor: MultiMoodProcessor) -> SftTask:
    """The mixture of supervised fine-tuning over synthetic dialogues, every client turn seen and heard."""
    dialogues = [
        Dialogue(str(number), "train", tuple(_turn(number, place) for place in range(scale.turns)))
        for number in range(_DIALOGUES)
    ]
    vision, audio = model.config.vision, model.config.audio
    gen = torch.Generator().manual_seed(0)
    seen = torch.randn(scale.frames, vision.grid**2, vision.hidden_size, generator=gen)
    views = TurnViews([seen], [torch.randn(scale.sounds, audio.hidden_size, generator=gen)])  # type: ignore[arg-type]
    always = SftConfig(p_audio=0.0, p_video=0.0, p_both=1.0, gold_history=1.0, no_labels=0.0, voices=(), faces=())
    return SftTask(always, model, processor, dialogues, [], {"drawn": views})


def _turn(number: int, place: int) -> DialogueTurn:
    text = f"{_SAID[(number + place) % len(_SAID)]} {number}"
    if place % 2:
        return DialogueTurn("therapist", text, "neutral", STRATEGIES[(number + place) % len(STRATEGIES)])
    return DialogueTurn("client", text, EMOTIONS[(number + place) % len(EMOTIONS)], media="drawn")


def letters(situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[Reward]:
    """A reward that costs nothing: the share of a reply's letters that are an "e"."""
    values = [reply.count("e") / max(1, len(reply)) for reply in replies]
    return [Reward(value, {"letters": value}) for value in values]


# -- measuring ---------------------------------------------------------------------------------------------------------


def device_kind() -> str:
    """The device by the names of ``train.plan``, else as it calls itself."""
    if not torch.cuda.is_available():
        return "cpu"
    name = torch.cuda.get_device_name()
    return next((kind for kind in PEAK if kind in name.lower()), name)


def timed(loop: Loop, steps: int) -> tuple[list[float], list[dict[str, float]], float]:
    """Seconds and metrics of ``steps`` steps after a first one, and the peak of memory in bytes."""
    on_gpu = torch.cuda.is_available()
    seconds: list[float] = []
    found: list[dict[str, float]] = []
    batches = list(loop.batches)
    for number in range(steps + 1):
        if on_gpu and number == 1:
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        numbers, _, _ = loop._train_on(batches[number % len(batches)])
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        found.append(numbers)
    peak = torch.cuda.max_memory_allocated() if on_gpu else psutil.Process().memory_info().rss
    return seconds[1:], found[1:], float(peak)


def _row(seconds: Sequence[float], peak: float, tokens: float, floor: float, about: Mapping[str, Any]) -> dict[str, Any]:
    middle, kind = statistics.median(seconds), device_kind()
    best = peak_operations(kind, True) if kind in PEAK or kind == "cpu" else None
    return {
        "seconds": middle,
        "seconds_range": [min(seconds), max(seconds)],
        "tokens_a_step": tokens,
        "tokens_a_second": tokens / middle,
        "peak_gib": peak / 2**30,
        "floor_operations": floor,
        "utilisation": floor / middle / best if best else None,
        **about,
    }


def _shape(scale: Scale) -> MultiMoodForConditionalGeneration:
    """The model without numbers and without recomputing, for counting: a floor has no operation twice."""
    config = read_model_config(scale.model)
    own_processor(config)
    with torch.device("meta"), default_dtype(torch.bfloat16):
        model = MultiMoodForConditionalGeneration(config)
    add_lora(model, scale.rank, scale.alpha, 0.0)
    return model.train()


def fine_tuning(scale: Scale, out: Path, quantise: str) -> dict[str, Any]:
    """Steps of SFT: forward, backward and AdamW on ``rows`` samples."""
    model, processor = build_model(scale, quantise)
    task = build_task(scale, model, processor)
    config = replace(task.config, batch_tokens=scale.rows * (max(task.lengths) + 8), out=out, schedule="constant")
    loop = Loop(config, model, task.lengths, task.loss, out)
    loop.batches = [batch for batch in loop.batches if len(batch) == scale.rows] or loop.batches
    model.train()
    seconds, found, peak = timed(loop, scale.steps)
    sample = task.encode(len(task.items) - 1, random.Random(0))
    tokens, learnt = sum(task.lengths) / len(task.lengths), sum(map(bool, sample.weights))
    shape = _shape(scale)
    floor = step_operations(shape, language_model_loss(shape, 1, round(tokens), learnt))
    floor += projector_operations(shape, shape.config.video_tokens(scale.frames), scale.sounds)
    rows = len(loop.batches[0])
    about = {"stage": "sft", "weights": "nf4" if quantise == "nf4" else "bf16", "tokens_a_sample": tokens}
    return _row(seconds, peak, rows * tokens, rows * floor, about | {"samples": rows, "loss": [one["loss"] for one in found]})


def from_rewards(scale: Scale, out: Path, stage: str) -> dict[str, Any]:
    """Rounds of GRPO or PPO: writing, scoring, the reference's likelihoods, and one step (GRPO) or four (PPO)."""
    from train import grpo, ppo  # TRL is needed for these alone
    from train.policy import add_reference, train_adapter
    from train.rollouts import Situations
    from train.rounds import Built, Rounds

    model, processor = build_model(scale)
    task = build_task(scale, model, processor)
    train_adapter(model)
    add_reference(model)
    policy = Checkpoint(CheckpointId("random", "0" * 64), out, model, processor, Calibration())
    situations = Situations(task)
    common: dict[str, Any] = {"out": out, "prompts": scale.prompts, "group": scale.group, "max_tokens": scale.max_tokens}
    common |= {"schedule": "constant"}
    if stage == "grpo":
        config: Any = grpo.GrpoConfig(**common)
        parts = Built(model, grpo.MultiMoodGRPOTrainer(config, policy, situations, letters))
    else:
        config = ppo.PpoConfig(**common)
        parts = ppo.build(config, policy, situations, letters)
    parts.model.to(own_device())
    loop = Rounds(config, parts.model, len(situations), parts.task, out, parts.groups)
    model.train()
    seconds, found, peak = timed(loop, scale.steps)
    prompt = sum(len(situations.draw(i, random.Random(0)).ids) for i in range(10)) / 10
    written = statistics.mean(one["length"] for one in found) * scale.group
    shape = _shape(scale)
    floor = round_operations(shape, round(prompt), round(written), 1 if stage == "grpo" else 2, config.updates)
    floor += projector_operations(shape, shape.config.video_tokens(scale.frames), scale.sounds)
    about = {"stage": stage, "weights": "bf16", "tokens_a_sample": prompt, "samples": scale.prompts * scale.group}
    about |= {"written_a_second": scale.prompts * written / statistics.median(seconds), "loss": [one["loss"] for one in found]}
    return _row(seconds, peak, scale.prompts * (prompt + written), scale.prompts * floor, about)


# -- mamba-ssm's kernels -----------------------------------------------------------------------------------------------


def mamba(scale: Scale, out: Path) -> dict[str, Any]:
    """The compressor with mamba-ssm's scan against the loop; says so where there is no kernel."""
    kernel = scan_kernel()
    if kernel is None or not torch.cuda.is_available():
        return {"stage": "mamba", "not_run": "needs a GPU and mamba-ssm (requirements-gpu.txt)"}
    return {"stage": "mamba"} | compare_scans(kernel, scale)


def compare_scans(kernel: Callable[..., Any], scale: Scale, length: int = 512) -> dict[str, Any]:
    """Largest differences of a kernel to the loop: of one layer's scan and its gradients, and of all of the compressor.

    Args:
        kernel: as ``mamba_ssm`` has it.
        scale: whose compressor's sizes are taken.
        length: tokens.
    """
    config = read_model_config(scale.model)
    processor = own_processor(config)
    sizes, memory = cast(MambaConfig, config.compressor_config), config.memory_token_id
    assert memory is not None
    device, gen = own_device(), torch.Generator().manual_seed(0)
    inner, states = sizes.expand * sizes.hidden_size, sizes.state_size

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=gen).to(device)

    inputs = [drawn(2, length, inner), drawn(2, length, inner).abs() / 10, -drawn(inner, states).abs() - 0.1]
    inputs += [drawn(2, length, states), drawn(2, length, states)]
    differences: dict[str, float] = {}
    for name, start in (("from zero", None), ("from a state", drawn(2, inner, states))):
        with patch.object(conv_compressor, "scan_kernel", lambda: None):
            expected = _with_gradients(selective_scan, inputs, start)
        found = _with_gradients(partial(scan_with, kernel), inputs, start)
        differences[name] = max(_difference(a, b) for a, b in zip(found, expected, strict=True))
    torch.manual_seed(0)
    compressor = ConvCompressor(sizes, config.llm_size, memory).to(device).eval()
    ids = torch.randint(0, len(processor.tokenizer) - 4, (1, length), generator=gen).to(device)
    ids[0, 15::16] = memory
    memories, seconds = [], []
    for choice in (kernel, None):
        with patch.object(conv_compressor, "scan_kernel", lambda: choice), torch.no_grad():  # noqa: B023
            for _ in range(2):  # the first compiles
                began = time.perf_counter()
                memories.append(compressor(ids).memory)
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - began)
    differences["compressor"] = _difference(memories[1], memories[3])
    return {
        "differences": differences,
        "within": max(differences.values()) <= TOLERANCE,
        "seconds_kernel": seconds[1],
        "seconds_loop": seconds[3],
    }


def _with_gradients(scan: Callable[..., tuple[Tensor, Tensor]], inputs: Sequence[Tensor], start: Tensor | None) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_(True) for tensor in inputs]
    y, last = scan(*leaves, start)
    (y.square().sum() + last.square().sum()).backward()
    return [y.detach(), last.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def _difference(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference, as a part of the largest value where that is above 1."""
    return float((a - b).abs().max() / b.abs().max().clamp(min=1.0))


CASES: Final[Mapping[str, Callable[[Scale, Path], dict[str, Any]]]] = {
    "mamba": mamba,
    "sft-lora": lambda scale, out: fine_tuning(scale, out, "no"),
    "sft-qlora": lambda scale, out: fine_tuning(scale, out, "nf4"),
    "grpo": lambda scale, out: from_rewards(scale, out, "grpo"),
    "ppo": lambda scale, out: from_rewards(scale, out, "ppo"),
}
