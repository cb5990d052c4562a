"""The model that a stage starts from, and how much of it is trained: embedded, a hub checkpoint or random; nf4; LoRA."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import torch
import yaml
from accelerate import init_empty_weights
from peft import LoraConfig
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from multimood_core.beats import BeatsTower
from multimood_core.checkpoint import load_checkpoint, our_name
from multimood_core.config import MultiMoodConfig
from multimood_core.errors import DataError, ModelError
from multimood_core.model import MultiMoodForConditionalGeneration
from multimood_core.processor import MultiMoodProcessor
from multimood_core.registry import ADAPTER, build_embedded
from multimood_core.siglip_tower import SiglipTower
from multimood_core.weight_files import open_weights, weight_files
from multimood_core.weights import weights_path
from train.loop import LoopConfig

EMBEDDED: Final = "embedded"
RANDOM: Final = "random"
_PROJECTIONS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_LORA_TARGETS: Final = rf".*language_model\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(_PROJECTIONS)})"
_TOWERS: Final = ("model.vision_tower.", "model.audio_tower.")


@dataclass(frozen=True, slots=True)
class BaseConfig(LoopConfig):
    """Which weights a stage starts from."""

    base: str = field(
        default=EMBEDDED, metadata={"help": f"{EMBEDDED}, {RANDOM} (shapes only), or the folder of a hub checkpoint"}
    )
    model: Path = field(default=Path("train/configs/model_mini.yaml"), metadata={"help": "MultiMoodConfig as YAML"})
    quantise: str = field(default="no", metadata={"help": "the language model's frozen weights: no, or nf4 (QLoRA)"})
    checkpointing: bool = field(default=False, metadata={"help": "gradients recompute the layers: less memory, more time"})


def read_model_config(path: Path) -> MultiMoodConfig:
    """A model's configuration from YAML.

    Raises:
        DataError: no such file, or no configuration.
    """
    try:
        return MultiMoodConfig(**yaml.safe_load(path.read_text()))
    except Exception as cause:  # strict dataclasses, YAML and the file system have errors of their own
        raise DataError(f"Expected a MultiMoodConfig as YAML in {path}: {cause}") from cause


def audio_tokens(config: MultiMoodConfig) -> int:
    """Tokens of half a minute of sound: BEATs gives 8 for every 160 ms, the voice tower one for every four seconds."""
    return 1496 if config.audio.tower == "beats" else 8


def own_device() -> torch.device:
    """Where this process computes: its own GPU, or the CPU."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")


def build_base(
    config: BaseConfig, model_config: MultiMoodConfig, processor: MultiMoodProcessor | None = None
) -> tuple[MultiMoodForConditionalGeneration, MultiMoodProcessor]:
    """The model with its frozen weights in place, in evaluation mode, nothing trained yet.

    Args:
        config: says which weights.
        model_config: the model's shape.
        processor: registered with ``model_config``, for random weights; None takes the base's tokenizer.

    Raises:
        DataError: an unknown way to quantise.
        ModelError: the checkpoint does not fit the configuration.
    """
    if config.quantise not in ("no", "nf4"):
        raise DataError(f"Expected quantise to be no or nf4, got {config.quantise!r}.")
    if config.base == EMBEDDED:
        # Half precision is emulated, and slow, on most CPUs; every GPU multiplies it.
        model, processor = build_embedded(model_config, torch.bfloat16 if torch.cuda.is_available() else None)
    else:
        processor = processor or _processor(config.base, model_config)
        if config.base == RANDOM:
            with own_device(), default_dtype(torch.bfloat16):
                model = MultiMoodForConditionalGeneration(model_config)
        else:
            with init_empty_weights(), default_dtype(torch.bfloat16):
                model = MultiMoodForConditionalGeneration(model_config)
            load_checkpoint(model, Path(config.base), initialise=_first_values)
        model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
        model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    if config.quantise == "nf4":
        quantise(model.model.language_model)
        cast(Any, model).is_loaded_in_4bit = True  # PEFT looks here for how to adapt a layer
    if config.checkpointing:
        model.model.language_model.activation_checkpointing_enable()
    return model.eval(), processor


