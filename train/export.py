"""Put a trained checkpoint where the app lists it, or merge it into one model that needs nothing of ours beside it.

    python -m train.export --checkpoint=runs/sft/final --name=my-sft [--reports=[R1.json,...]]
    python -m train.export --checkpoint=runs/sft/final --name=my-sft-merged --form=merged --to=exports

``adapter`` writes ``TO/NAME`` in the registry's form: LoRA and trained modules beside the shared frozen weights. ``merged``
adds the LoRA to the language model and writes all of it, towers and tokenizer included, as transformers loads it
(``AutoModelForCausalLM.from_pretrained`` after ``import multimood_core.model``). Either holds a model card, the lineage
with the hash of every file, and appears whole or not at all; it has been loaded strictly before.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from multimood_core.checksums import checkpoint_sha256, record_sums
from multimood_core.errors import DataError
from multimood_core.lineage import sha256_of
from multimood_core.model import MultiMoodForConditionalGeneration
from multimood_core.registry import ADAPTER, CHECKPOINTS, Checkpoint, load, resolve
from multimood_core.run_curves import keep_curves
from train import card
from train.base import build_base
from train.config import load_config, run_command
from train.files import write_whole
from train.mixture import SftConfig

FORMS: Final = ("adapter", "merged")
_KEPT: Final = (
    "config.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "modules.safetensors",
    "calibration.json",
    "config.yaml",
)
_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """What is exported, and where to."""

    checkpoint: str = field(default="", metadata={"help": "folder of a trained checkpoint (a stage's final), or a name"})
    name: str = field(default="", metadata={"help": "of what is exported"})
    to: Path = field(default=CHECKPOINTS, metadata={"help": "folder of checkpoints; the app lists the registry's own"})
    form: str = field(default="adapter", metadata={"help": " or ".join(FORMS)})
    mixture: Path = field(
        default=Path("train/configs/sft_mini.yaml"), metadata={"help": "SFT settings that name the base it was trained on"}
    )
    dtype: str = field(default="bfloat16", metadata={"help": f"of merged weights: {' or '.join(_DTYPES)}"})
    reports: tuple[Path, ...] = field(default=(), metadata={"help": "of train.evaluate, for the model card's scores"})
    replace: bool = field(default=False, metadata={"help": "an earlier one of that name"})


def merge(model: MultiMoodForConditionalGeneration) -> MultiMoodForConditionalGeneration:
    """Add the adapter to the weights that it adapts, in float32, and take it off.

    Raises:
        DataError: the model has no adapter.
    """
    adapted = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    if not adapted:
        raise DataError("Expected a checkpoint with an adapter to merge, but it has none. Export it with --form=adapter.")
    for name, layer in adapted:
        cast(nn.Module, layer).float()  # an update is small beside a half-precision weight
        layer.merge(adapter_names=[ADAPTER])
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, layer.get_base_layer())
    model._hf_peft_config_loaded = False
    return model


def load_trained(config: ExportConfig) -> Checkpoint:
    """The checkpoint on its base, which is never quantised here: merged weights would keep the rounding."""
    mixture = load_config(SftConfig, ["--config", str(config.mixture), "--quantise=no"])[0]
    return load(config.checkpoint, build=lambda model_config, dtype: build_base(mixture, model_config))


def lineage_of(folder: Path, made: Path) -> dict[str, Any]:
    """The checkpoint's lineage, with what it was exported from and the hash of every file of ``made``."""
    path = folder / "lineage.json"
    told = json.loads(path.read_text()) if path.is_file() else {}
    files = {str(f.relative_to(made)): sha256_of([f]) for f in sorted(made.rglob("*")) if f.is_file()}
    return told | {"exported_from": {"name": folder.name, "sha256": checkpoint_sha256(folder)}, "files": files}


_CARD: Final = """# {name}

A checkpoint of MultiMood ({form}): from a client's turn (face, voice, words and the session's history) to the client's
emotion, the therapist's emotion, the counselling strategy and a suggested reply.

**Research use only**, unless the data of every stage allow more. It is no medical device, and what it says of a person is
a guess: use it in simulation and training, with a professional who decides.

| | |
|---|---|
| stage | {stage} |
| steps | {steps} |
| seed | {seed} |
| code | {commit} |
| SHA-256 of the training data | {data_sha256} |

Made by:
{commands}

Not measured yet: `train.evaluate` measures it, and `train.card` writes the scores here. Every file's SHA-256 is in
`lineage.json`.
"""


def _card(name: str, form: str, told: dict[str, Any]) -> str:
    made = "\n".join(f"- `{command}`" for command in told.get("commands", ())) or "- not recorded"
    known = {key: told.get(key, "not recorded") for key in ("stage", "steps", "seed", "commit", "data_sha256")}
    return _CARD.format(name=name, form=form, commands=made, **known)


def main(argv: Sequence[str] | None = None) -> None:
    config, args = load_config(ExportConfig, argv, __doc__ or "")
    if config.form not in FORMS or config.dtype not in _DTYPES:
        known = f"form of {', '.join(FORMS)} and dtype of {', '.join(_DTYPES)}"
        raise DataError(f"Expected {known}, got {config.form} and {config.dtype}.")
    if not config.name or "/" in config.name:
        raise DataError(f"Expected a name for what is exported, got {config.name!r}. Give it as --name=NAME.")
    source, target = resolve(config.checkpoint), config.to / config.name
    if target.exists() and not config.replace:
        raise DataError(f"{target} is there already. Take another --name, or --replace=true.")
    if args.dry_run:
        print(f"{source} -> {target} ({config.form})")
        return
    checkpoint = load_trained(config)

    def fill(folder: Path) -> None:
        if config.form == "merged":
            merged: Any = merge(checkpoint.model)
            merged.to(_DTYPES[config.dtype]).save_pretrained(folder)
            checkpoint.processor.save_pretrained(folder)
        else:
            for name in filter(lambda name: (source / name).is_file(), _KEPT):
                shutil.copyfile(source / name, folder / name)
            record_sums(folder)
        keep_curves(source.parent, folder) or keep_curves(source, folder)  # of the run, or of what is exported again
        told = lineage_of(source, folder)
        (folder / "lineage.json").write_text(json.dumps(told, indent=1) + "\n")
        (folder / "README.md").write_text(_card(config.name, config.form, told))

    write_whole(target, fill)
    if config.reports:
        card.main(["--checkpoint", str(target), "--reports", *map(str, config.reports)])
    print(f"{target}: {sum(f.stat().st_size for f in target.rglob('*')) / 2**20:.1f} MiB")


if __name__ == "__main__":
    run_command(main)
