"""Train the ConvCompressor: a frozen language model has to reconstruct the turns from their ``<MEM>`` states alone.

    python -m train.compressor --config train/configs/compressor_mini.yaml [--key=value ...] [--resume]

Stage 1 takes single turns, stage 2 whole conversations (paper, Experimental setup). The target is the very unit that was
read, role and labels included, so emotion and strategy have to survive the compression. One departure from the paper:
the mini language model is not quantised and the compressor is trained whole instead of by LoRA, as it is small.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, MambaConfig, PreTrainedModel

from multimood_core.conv_compressor import ConvCompressor
from multimood_core.dialogues import Dialogue
from multimood_core.processor import MultiMoodProcessor
from multimood_core.prompts import MEMORY_TOKEN
from multimood_core.records import HistoryTurn
from multimood_core.weights import weights_path
from train.config import dump_config, load_config, run_command
from train.data import read_mesc
from train.loop import Loop, LoopConfig, write_whole


@dataclass(frozen=True, slots=True)
class CompressorConfig(LoopConfig):
    """Settings of one stage of the compressor's training."""

    out: Path = field(default=Path("runs/compressor"), metadata={"help": "folder of the run"})
    start: Path | None = field(default=None, metadata={"help": "an earlier stage's run to go on from"})
    stage: str = field(default="utterances", metadata={"help": "utterances or conversations"})
    max_turns: int = field(default=8, metadata={"help": "turns of a conversation at the most, in stage 2"})
    label_dropout: float = field(default=0.3, metadata={"help": "part of the turns read without labels, as in a live session"})
    hidden_size: int = field(default=256, metadata={"help": "of the Mamba (paper scale: 1024)"})
    layers: int = field(default=3, metadata={"help": "of the Mamba (paper scale: 48)"})
    state_size: int = field(default=8, metadata={"help": "of the Mamba (paper scale: 16)"})


class Reconstruction(nn.Module):
    """The compressor in front of a frozen language model."""

    def __init__(self, llm: PreTrainedModel, compressor: ConvCompressor) -> None:
        super().__init__()
        self.llm: PreTrainedModel = llm.requires_grad_(False).eval()
        self.compressor = compressor

    def forward(self, history: Tensor, mask: Tensor, target: Tensor, target_mask: Tensor) -> dict[str, Tensor]:
        """Cross-entropy and token accuracy of ``target`` (B, T) given the ``<MEM>`` states of ``history`` (B, H)."""
        embed = self.llm.get_input_embeddings()
        compressed = self.compressor(history, embed(history), mask)
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
        logits = self.llm.get_output_embeddings()(hidden[:, states - 1 : -1][kept]).float()
        expected = target[kept]
        return {
            "loss": F.cross_entropy(logits, expected),
            "accuracy": (logits.argmax(-1) == expected).float().mean(),
        }


def units_of(dialogues: Sequence[Dialogue]) -> list[list[HistoryTurn]]:
    """Every dialogue as the compressor's units."""
    return [[HistoryTurn(t.speaker, t.text, t.emotion, t.strategy) for t in d.turns if t.text] for d in dialogues]


class CompressorTask:
    """Samples of one stage and their loss."""

    def __init__(
        self, config: CompressorConfig, processor: MultiMoodProcessor, model: Reconstruction, dialogues: Sequence[Dialogue]
    ) -> None:
        self.config, self.processor, self.model = config, processor, model
        units = units_of(dialogues)
        if config.stage == "utterances":
            self.samples = [[turn] for dialogue in units for turn in dialogue]
        else:
            size = config.max_turns
            self.samples = [d[i : i + size] for d in units for i in range(0, len(d), size) if len(d[i : i + size]) > 1]
        self.lengths = [sum(len(processor.encode_history_turn(turn)) for turn in sample) for sample in self.samples]

    def loss(self, batch: Sequence[int], rng: random.Random) -> Mapping[str, Tensor]:
        rows = [[self._read(turn, rng) for turn in self.samples[i]] for i in batch]
        history, mask = self.processor.pad([[token for unit in row for token in unit] for row in rows])
        # The model writes the units one after the other; each <MEM> stands where a unit ends.
        device = next(self.model.llm.parameters()).device
        target, target_mask = history.to(device), mask.to(device)
        return self.model(history.to(device), mask.to(device), target, target_mask)

    def _read(self, turn: HistoryTurn, rng: random.Random) -> list[int]:
        if rng.random() < self.config.label_dropout:
            turn = HistoryTurn(turn.speaker, turn.text)
        return self.processor.encode_history_turn(turn)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Mean loss and token accuracy over the samples, labels always read."""
        rng, total = random.Random(0), {"loss": 0.0, "accuracy": 0.0}
        batches = [range(i, min(i + 16, len(self.samples))) for i in range(0, len(self.samples), 16)]
        for batch in batches:
            for key, value in self.loss(list(batch), rng).items():
                total[key] += float(value) / len(batches)
        return total


def build(config: CompressorConfig) -> tuple[MultiMoodProcessor, Reconstruction]:
    """The processor, and a fresh or continued compressor in front of the embedded language model."""
    folder = weights_path("smollm2")
    processor = MultiMoodProcessor(AutoTokenizer.from_pretrained(folder), prompt="brief")
    llm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    llm.resize_token_embeddings(len(processor.tokenizer), mean_resizing=True)
    torch.manual_seed(config.seed)
    mamba = MambaConfig(
        vocab_size=1, hidden_size=config.hidden_size, num_hidden_layers=config.layers, state_size=config.state_size
    )
    memory_id = processor.tokenizer.convert_tokens_to_ids(MEMORY_TOKEN)
    compressor = ConvCompressor(mamba, llm.config.hidden_size, memory_id, shared_embeddings=True)
    if config.start:
        compressor.load_state_dict(load_file(config.start / "compressor.safetensors"))
    else:
        # The states stand among word embeddings: begin at their scale.
        spread = llm.get_input_embeddings().get_parameter("weight").detach().float().std()
        nn.init.normal_(compressor.memory_projection.weight, std=float(spread) / config.hidden_size**0.5)
        nn.init.zeros_(compressor.memory_projection.bias)
    return processor, Reconstruction(llm, compressor)


def main(argv: Sequence[str] | None = None) -> None:
    config, args = load_config(CompressorConfig, argv, __doc__ or "")
    processor, model = build(config)
    splits = read_mesc()
    task = CompressorTask(config, processor, model, splits["train"])
    validation = CompressorTask(config, processor, model, splits["val"])
    loop = Loop(config, model, task.lengths, task.loss, config.out)
    if args.dry_run:
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        print(f"{len(task.samples)} samples, {sum(task.lengths)} tokens, {loop.total_steps} steps, {trained} parameters")
        return
    loop.run(args.resume, validation.evaluate)

    def fill(folder: Path) -> None:
        save_file(model.compressor.state_dict(), folder / "compressor.safetensors")
        dump_config(config, folder / "config.yaml")

    write_whole(config.out / "final", fill)


if __name__ == "__main__":
    run_command(main)
