"""One training loop for every stage, on one process or many: order, resume, whole files, metrics, time left.

The order of batches follows from the seed and the epoch alone, so a resumed run sees what the killed one would have
seen: the loss curve goes on as if nothing had happened. A batch is split among the processes and every sample draws from
a random source of its own (``row_rngs``), so several processes (``accelerate launch``, ``train/configs/accelerate``)
compute one process's loss.
"""

from __future__ import annotations

import json
import math
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object, set_seed
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from multimood_core.errors import ModelError
from multimood_core.registry import fast_dtype
from train.config import plain_config, plain_defaults
from train.files import recover
from train.state import load_state, save_state, trained_state, write_by_main

SCHEDULES: Final = ("cosine", "linear", "constant", "plateau")
PRECISIONS: Final = ("auto", "bf16", "fp16", "no")


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """What every stage's training shares."""

    seed: int = field(default=0, metadata={"help": "of the order, the masks and the dropout"})
    epochs: float = field(default=1.0, metadata={"help": "passes over the data; may end inside one"})
    batch_tokens: int = field(default=2048, metadata={"help": "padded tokens a batch at the most, over all processes"})
    lr: float = field(default=2e-5, metadata={"help": "peak learning rate"})
    warmup: float = field(default=0.03, metadata={"help": "part of the steps in which the rate rises"})
    schedule: str = field(default="cosine", metadata={"help": f"after the warm-up: {', '.join(SCHEDULES)}"})
    plateau_factor: float = field(default=0.5, metadata={"help": "plateau: the rate is multiplied by it"})
    plateau_patience: int = field(default=1, metadata={"help": "plateau: validations without a better loss that are borne"})
    weight_decay: float = field(default=0.0, metadata={"help": "AdamW's"})
    max_grad_norm: float = field(default=1.0, metadata={"help": "gradients are clipped to this norm"})
    precision: str = field(default="auto", metadata={"help": "bf16, fp16 (needs a GPU), no, or auto: bf16 where it is fast"})
    save_minutes: float = field(default=3.0, metadata={"help": "a resumable state is written this often"})
    accumulate: int = field(default=1, metadata={"help": "batches an optimizer step"})


_FREE: Final = ("out", "save_minutes")  # may differ when a run is resumed
Batch = Sequence[int]
LossFunction = Callable[[Batch, random.Random], Mapping[str, Tensor]]
"""Batch of sample indices and a random source, the same in every process -> metrics.

``loss`` is minimised, a mean over ``count`` things (the batch's samples where there is no ``count``)."""


def precision_on(device: str, asked: str) -> str:
    """The precision that ``asked`` means on ``device``: the CPU, or a GPU by any name.

    ``auto`` is bf16 where the device multiplies it in hardware; where it is emulated a step takes many times as long.

    Raises:
        ModelError: ``asked`` is none of ``PRECISIONS``, or fp16 on a CPU.
    """
    if asked not in PRECISIONS:
        raise ModelError(f"Expected precision to be one of {', '.join(PRECISIONS)}, got {asked!r}.")
    if asked == "fp16" and device == "cpu":
        raise ModelError("precision fp16 needs a GPU, and this machine has none. Take auto, bf16 or no.")
    if asked == "auto":
        return "bf16" if fast_dtype(device) == torch.bfloat16 else "no"
    return asked


def row_rngs(batch: Batch, rng: random.Random) -> list[random.Random]:
    """A random source for each sample, whichever process it is in and whatever stands beside it."""
    salt = rng.getrandbits(64)
    return [random.Random(f"{salt}/{index}") for index in batch]


def touched(*modules: nn.Module) -> Tensor:
    """Nought, from every trained parameter of ``modules``: processes that share a batch wait for each parameter's gradient,
    so one that a batch may leave out (a modality that no row has) has to be in the loss of each."""
    trained = [p for module in modules for p in module.parameters() if p.requires_grad]
    return torch.stack([0.0 * p.float().sum() for p in trained]).sum() if trained else torch.zeros(())


def token_batches(lengths: Sequence[int], batch_tokens: int, rng: random.Random) -> list[list[int]]:
    """Group samples of about the same length so that each padded batch holds ``batch_tokens`` at the most."""
    noise = [rng.uniform(0, 8) for _ in lengths]
    order = sorted(range(len(lengths)), key=lambda i: lengths[i] + noise[i])
    batches: list[list[int]] = []
    widest = 0
    for i in order:
        widest = max(widest, lengths[i])
        if batches and widest * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
            widest = lengths[i]
    return batches


