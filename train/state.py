"""What a run resumes from: trained parameters and the optimizer's state, whole, however the model is spread.

One process, several copies (DDP) and sharded copies (FSDP2) write the same ``trained.safetensors``; the optimizer's state
differs only between sharded and not. DeepSpeed keeps its own files beside them, as its optimizer is its own.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from multimood_core.errors import ModelError
from train.config import dump_config
from train.files import write_whole

if TYPE_CHECKING:
    from train.loop import Loop

_ENGINE = "engine"  # DeepSpeed's tag


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter that requires a gradient, by name, gathered from all processes, on the CPU."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            with _gathered(parameter):
                value = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
                found[name] = value.detach().cpu().clone().contiguous()
    return found


def _gathered(parameter: nn.Parameter, writes: bool = False) -> Any:
    """Within it, a parameter that ZeRO-3 has split is whole."""
    if not hasattr(parameter, "ds_id"):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter], modifier_rank=0 if writes else None)


def save_state(folder: Path, loop: Loop, progress: dict[str, Any]) -> None:
    """Write the state whole or not at all; every process has to call it.

    Raises:
        ModelError: it cannot be written, as when the disk is full; in every process.
    """
    accelerator, kind = loop.accelerator, loop.accelerator.distributed_type
    trained, optimizer = loop.trained_state(), _optimizer_state(loop)

    def fill(staging: Path) -> None:
        save_file(trained, staging / "trained.safetensors")
        if kind == DistributedType.DEEPSPEED:
            accelerator.wait_for_everyone()  # the folder is there
            loop.stage.save_checkpoint(str(staging), tag=_ENGINE, exclude_frozen_parameters=True)
        scaler = {"scaler": accelerator.scaler.state_dict()} if accelerator.scaler else {}
        torch.save({"optimizer": optimizer, **progress, **scaler}, staging / "optimizer.pt")
        dump_config(loop.config, staging / "config.yaml")

    def help_filling() -> None:
        if kind == DistributedType.DEEPSPEED:
            accelerator.wait_for_everyone()
            loop.stage.save_checkpoint(str(folder) + ".partial", tag=_ENGINE, exclude_frozen_parameters=True)

    write_by_main(accelerator, folder, fill, help_filling)


def write_by_main(
    accelerator: Accelerator, folder: Path, fill: Callable[[Path], None], help_filling: Callable[[], None] | None = None
) -> None:
    """The main process writes ``folder`` whole or not at all, the others wait; every process has to call it.

    Raises:
        ModelError: it cannot be written; in every process, so that none waits for ever.
    """
    failure = ""
    if accelerator.is_main_process:
        try:
            write_whole(folder, fill)
        except ModelError as error:
            failure = str(error)
    elif help_filling:
        help_filling()
    if accelerator.num_processes > 1:
        failure = next(filter(None, gather_object([failure])), "")
    if failure:
        raise ModelError(failure)


def _optimizer_state(loop: Loop) -> dict[str, Any] | None:
    kind = loop.accelerator.distributed_type
    if kind == DistributedType.DEEPSPEED:
        return None
    if kind == DistributedType.FSDP:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return get_optimizer_state_dict(loop.stage, loop.optimizer.optimizer, options=options)
    return loop.optimizer.state_dict()


def load_state(folder: Path, loop: Loop) -> dict[str, Any]:
    """Put back what ``save_state`` wrote; returns the progress.

    Raises:
        ModelError: the state is of other parameters, or cannot be read.
    """
    accelerator, kind = loop.accelerator, loop.accelerator.distributed_type
    parameters = {n: p for n, p in loop.model.named_parameters() if p.requires_grad}
    try:
        saved = load_file(folder / "trained.safetensors")
        state = torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu")
    except Exception as cause:  # each of the two readers has errors of its own
        raise ModelError(f"Expected a complete state in {folder}, but it cannot be read: {cause}") from cause
    if set(saved) != set(parameters) or any(saved[n].shape != p.shape for n, p in parameters.items() if not _split(p)):
        raise ModelError(f"{folder} holds other parameters than this configuration trains. Start without --resume.")
    with torch.no_grad():
        for name, value in saved.items():
            parameter = parameters[name]
            with _gathered(parameter, writes=True):
                if isinstance(parameter, DTensor):
                    value = distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
                parameter.copy_(value)
    if kind == DistributedType.DEEPSPEED:
        loop.stage.load_checkpoint(str(folder), tag=_ENGINE, load_module_strict=False)
    elif kind == DistributedType.FSDP:
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_optimizer_state_dict(loop.stage, loop.optimizer.optimizer, state["optimizer"] or {}, options=options)
    else:
        loop.optimizer.load_state_dict(state["optimizer"])
    if accelerator.scaler and "scaler" in state:
        accelerator.scaler.load_state_dict(state["scaler"])
    return state


def _split(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "ds_id")
