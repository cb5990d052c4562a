"""How much a trained compressor saves, and how much of the turns is left: token reduction and reconstruction.

    python -m train.reconstruct --config train/configs/compressor_mini.yaml --start=runs/compressor-2/final \
        --split=val --items=100 --report=R.json

Token reduction is that of the paper: over a split's items, tokens of the history as text against its ``<MEM>`` states (one a
turn). Reconstruction is what the frozen language model writes from the states alone: next-token accuracy with the right
words before it, and ROUGE-L of the turn written freely (greedily), with 95 % bootstrap intervals over ``items`` samples.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rouge_score.rouge_scorer import RougeScorer
from tqdm import tqdm

from multimood_core.bootstrap import interval, mean_of, resamples
from multimood_core.dialogues import Dialogue, items_of
from multimood_core.errors import DataError
from multimood_core.processor import MultiMoodProcessor
from multimood_core.prompts import MEMORY_TOKEN
from multimood_core.records import HistoryTurn
from train.compressor import STAGES, CompressorConfig, CompressorTask, Reconstruction, build
from train.config import load_config, run_command
from train.files import write_file
from train.turns import read_split


@dataclass(frozen=True, slots=True)
class ReconstructConfig(CompressorConfig):
    """What is measured, beside the compressor's own settings."""

    split: str = field(default="val", metadata={"help": "train, val or test"})
    items: int = field(default=100, metadata={"help": "samples that are written again, drawn by the seed; 0: none"})
    report: Path | None = field(default=None, metadata={"help": "JSON with everything"})


def token_reduction(processor: MultiMoodProcessor, dialogues: Sequence[Dialogue]) -> dict[str, float]:
    """Mean tokens of an item's history as text and compressed, and what is saved (paper: 98.6 %)."""
    text, states = [], []
    for item in items_of(dialogues):
        history = item.history()
        text.append(processor.history_text_tokens(history))
        states.append(len(history))
    saved = 1 - sum(states) / sum(text)
    return {"items": len(text), "text": float(np.mean(text)), "states": float(np.mean(states)), "reduction": saved}


@torch.no_grad()
def write_again(model: Reconstruction, processor: MultiMoodProcessor, turns: Sequence[HistoryTurn]) -> list[list[int]]:
    """What the language model writes from the states of ``turns``: for each turn its tokens up to ``<MEM>``."""
    units = [processor.encode_history_turn(turn) for turn in turns]
    history = torch.tensor([[token for unit in units for token in unit]])
    embed = model.llm.get_input_embeddings()
    shared = embed(history) if model.compressor.shared_embeddings else None
    memory = model.compressor(history, shared, torch.ones_like(history)).memory
    step, cache = memory[None].to(embed.weight), None
    written: list[list[int]] = [[] for _ in units]
    turn, memory_id = 0, processor.tokenizer.convert_tokens_to_ids(MEMORY_TOKEN)
    for _ in range(2 * history.shape[1]):
        out = model.llm.base_model(inputs_embeds=step, past_key_values=cache, use_cache=True)
        cache, head = out.past_key_values, model.llm.get_output_embeddings()
        token = int(head(out.last_hidden_state[:, -1].to(head.weight.dtype)).argmax(-1))
        if token == memory_id:
            turn += 1
            if turn == len(units):
                break
        else:
            written[turn].append(token)
        step = embed(torch.tensor([[token]]))
    return written


def reconstruction(task: CompressorTask, items: int, seed: int) -> dict[str, Any]:
    """Token accuracy and ROUGE-L of samples drawn from the task's."""
    chosen = sorted(random.Random(seed).sample(range(len(task.samples)), min(items, len(task.samples))))
    scorer = RougeScorer(["rougeL"])
    right, tokens, rouge, sample = [], [], [], []
    for index in tqdm(chosen, desc=task.config.stage):
        found = task.loss([index], random.Random(seed))
        tokens.append(float(found["count"]))
        right.append(float(found["accuracy"]) * tokens[-1])
        turns = task.samples[index]
        said = write_again(task.model, task.processor, turns)
        for turn, written in zip(turns, said, strict=True):
            words = _words(task.processor, task.processor.encode_history_turn(turn)[:-1])
            rouge.append(scorer.score(words, _words(task.processor, written))["rougeL"].fmeasure)
            sample.append(str(index))
    share = interval(lambda w: (w @ np.array(right)) / (w @ np.array(tokens)), resamples([str(index) for index in chosen]))
    return {
        "samples": len(chosen),
        "turns": len(rouge),
        "tokens": sum(tokens),
        "token_accuracy": asdict(share),
        "rouge_l": asdict(interval(mean_of(rouge), resamples(sample))),
    }


def _words(processor: MultiMoodProcessor, ids: Sequence[int]) -> str:
    return processor.tokenizer.decode(list(ids))


def main(argv: Sequence[str] | None = None) -> None:
    config, args = load_config(ReconstructConfig, argv, __doc__ or "")
    if config.start is None:
        raise DataError("Expected a trained compressor as --start=FOLDER, such as runs/compressor-2/final.")
    dialogues = read_split("mesc", config.split, config.data)
    if args.dry_run:
        print(json.dumps({"dialogues": len(dialogues), "items": config.items, "stages": STAGES}))
        return
    processor, model = build(config)
    model.eval()
    report: dict[str, Any] = {
        "data": "mesc",
        "split": config.split,
        "compressor": str(config.start),
        "token_reduction": token_reduction(processor, dialogues),
    }
    for stage in STAGES if config.items else ():
        settings = replace(config, stage=stage, label_dropout=0.0)
        task = CompressorTask(settings, processor, model, dialogues)
        with torch.no_grad():
            report[stage] = reconstruction(task, config.items, config.seed)
    print(json.dumps(report, indent=1))
    if config.report:
        write_file(config.report, lambda path: path.write_text(json.dumps(report, indent=1) + "\n"))


if __name__ == "__main__":
    run_command(main)
