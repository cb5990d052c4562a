"""The projectors' alignment: voices by label, faces mostly by their tower's opinion, words as the place to go to."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
import torch

from multimood_core.errors import ModelError
from multimood_core.face_tower import FACE_CLASS_COUNTS, FACE_CLASSES
from multimood_core.labels import MEDIA_EMOTIONS
from multimood_core.siglip_tower import SiglipTower
from tests.multimood_core.tiny import tiny_model
from train import projectors
from train.data import Clip, ClipFolder
from train.loop import Loop
from train.projectors import ProjectorConfig, ProjectorTask, Sample, collect, label_embeddings, trained_on


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
    torch.testing.assert_close(task.voice.feature_mean, plain.mean(0))
    torch.testing.assert_close(task.voice.feature_std, plain.std(0) + 1e-4)


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


def test_every_corpus_and_every_emotion_weighs_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    emotions = {"big": ["joy"] * 6 + ["anger"] * 2, "small": ["joy", "anger"], "pictures": ["fear"]}
    corpora = {name: [Clip(Path(f"{name}/{i}"), e, "") for i, e in enumerate(es)] for name, es in emotions.items()}
    monkeypatch.setattr(projectors, "trained_on", corpora.__getitem__)

    class Ready:
        def __init__(self, towers: object) -> None: ...

        def compute(self, clips: list[Clip], modality: str) -> list[list[torch.Tensor]]:
            return [[torch.zeros(1, 1)] for _ in clips]

    monkeypatch.setattr(projectors, "ClipFeatures", Ready)
    samples = collect(ProjectorConfig(voice_data=("big", "small"), face_data=("pictures",)), None)  # type: ignore[arg-type]
    sums: dict[tuple[str, int], float] = {}
    for sample in samples:
        sums[sample.corpus, sample.emotion] = sums.get((sample.corpus, sample.emotion), 0) + sample.weight
    assert len({round(total, 6) for (corpus, _), total in sums.items() if corpus != "pictures"}) == 1
    assert sum(s.weight for s in samples if s.modality == "voice") == pytest.approx(10)


def test_people_kept_apart_are_not_trained_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clips = tuple(Clip(tmp_path / str(i), "joy", speaker) for i, speaker in enumerate(("01", "17", "20", "24")))
    monkeypatch.setattr(projectors, "data_root", lambda: tmp_path)
    monkeypatch.setattr(projectors, "read_clip_folder", lambda folder: ClipFolder(clips, {}))
    assert [clip.speaker for clip in trained_on("ravdess_speech")] == ["01", "24"]
    assert len(trained_on("another")) == 4


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