def _processor(base: str, config: MultiMoodConfig) -> MultiMoodProcessor:
    folder = weights_path("smollm2") if base == RANDOM else Path(base)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    processor = MultiMoodProcessor(tokenizer, prompt=config.prompt, recent_turns=config.recent_turns)
    if len(tokenizer) > config.text.vocab_size:
        raise ModelError(
            f"Expected rows for the tokenizer's {len(tokenizer)} tokens (four of them for media), but the language model "
            f"has {config.text.vocab_size}. Correct vocab_size in the model's configuration."
        )
    processor.register(config)
    return processor


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Modules made within it are of ``dtype``; ``to`` would round the rotary frequencies too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _first_values(module: nn.Module) -> None:
    cast(Any, module).reset_parameters()


def quantise(model: nn.Module) -> None:
    """Replace the linear layers by nf4 ones with twice quantised scales (Dettmers et al. 2023), on this process's device.

    The codes are stored as bfloat16, without which FSDP2 and ZeRO-3 cannot split them.
    """
    import bitsandbytes as bnb  # for nf4 alone, and slow to load

    device = own_device()
    for name, layer in [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]:
        small = bnb.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=torch.bfloat16,
            compress_statistics=True,
            quant_type="nf4",
            quant_storage=torch.bfloat16,
            device="meta",
        )
        small.weight = bnb.nn.Params4bit(
            layer.weight.detach(),
            requires_grad=False,
            quant_type="nf4",
            compress_statistics=True,
            quant_storage=torch.bfloat16,
            module=small,
        )
        small.bias = layer.bias
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, small.to(device))


def add_lora(
    model: MultiMoodForConditionalGeneration, rank: int, alpha: int, dropout: float, modes: bool = True
) -> list[nn.Parameter]:
    """Fresh LoRA on every projection of the language model; it and, with ``modes``, the mode embeddings are trained."""
    model.requires_grad_(False)
    lora = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=_LORA_TARGETS)
    model.add_adapter(lora, adapter_name=ADAPTER)
    trained = []
    for name, parameter in model.named_parameters():
        learns = "lora_" in name or (modes and "_mode." in name)
        parameter.requires_grad_(learns)
        if learns:
            parameter.data = parameter.data.float()
            trained.append(parameter)
    return trained


def build_towers(
    config: BaseConfig, dtype: torch.dtype = torch.float32
) -> tuple[BeatsTower, SiglipTower]:
    """The audio and the vision tower of a base that is not embedded, on this process's device.

    Raises:
        ModelError: the checkpoint lacks a tower's weights, or has others; the configuration names other towers.
    """
    model_config = read_model_config(config.model)
    small = dict(model_config.text.to_dict(), num_hidden_layers=0, vocab_size=8)  # the language model is not needed
    model_config.text_config = type(model_config.text)(**{k: v for k, v in small.items() if k != "layer_types"})
    with init_empty_weights() if config.base != RANDOM else own_device():
        base = MultiMoodForConditionalGeneration(model_config).model
    if config.base != RANDOM:
        state = dict(_tower_weights(Path(config.base)))
        for prefix, tower in zip(_TOWERS, (base.vision_tower, base.audio_tower), strict=True):
            part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            try:
                tower.load_state_dict(part, assign=True)
            except RuntimeError as cause:
                raise ModelError(f"Expected the weights of the {tower.name} tower in {config.base}: {cause}") from cause
    audio, vision = base.audio_tower, base.vision_tower
    if not (isinstance(audio, BeatsTower) and isinstance(vision, SiglipTower)):
        raise ModelError(f"Expected the towers beats and siglip in {config.model}, got {audio.name} and {vision.name}.")
    return audio.to(own_device(), dtype), vision.to(own_device(), dtype)


def _tower_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    files: Sequence[Path] = [*weight_files(folder), *filter(Path.is_file, [folder / "audio_tower.bin"])]
    for path in files:
        with open_weights(path) as (keys, read):
            for key in keys:
                name = our_name(key)
                if name and name.startswith(_TOWERS):
                    yield name, read(key)
