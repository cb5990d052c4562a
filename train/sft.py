"""Supervised fine-tuning: LoRA on the language model, projectors and compressor frozen (paper, Experimental setup).

    python -m train.sft --config train/configs/sft_mini.yaml [--key=value ...] [--resume] [--dry-run]

Learnt are the answer's four lines. A label's line and the reply's line weigh what the configuration says, whatever their
number of tokens, since one label token among twenty of a reply would hardly be heard. ``quantise: nf4`` makes it QLoRA.
What is learnt from, and where that departs from the paper, is in ``train.mixture``.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from multimood_core.config import MultiMoodConfig
from multimood_core.model import MultiMoodForConditionalGeneration
from multimood_core.processor import MultiMoodProcessor
from multimood_core.registry import Calibration, load_modules, save
from train.base import add_lora, audio_tokens, build_base, read_model_config
from train.compressor import load_compressor
from train.config import dump_config, load_config, run_command
from train.lineage import lineage
from train.loop import Loop
from train.mixture import CORPUS, SENTENCES, Encoded, SftConfig, SftTask, build_task, shape_of
from train.plan import Plan, language_model_loss, meta_base, plan_training, projector_operations
from train.turns import data_hash, read_clips, read_split

__all__ = ["Encoded", "SftConfig", "SftTask", "build", "build_task", "main"]


def build(config: SftConfig) -> tuple[MultiMoodForConditionalGeneration, MultiMoodProcessor]:
    """The base with aligned projectors, trained compressor and fresh LoRA; only LoRA and mode embeddings are trained."""
    torch.manual_seed(config.seed)
    aligned = config.projectors
    model_config = MultiMoodConfig.from_pretrained(aligned) if aligned else read_model_config(config.model)
    model, processor = build_base(config, model_config)
    if aligned:
        load_modules(model, aligned / "modules.safetensors")
    if config.compressor:
        load_compressor(model, config.compressor)
    words = model.get_input_embeddings().weight.detach()
    no = processor.tokenizer(" none", add_special_tokens=False).input_ids
    for table in (model.model.video_mode, model.model.audio_mode, model.model.history_mode):
        with torch.no_grad():
            noise = 0.1 * words.std() * torch.randn(table.weight.shape).to(words)
            table.weight.copy_(words[no].float().mean(0) + noise)
    add_lora(model, config.rank, config.alpha, config.lora_dropout)
    return model, processor


def plan(config: SftConfig, args: argparse.Namespace) -> Plan:
    """What the run takes; a turn's media are counted at the most frames and seconds, as often as the configuration says."""
    model_config = shape_of(config)
    model, processor = meta_base(config, model_config)
    task = SftTask(replace(config, sentences=0), model, processor, read_split(CORPUS, "train", config.data), [])
    add_lora(model, config.rank, config.alpha, config.lora_dropout)
    video, audio = model_config.video_tokens(model_config.num_frames), audio_tokens(model_config)
    means = dict.fromkeys(("video", "audio", "turns", "text"), 0.0)

    def with_media(index: int, length: int, rng: random.Random) -> int:
        parts = task.parts(index, length, rng)
        for name, count in parts.items():
            means[name] += count / len(task.items) / 2  # of two draws
        return sum(parts.values())

    rng = random.Random(config.seed)
    lengths = [with_media(i, length, rng) for i, length in enumerate(task.lengths)]
    redrawn = [with_media(i, len(task.encode(i, rng, read=False).ids), rng) for i in range(len(task.items))]
    short = round(means["text"] / 2)  # a clip alone: the same prompt without words and turns
    for names, count in ((config.voices, audio), (config.faces, video)):
        for name in names:
            clips = len(read_clips(name, "train", config.data, config.data_sets))
            lengths += [short + count] * (clips * config.clips)
            redrawn += [short + count] * (clips * config.clips)
    some = range(0, len(task.items), 20)
    learnt = math.ceil(sum(sum(map(bool, task.encode(i, rng).weights)) for i in some) / len(some))
    tokens = {f"video (at most {video})": means["video"], f"audio (at most {audio})": means["audio"]}
    tokens |= {"turns": means["turns"], "text": means["text"]}

    def loss(rows: int, width: int) -> Callable[[], Tensor]:
        return language_model_loss(model.train(), rows, width, learnt)

    besides = projector_operations(model, means["video"], means["audio"])
    return plan_training(config, args, "sft", model, lengths, loss, tokens, besides, redrawn)


def main(argv: Sequence[str] | None = None) -> None:
    config, args = load_config(SftConfig, argv, __doc__ or "")
    if args.dry_run:
        print(plan(config, args).table())
        return
    model, processor = build(config)
    task = build_task(config, model, processor)
    loop = Loop(config, model, task.lengths, task.loss, config.out)
    model.train()
    loop.run(args.resume)
    whole = loop.whole(lambda: build(config)[0])
    corpora = [CORPUS, *config.voices, *config.faces, *config.films, *([SENTENCES] if config.sentences else [])]
    parents = {"projectors": config.projectors, "compressor": config.compressor}
    if Path(config.base).is_dir():
        parents["base"] = Path(config.base)
    told = lineage("sft", config, parents, data_hash(corpora, "train", config.data), loop.step)

    def fill(folder: Path) -> None:
        save(folder, whole(), Calibration(), told)
        dump_config(config, folder / "config.yaml")

    loop.finish(config.out / "final", fill)


if __name__ == "__main__":
    run_command(main)
