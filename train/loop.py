"""One training loop for every stage: deterministic order, resume after a kill, whole files, JSONL metrics, time left.

The order of batches follows from the seed and the epoch alone, so a resumed run sees what the killed one would have
seen: the loss curve goes on as if nothing had happened.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from multimood_core.errors import ModelError
from train.config import dump_config, plain_config
from train.files import recover, write_whole


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """What every stage's training shares."""

    seed: int = field(default=0, metadata={"help": "of the order, the masks and the dropout"})
    epochs: float = field(default=1.0, metadata={"help": "passes over the data; may end inside one"})
    batch_tokens: int = field(default=2048, metadata={"help": "padded tokens a batch at the most"})
    lr: float = field(default=2e-5, metadata={"help": "peak learning rate"})
    warmup: float = field(default=0.03, metadata={"help": "part of the steps in which the rate rises"})
    schedule: str = field(default="cosine", metadata={"help": "cosine, linear or constant after the warm-up"})
    weight_decay: float = field(default=0.0, metadata={"help": "AdamW's"})
    max_grad_norm: float = field(default=1.0, metadata={"help": "gradients are clipped to this norm"})
    precision: str = field(default="bf16", metadata={"help": "bf16, fp16 or no"})
    save_minutes: float = field(default=3.0, metadata={"help": "a resumable state is written this often"})
    accumulate: int = field(default=1, metadata={"help": "batches an optimizer step"})


_FREE: Final = ("out", "save_minutes")  # may differ when a run is resumed
Batch = Sequence[int]
LossFunction = Callable[[Batch, random.Random], Mapping[str, Tensor]]


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


