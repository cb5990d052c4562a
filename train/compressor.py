"""Train the ConvCompressor: a frozen language model has to reconstruct the turns from their ``<MEM>`` states alone.

    python -m train.compressor --config train/configs/compressor_mini.yaml [--key=value ...] [--resume] [--dry-run]

Stage 1 takes single turns, stage 2 whole conversations (paper, Experimental setup). The target is the very unit that was
read, role and labels included, so emotion and strategy have to survive the compression. At paper scale the language model
is quantised (``quantise: nf4``) and the Mamba learns by LoRA (``lora_rank: 64``), its embeddings and projection whole; the
mini compressor is so small that all of it is trained. ``train.reconstruct`` measures what comes out.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import MambaModel, PreTrainedModel

from multimood_core.conv_compressor import ConvCompressor
from multimood_core.dialogues import Dialogue
from multimood_core.errors import DataError, ModelError
from multimood_core.model import MultiMoodForConditionalGeneration
from multimood_core.processor import MultiMoodProcessor
from multimood_core.records import HistoryTurn
from train.base import BaseConfig, build_base, read_model_config
from train.config import dump_config, load_config, run_command
from train.lineage import lineage
from train.loop import Loop, LossFunction, row_rngs
from train.plan import Plan, language_model_loss, meta_base, plan_training
from train.turns import DATA, data_hash, read_split

STAGES = ("utterances", "conversations")
# dt_proj's weight is read without its module, and so is out_proj's by transformers' kernels, which is why PEFT refuses it.
_LORA_TARGETS = ("in_proj", "x_proj")


@dataclass(frozen=True, slots=True)
class CompressorConfig(BaseConfig):
    """Settings of one stage of the compressor's training."""

    out: Path = field(default=Path("runs/compressor"), metadata={"help": "folder of the run"})
    data: Path = field(default=DATA, metadata={"help": "folder that the data stage wrote"})
    start: Path | None = field(default=None, metadata={"help": "an earlier stage's run to go on from"})
    mamba: Path | None = field(default=None, metadata={"help": "folder of a pretrained Mamba (paper: Mamba-370M); null: fresh"})
    stage: str = field(default="utterances", metadata={"help": " or ".join(STAGES)})
    max_turns: int = field(default=8, metadata={"help": "turns of a conversation at the most, in stage 2"})
    max_tokens: int = field(default=512, metadata={"help": "tokens of a sample at the most (released code: 512)"})
    label_dropout: float = field(default=0.3, metadata={"help": "part of the turns read without labels, as in a live session"})
    lora_rank: int = field(default=0, metadata={"help": "of LoRA on the Mamba (paper: 64); 0: all of it is trained"})
    lora_alpha: int = field(default=128, metadata={"help": "of LoRA on the Mamba (paper: 128)"})


class Reconstruction(nn.Module):
    """The compressor in front of a frozen language model."""

    def __init__(self, llm: PreTrainedModel, compressor: ConvCompressor) -> None:
        super().__init__()
        self.llm: PreTrainedModel = llm.requires_grad_(False).eval()
        self.compressor = compressor

    def forward(self, history: Tensor, mask: Tensor, target: Tensor, target_mask: Tensor) -> dict[str, Tensor]:
        """Cross-entropy and token accuracy of ``target`` (B, T) given the ``<MEM>`` states of ``history`` (B, H)."""
        embed = self.llm.get_input_embeddings()
        compressed = self.compressor(history, embed(history) if self.compressor.shared_embeddings else None, mask)
        counts = ((history == self.compressor.memory_token_id) & mask.bool()).sum(1)
        words = embed(target)
        memory = nn.utils.rnn.pad_sequence(
            compressed.memory.to(words).split(counts.tolist()), batch_first=True, padding_side="left"
        )
        states = memory.shape[1]
        present = torch.arange(states, 0, -1, device=counts.device) <= counts[:, None]
        attention = torch.cat([present, target_mask.bool()], 1).long()
        hidden = self.llm.base_model(
            inputs_embeds=torch.cat([memory, words], 1),
            attention_mask=attention,
            position_ids=(attention.cumsum(1) - 1).clamp(min=0),
        ).last_hidden_state
        kept = target_mask.bool()
        head = self.llm.get_output_embeddings()
        logits = head(hidden[:, states - 1 : -1][kept].to(head.weight.dtype)).float()
        expected = target[kept]
        return {
            "loss": F.cross_entropy(logits, expected),
            "accuracy": (logits.argmax(-1) == expected).float().mean(),
            "count": torch.tensor(float(len(expected))),  # the means are over tokens
        }


