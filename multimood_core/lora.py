"""LoRA adapters as PEFT saves them, merged into the weights they adapt: W + scale * B A (Hu et al. 2021)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from multimood_core.errors import ModelError

_KEY: Final = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])(?:\.default)?\.weight")
# Entries of adapter_config.json that leave W + scale * B A as it is. Any other that is set is another kind of adapter.
_PLAIN: Final = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_dropout",
        "megatron_core",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_rslora",
    }
)
# Ways to start an adapter that leave the base's weights alone; others put back a changed base.
_PLAIN_STARTS: Final = (True, False, None, "gaussian", "eva", "orthogonal")


def is_lora_key(key: str) -> bool:
    """Whether a key is one of an adapter's (any kind of LoRA), not a weight of the model."""
    return ".lora_" in key


def lora_target(key: str) -> tuple[str, str]:
    """The hub key of the weight that a LoRA key adapts, and which factor it is, ``A`` or ``B``.

    A key of another kind (a magnitude, an embedding's factors) is its own target and so finds no place.
    """
    match = _KEY.fullmatch(key)
    return (f"{match['module']}.weight", match["factor"]) if match else (key, "?")


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """What of ``adapter_config.json`` decides the merged weight.

    Attributes:
        rank: of every adapted weight, or None where they differ.
        alpha: the update's scale before division.
        rank_stabilised: divide by the rank's square root (rsLoRA), not the rank.
        base: name of the checkpoint that the adapter was trained on.
    """

    rank: int | None
    alpha: float
    rank_stabilised: bool
    base: str

    def update(self, a: Tensor, b: Tensor, shape: torch.Size) -> Tensor:
        """What is added to a weight of ``shape`` (out, in, *kernel): scale * B A, in float32.

        Args:
            a: (r, in, *kernel).
            b: (out, r), for a convolution with kernel axes of 1.

        Raises:
            ValueError: factors of another rank or shape.
        """
        rank = a.shape[0]
        fits = b.shape[:2] == (shape[0], rank) and b.numel() == shape[0] * rank and a.shape[1:] == shape[1:]
        if not fits or (self.rank is not None and rank != self.rank):
            raise ValueError(f"A {tuple(a.shape)} and B {tuple(b.shape)} of rank {rank}")
        scale = self.alpha / (math.sqrt(rank) if self.rank_stabilised else rank)
        return scale * (b.float().flatten(1) @ a.float().flatten(1)).reshape(shape)


def read_lora_config(path: Path, content: Mapping[str, Any]) -> LoraConfig:
    """Read ``adapter_config.json``, whose ``content`` was found at ``path``.

    Raises:
        ModelError: the adapter is no plain or rank-stabilised LoRA, or rank or alpha are no positive numbers.
    """
    kind = content.get("peft_type")
    strange = sorted(key for key, value in content.items() if key not in _PLAIN and value)
    start = content.get("init_lora_weights", True)
    if kind != "LORA" or strange or start not in _PLAIN_STARTS:
        found = [f"peft_type={kind!r}", *(f"{key}={content[key]!r}" for key in strange)]
        if start not in _PLAIN_STARTS:
            found.append(f"init_lora_weights={start!r}")
        raise ModelError(
            f"{path} should describe a plain or rank-stabilised LoRA, but has {', '.join(found)}. "
            "Merge this adapter with PEFT and load the merged checkpoint."
        )
    rank, alpha = content.get("r"), content.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or rank < 1 or alpha <= 0:
        raise ModelError(
            f"{path} should have a positive r and lora_alpha, but has r={rank!r}, lora_alpha={alpha!r}. "
            "Use the adapter_config.json that was saved with the adapter."
        )
    return LoraConfig(
        rank=None if content.get("rank_pattern") else rank,
        alpha=alpha,
        rank_stabilised=bool(content.get("use_rslora")),
        base=str(content.get("base_model_name_or_path")),
    )
