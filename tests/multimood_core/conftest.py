"""What several tests of the core share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import Qwen2ForCausalLM

from multimood_core.config import MultiMoodConfig
from multimood_core.registry import ADAPTER, Checkpoint, build_embedded, load, save
from tests.multimood_core.hub_layout import hub_model, save_hub
from tests.multimood_core.tiny import CALIBRATION, next_token_logits

_REPO = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Golden:
    """A small reference module, run once: its weights without prefix, all other tensors by name, its configuration."""

    weights: dict[str, Tensor]
    tensors: dict[str, Tensor]
    config: dict[str, Any]


@pytest.fixture
def golden() -> Callable[[str, str], Golden]:
    """``golden(name, prefix)`` reads a file of reference outputs, or skips the test where the folder is absent."""

    def load(name: str, prefix: str) -> Golden:
        folder = Path(os.environ.get("MULTIMOOD_GOLDEN", _REPO.parent / "shared" / "golden"))
        path = folder / f"{name}.safetensors"
        if not path.is_file():
            pytest.skip(f"no reference outputs at {path}; set MULTIMOOD_GOLDEN to their folder")
        with safe_open(path, "pt") as file:
            every = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - safe_open is no mapping
            metadata = file.metadata() or {}
        weights = {key.removeprefix(prefix): every.pop(key) for key in list(every) if key.startswith(prefix)}
        assert weights, f"{path} has no key under {prefix}"
        return Golden(weights, every, json.loads(next(iter(metadata.values()), "{}")))

    return load


@pytest.fixture
def seeded() -> torch.Generator:
    """A generator with a fixed seed; the global one is seeded too, for modules that initialise themselves."""
    torch.manual_seed(0)
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def embedded_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder on the embedded weights, with projectors, compressor and LoRA drawn at random.

    ``expected.safetensors`` beside it holds what the model said before it was saved.
    """
    torch.manual_seed(0)
    config = MultiMoodConfig(**yaml.safe_load((_REPO / "train" / "configs" / "model_mini.yaml").read_text()))
    model, processor = build_embedded(config, torch.float32)
    layers = r".*language_model\.layers\.\d+\.self_attn\.[qv]_proj"
    model.add_adapter(LoraConfig(r=2, target_modules=layers, init_lora_weights=False), adapter_name=ADAPTER)
    folder = tmp_path_factory.mktemp("checkpoint") / "drawn"
    folder.mkdir()
    save(folder, model, CALIBRATION, {"stage": "test"}, dtype=torch.float32)
    save_file({"logits": next_token_logits(model, processor)}, folder / "expected.safetensors")
    return folder


@pytest.fixture(scope="session")
def embedded(embedded_checkpoint: Path) -> Checkpoint:
    """That checkpoint, loaded."""
    return load(embedded_checkpoint, torch.float32)


@pytest.fixture(scope="session")
def hub() -> Qwen2ForCausalLM:
    """The hub's model at toy size. Its tests share it: who changes weights draws one of their own by ``hub_model``."""
    return hub_model()


@pytest.fixture(scope="session")
def base(hub: Qwen2ForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its checkpoint: four shards and the audio stage's two files."""
    return save_hub(hub, tmp_path_factory.mktemp("base"))
