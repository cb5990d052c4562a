"""Fill a model with a checkpoint from the hub, and say exactly what went where.

Two layouts are read, told apart by their files:

- VideoLLaMA2.1-7B-AV: safetensors shards with an index, beside them ``audio_tower.bin`` and ``mm_projector_a.bin``.
- MultiMood's LoRA runs: ``adapter_model.safetensors`` with ``adapter_config.json`` and ``non_lora_trainables.bin``,
  over a base of the first layout. The compressor is a folder with ``mamba/``, ``memory_projection.pt`` and
  ``config.json``.

Tensors go into the model one at a time, so memory holds the model and one shard's pages. Published code loads with
``strict=False``, which hides errors; here every key has to find its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import torch
from torch import Tensor, nn

from multimood_core.audio_projector import AudioProjectorKind, audio_projector_kind
from multimood_core.beats import BIAS_COPY, FIRST_BIAS, UNUSED_PREFIX
from multimood_core.errors import ModelError
from multimood_core.lora import LoraConfig, is_lora_key, lora_target, read_lora_config
from multimood_core.weight_files import open_weights, read_json, weight_files

# (hub's prefix, ours); no prefix begins another.
KEY_MAP: Final = (
    ("model.embed_tokens.", "model.language_model.embed_tokens."),
    ("model.layers.", "model.language_model.layers."),
    ("model.norm.", "model.language_model.norm."),
    ("lm_head.", "lm_head."),
    ("model.vision_tower.", "model.vision_tower."),
    ("model.mm_projector.", "model.vision_projector."),
    ("model.audio_tower.", "model.audio_tower."),
    ("model.mm_projector_a.", "model.audio_projector."),
    ("model.mamba_compressor.", "model.compressor."),
)
# What no published checkpoint has: left as the model initialised it.
OURS_ONLY: Final = (
    "model.video_mode.",
    "model.audio_mode.",
    "model.history_mode.",
    "model.expression_heads.",
)
_AUDIO_TOWER: Final = "model.audio_tower."
_AUDIO_PROJECTOR: Final = "model.mm_projector_a."
_COMPRESSOR: Final = "model.mamba_compressor."
_BESIDE_SHARDS: Final = ("audio_tower.bin", "mm_projector_a.bin")
_ADAPTER: Final = "adapter_model.safetensors"
_NON_LORA: Final = "non_lora_trainables.bin"
_SHOWN: Final = 20  # keys an error lists of each sort


def our_name(hub_key: str) -> str | None:
    """The name that a hub key has in our model, or None for a key that the layouts do not know.

    All layers of BEATs share the first one's position bias, so its copies get the first one's name.
    """
    for theirs, ours in KEY_MAP:
        if hub_key.startswith(theirs):
            rest = hub_key.removeprefix(theirs)
            return ours + (BIAS_COPY.sub(FIRST_BIAS, rest) if theirs == _AUDIO_TOWER else rest)
    return None


def hub_key(key: str) -> str:
    """Cut off what PEFT wraps around a hub key: ``base_model.``, then ``model.``, and its inner modules."""
    bare = key.removeprefix("base_model.")
    if bare != key or bare.startswith("model.model."):
        bare = bare.removeprefix("model.")
    return bare.replace(".modules_to_save.default.", ".").replace(".base_layer.", ".")


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A tensor that came, but does not fit its place."""

    name: str
    expected: str
    got: str


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What became of every tensor of the model and of the checkpoint.

    Attributes:
        loaded: our names that the checkpoint filled.
        missing: our names that it should have filled and did not.
        unexpected: its keys, with their file, that have no place.
        mismatched: tensors of another shape or type, or given twice with different values.
        initialised: our names that no published checkpoint has.
        merged: our names that got a LoRA update on top.
        unused: its keys that are left out on purpose: BEATs' tagging head, a ``.bin`` copy of what the shards
            have, the base's audio projector where the run brings its own.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]
    initialised: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def check(self, source: Path) -> None:
        """Refuse a checkpoint that does not fill the model exactly.

        Raises:
            ModelError: something is missing, unexpected or mismatched.
        """
        wrong = [f"{m.name} (expected {m.expected}, got {m.got})" for m in self.mismatched]
        sorts = (
            ("missing", self.missing, "give the folder that has them (base=, compressor=) or build the model without"),
            (
                "unexpected",
                self.unexpected,
                "build the model with these parts, or use a checkpoint of its architecture",
            ),
            ("mismatched", wrong, "build the model with the sizes in the checkpoint's config.json"),
        )
        faults = []
        for sort, keys, remedy in sorts:
            if keys:
                more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
                faults.append(f"{len(keys)} {sort}: {', '.join(keys[:_SHOWN])}{more}. To mend it, {remedy}.")
        if faults:
            raise ModelError(f"The checkpoint {source} does not fit the model. " + " ".join(faults))