class Stage(nn.Module):
    """A model and its losses as one module, so that what distributes the model sees every call that reads it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        # FSDP wraps these blocks one by one.
        owners = [m for m in model.modules() if getattr(m, "_no_split_modules", None)]
        self._no_split_modules = sorted({name for owner in owners for name in owner._no_split_modules})  # type: ignore[union-attr]

    def forward(self, loss: LossFunction, batch: Batch, rng: random.Random) -> dict[str, Tensor]:
        return dict(loss(batch, rng))


class Loop:
    """Trains ``model``'s parameters that require a gradient.

    Args:
        config: the shared settings.
        model: holds the trained parameters; ``loss`` calls it.
        lengths: tokens of each sample, for batching.
        loss: what is minimised, see ``LossFunction``.
        out: folder of the run: ``state/`` to resume from, ``metrics.jsonl``, ``tensorboard/``.
        groups: parameter groups for AdamW with their own rates; one group of everything trainable when None.

    Raises:
        ModelError: an unknown schedule or precision, or fp16 without a GPU.
    """

    def __init__(
        self,
        config: LoopConfig,
        model: nn.Module,
        lengths: Sequence[int],
        loss: LossFunction,
        out: Path,
        groups: list[dict[str, Any]] | None = None,
    ) -> None:
        if config.schedule not in SCHEDULES:
            raise ModelError(f"Expected schedule to be one of {', '.join(SCHEDULES)}, got {config.schedule!r}.")
        precision = precision_on("cuda" if torch.cuda.is_available() else "cpu", config.precision)
        self.config, self.model, self.loss, self.out = config, model, loss, out
        set_seed(config.seed)
        self.accelerator = Accelerator(mixed_precision=precision, gradient_accumulation_steps=config.accumulate)
        trained = groups or [{"params": [p for p in model.parameters() if p.requires_grad]}]
        optimizer = torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay)
        self.stage, self.optimizer = self.accelerator.prepare(Stage(model), optimizer)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.plateau = ReduceLROnPlateau(self.optimizer, factor=config.plateau_factor, patience=config.plateau_patience)
        self.batches = token_batches(lengths, config.batch_tokens, random.Random(config.seed))
        self.steps_per_epoch = len(self.batches)
        steps = max(1, math.ceil(self.steps_per_epoch * config.epochs))
        self.total_steps = math.ceil(steps / config.accumulate) * config.accumulate  # no gradient is left over
        self.step = 0
        self._last_save, self._stopping = 0.0, False
        self._board: SummaryWriter | None = None

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.accelerator.device

    def trained_state(self) -> dict[str, Tensor]:
        """Every parameter that is trained, by name, whole and on the CPU; all processes have to ask."""
        return trained_state(self.model)

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of the model only."""
        return self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)

    def whole(self, rebuild: Callable[[], nn.Module]) -> Callable[[], Any]:
        """A function that gives the trained model in one piece; all processes have to ask for it, one may call it.

        Args:
            rebuild: makes the model as it was before training, for where no process holds all of it.
        """
        if not self.sharded:
            return lambda: self.model
        trained = self.trained_state() | {name: value.cpu().clone() for name, value in self.model.named_buffers()}

        def restored() -> nn.Module:
            model = rebuild()
            places = dict(model.named_parameters()) | dict(model.named_buffers())
            with torch.no_grad():
                for name, value in trained.items():
                    places[name].copy_(value)
            return model

        return restored

    def finish(self, folder: Path, fill: Callable[[Path], None]) -> None:
        """Write what the run made, whole or not at all; all processes have to call it."""
        write_by_main(self.accelerator, folder, fill)

    def measure(self, loss: LossFunction, batch: Batch, rng: random.Random) -> dict[str, Tensor]:
        """Metrics of a batch without learning from it; goes through what distributes the model."""
        with torch.no_grad():
            return self.stage(loss, batch, rng)

    def run(self, resume: bool = False, validate: Callable[[], Mapping[str, float]] | None = None) -> None:
        """Train to the last step; Ctrl-C or SIGTERM saves after the step and stops.

        Args:
            resume: go on from ``out/state``.
            validate: called after each epoch and at the end; its ``loss`` steers the schedule ``plateau``.

        Raises:
            ModelError: the loss or its gradient is no longer a number; the state to resume from is absent or of another
                configuration; the disk is full.
        """
        if not resume and (self.out / "state").exists():
            raise ModelError(f"{self.out} holds a run already: --resume goes on with it, --out=FOLDER starts another.")
        self.out.mkdir(parents=True, exist_ok=True)
        if resume:
            self._load()
        self._last_save, main = time.monotonic(), self.accelerator.is_main_process
        bar = tqdm(total=self.total_steps, initial=self.step, desc=self.out.name, disable=not main)
        if main:
            with self._writing():
                self._board = SummaryWriter(str(self.out / "tensorboard"), purge_step=self.step + 1)
        before = self._catch_signals()
        try:
            for batch in self._remaining_batches():
                started = time.monotonic()
                numbers, save, stop = self._train_on(batch)
                self._log(numbers | {"lr": self.optimizer.param_groups[0]["lr"], "seconds": time.monotonic() - started})
                bar.set_postfix(loss=f"{numbers['loss']:.3f}", refresh=False)
                bar.update()
                if validate and (self.step % self.steps_per_epoch == 0 or self.step == self.total_steps):
                    found = validate()
                    self._log({f"val/{k}": v for k, v in found.items()})
                    if self.config.schedule == "plateau":
                        self.plateau.step(found["loss"])
                if save or stop or self.step == self.total_steps:
                    self._save()
                    self._last_save = time.monotonic()
                if stop:
                    tqdm.write(f"Stopped at step {self.step}; --resume goes on from here.")
                    raise KeyboardInterrupt
        finally:
            bar.close()
            if self._board:
                self._board.close()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _train_on(self, batch: Batch) -> tuple[dict[str, float], bool, bool]:
        """One batch, and, at the end of an accumulation, one step of the optimizer.

        Returns:
            The batch's metrics over all processes, and whether any process wants to save or was asked to stop.
        """
        accelerator, processes = self.accelerator, self.accelerator.num_processes
        mine = batch[accelerator.process_index :: processes]
        torch.manual_seed(self.config.seed * 1_000_003 + self.step + 7919 * accelerator.process_index)
        with accelerator.accumulate(self.stage):
            # A process without a share takes part all the same, or the others would wait for it.
            metrics = self.stage(self.loss, mine or batch[:1], random.Random(f"{self.config.seed}/{self.step}"))
            count = float(metrics.pop("count", len(mine))) if mine else 0.0
            late = time.monotonic() - self._last_save > 60 * self.config.save_minutes
            shares = [_Share(count, {k: float(v.detach()) for k, v in metrics.items()}, late, self._stopping)]
            shares = gather_object(shares) if processes > 1 else shares
            numbers = _mean(shares)
            if not math.isfinite(numbers["loss"]):
                raise ModelError(
                    f"The loss is {numbers['loss']} at step {self.step}. Lower lr, and --resume from the last good state."
                )
            # The processes' gradients are averaged, but a sample's weight must not depend on where it landed.
            accelerator.backward(metrics["loss"] * (count * processes / sum(share.count for share in shares)))
            if accelerator.sync_gradients:
                numbers["norm"] = self._clip()
            self._set_rate()
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.step += 1
        return numbers, any(share.late for share in shares), any(share.stopping for share in shares)

    def _clip(self) -> float:
        found = self.accelerator.clip_grad_norm_(
            [p for g in self.optimizer.param_groups for p in g["params"]], self.config.max_grad_norm
        )
        if found is None:  # DeepSpeed clips in its own step
            return math.nan
        norm = float(found.full_tensor() if hasattr(found, "full_tensor") else found)
        if not math.isfinite(norm) and self.config.precision != "fp16":  # whose scaler leaves such steps out
            raise ModelError(
                f"The gradient's norm is {norm} at step {self.step}. Lower lr, and --resume from the last good state."
            )
        return norm

    def _remaining_batches(self) -> Iterator[list[int]]:
        while self.step < self.total_steps:
            epoch, begin = divmod(self.step, self.steps_per_epoch)
            batches = list(self.batches)
            random.Random(f"{self.config.seed}/{epoch}").shuffle(batches)
            for batch in batches[begin:]:
                if self.step >= self.total_steps:
                    return
                yield batch

    def _set_rate(self) -> None:
        done, total = self.step + 1, self.total_steps
        warm = max(1, round(self.config.warmup * total))
        if done <= warm:
            factor = done / warm
        elif self.config.schedule == "plateau":
            return  # the rate is what the last validation left
        else:
            part = (done - warm) / max(1, total - warm)
            shapes = {"cosine": 0.5 * (1 + math.cos(math.pi * part)), "linear": 1 - part, "constant": 1.0}
            factor = shapes[self.config.schedule]
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor

    # -- signals, files ----------------------------------------------------------------------------------------------

    def _catch_signals(self) -> dict[int, Any]:
        if threading.current_thread() is not threading.main_thread():
            return {}

        def stop(number: int, frame: FrameType | None) -> None:
            if self._stopping and number == signal.SIGINT:  # the second Ctrl-C does not wait
                raise KeyboardInterrupt
            self._stopping = True

        return {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as cause:
            raise ModelError(
                f"Could not write the metrics in {self.out}: {cause}. Make room if the disk is full, and --resume."
            ) from cause

    def _log(self, metrics: Mapping[str, float]) -> None:
        if not self._board:
            return
        with self._writing():
            with (self.out / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": self.step, **metrics}) + "\n")
            for name, value in metrics.items():
                self._board.add_scalar(name, value, self.step)

    def _save(self) -> None:
        # Nothing has changed since the last whole accumulation but gradients, which are not kept.
        step = self.step - self.step % self.config.accumulate
        save_state(self.out / "state", self, {"step": step, "plateau": self.plateau.state_dict(), "memory": self.memory()})

    def memory(self) -> Any:
        """What a stage must not forget beside its parameters, in plain values; every process is asked."""

    def remember(self, memory: Any) -> None:
        """Take up what ``memory`` gave."""

    def _load(self) -> None:
        folder = self.out / "state"
        if self.accelerator.is_main_process:
            recover(folder)
        self.accelerator.wait_for_everyone()
        if not folder.is_dir():
            raise ModelError(f"--resume needs {folder}, which is not there. Start without --resume.")
        self._check_configuration(folder / "config.yaml")
        state = load_state(folder, self)
        self.step = self.accelerator.step = state["step"]
        if "plateau" in state:
            self.plateau.load_state_dict(state["plateau"])
        self.remember(state.get("memory"))
        if self.accelerator.is_main_process:
            self._forget_later_metrics()

    def _check_configuration(self, path: Path) -> None:
        """A run goes on as it began, or its loss curve would be of no configuration that anybody could name."""
        defaults = plain_defaults(self.config)  # of keys that are younger than the run
        begun, now = yaml.safe_load(path.read_text()) if path.is_file() else {}, plain_config(self.config)
        changed = sorted(key for key in now if key not in _FREE and begun.get(key, defaults[key]) != now[key])
        if changed:
            differences = "; ".join(f"{key}: {begun.get(key)!r} then, {now[key]!r} now" for key in changed)
            raise ModelError(
                f"The run in {self.out} began with another configuration ({differences}). "
                "Resume with the same one, or start another run with --out=FOLDER."
            )

    def _forget_later_metrics(self) -> None:
        """Drop what was logged after the state was saved: those steps are run again."""
        path = self.out / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
        kept = path.with_suffix(".partial")
        kept.write_text("".join(line for line in lines if _logged_step(line) <= self.step))
        kept.replace(path)


@dataclass(frozen=True, slots=True)
class _Share:
    """What one process says of its part of a batch: metrics that are means over ``count`` things, and two wishes."""

    count: float
    metrics: Mapping[str, float]
    late: bool
    stopping: bool


def _mean(shares: Sequence[_Share]) -> dict[str, float]:
    """The processes' metrics in one, each weighing what it is a mean over."""
    mean = {}
    for name in {name: None for share in shares for name in share.metrics}:
        known = [(share.count, share.metrics[name]) for share in shares if name in share.metrics and share.count]
        total = sum(count for count, _ in known)
        mean[name] = sum(count * value for count, value in known) / total if total else math.nan
    return mean


def _logged_step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # cut short by a kill
        return math.inf