def units_of(dialogues: Sequence[Dialogue]) -> list[list[HistoryTurn]]:
    """Every dialogue as the compressor's units."""
    return [[HistoryTurn(t.speaker, t.text, t.emotion, t.strategy) for t in d.turns if t.text] for d in dialogues]


class CompressorTask:
    """Samples of one stage and their loss.

    Raises:
        DataError: an unknown stage.
    """

    def __init__(
        self, config: CompressorConfig, processor: MultiMoodProcessor, model: Reconstruction, dialogues: Sequence[Dialogue]
    ) -> None:
        if config.stage not in STAGES:
            raise DataError(f"Expected stage to be {' or '.join(STAGES)}, got {config.stage!r}.")
        self.config, self.processor, self.model = config, processor, model
        units = units_of(dialogues)
        if config.stage == "utterances":
            self.samples = [[turn] for dialogue in units for turn in dialogue]
        else:
            self.samples = [sample for dialogue in units for sample in self._stretches(dialogue) if len(sample) > 1]
        self.lengths = [sum(map(self._tokens, sample)) for sample in self.samples]

    def _tokens(self, turn: HistoryTurn) -> int:
        return len(self.processor.encode_history_turn(turn))

    def _stretches(self, dialogue: Sequence[HistoryTurn]) -> list[list[HistoryTurn]]:
        """The dialogue cut wherever ``max_turns`` or ``max_tokens`` are reached."""
        stretches: list[list[HistoryTurn]] = [[]]
        tokens = 0
        for turn in dialogue:
            size = self._tokens(turn)
            if len(stretches[-1]) == self.config.max_turns or tokens + size > self.config.max_tokens:
                stretches.append([])
                tokens = 0
            stretches[-1].append(turn)
            tokens += size
        return stretches

    def loss(self, batch: Sequence[int], rng: random.Random) -> Mapping[str, Tensor]:
        drawn = row_rngs(batch, rng)
        rows = [[self._read(turn, own) for turn in self.samples[i]] for i, own in zip(batch, drawn, strict=True)]
        history, mask = self.processor.pad([[token for unit in row for token in unit] for row in rows])
        # The model writes the units one after the other; each <MEM> stands where a unit ends.
        device = self.model.compressor.memory_projection.weight.device
        target, target_mask = history.to(device), mask.to(device)
        return self.model(history.to(device), mask.to(device), target, target_mask)

    def _read(self, turn: HistoryTurn, rng: random.Random) -> list[int]:
        if rng.random() < self.config.label_dropout:
            turn = HistoryTurn(turn.speaker, turn.text)
        return self.processor.encode_history_turn(turn)

    @torch.no_grad()
    def evaluate(self, measure: Callable[[LossFunction, Sequence[int], random.Random], Mapping[str, Tensor]]) -> dict[str, float]:
        """Cross-entropy and token accuracy over all samples, the same draws each time.

        Args:
            measure: computes a batch's metrics (``Loop.measure``).
        """
        rng, total, tokens = random.Random(0), {"loss": 0.0, "accuracy": 0.0}, 0.0
        for i in range(0, len(self.samples), 16):
            found = dict(measure(self.loss, range(i, min(i + 16, len(self.samples))), rng))
            count = float(found.pop("count"))
            tokens += count
            for key, value in found.items():
                total[key] += count * float(value)
        return {key: value / tokens for key, value in total.items()}


def load_compressor(model: MultiMoodForConditionalGeneration, folder: Path) -> None:
    """Put a trained compressor into the model.

    Raises:
        ModelError: the model has none, or the folder holds one of other sizes.
    """
    compressor = model.model.compressor
    if compressor is None:
        raise ModelError("Expected a model with a compressor; give compressor_config in the model's configuration.")
    try:
        compressor.load_state_dict(load_file(folder / "compressor.safetensors"))
    except (OSError, RuntimeError) as cause:
        raise ModelError(f"Expected a compressor of the model's sizes in {folder}: {cause}") from cause


def build(config: CompressorConfig) -> tuple[MultiMoodProcessor, Reconstruction]:
    """The processor, and a fresh, pretrained or continued compressor in front of the base's frozen language model."""
    model, processor = build_base(config, read_model_config(config.model))
    compressor = model.model.compressor
    if compressor is None:
        raise ModelError(f"Expected compressor_config in {config.model}, which is what this stage trains.")
    torch.manual_seed(config.seed)
    for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        with torch.no_grad():  # <MEM> ends a turn that is written again, so it needs rows: the mean word's
            table[compressor.memory_token_id] = table.float().mean(0)
    compressor.float().requires_grad_(True)
    if config.start:
        load_compressor(model, config.start)
    else:
        _first_values(compressor, config, model)
    adapt(compressor, config)
    # The language model alone: towers and projectors have no part in this stage, and the compressor is held once.
    model.model.compressor = None
    reconstruction = Reconstruction(model, compressor)
    # Layers recompute in training mode alone; these language models have no dropout that it would turn on.
    reconstruction.llm.train(config.checkpointing)
    return processor, reconstruction


