"""Align the projectors with the language model's word embeddings; towers and language model are frozen.

    python -m train.projectors --config train/configs/projectors_mini.yaml [--key=value ...] [--resume] [--dry-run]

The projected tokens of a labelled clip are pulled towards the embedding of the emotion's word (so that the language model
reads a sad voice about as it reads the word), and an expression head on their mean has to tell the emotions apart. Voices
are learnt from their labels. Faces are learnt mostly from the face tower's own class maps with the training set's prior
taken out: the few faces here were in that tower's own training, so their labels would only teach it to trust itself more.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from multimood_core.face_tower import FACE_CLASS_COUNTS, FACE_CLASSES, FaceTower
from multimood_core.labels import MEDIA_EMOTIONS
from multimood_core.model import MultiMoodForConditionalGeneration, MultiMoodModel
from multimood_core.registry import Calibration, save
from multimood_core.voice_tower import VoiceTower
from train.base import EMBEDDED, audio_tokens, build_base, read_model_config
from train.config import dump_config, load_config, run_command
from train.features import MediaConfig, Towers, cache_of, standardised
from train.lineage import lineage
from train.loop import Loop, row_rngs, touched
from train.plan import Plan, meta_base, plan_training
from train.turns import data_hash, read_clips


@dataclass(frozen=True, slots=True)
class ProjectorConfig(MediaConfig):
    """Settings of the projectors' alignment."""

    out: Path = field(default=Path("runs/projectors"), metadata={"help": "folder of the run"})
    dropout: float = field(default=0.3, metadata={"help": "of the tower's features"})
    smoothing: float = field(default=0.1, metadata={"help": "of the labels"})
    pull: float = field(default=0.5, metadata={"help": "weight of the pull towards the word's embedding"})
    teacher: float = field(default=1.0, metadata={"help": "part of a face's target that the face tower's class maps set"})
    disgust: float = field(default=0.5, metadata={"help": "added to the tower's logit of disgust, 1.5 % of its training"})


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled clip: what it is heard or seen in, its views, its emotion (index into ``MEDIA_EMOTIONS``) and weight."""

    modality: str
    views: Sequence[Tensor]
    emotion: int
    weight: float
    corpus: str


def collect(config: MediaConfig, towers: Towers | None = None) -> list[Sample]:
    """All labelled clips of the training splits; of one modality every corpus weighs the same, and in it every emotion."""
    features = cache_of(config, towers)
    found: dict[str, dict[str, list[tuple[str, Sequence[Tensor]]]]] = {"voice": {}, "face": {}}
    for modality, names in (("voice", config.voices), ("face", config.faces)):
        for name in names:
            clips = read_clips(name, "train", config.data, config.data_sets)
            computed = features.compute(clips, modality)
            found[modality][name] = [(clip.emotion, views) for clip, views in zip(clips, computed, strict=True)]
    for name in config.films:
        clips = read_clips(name, "train", config.data, config.data_sets)
        turns = features.turns([clip.path for clip in clips])
        pairs = list(zip(clips, turns, strict=True))
        found["voice"][name] = [(clip.emotion, turn.audio) for clip, turn in pairs if turn.audio]
        found["face"][name] = [(clip.emotion, turn.video) for clip, turn in pairs if turn.video]
    samples = []
    for modality, corpora in found.items():
        total = sum(map(len, corpora.values()))
        for name, labelled in corpora.items():
            counts = Counter(emotion for emotion, _ in labelled)
            for emotion, views in labelled:
                weight = total / len(corpora) / len(counts) / counts[emotion]
                samples.append(Sample(modality, views, MEDIA_EMOTIONS.index(emotion), weight, name))
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
        self.towers: dict[str, nn.Module] = {"voice": model.audio_tower, "face": model.vision_tower}
        for modality, tower in self.towers.items():
            plain = [sample.views[0].flatten(0, -2) for sample in samples if sample.modality == modality]
            if plain and isinstance(tower, FaceTower | VoiceTower):
                together = torch.cat(plain)
                tower.set_statistics(together.mean(0), together.std(0) + 1e-4)

    def _targets(self, sample: Sample, view: Tensor) -> Tensor:
        k, eps = len(MEDIA_EMOTIONS), self.config.smoothing
        hard = torch.full((k,), eps / k)
        hard[sample.emotion] += 1 - eps
        if sample.modality == "voice" or not isinstance(self.towers["face"], FaceTower):
            return hard
        opinion = view[..., -len(FACE_CLASSES) :].mean((0, 1))[self.order] - self.prior
        return self.config.teacher * opinion.softmax(-1) + (1 - self.config.teacher) * hard

    def project(self, modality: str, views: Sequence[Tensor], training: bool = False) -> Tensor:
        """Mean of the projected tokens (n, D_llm) of views of one modality."""
        device = self.words.device
        rows = [standardised(self.towers[modality], view.to(device)) for view in views]
        if modality == "face":  # a picture is a clip of two like frames
            rows = [row.expand(2, -1, -1) if len(row) == 1 else row for row in rows]
        counts = torch.tensor([len(row) for row in rows], device=device)
        stacked = F.dropout(nn.utils.rnn.pad_sequence(rows, batch_first=True), self.config.dropout, training)
        if modality == "face":
            return torch.stack([tokens.float().mean(0) for tokens in self.model.project_video(stacked, counts)])
        mask = torch.arange(stacked.shape[1], device=device) < counts[:, None]
        return torch.stack([tokens.float().mean(0) for tokens in self.model.project_audio(stacked, mask)])

    def loss(self, batch: Sequence[int], rng: random.Random) -> Mapping[str, Tensor]:
        losses, pulls, right = [], [], []
        drawn = dict(zip(batch, row_rngs(batch, rng), strict=True))
        for modality in ("voice", "face"):
            mine = [i for i in batch if self.samples[i].modality == modality]
            if not mine:
                continue
            samples = [self.samples[i] for i in mine]
            views = [s.views[drawn[i].randrange(len(s.views))] for i, s in zip(mine, samples, strict=True)]
            targets = torch.stack([self._targets(s, v) for s, v in zip(samples, views, strict=True)]).to(self.words)
            weights = torch.tensor([sample.weight for sample in samples]).to(self.words)
            means = self.project(modality, views, training=True)
            logits = self.model.expression_heads[modality](means)
            pull = (means - targets @ self.words).square().mean(-1) / self.words.var()
            losses.append(weights * (self.config.pull * pull - (targets * logits.log_softmax(-1)).sum(-1)))
            pulls.append(pull)
            truth = torch.tensor([sample.emotion for sample in samples], device=self.words.device)
            right.append((logits.argmax(-1) == truth).float())
        base = self.model
        parts = touched(base.vision_projector, base.audio_projector, base.expression_heads).to(losses[0].device)
        return {"loss": torch.cat(losses).mean() + parts, "pull": torch.cat(pulls).mean(), "right": torch.cat(right).mean()}


def train_only_projectors(model: MultiMoodForConditionalGeneration, words: Tensor) -> None:
    """Freeze all but projectors and expression heads; the heads begin by reading the words' own directions."""
    base = model.model
    model.requires_grad_(False)
    for part in (base.vision_projector, base.audio_projector, base.expression_heads):
        part.float().requires_grad_(True)
    centred = F.normalize(words - words.mean(0), dim=-1)
    for head in base.expression_heads.values():
        with torch.no_grad():
            head.weight.copy_(centred * 4 / words.norm(dim=-1).mean())
            nn.init.zeros_(head.bias)