class Loop:
    """Trains ``model``'s parameters that require a gradient.

    Args:
        config: the shared settings.
        model: holds the trained parameters; ``loss`` calls it.
        lengths: tokens of each sample, for batching.
        loss: batch of sample indices and a seeded random source -> metrics, of which ``loss`` is minimised.
        out: folder of the run: ``state/`` to resume from, ``metrics.jsonl``.
        groups: parameter groups for AdamW with their own rates; one group of everything trainable when None.
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
        self.config, self.loss, self.out = config, loss, out
        set_seed(config.seed)
        self.accelerator = Accelerator(mixed_precision=config.precision, gradient_accumulation_steps=config.accumulate)
        trained = groups or [{"params": [p for p in model.parameters() if p.requires_grad]}]
        optimizer = torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.batches = token_batches(lengths, config.batch_tokens, random.Random(config.seed))
        self.steps_per_epoch = len(self.batches)
        self.total_steps = max(1, math.ceil(self.steps_per_epoch * config.epochs))
        self.step = 0

    def trained_state(self) -> dict[str, Tensor]:
        """Every parameter that is trained, by name."""
        module = self.accelerator.unwrap_model(self.model)
        return {n: p.detach().cpu().contiguous() for n, p in module.named_parameters() if p.requires_grad}

    def run(self, resume: bool = False, validate: Callable[[], Mapping[str, float]] | None = None) -> None:
        """Train to the last step; Ctrl-C saves and stops.

        Raises:
            ModelError: the loss is no longer a number; the state to resume from is absent or of another configuration.
        """
        if not resume and (self.out / "state").exists():
            raise ModelError(f"{self.out} holds a run already: --resume goes on with it, --out=FOLDER starts another.")
        self.out.mkdir(parents=True, exist_ok=True)
        if resume:
            self._load()
        last_save, accelerator = time.monotonic(), self.accelerator
        bar = tqdm(total=self.total_steps, initial=self.step, desc=self.out.name, disable=not accelerator.is_main_process)
        try:
            for batch in self._remaining_batches():
                started = time.monotonic()
                rng = random.Random(f"{self.config.seed}/{self.step}/{accelerator.process_index}")
                torch.manual_seed(self.config.seed * 1_000_003 + self.step)
                with accelerator.accumulate(self.model), accelerator.autocast():
                    metrics = self.loss(batch, rng)
                    value = metrics["loss"]
                    if not torch.isfinite(value):
                        raise ModelError(
                            f"The loss is {value.item()} at step {self.step}. Lower lr, and --resume from the last good state."
                        )
                    accelerator.backward(value)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(
                            [p for g in self.optimizer.param_groups for p in g["params"]], self.config.max_grad_norm
                        )
                    self._set_rate()
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                self.step += 1
                numbers = {k: float(v.detach()) for k, v in metrics.items()}
                self._log(numbers | {"lr": self.optimizer.param_groups[0]["lr"], "seconds": time.monotonic() - started})
                bar.set_postfix(loss=f"{numbers['loss']:.3f}", refresh=False)
                bar.update()
                if validate and (self.step % self.steps_per_epoch == 0 or self.step == self.total_steps):
                    self._log({f"val/{k}": v for k, v in validate().items()})
                if time.monotonic() - last_save > 60 * self.config.save_minutes or self.step == self.total_steps:
                    self._save()
                    last_save = time.monotonic()
        except KeyboardInterrupt:
            self._save()
            tqdm.write(f"Stopped at step {self.step}; --resume goes on from here.")
            raise
        finally:
            bar.close()

    def _remaining_batches(self) -> Iterator[list[int]]:
        count = self.accelerator.num_processes
        while self.step < self.total_steps:
            epoch, begin = divmod(self.step, self.steps_per_epoch)
            batches = list(self.batches)
            random.Random(f"{self.config.seed}/{epoch}").shuffle(batches)
            for batch in batches[begin:]:
                if self.step >= self.total_steps:
                    return
                mine = batch[self.accelerator.process_index :: count]
                yield mine or batch[:1]

    def _set_rate(self) -> None:
        done, total = self.step + 1, self.total_steps
        warm = max(1, round(self.config.warmup * total))
        if done <= warm:
            factor = done / warm
        else:
            part = (done - warm) / max(1, total - warm)
            shapes = {"cosine": 0.5 * (1 + math.cos(math.pi * part)), "linear": 1 - part, "constant": 1.0}
            factor = shapes[self.config.schedule]
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor

    def _log(self, metrics: Mapping[str, float]) -> None:
        if self.accelerator.is_main_process:
            with (self.out / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": self.step, **metrics}) + "\n")

    def _save(self) -> None:
        if not self.accelerator.is_main_process:
            return

        def fill(folder: Path) -> None:
            save_file(self.trained_state(), folder / "trained.safetensors")
            torch.save({"optimizer": self.optimizer.state_dict(), "step": self.step}, folder / "optimizer.pt")
            dump_config(self.config, folder / "config.yaml")

        write_whole(self.out / "state", fill)

    def _load(self) -> None:
        folder = self.out / "state"
        recover(folder)
        if not folder.is_dir():
            raise ModelError(f"--resume needs {folder}, which is not there. Start without --resume.")
        self._check_configuration(folder / "config.yaml")
        module = self.accelerator.unwrap_model(self.model)
        parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        saved = load_file(folder / "trained.safetensors")
        if set(saved) != set(parameters):
            raise ModelError(f"{folder} holds other parameters than this configuration trains. Start without --resume.")
        with torch.no_grad():
            for name, value in saved.items():
                parameters[name].copy_(value)
        state = torch.load(folder / "optimizer.pt", weights_only=True)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        if self.accelerator.is_main_process:
            self._forget_later_metrics()

    def _check_configuration(self, path: Path) -> None:
        """A run goes on as it began, or its loss curve would be of no configuration that anybody could name."""
        begun, now = yaml.safe_load(path.read_text()) if path.is_file() else {}, plain_config(self.config)
        changed = sorted(key for key in now if key not in _FREE and begun.get(key) != now[key])
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


def _logged_step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # cut short by a kill
        return math.inf


