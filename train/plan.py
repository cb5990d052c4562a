"""What a run would take, before it is started: parameters, tokens, memory on each GPU, steps and hours (``--dry-run``).

Nothing is computed: the model stands on the meta device, which knows shapes alone, so the 7B model needs no memory. One
batch is run forwards and backwards there; what is alive at the most is its memory, and its operations are the floor that
a measured step is compared with. The hours come from that floor, the device's peak and the share of it that is reached
(``UTILISATION``).
"""

from __future__ import annotations

import argparse
import math
import random
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import psutil
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import AttentionInterface, AutoConfig, AutoTokenizer
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import repeat_kv

from multimood_core.config import MultiMoodConfig
from multimood_core.errors import DataError
from multimood_core.model import MultiMoodForConditionalGeneration
from multimood_core.processor import MultiMoodProcessor
from multimood_core.registry import fast_dtype
from multimood_core.weights import weights_path
from train.base import EMBEDDED, BaseConfig, default_dtype
from train.loop import precision_on, token_batches

GIB: Final = 2**30
# Dense bfloat16 peak in operations a second (NVIDIA's data sheets: H100 SXM and H200 alike).
PEAK: Final = {"h100": 989.4e12, "h200": 989.4e12}
MEMORY: Final = {"h100": 80e9, "h200": 141e9}  # bytes
# Part of the peak that a training step reaches. For GPUs an assumption, to be replaced by what train/gpu_check.sh
# measures; for the CPU, of what a large matrix product reaches (BENCHMARKS.md).
UTILISATION: Final = {"h100": 0.35, "h200": 0.35, "cpu": 0.5}
# nf4: half a byte, an 8-bit scale for 64 weights and a 32-bit one for 256 of these.
NF4_BYTES: Final = 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True, slots=True)
class Strategy:
    """How many processes share a run, and whether each holds all of the model."""

    name: str
    processes: int
    sharded: bool
    device: str


def read_strategy(path: Path | None, device: str | None) -> Strategy:
    """The strategy of an accelerate configuration; one process when None.

    Raises:
        DataError: no such file, or one of another kind.
    """
    if path is None:
        return Strategy("one process", 1, False, device or ("h100" if torch.cuda.is_available() else "cpu"))
    try:
        content = yaml.safe_load(path.read_text())
        kind, processes = content["distributed_type"], int(content["num_processes"])
    except (OSError, TypeError, KeyError, ValueError, yaml.YAMLError) as cause:
        raise DataError(f"Expected an accelerate configuration with distributed_type at {path}: {cause!r}") from cause
    sharded = kind == "FSDP" or (kind == "DEEPSPEED" and content.get("deepspeed_config", {}).get("zero_stage") == 3)
    return Strategy(path.stem, processes, sharded, device or ("cpu" if content.get("use_cpu") else "h100"))


def meta_base(config: BaseConfig, model_config: MultiMoodConfig) -> tuple[MultiMoodForConditionalGeneration, MultiMoodProcessor]:
    """The model of a stage without its numbers, and its processor.

    Where a hub checkpoint's folder is not there, its text is counted with the embedded tokenizer, and this is said.
    """
    folder = weights_path("smollm2")
    if Path(config.base).is_dir():
        folder = Path(config.base)
    elif config.base not in (EMBEDDED, "random"):
        print(f"{config.base} is not here: text tokens are counted with the embedded tokenizer.")
    processor = MultiMoodProcessor(
        AutoTokenizer.from_pretrained(folder), prompt=model_config.prompt, recent_turns=model_config.recent_turns
    )
    dtype = torch.bfloat16
    if config.base == EMBEDDED:
        model_config.text_config = AutoConfig.from_pretrained(folder)
        model_config.text.vocab_size = len(processor.tokenizer)
        model_config.tie_word_embeddings = bool(model_config.text.tie_word_embeddings)
        dtype = fast_dtype("cuda" if torch.cuda.is_available() else "cpu")
    processor.register(model_config)
    with torch.device("meta"), default_dtype(torch.float32 if config.base == EMBEDDED else dtype):
        model = MultiMoodForConditionalGeneration(model_config)
    if config.base == EMBEDDED:  # the language model alone is in half precision
        model.model.language_model.to(dtype)
        model.lm_head = nn.Linear(model_config.llm_size, model_config.text.vocab_size, bias=False, device="meta")
        model.lm_head.requires_grad_(False)
    if config.checkpointing:
        model.model.language_model.activation_checkpointing_enable()
    return model, processor


# -- activations and operations ----------------------------------------------------------------------------------------


class _Flash(torch.autograd.Function):
    """The shapes of fused attention: it keeps its inputs, its output and a number for each row, never L x L scores."""

    operations = 0.0

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # type: ignore[override]
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        ctx.operations = 2 * q.numel() * k.shape[-2]  # two products, of which a causal model needs half
        _Flash.operations += ctx.operations
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        _Flash.operations += 2.5 * ctx.operations  # five products, one of them done again
        return tuple(torch.empty_like(t) for t in ctx.saved_tensors[:3])


