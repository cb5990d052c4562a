"""A small SFT run for one process or several: ``python -m tests.train.two_processes OUT [--resume] [--stop=N] [--fsdp2]``.

``--fsdp2`` splits the model over the processes with torch's ``fully_shard``, which runs on a CPU too; accelerate turns it
on for accelerators alone, so it is set here by hand.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh

from tests.multimood_core.tiny import tiny_model
from tests.train.test_sft import clips, dialogues
from train.base import add_lora
from train.loop import Loop
from train.mixture import SftConfig, SftTask


def make_run(out: Path, epochs: float = 1.0) -> Loop:
    """SFT of a tiny model, with media, histories and batches of several rows and of one."""
    model, processor = tiny_model()
    torch.manual_seed(3)
    add_lora(model, rank=4, alpha=8, dropout=0.0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # which starts at nought, and then A has no gradient at first
            torch.nn.init.normal_(parameter, std=0.05)
    config = dataclasses.replace(
        SftConfig(), out=out, epochs=epochs, batch_tokens=900, lr=3e-3, precision="no", save_minutes=0.0005, p_both=0.4
    )
    task = SftTask(config, model, processor, dialogues(15), clips())
    assert {len(batch) for batch in Loop(config, model, task.lengths, task.loss, out).batches} >= {1, 2}
    return Loop(config, model.train(), task.lengths, task.loss, out)


def split_by_hand() -> None:
    """Have the process's next accelerator use FSDP2."""
    accelerator = Accelerator(cpu=True)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
    shared = accelerator.state._shared_state
    shared["distributed_type"], shared["fsdp_plugin"] = DistributedType.FSDP, plugin
    shared["device_mesh"] = init_device_mesh("cpu", (accelerator.num_processes,))


def stop_after(loop: Loop, steps: int) -> None:
    """Ask one process to stop, as a scheduler would, while it makes its step ``steps``."""
    train_on = loop._train_on

    def told(batch: Sequence[int]) -> Any:
        if loop.step == steps - 1 and loop.accelerator.process_index == loop.accelerator.num_processes - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_on(batch)

    loop._train_on = told  # type: ignore[method-assign]


def main(argv: Sequence[str]) -> None:
    if "--fsdp2" in argv:
        split_by_hand()
    folder = Path(argv[0])
    loop = make_run(folder)
    stop = next((int(word.partition("=")[2]) for word in argv if word.startswith("--stop=")), 0)
    if stop:
        stop_after(loop, stop)
    with contextlib.suppress(KeyboardInterrupt):
        loop.run("--resume" in argv)
    trained = loop.trained_state()
    if loop.accelerator.is_main_process:
        save_file(trained, folder / "end.safetensors")
        (folder / "processes").write_text(str(loop.accelerator.num_processes))


if __name__ == "__main__":
    main(sys.argv[1:])