def _first_values(compressor: ConvCompressor, config: CompressorConfig, model: MultiMoodForConditionalGeneration) -> None:
    if config.mamba:
        pretrained = MambaModel.from_pretrained(config.mamba)
        pretrained.resize_token_embeddings(compressor.config.vocab_size)
        try:
            compressor.mamba.load_state_dict(pretrained.state_dict())
        except RuntimeError as cause:
            raise ModelError(f"Expected a Mamba of the sizes in {config.model} in {config.mamba}: {cause}") from cause
    else:
        compressor.mamba = MambaModel(compressor.config)
    # The states stand among word embeddings: begin at their scale.
    spread = model.get_input_embeddings().weight.detach().float().std()
    nn.init.normal_(compressor.memory_projection.weight, std=float(spread) / compressor.config.hidden_size**0.5)
    nn.init.zeros_(compressor.memory_projection.bias)
    if compressor.shared_embeddings:
        compressor.embedding_projection.reset_parameters()


def adapt(compressor: ConvCompressor, config: CompressorConfig) -> None:
    """With ``lora_rank``, put LoRA on the Mamba and freeze it; word embeddings and the projections around it stay trained.

    The scan reads A, D and the convolution as they are: LoRA is on the products before it.
    """
    if config.lora_rank:
        lora = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=list(_LORA_TARGETS))
        compressor.mamba = cast(MambaModel, get_peft_model(cast(PreTrainedModel, compressor.mamba), lora))
        compressor.mamba.get_input_embeddings().requires_grad_(True)


def merged(compressor: ConvCompressor) -> dict[str, Tensor]:
    """The compressor's weights, LoRA merged into those it adapts."""
    adapted: Any = compressor.mamba
    if isinstance(adapted, PeftModel):
        compressor = copy.deepcopy(compressor)
        compressor.mamba = cast(Any, compressor.mamba).merge_and_unload()
    return {name: value.detach().cpu().contiguous() for name, value in compressor.state_dict().items()}


def plan(config: CompressorConfig, args: argparse.Namespace) -> Plan:
    """What the run takes; the scan is counted as transformers runs it, step by step (mamba-ssm keeps less)."""
    model, processor = meta_base(config, read_model_config(config.model))
    compressor = model.model.compressor
    if compressor is None:
        raise ModelError(f"Expected compressor_config in {config.model}, which is what this stage trains.")
    task = CompressorTask(config, processor, Reconstruction(model, compressor), read_split("mesc", "train", config.data))
    model.requires_grad_(False)
    compressor.float().requires_grad_(True)
    adapt(compressor, config)

    def loss(rows: int, width: int) -> Callable[[], Tensor]:
        def both() -> Tensor:
            hidden = torch.empty(rows, width, compressor.config.hidden_size, device="meta").requires_grad_(True)
            mask, state = torch.ones(rows, width, dtype=torch.long, device="meta"), compressor.initial_state(rows)
            for layer, conv, ssm in zip(compressor.mamba.layers, state.conv, state.ssm, strict=True):
                hidden = hidden + compressor._mix(layer.mixer, layer.norm(hidden), mask, conv, ssm)[0]
            return hidden.mean() + language_model_loss(model.train(), rows, width, width)()

        return both

    units = sum(map(len, task.samples)) / len(task.samples)
    tokens = {"text read": sum(task.lengths) / len(task.lengths), "states": units}
    return plan_training(config, args, "compressor", model, task.lengths, loss, tokens)


def main(argv: Sequence[str] | None = None) -> None:
    config, args = load_config(CompressorConfig, argv, __doc__ or "")
    if args.dry_run:
        print(plan(config, args).table())
        return
    processor, model = build(config)
    task = CompressorTask(config, processor, model, read_split("mesc", "train", config.data))
    validation = CompressorTask(config, processor, model, read_split("mesc", "val", config.data))
    loop = Loop(config, model, task.lengths, task.loss, config.out)
    loop.run(args.resume, lambda: validation.evaluate(loop.measure))
    whole = loop.whole(lambda: build(config)[1])
    told = lineage("compressor", config, {"start": config.start}, data_hash(["mesc"], "train", config.data), loop.step)

    def fill(folder: Path) -> None:
        save_file(merged(whole().compressor), folder / "compressor.safetensors")
        (folder / "lineage.json").write_text(json.dumps(told, indent=1) + "\n")
        dump_config(config, folder / "config.yaml")

    loop.finish(config.out / "final", fill)


if __name__ == "__main__":
    run_command(main)