def hub_audio_projector_kind(folder: Path) -> AudioProjectorKind:
    """The kind of audio projector in a checkpoint folder, so that a model can be built to fit (only keys are read).

    Raises:
        ModelError: the folder has none, or one of another kind.
    """
    if (folder / _NON_LORA).is_file():
        files = [folder / _NON_LORA]
    else:
        files = [*weight_files(folder), *(folder / name for name in _BESIDE_SHARDS if (folder / name).is_file())]
    found: dict[str, Tensor] = {}
    for file in files:
        with open_weights(file) as (keys, _):
            bare = [hub_key(key) for key in keys]
        found |= {
            key.removeprefix(_AUDIO_PROJECTOR): torch.empty(0) for key in bare if key.startswith(_AUDIO_PROJECTOR)
        }
    return audio_projector_kind(found)


class _Filling:
    """The model while it is being filled, and the account of it."""

    def __init__(self, model: nn.Module, device: torch.device | str) -> None:
        self.model = model
        self.device = device
        self.state: dict[str, Tensor] = model.state_dict(keep_vars=True)
        shared: dict[int, list[str]] = {}
        for name, tensor in self.state.items():
            shared.setdefault(id(tensor), []).append(name)
        self.twins = {name: names for names in shared.values() for name in names}
        self.loaded: dict[str, int] = {}  # name -> round in which it was filled last
        self.round = 0
        self.unexpected: list[str] = []
        self.mismatched: dict[str, Mismatch] = {}
        self.merged: list[str] = []
        self.unused: list[str] = []
        stray = [name for name, buffer in model.named_buffers() if buffer.is_meta and name not in self.state]
        if stray:
            raise ModelError(
                f"The model's buffers {', '.join(stray[:_SHOWN])} are on the meta device, and no checkpoint has them. "
                "Build the model under accelerate.init_empty_weights(), which keeps buffers."
            )

    def fill(self, path: Path, prefix: str = "", override: bool = False, without: Sequence[str] = ()) -> None:
        """Put a file's tensors into the model; LoRA factors are left for :meth:`merge`.

        Args:
            path: the file.
            prefix: what the hub's keys begin with in a whole checkpoint, but not in this file.
            override: replace what an earlier round filled, else leave it and note the key as unused.
            without: prefixes of hub keys to leave out.
        """
        with open_weights(path) as (keys, read):
            for key in keys:
                whole = prefix + hub_key(key)
                label = f"{key} ({path.name})"
                name = our_name(whole)
                if path.name == _ADAPTER and is_lora_key(whole):
                    continue
                if whole.startswith((_AUDIO_TOWER + UNUSED_PREFIX, *without)):
                    self.unused.append(label)
                elif name is None or name not in self.state:
                    self.unexpected.append(label)
                elif self.loaded.get(name, self.round) < self.round and not override:
                    self.unused.append(label)
                else:
                    self._place(name, read(key))

    def _place(self, name: str, tensor: Tensor) -> None:
        target = self.state[name]
        if tensor.shape != target.shape or tensor.is_floating_point() != target.is_floating_point():
            self.mismatched[name] = Mismatch(name, _describe(target), _describe(tensor))
        elif self.loaded.get(name) == self.round and name not in self.mismatched:
            if not torch.equal(target.cpu(), tensor.to(target.dtype)):
                self.mismatched[name] = Mismatch(name, "one value", "two different ones")
        else:
            self._set(name, tensor)
            self.mismatched.pop(name, None)  # a later file may bring what an earlier one had in another shape
        self.loaded.update(dict.fromkeys(self.twins[name], self.round))  # it came, so it is not missing as well

    def _set(self, name: str, tensor: Tensor) -> None:
        """Give a tensor and all that share its storage a new value, off the meta device if need be."""
        target = self.state[name]
        if not target.is_meta:
            with torch.no_grad():
                target.copy_(tensor)
            return
        value = tensor.to(self.device, target.dtype, copy=True)  # not a page of the file
        if isinstance(target, nn.Parameter):
            value = nn.Parameter(value, requires_grad=target.requires_grad)
        for twin in self.twins[name]:
            owner, _, leaf = twin.rpartition(".")
            module = self.model.get_submodule(owner)
            slots = module._parameters if leaf in module._parameters else module._buffers
            cast(dict[str, Tensor], slots)[leaf] = value
            self.state[twin] = value

    def merge(self, path: Path, config: LoraConfig) -> None:
        """Add every LoRA update of an adapter to the weight it adapts."""
        with open_weights(path) as (keys, read):
            factors: dict[str, dict[str, str]] = {}
            for key in keys:
                if is_lora_key(bare := hub_key(key)):
                    target, factor = lora_target(bare)
                    factors.setdefault(target, {})[factor] = key
            for target, pair in factors.items():
                labels = [f"{key} ({path.name})" for key in pair.values()]
                name = our_name(target)
                if target.startswith(_AUDIO_TOWER + UNUSED_PREFIX):
                    self.unused += labels
                elif name is None or name not in self.loaded or set(pair) != {"A", "B"}:
                    self.unexpected += labels
                else:
                    self._merge(name, read(pair["A"]), read(pair["B"]), config)

    def _merge(self, name: str, a: Tensor, b: Tensor, config: LoraConfig) -> None:
        weight = self.state[name]
        try:
            update = config.update(a, b, weight.shape)
        except ValueError as error:
            self.mismatched[name] = Mismatch(name, f"LoRA factors for {_describe(weight)}", str(error))
            return
        if name not in self.mismatched:
            # In float32, since an update is small beside a half-precision weight.
            self._set(name, weight.detach().float() + update.to(weight.device))
            self.merged.append(name)

    def initialise(self, names: Sequence[str], start: Callable[[nn.Module], None]) -> None:
        """Give the modules of ``names`` that are on the meta device a place and first values."""
        owners = {name.rpartition(".")[0] for name in names if self.state[name].is_meta}
        for owner in sorted(owners):
            module = self.model.get_submodule(owner)
            module.to_empty(device=torch.device(self.device), recurse=False)
            start(module)

    def report(self, new: Sequence[str]) -> LoadReport:
        left = [name for name in self.state if name not in self.loaded]
        return LoadReport(
            loaded=tuple(name for name in self.loaded if name not in self.mismatched),
            missing=tuple(name for name in left if not name.startswith(tuple(new))),
            unexpected=tuple(self.unexpected),
            mismatched=tuple(self.mismatched.values()),
            initialised=tuple(name for name in left if name.startswith(tuple(new))),
            merged=tuple(self.merged),
            unused=tuple(self.unused),
        )


