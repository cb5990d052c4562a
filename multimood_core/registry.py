"""Checkpoints that the app and the commands know by name: adapter and trained modules beside shared frozen weights.

A checkpoint folder holds what training changed and nothing that every checkpoint shares:

    config.json               MultiMoodConfig
    adapter_config.json,
    adapter_model.safetensors LoRA of the language model (PEFT's own format), absent before SFT
    modules.safetensors       projectors, compressor, mode embeddings, expression heads, tower statistics
    calibration.json          temperature and class biases of the three labels
    lineage.json              parent, data hash, settings, seeds
    SHA256SUMS                hashes of the files that decide the answers, checked at each loading
    README.md                 the model card

Language model and towers come from the prepared embedded weights (``multimood_core.weights``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import PeftConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from multimood_core.checksums import check_sums, checkpoint_sha256, record_sums
from multimood_core.config import MultiMoodConfig
from multimood_core.errors import ModelError
from multimood_core.model import MultiMoodForConditionalGeneration
from multimood_core.processor import MultiMoodProcessor
from multimood_core.records import CheckpointId
from multimood_core.weights import weights_path

CHECKPOINTS: Final = Path(__file__).resolve().parents[1] / "assets" / "checkpoints"
DEFAULT: Final = "mini-sft"
ADAPTER: Final = "default"
_TOWERS: Final = ("model.vision_tower.", "model.audio_tower.")
_STATISTICS: Final = ("feature_mean", "feature_std")


@dataclass(frozen=True, slots=True)
class Scaling:
    """Calibrated logits of one label: log-likelihood / ``temperature`` + ``bias`` of the class (0 where it has none).

    A temperature (Guo et al. 2017) changes no label; a bias (Alexandari et al. 2020) mends what classes' shares are off.
    """

    temperature: float = 1.0
    bias: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Calibration:
    """The scaling of each of the three labels, fitted on the validation split."""

    client_emotion: Scaling = field(default_factory=Scaling)
    therapist_emotion: Scaling = field(default_factory=Scaling)
    strategy: Scaling = field(default_factory=Scaling)

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read ``calibration.json``.

        Raises:
            ModelError: the file is absent or holds something else.
        """
        try:
            return cls(**{task: Scaling(**values) for task, values in json.loads(path.read_text()).items()})
        except (OSError, ValueError, TypeError, AttributeError) as cause:
            raise ModelError(f"Expected the three labels' scalings in {path}: {cause}") from cause


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded checkpoint, ready to answer."""

    id: CheckpointId
    folder: Path
    model: MultiMoodForConditionalGeneration
    processor: MultiMoodProcessor
    calibration: Calibration = field(default_factory=Calibration)


def fast_dtype(device: str = "cpu") -> torch.dtype:
    """bfloat16 where the device multiplies it in hardware, else float32 (bfloat16 would be emulated, and slow)."""
    if device != "cpu":
        return torch.bfloat16
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else torch.float32


def available() -> list[str]:
    """Names of the checkpoints that lie in ``assets/checkpoints``, sorted."""
    return sorted(path.parent.name for path in CHECKPOINTS.glob("*/modules.safetensors"))


def resolve(name_or_dir: str | Path) -> Path:
    """The folder of a checkpoint given by name or path.

    Raises:
        ModelError: no such checkpoint; lists those that exist.
    """
    for folder in (CHECKPOINTS / str(name_or_dir), Path(name_or_dir)):
        if (folder / "modules.safetensors").is_file():
            return folder
    raise ModelError(
        f"Expected the name of a checkpoint ({', '.join(available()) or 'none is installed'}) or a folder with "
        f"config.json and modules.safetensors, got {str(name_or_dir)!r}."
    )


def build_embedded(
    config: MultiMoodConfig, dtype: torch.dtype | None = None
) -> tuple[MultiMoodForConditionalGeneration, MultiMoodProcessor]:
    """A model with the embedded language model and towers in place; projectors, compressor and heads are fresh.

    Args:
        config: text, vision and audio parts are overwritten where the weights decide them.
        dtype: of the language model; projectors, compressor and towers stay float32.
    """
    folder = weights_path("smollm2")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = MultiMoodProcessor(
        tokenizer, prompt=config.prompt, recent_turns=config.recent_turns, guesses=config.guesses
    )
    llm = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or fast_dtype())
    # Placeholders are overwritten by the splice and never generated: their rows are only there to have an id. Left as
    # they are drawn, they would move every softmax a little, another way each time the model is loaded.
    llm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        llm.get_input_embeddings().get_parameter("weight")[processor.media_token_ids] = 0
    llm.config.name_or_path = ""  # a path of this machine has no place in a checkpoint
    config.text_config = llm.config
    config.tie_word_embeddings = bool(llm.config.tie_word_embeddings)
    processor.register(config)
    model = MultiMoodForConditionalGeneration(config)
    model.model.language_model = llm.model
    # In bfloat16 a logit of 20 is rounded to eighths, which would tie labels that are not alike.
    model.lm_head.weight = nn.Parameter(llm.lm_head.weight.detach().float(), requires_grad=False)
    voice, face = model.model.embedded_towers
    face.network.load_state_dict(load_file(weights_path("face-tower")))
    voice.load_weights(weights_path("voice-tower"))
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model.eval(), processor


BuildFunction = Callable[
    [MultiMoodConfig, torch.dtype | None], tuple[MultiMoodForConditionalGeneration, MultiMoodProcessor]
]


def module_state(model: MultiMoodForConditionalGeneration) -> dict[str, torch.Tensor]:
    """What a checkpoint keeps beside the adapter, by name."""

    def kept(name: str) -> bool:
        if name.startswith(_TOWERS):
            return name.endswith(_STATISTICS)
        return not name.startswith(("model.language_model.", "lm_head."))

    return {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items() if kept(name)}


def save(
    folder: Path,
    model: MultiMoodForConditionalGeneration,
    calibration: Calibration,
    lineage: dict[str, Any],
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write the files of a checkpoint into ``folder``, which exists; the model card is written by whoever measured it."""
    model.config.save_pretrained(folder)
    statistics = {k: v for k, v in module_state(model).items() if k.endswith(_STATISTICS)}
    state = {k: v.to(dtype) for k, v in module_state(model).items()} | statistics
    save_file(state, folder / "modules.safetensors")
    if getattr(model, "_hf_peft_config_loaded", False):
        adapter = get_peft_model_state_dict(model, adapter_name=ADAPTER)
        save_file({k: v.detach().cpu().to(dtype).contiguous() for k, v in adapter.items()}, folder / "adapter_model.safetensors")
        model.peft_config[ADAPTER].save_pretrained(str(folder))
    (folder / "calibration.json").write_text(json.dumps(asdict(calibration), indent=1) + "\n")
    (folder / "lineage.json").write_text(json.dumps(lineage, indent=1, default=str) + "\n")
    record_sums(folder)