def plan(config: ProjectorConfig, args: argparse.Namespace) -> Plan:
    """What the run takes; every clip is counted at the most frames or seconds."""
    model_config = read_model_config(config.model)
    model, _ = meta_base(config, model_config)
    model.requires_grad_(False)
    base, vision, audio = model.model, model_config.vision, model_config.audio
    for part in (base.vision_projector, base.audio_projector, base.expression_heads):
        part.float().requires_grad_(True)
    frames = 2 if config.base == EMBEDDED else model_config.num_frames
    counts = {m: sum(len(read_clips(n, "train", config.data, config.data_sets)) for n in names) for m, names in
              (("voice", [*config.voices, *config.films]), ("face", [*config.faces, *config.films]))}  # fmt: skip
    faces = counts["face"] / max(1, sum(counts.values()))

    def loss(rows: int, _: int) -> Callable[[], Tensor]:
        seen = max(1, round(rows * faces))
        pictures = torch.empty(seen, frames, vision.grid**2, vision.hidden_size, device="meta")
        sounds = torch.empty(max(1, rows - seen), audio_tokens(model_config), audio.hidden_size, device="meta")
        return lambda: base.vision_projector(pictures).mean() + base.audio_projector(sounds).mean()

    tokens = {"video": model_config.video_tokens(frames), "audio": audio_tokens(model_config)}
    return plan_training(config, args, "projectors", model, [1] * sum(counts.values()), loss, tokens)


def main(argv: Sequence[str] | None = None) -> None:
    config, args = load_config(ProjectorConfig, argv, __doc__ or "")
    corpora = [*config.voices, *config.faces, *config.films]
    if args.dry_run:
        print(plan(config, args).table())
        return
    model, processor = build_base(config, read_model_config(config.model))
    words = label_embeddings(model, processor.tokenizer)
    torch.manual_seed(config.seed)
    train_only_projectors(model, words)
    task = ProjectorTask(config, model.model, collect(config), words)
    loop = Loop(config, model, [1] * len(task.samples), task.loss, config.out)
    task.words = words.to(loop.device)
    loop.run(args.resume)
    whole = loop.whole(lambda: build_base(config, read_model_config(config.model))[0])
    told = lineage("projectors", config, {}, data_hash(corpora, "train", config.data), loop.step)

    def fill(folder: Path) -> None:
        save(folder, whole(), Calibration(), told, dtype=torch.float32)
        dump_config(config, folder / "config.yaml")

    loop.finish(config.out / "final", fill)


if __name__ == "__main__":
    run_command(main)
