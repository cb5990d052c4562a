"""Align the projectors with the language model's word embeddings; towers and language model are frozen.

    python -m train.projectors --config train/configs/projectors_mini.yaml [--key=value ...]

The projected tokens of a labelled clip are pulled towards the embedding of the emotion's word (so that the language model
reads a sad voice about as it reads the word), and an expression head on their mean has to tell the emotions apart. Voices
are learnt from their labels. Faces are learnt mostly from the tower's own class maps with the training set's prior taken
out: the few faces here were in the tower's own training, so their labels would only teach it to trust itself more.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from multimood_core.config import MultiMoodConfig
from multimood_core.face_tower import FACE_CLASS_COUNTS, FACE_CLASSES
from multimood_core.labels import MEDIA_EMOTIONS
from multimood_core.model import MultiMoodForConditionalGeneration, MultiMoodModel
from multimood_core.registry import Calibration, build_embedded, save
from train.config import dump_config, load_config, run_command
from train.data import HELD_OUT_SPEAKERS, Clip, data_root, read_clip_folder
from train.features import ClipFeatures, Towers
from train.loop import Loop, LoopConfig, write_whole


@dataclass(frozen=True, slots=True)
class ProjectorConfig(LoopConfig):
    """Settings of the projectors' alignment."""

    out: Path = field(default=Path("runs/projectors"), metadata={"help": "folder of the run"})
    model: Path = field(default=Path("train/configs/model_mini.yaml"), metadata={"help": "MultiMoodConfig as YAML"})
    voice_data: tuple[str, ...] = field(default=("ravdess_speech", "emodb"), metadata={"help": "labelled sounds"})
    face_data: tuple[str, ...] = field(default=("fer2013",), metadata={"help": "labelled face pictures"})
    dropout: float = field(default=0.3, metadata={"help": "of the tower's features"})
    smoothing: float = field(default=0.1, metadata={"help": "of the labels"})
    pull: float = field(default=0.5, metadata={"help": "weight of the pull towards the word's embedding"})
    teacher: float = field(default=1.0, metadata={"help": "part of a face's target that its tower's class maps set"})
    disgust: float = field(default=0.5, metadata={"help": "added to the tower's logit of disgust, 1.5 % of its training"})


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled clip: its views and what it should look like, (6,) over ``MEDIA_EMOTIONS``."""

    modality: str
    views: list[Tensor]
    emotion: int
    weight: float
    corpus: str


def trained_on(name: str) -> list[Clip]:
    """Clips of a folder without the people who are kept apart."""
    apart = HELD_OUT_SPEAKERS.get(name, set())
    return [clip for clip in read_clip_folder(data_root() / name).clips if clip.speaker not in apart]


def collect(config: ProjectorConfig, towers: Towers) -> list[Sample]:
    """All samples; of one modality every corpus weighs the same, and in it every emotion."""
    features = ClipFeatures(towers)
    samples = []
    for modality, names in (("voice", config.voice_data), ("face", config.face_data)):
        corpora = {name: trained_on(name) for name in names}
        total = sum(map(len, corpora.values()))
        for name, clips in corpora.items():
            counts = Counter(clip.emotion for clip in clips)
            for clip, views in zip(clips, features.compute(clips, modality), strict=True):
                weight = total / len(corpora) / len(counts) / counts[clip.emotion]
                samples.append(Sample(modality, views, MEDIA_EMOTIONS.index(clip.emotion), weight, name))
    return samples


def label_embeddings(model: MultiMoodForConditionalGeneration, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """The language model's embedding of each emotion's word (6, D_llm); of several tokens the mean."""
    table = model.get_input_embeddings().weight.detach().float()
    ids = [tokenizer(f" {e}", add_special_tokens=False).input_ids for e in MEDIA_EMOTIONS]
    return torch.stack([table[i].mean(0) for i in ids])


class ProjectorTask:
    """Samples, statistics and the loss of a batch."""

    def __init__(self, config: ProjectorConfig, model: MultiMoodModel, samples: Sequence[Sample], words: Tensor) -> None:
        self.config, self.model, self.samples, self.words = config, model, samples, words
        prior = torch.tensor(FACE_CLASS_COUNTS, dtype=torch.float).log()
        order = torch.tensor([FACE_CLASSES.index(e) for e in MEDIA_EMOTIONS])
        self.prior, self.order = prior[order], order
        self.prior[MEDIA_EMOTIONS.index("disgust")] -= config.disgust
        self.voice, self.face = model.embedded_towers
        for tower in (self.voice, self.face):
            plain = torch.cat([s.views[0].flatten(0, -2) for s in samples if s.modality == tower.name])
            tower.set_statistics(plain.mean(0), plain.std(0) + 1e-4)

    def _targets(self, sample: Sample, view: Tensor) -> Tensor:
        k, eps = len(MEDIA_EMOTIONS), self.config.smoothing
        hard = torch.full((k,), eps / k)
        hard[sample.emotion] += 1 - eps
        if sample.modality == "voice":
            return hard
        opinion = view[..., -len(FACE_CLASSES) :].mean((0, 1))[self.order] - self.prior
        return self.config.teacher * opinion.softmax(-1) + (1 - self.config.teacher) * hard

    def project(self, modality: str, views: Sequence[Tensor], training: bool = False) -> Tensor:
        """Mean of the projected tokens (n, D_llm) of views of one modality."""
        tower = self.voice if modality == "voice" else self.face
        counts = torch.tensor([len(view) for view in views])
        stacked = nn.utils.rnn.pad_sequence([(v - tower.feature_mean) / tower.feature_std for v in views], batch_first=True)
        stacked = F.dropout(stacked, self.config.dropout, training)
        if modality == "face":  # a picture is a clip of two like frames
            return self.model.vision_projector(stacked.expand(-1, 2, -1, -1)).mean(1)
        mask = torch.arange(stacked.shape[1]) < counts[:, None]
        return (self.model.audio_projector(stacked) * mask.unsqueeze(-1)).sum(1) / counts[:, None]

    def loss(self, batch: Sequence[int], rng: random.Random) -> Mapping[str, Tensor]:
        losses, pulls, right = [], [], []
        for modality in ("voice", "face"):
            samples = [self.samples[i] for i in batch if self.samples[i].modality == modality]
            if not samples:
                continue
            views = [sample.views[rng.randrange(len(sample.views))] for sample in samples]
            targets = torch.stack([self._targets(s, v) for s, v in zip(samples, views, strict=True)])
            weights = torch.tensor([sample.weight for sample in samples])
            means = self.project(modality, views, training=True)
            logits = self.model.expression_heads[modality](means)
            pull = (means - targets @ self.words).square().mean(-1) / self.words.var()
            losses.append(weights * (self.config.pull * pull - (targets * logits.log_softmax(-1)).sum(-1)))
            pulls.append(pull)
            right.append((logits.argmax(-1) == torch.tensor([s.emotion for s in samples])).float())
        return {"loss": torch.cat(losses).mean(), "pull": torch.cat(pulls).mean(), "right": torch.cat(right).mean()}


def main(argv: Sequence[str] | None = None) -> None:
    config, args = load_config(ProjectorConfig, argv, __doc__ or "")
    model_config = MultiMoodConfig(**yaml.safe_load(config.model.read_text()))
    model, processor = build_embedded(model_config)
    words = label_embeddings(model, processor.tokenizer)
    base = model.model
    base.requires_grad_(False)
    for part in (base.vision_projector, base.audio_projector, base.expression_heads):
        part.float().requires_grad_(True)
    torch.manual_seed(config.seed)
    centred = F.normalize(words - words.mean(0), dim=-1)
    for head in base.expression_heads.values():
        with torch.no_grad():  # read the pull's own direction from the first step on
            head.weight.copy_(centred * 4 / words.norm(dim=-1).mean())
            nn.init.zeros_(head.bias)
    task = ProjectorTask(config, base, collect(config, Towers.load()), words)
    loop = Loop(config, model, [1] * len(task.samples), task.loss, config.out)
    if args.dry_run:
        print(f"{len(task.samples)} samples, {loop.total_steps} steps")
        return
    loop.run(args.resume)
    lineage = {"stage": "projectors", "parent": None, "seed": config.seed}

    def fill(folder: Path) -> None:
        save(folder, model, Calibration(), lineage, dtype=torch.float32)
        dump_config(config, folder / "config.yaml")

    write_whole(config.out / "final", fill)


if __name__ == "__main__":
    run_command(main)
