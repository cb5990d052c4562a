"""The projectors' alignment: voices by label, faces mostly by their tower's opinion, words as the place to go to."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from multimood_core.dialogues import write_dialogues
from multimood_core.errors import ModelError
from multimood_core.face_tower import FACE_CLASS_COUNTS, FACE_CLASSES
from multimood_core.labels import MEDIA_EMOTIONS
from multimood_core.siglip_tower import SiglipTower
from tests.multimood_core.tiny import tiny_model
from train import projectors
from train.features import TurnViews
from train.loop import Loop
from train.projectors import ProjectorConfig, ProjectorTask, Sample, collect, label_embeddings
from train.turns import Clip, clip_dialogue


def voices(count: int = 36) -> list[Sample]:
    """Sounds of different lengths, whose emotion shows in one feature each."""
    gen, made = torch.Generator().manual_seed(0), []
    for number in range(count):
        view = 0.3 * torch.randn(2 + number % 3, 24, generator=gen)
        view[:, number % 6] += 2
        made.append(Sample("voice", [view], number % 6, 1.0, "v"))
    return made


def faces(count: int = 24) -> list[Sample]:
    """Pictures whose tower has an opinion: the emotion's logit stands out."""
    gen, made = torch.Generator().manual_seed(1), []
    for number in range(count):
        view = torch.randn(1, 16, 135, generator=gen)
        view[..., -7:] = 0
        view[..., -7 + FACE_CLASSES.index(MEDIA_EMOTIONS[number % 6])] = 6
        made.append(Sample("face", [view], number % 6, 1.0, "f"))
    return made


def make_task(**settings: object) -> ProjectorTask:
    model, processor = tiny_model()
    words = label_embeddings(model, processor.tokenizer)
    base = model.model.requires_grad_(False)
    for part in (base.vision_projector, base.audio_projector, base.expression_heads):
        part.requires_grad_(True)
    return ProjectorTask(dataclasses.replace(ProjectorConfig(), **settings), base, [*voices(), *faces()], words)


def test_the_words_embeddings_are_the_means_of_their_tokens() -> None:
    model, processor = tiny_model()
    words = label_embeddings(model, processor.tokenizer)
    table = model.get_input_embeddings().weight
    ids = processor.tokenizer(" fear", add_special_tokens=False).input_ids
    torch.testing.assert_close(words[MEDIA_EMOTIONS.index("fear")], table[ids].mean(0))


def test_the_towers_standardise_by_the_unchanged_views() -> None:
    task = make_task()
    plain = torch.cat([sample.views[0] for sample in voices()])
    torch.testing.assert_close(task.towers["voice"].feature_mean, plain.mean(0))
    torch.testing.assert_close(task.towers["voice"].feature_std, plain.std(0) + 1e-4)


def test_a_voices_target_is_its_label_and_a_faces_mostly_its_towers_opinion() -> None:
    task = make_task(smoothing=0.12, teacher=0.75, disgust=0.0)
    voice = task._targets(task.samples[1], task.samples[1].views[0])
    expected = torch.full((6,), 0.02)
    expected[1] = 0.9
    torch.testing.assert_close(voice, expected)

    face = Sample("face", [torch.zeros(1, 16, 135)], 0, 1.0, "f")  # an opinion of nothing: the prior is taken out
    counts = torch.tensor([FACE_CLASS_COUNTS[FACE_CLASSES.index(e)] for e in MEDIA_EMOTIONS], dtype=torch.float)
    opinion = (1 / counts) / (1 / counts).sum()
    hard = torch.full((6,), 0.02)
    hard[0] = 0.9
    torch.testing.assert_close(task._targets(face, face.views[0]), 0.75 * opinion + 0.25 * hard)


def test_padding_a_shorter_sound_changes_nothing() -> None:
    task = make_task()
    views = [sample.views[0] for sample in task.samples[:3]]
    assert len({len(view) for view in views}) == 3
    together = task.project("voice", views)
    for row, view in zip(together, views, strict=True):
        torch.testing.assert_close(row, task.project("voice", [view])[0], atol=1e-5, rtol=1e-5)


def test_every_corpus_and_every_emotion_weighs_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    emotions = {"big": ["joy"] * 6 + ["anger"] * 2, "small": ["joy", "anger"], "pictures": ["fear"], "films": ["joy", "joy"]}
    for name, labels in emotions.items():
        (tmp_path / name).mkdir()
        clips = [clip_dialogue(Clip(tmp_path / f"{name}/{i}", e, ""), "train", tmp_path) for i, e in enumerate(labels)]
        write_dialogues(tmp_path / name / "train.jsonl", clips)

    class Ready:
        def compute(self, clips: list[Clip], modality: str) -> list[list[torch.Tensor]]:
            return [[torch.zeros(1, 1)] for _ in clips]

        def turns(self, paths: list[Path]) -> list[TurnViews]:
            views: Any = [torch.zeros(1, 1)]  # of the second film nothing is heard
            return [TurnViews(video=views, audio=views if path.name == "0" else None) for path in paths]

    monkeypatch.setattr(projectors, "cache_of", lambda config, towers: Ready())
    config = ProjectorConfig(
        voices=("big", "small"), faces=("pictures",), films=("films",), data=tmp_path, root=tmp_path
    )
    samples = collect(config)
    assert Counter((s.modality, s.corpus) for s in samples) == {
        ("voice", "big"): 8, ("voice", "small"): 2, ("voice", "films"): 1, ("face", "films"): 2, ("face", "pictures"): 1,
    }  # fmt: skip
    sums: dict[tuple[str, int], float] = {}
    for sample in samples:
        if sample.corpus in ("big", "small"):
            sums[sample.corpus, sample.emotion] = sums.get((sample.corpus, sample.emotion), 0) + sample.weight
    assert len({round(total, 6) for total in sums.values()}) == 1
    assert sum(s.weight for s in samples if s.modality == "voice") == pytest.approx(11)


def test_a_film_of_several_frames_and_a_picture_share_a_batch() -> None:
    task = make_task()
    film, picture = torch.randn(5, 16, 135), torch.randn(1, 16, 135)
    together = task.project("face", [film, picture])
    for row, view in zip(together, (film, picture), strict=True):
        torch.testing.assert_close(row, task.project("face", [view])[0], atol=1e-5, rtol=1e-5)


def test_towers_of_the_papers_scale_are_refused() -> None:
    model, _ = tiny_model()
    base = model.model
    base.vision_tower = SiglipTower.__new__(SiglipTower)
    torch.nn.Module.__init__(base.vision_tower)
    with pytest.raises(ModelError, match="Expected the towers voice and face"):
        _ = base.embedded_towers


def test_a_short_run_learns_to_tell_the_emotions(tmp_path: Path) -> None:
    task = make_task(dropout=0.0)
    config = ProjectorConfig(epochs=40, lr=1e-2, batch_tokens=20, precision="no", out=tmp_path / "run")
    everything = list(range(len(task.samples)))
    with torch.no_grad():
        before = task.loss(everything, random.Random(0))
    Loop(config, task.model, [1] * len(task.samples), task.loss, config.out).run()
    with torch.no_grad():
        after = task.loss(everything, random.Random(0))
    assert float(after["loss"]) < 0.7 * float(before["loss"])
    assert float(after["right"]) > 0.8