def _describe(tensor: Tensor) -> str:
    kind = "float" if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")
    return f"{tuple(tensor.shape)} {kind}"


def _reset(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None)
    if reset is None:
        raise ModelError(
            f"A {type(module).__name__} on the meta device is in no checkpoint and cannot initialise itself. "
            "Give load_checkpoint a function that does, as initialise=."
        )
    reset()


def _compressor_folder(folder: Path) -> Path | None:
    """The compressor's folder if the checkpoint's holds one: itself, or one of its own."""
    found = [
        file.parent for pattern in ("memory_projection.pt", "*/memory_projection.pt") for file in folder.glob(pattern)
    ]
    if len(found) > 1:
        raise ModelError(
            f"{folder} holds several compressors: {', '.join(map(str, sorted(found)))}. Choose one as compressor=."
        )
    return found[0] if found else None


def _fill_compressor(filling: _Filling, folder: Path) -> None:
    """Fill in the compressor and see that the model closes its turns with the same token."""
    config = read_json(folder / "config.json")
    sizes = [config.get(key) for key in ("llm_input_size", "mamba_hidden_size", "mem_token_id")]
    if not all(isinstance(size, int) for size in sizes):
        raise ModelError(
            f"{folder / 'config.json'} should have whole numbers llm_input_size, mamba_hidden_size and mem_token_id, "
            f"but has {sizes}. Use the config.json that was saved with the compressor."
        )
    projection = folder / "memory_projection.pt"
    with open_weights(projection) as (keys, read):
        shape = tuple(read("weight").shape) if "weight" in keys else None
    if shape != tuple(sizes[:2]):
        raise ModelError(
            f"{projection} should hold a weight {tuple(sizes[:2])} by its config.json, but holds {shape}. "
            "Use both from the same run."
        )
    filling.round += 1
    for file in weight_files(folder / "mamba"):
        filling.fill(file, prefix=f"{_COMPRESSOR}mamba.", override=True)
    filling.fill(projection, prefix=f"{_COMPRESSOR}memory_projection.", override=True)
    compressor = dict(filling.model.named_modules()).get("model.compressor")
    ours = getattr(compressor, "memory_token_id", None)
    if ours not in (None, sizes[2]):
        name = "model.compressor.memory_token_id"
        filling.mismatched[name] = Mismatch(name, str(ours), str(sizes[2]))