def load_modules(model: MultiMoodForConditionalGeneration, path: Path) -> None:
    """Load ``modules.safetensors`` strictly.

    Raises:
        ModelError: the file cannot be read, or keys or shapes differ from the model's; lists them.
    """
    saved, own = _tensors(path), module_state(model)
    missing, unexpected = sorted(set(own) - set(saved)), sorted(set(saved) - set(own))
    shapes = [k for k in set(own) & set(saved) if own[k].shape != saved[k].shape]
    if missing or unexpected or shapes:
        raise ModelError(
            f"{path} does not fit its config.json: missing {missing[:5]}, unexpected {unexpected[:5]}, "
            f"other shapes {shapes[:5]} ({len(missing)}, {len(unexpected)} and {len(shapes)} in all)."
        )
    model.load_state_dict(saved, strict=False)


def load(
    name_or_dir: str | Path = DEFAULT, dtype: torch.dtype | None = None, build: BuildFunction = build_embedded
) -> Checkpoint:
    """Load a checkpoint by name or folder.

    Args:
        name_or_dir: of the registry, or a folder.
        dtype: of the language model; the processor's own when None.
        build: makes the frozen model that the checkpoint was trained on, where that is not the embedded one.

    Raises:
        ModelError: no such checkpoint, files that were changed since they were saved, or that do not fit together.
    """
    folder = resolve(name_or_dir)
    check_sums(folder, required=folder.resolve().parent == CHECKPOINTS.resolve())
    try:
        config = MultiMoodConfig.from_pretrained(folder)
        calibration = Calibration.load(folder / "calibration.json")
    except (OSError, ValueError, TypeError, StrictDataclassError) as cause:
        raise ModelError(f"Expected config.json and calibration.json of a checkpoint in {folder}: {cause}") from cause
    model, processor = build(config, dtype)
    load_modules(model, folder / "modules.safetensors")
    if (folder / "adapter_config.json").is_file():
        model.add_adapter(PeftConfig.from_pretrained(str(folder)), adapter_name=ADAPTER)
        _load_adapter(model, folder)
    identity = CheckpointId(folder.name, checkpoint_sha256(folder))
    return Checkpoint(identity, folder, model.eval().requires_grad_(False), processor, calibration)


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as cause:
        raise ModelError(f"Expected a complete safetensors file at {path}, but it cannot be read: {cause}") from cause


def _load_adapter(model: MultiMoodForConditionalGeneration, folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    try:
        result: Any = set_peft_model_state_dict(model, _tensors(path), adapter_name=ADAPTER)
    except RuntimeError as cause:  # shapes
        raise ModelError(f"{path} does not fit adapter_config.json: {cause}") from cause
    absent = [key for key in result.missing_keys if ".lora_" in key]
    if absent or result.unexpected_keys:
        raise ModelError(
            f"{path} does not fit adapter_config.json: missing {absent[:5]}, unexpected {result.unexpected_keys[:5]}."
        )