def _planned_attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
    # With a padding mask, transformers gives each query head keys and values of its own.
    shared = query.shape[1] // key.shape[1]
    return _Flash.apply(query, repeat_kv(key, shared), repeat_kv(value, shared)).transpose(1, 2), None


AttentionInterface.register("planned", _planned_attention)


@contextmanager
def _autocast() -> Iterator[None]:
    """What autocast does to linear layers; torch's own does not act on the meta device, nor a mode when layers are recomputed."""
    linear = F.linear

    def half(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        low = torch.bfloat16
        return linear(x.to(low), weight.to(low), None if bias is None else bias.to(low))

    with patch.object(F, "linear", half):
        yield


class _Memory(TorchDispatchMode):
    """Bytes of tensors that are alive, now and at the most; those that were there before are not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def known(self, tensors: Iterable[Tensor]) -> None:
        """Tensors that are not counted."""
        self._known |= {tensor.untyped_storage()._cdata for tensor in tensors}

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._known:
                    self._known.add(storage._cdata)
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return result


def peak_memory(model: nn.Module, loss: Callable[[], Tensor], half: bool = True) -> int:
    """Bytes alive at the most, gradients among them, in ``loss`` and its backward pass; nothing is computed.

    Args:
        model: whose own tensors are not counted.
        loss: computes it from meta tensors.
        half: matrix products in bfloat16.
    """
    memory = _Memory()
    memory.known([*model.parameters(), *model.buffers()])
    with memory, _autocast() if half else nullcontext():
        loss().backward()
    model.zero_grad()
    return memory.peak


def step_operations(model: nn.Module, loss: Callable[[], Tensor]) -> float:
    """Operations of ``loss``, from meta tensors, and of its backward pass; they are as many in any precision."""
    _Flash.operations = 0.0
    with FlopCounterMode(display=False) as counter:  # which holds on to tensors: memory has a run of its own
        loss().backward()
    model.zero_grad()
    return counter.get_total_flops() + _Flash.operations


def forward_operations(loss: Callable[[], Tensor]) -> float:
    """Operations of ``loss`` without its backward pass."""
    _Flash.operations = 0.0
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        loss()
    return counter.get_total_flops() + _Flash.operations


def language_model_loss(
    model: MultiMoodForConditionalGeneration, rows: int, tokens: int, learnt: int
) -> Callable[[], Tensor]:
    """The loss of ``rows`` samples of ``tokens`` tokens, ``learnt`` of each being targets."""
    text = model.model.language_model
    text.set_attn_implementation("planned")

    def loss() -> Tensor:
        dtype = model.get_input_embeddings().weight.dtype
        embeds = torch.empty(rows, tokens, model.config.llm_size, dtype=dtype, device="meta")
        embeds.requires_grad_(True)  # as where a trained mode embedding is spliced in
        hidden = text(inputs_embeds=embeds, use_cache=False).last_hidden_state
        kept = hidden.flatten(0, 1)[: max(1, rows * learnt)]
        logits = (kept.to(model.lm_head.weight.dtype) @ model.lm_head.weight.T).float()  # outside of autocast
        return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device="meta"))

    return loss


# -- the plan ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run takes; memory in bytes for one process."""

    stage: str
    strategy: Strategy
    parameters: int
    trained: int
    tokens: Mapping[str, float]
    samples: int
    steps: int
    batch: tuple[int, int]
    weights: float
    optimizer: float
    gradients: float
    activations: float
    base: float
    operations: float
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def memory(self) -> float:
        return self.weights + self.optimizer + self.gradients + self.activations + self.base

    def table(self) -> str:
        """The plan for people."""
        s, rows = self.strategy, [("parameters", f"{self.parameters / 1e6:,.1f} M, {self.trained / 1e6:,.2f} M of them trained")]
        rows.append(("tokens a sample", ", ".join(f"{name} {mean:,.0f}" for name, mean in self.tokens.items())))
        rows.append(("samples, steps", f"{self.samples:,} samples an epoch, {self.steps:,} steps of the optimizer"))
        rows.append(("strategy", f"{s.name}: {s.processes} x {s.device}{', each holding a part' if s.sharded else ''}"))
        rows.append(("batch of a process", f"at most {self.batch[0]} x {self.batch[1]} tokens"))
        parts = ("weights", "optimizer", "gradients", "activations")
        shares = ", ".join(f"{name} {getattr(self, name) / GIB:,.2f}" for name in parts)
        shares += f", {'libraries' if s.device == 'cpu' else 'CUDA context'} {self.base / GIB:,.2f}"
        rows.append(("memory of a process", f"{self.memory / GIB:,.2f} GiB: {shares}"))
        if s.device in MEMORY and self.memory > MEMORY[s.device]:
            room = MEMORY[s.device] / GIB
            rows.append(("", f"more than the {room:,.0f} GiB of one {s.device}: shard, quantise or take smaller batches"))
        rows.append(("operations a step", f"{self.operations:.3g} at least"))
        known = "measured matrix product" if s.device == "cpu" else "data sheet's peak; assumed"
        hours = self.seconds * self.steps / 3600
        rows.append(("time", f"{self.seconds:,.2f} s a step, {hours:,.2f} h, at {UTILISATION[s.device]:.0%} of the {known}"))
        rows += [("", note) for note in self.notes]
        return "\n".join([f"Plan of {self.stage} (nothing is run):", *(f"  {name:20s} {text}" for name, text in rows)])


def plan_training(
    config: BaseConfig,
    args: argparse.Namespace,
    stage: str,
    model: nn.Module,
    lengths: Sequence[int],
    loss: Callable[[int, int], Callable[[], Tensor]],
    tokens: Mapping[str, float],
    besides: float = 0.0,
    redrawn: Sequence[int] = (),
    notes: Sequence[str] = (),
) -> Plan:
    """Count what a run takes.

    Args:
        config: the resolved settings.
        args: ``strategy`` (an accelerate configuration) and ``device``.
        stage: its name.
        model: on the meta device, with the trained parameters requiring a gradient.
        lengths: tokens of each sample.
        loss: (rows, tokens) -> what computes such a batch's loss on the meta device.
        tokens: mean tokens of a sample, by what they stand for; for the reader.
        besides: operations of a sample that ``loss`` leaves out, as of frozen projectors.
        redrawn: the samples' tokens when history and media are drawn again: batches are made once, and may grow a little.
        notes: what else the reader should know.
    """
    strategy = read_strategy(args.strategy, args.device)
    batches = token_batches(lengths, config.batch_tokens, random.Random(config.seed))
    drawn = redrawn or lengths
    largest = max(batches, key=lambda batch: len(batch) * max(drawn[i] for i in batch))
    rows = math.ceil(len(largest) / strategy.processes)
    width = max(drawn[i] for i in largest)
    half = precision_on(strategy.device, config.precision) != "no"
    peak = peak_memory(model, loss(rows, width), half)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    share = strategy.processes if strategy.sharded else 1
    small = small_parameters(model, config)
    blocks = [held_bytes(block, small) for block in model.modules() if isinstance(block, GradientCheckpointingLayer)]
    gradients = 4.0 * trained
    # What a sharded model gathers to compute: one block, and the next one that is fetched meanwhile.
    gathered = 2 * max(blocks, default=0.0) if strategy.sharded else 0.0
    # Copies of the gradients that DistributedDataParallel exchanges.
    buckets = gradients if strategy.processes > 1 and not strategy.sharded else 0.0
    mean = max(1, round(sum(lengths) / len(lengths)))
    operations = step_operations(model, loss(1, mean)) + besides
    reached = peak_operations(strategy.device, half) * UTILISATION[strategy.device]
    passes = len(lengths) / len(batches) * config.accumulate  # samples a step of the optimizer
    steps = math.ceil(max(1, math.ceil(len(batches) * config.epochs)) / config.accumulate)
    return Plan(
        stage=stage,
        strategy=strategy,
        parameters=sum(p.numel() for p in model.parameters()),
        trained=trained,
        tokens=tokens,
        samples=len(lengths),
        steps=steps,
        batch=(rows, width),
        weights=held_bytes(model, small) / share + gathered,
        optimizer=8.0 * trained / share,
        gradients=gradients / share + buckets,
        activations=peak - gradients,
        base=process_bytes(strategy.device),
        operations=operations * passes,
        seconds=operations * passes / strategy.processes / reached,
        notes=tuple(notes),
    )


def projector_operations(model: MultiMoodForConditionalGeneration, video: float, audio: float) -> float:
    """Of the frozen projectors for a sample's tokens of video and audio: two for each weight and token, at the least."""
    parts = (video, model.model.vision_projector), (audio, model.model.audio_projector)
    return sum(2.0 * tokens * sum(p.numel() for p in part.parameters()) for tokens, part in parts)


def small_parameters(model: nn.Module, config: BaseConfig) -> set[int]:
    """Ids of the parameters that are held as nf4: the frozen matrices of the language model's layers."""
    if config.quantise != "nf4":
        return set()
    layers = ((name, p) for name, p in model.named_parameters() if "language_model.layers." in name)
    return {id(p) for _, p in layers if p.dim() == 2 and not p.requires_grad}


def held_bytes(module: nn.Module, small: set[int]) -> float:
    """Bytes of a module's parameters as they are held; ``small`` are quantised."""
    return sum(p.numel() * (NF4_BYTES if id(p) in small else p.element_size()) for p in module.parameters())


def process_bytes(device: str) -> float:
    """What a process holds before the model: its libraries, or CUDA's context and kernels."""
    return float(psutil.Process().memory_info().rss) if device == "cpu" else 1.0 * GIB


@cache
def peak_operations(device: str, half: bool) -> float:
    """Operations a second that a device's largest matrix products reach."""
    if device in PEAK:
        return PEAK[device]
    size = 1536
    a = torch.randn(size, size, dtype=fast_dtype() if half else torch.float32)
    best = math.inf
    for _ in range(4):
        began = time.perf_counter()
        _ = a @ a
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