def load_checkpoint(
    model: nn.Module,
    folder: Path,
    *,
    base: Path | None = None,
    compressor: Path | None = None,
    new: Sequence[str] = OURS_ONLY,
    device: torch.device | str = "cpu",
    initialise: Callable[[nn.Module], None] = _reset,
) -> LoadReport:
    """Fill ``model`` with a checkpoint in one of the two layouts, strictly.

    Parameters may be on the meta device (``accelerate.init_empty_weights()``, tied afterwards); they then come to
    ``device`` in the model's precision. Where shards and a ``.bin`` beside them both have a tensor, the shards' counts.
    After an error the model is partly filled and of no use.

    Args:
        model: with the modules that :data:`KEY_MAP` names.
        folder: the checkpoint.
        base: for a LoRA run, the folder of the checkpoint that it adapts.
        compressor: the compressor's folder, if it is not ``folder`` or right inside it.
        new: prefixes of our names that no checkpoint fills.
        device: where parameters go that are on the meta device.
        initialise: gives first values to a module of ``new`` that was on the meta device.

    Raises:
        ModelError: a file is missing, damaged or unsafe, the adapter is of another kind, or a key is missing,
            unexpected or of another shape.
    """
    adapted = folder / "adapter_config.json"
    config = read_lora_config(adapted, read_json(adapted)) if adapted.is_file() else None
    if config and base is None:
        raise ModelError(
            f"{folder} is a LoRA run over {config.base!r}. Download that checkpoint too and give its folder as base=."
        )
    filling = _Filling(model, device)
    whole = base if config and base else folder
    trained = folder / _NON_LORA
    replaced: list[str] = []
    if config and trained.is_file():
        with open_weights(trained) as (keys, _):
            if any(hub_key(key).startswith(_AUDIO_PROJECTOR) for key in keys):
                replaced.append(_AUDIO_PROJECTOR)  # the run's may be of another kind, under other keys
    for file in weight_files(whole):
        filling.fill(file, without=replaced)
    for name in _BESIDE_SHARDS:
        if (whole / name).is_file():
            filling.round += 1
            filling.fill(whole / name, without=replaced)
    if config:
        for path in (trained, folder / _ADAPTER):
            filling.round += 1
            filling.fill(path, override=True)
        filling.merge(folder / _ADAPTER, config)
    compressor = compressor or _compressor_folder(folder)
    if compressor:
        _fill_compressor(filling, compressor)
    report = filling.report(new)
    report.check(folder)
    filling.initialise(report.initialised, initialise)
    return report
