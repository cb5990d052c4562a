"""A toy policy with dialogues, voices and faces, for tests of what learns from rewards."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig

from multimood_core.dialogues import Dialogue, DialogueTurn
from multimood_core.labels import EMOTIONS
from multimood_core.records import CheckpointId
from multimood_core.registry import ADAPTER, Checkpoint
from multimood_core.rewards import ReplySituation, Reward
from tests.multimood_core.tiny import CALIBRATION, tiny_model
from train.mixture import SftConfig, SftTask
from train.policy import add_reference, train_adapter
from train.projectors import Sample
from train.rollouts import Situations

WORDS = ("alone", "angry", "tired", "lost", "calm", "happy", "afraid")
EVERYTHING = {"p_audio": 0.0, "p_video": 0.0, "p_both": 1.0, "no_labels": 0.0, "gold_history": 1.0}


def dialogues(count: int = 15, split: str = "train") -> list[Dialogue]:
    """Dialogues of two items; a client's second turn shows another emotion than the first."""
    made = []
    for number in range(count):
        first, second = number % 7, (number + 3) % 7
        turns = (
            DialogueTurn("client", f"I feel {WORDS[first]}", EMOTIONS[first]),
            DialogueTurn("therapist", "Since when?", "neutral", "open question"),
            DialogueTurn("client", f"so {WORDS[second]} today", EMOTIONS[second]),
            DialogueTurn("therapist", "and nobody listens to you", "joy", "restatement"),
        )
        made.append(Dialogue(str(number), split, turns))
    return made


def clips() -> list[Sample]:
    gen = torch.Generator().manual_seed(0)
    voices = [Sample("voice", [torch.randn(3, 24, generator=gen)], e, 0.7, "v") for e in range(6)]
    return voices + [Sample("face", [torch.randn(1, 16, 135, generator=gen)], e, 1.3, "f") for e in range(6)]


def toy_task(count: int = 15, split: str = "train", **settings: Any) -> SftTask:
    """The mixture over toy dialogues; by default every item has a voice, a face and gold labels in its history."""
    model, processor = tiny_model()
    config = dataclasses.replace(SftConfig(), **(EVERYTHING | settings))
    return SftTask(config, model, processor, dialogues(count, split), clips())


def toy_policy(count: int = 15, **settings: Any) -> tuple[Checkpoint, Situations]:
    """A policy whose adapter does something, with its reference, and its prompts."""
    task = toy_task(count, **settings)
    layers = r".*language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj"
    torch.manual_seed(1)
    task.model.add_adapter(LoraConfig(r=4, target_modules=layers, init_lora_weights=False), adapter_name=ADAPTER)
    train_adapter(task.model)
    add_reference(task.model)
    checkpoint = Checkpoint(CheckpointId("toy", "0" * 64), Path("toy"), task.model.train(), task.processor, CALIBRATION)
    return checkpoint, Situations(task)


def share_of_letter(situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[Reward]:
    """A reward that a toy model can learn: the share of a reply's letters that are an "e"."""
    values = [reply.count("e") / max(1, len(reply)) for reply in replies]
    return [Reward(value, {"letters": value}) for value in values]
