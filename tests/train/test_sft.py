"""What SFT learns from: only the answer's lines weigh, history and media are mixed as configured."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig

from multimood_core.dialogues import Dialogue, DialogueTurn
from multimood_core.errors import DataError
from multimood_core.labels import EMOTIONS, MEDIA_EMOTIONS
from multimood_core.prompts import CLIENT_LINE, RESPONSE_LINE, STRATEGY_LINE, THERAPIST_LINE
from multimood_core.registry import ADAPTER
from tests.multimood_core.tiny import tiny_model
from train.loop import Loop, row_rngs
from train.mixture import USUAL_REPLY, Encoded, SftConfig, SftTask, like_proportions, predicted_history
from train.projectors import Sample

WORDS = ("alone", "angry", "tired", "lost", "calm", "happy", "afraid")
LONG_REPLY = "and nobody listens " * 60


def dialogues(count: int = 15) -> list[Dialogue]:
    """Dialogues of two items; a client's second turn shows another emotion than the first."""
    made = []
    for number in range(count):
        first, second = number % 7, (number + 3) % 7
        made.append(
            Dialogue(
                str(number),
                "train",
                (
                    DialogueTurn("client", f"I feel {WORDS[first]}", EMOTIONS[first]),
                    DialogueTurn("therapist", "Since when?", "neutral", "open question"),
                    DialogueTurn("client", f"so {WORDS[second]} today", EMOTIONS[second]),
                    DialogueTurn("therapist", LONG_REPLY, "joy", "restatement"),
                ),
            )
        )
    return made


def clips() -> list[Sample]:
    gen = torch.Generator().manual_seed(0)
    voices = [Sample("voice", [torch.randn(3, 24, generator=gen)], e, 0.7, "v") for e in range(6)]
    return voices + [Sample("face", [torch.randn(1, 16, 135, generator=gen)], e, 1.3, "f") for e in range(6)]


def make_task(**settings: object) -> SftTask:
    model, processor = tiny_model()
    return SftTask(dataclasses.replace(SftConfig(), **settings), model, processor, dialogues(), clips())


@pytest.fixture(scope="module")
def task() -> SftTask:
    return make_task()


def sentences(*emotions: str) -> list[Dialogue]:
    return [Dialogue(f"s{i}", "train", (DialogueTurn("client", f"sentence {i}", e),)) for i, e in enumerate(emotions)]


def test_sentences_teach_the_clients_emotion_alone() -> None:
    model, processor = tiny_model()
    config = dataclasses.replace(SftConfig(), sentences=14)
    task = SftTask(config, model, processor, dialogues(), clips(), sentences=sentences(*EMOTIONS * 3))
    assert len(task.sentences) > 7
    assert len(task.lengths) == len(task.items) + len(task.clips) + len(task.sentences)
    for i, sentence in enumerate(task.sentences):
        sample = task.encode(len(task.items) + len(task.clips) + i, random.Random(0))
        shown = processor.tokenizer.decode(sample.ids)
        assert sentence.turns[0].text in shown
        assert shown.endswith(f"{CLIENT_LINE} {sentence.turns[0].emotion}")
        assert set(sample.lines) == {-1, 0}
        assert sample.audio is sample.video is None
    assert torch.isfinite(task.loss([len(task.items) + len(task.clips)], random.Random(0))["loss"])


@given(st.integers(0, 60), st.integers(0, 1000))
def test_sentences_are_drawn_in_the_dialogues_proportions(count: int, seed: int) -> None:
    pool = sentences(*["joy", "fear", "sadness", "neutral"] * 60)
    shares: dict[str | None, int] = {"joy": 1, "sadness": 1, "depression": 1, "neutral": 3}
    found = Counter(d.turns[0].emotion for d in like_proportions(pool, shares, count, random.Random(seed)))
    assert found == Counter({e: n for e in found if (n := round(count * {"joy": 1, "sadness": 2, "neutral": 3}[e] / 6))})
    assert abs(found.total() - count) <= 2


def test_sentences_that_are_not_there_are_asked_for_by_name() -> None:
    with pytest.raises(DataError, match=r"goemotions: true"):
        like_proportions([], {"joy": 1}, 5, random.Random(0))


def text_of(task: SftTask, ids: list[int]) -> str:
    return task.processor.tokenizer.decode(ids)


def test_only_the_answers_lines_weigh(task: SftTask) -> None:
    cfg = task.config
    sample = task.encode(0, random.Random(0))
    assert len(sample.ids) == len(sample.weights) == len(sample.lines)
    start = next(i for i, weight in enumerate(sample.weights) if weight)
    prompt = text_of(task, sample.ids[:start])
    assert prompt.endswith(CLIENT_LINE)
    assert not any(sample.weights[:start])
    for line, value, weight in (
        (0, f" {EMOTIONS[0]}", cfg.client_weight),
        (1, " neutral", cfg.therapist_weight),
        (2, " open question", cfg.strategy_weight),
        (3, " Since when?<|im_end|>", cfg.response_weight),
    ):
        learnt = [i for i, number in enumerate(sample.lines) if number == line]
        assert text_of(task, [sample.ids[i] for i in learnt]) == value
        assert {sample.weights[i] for i in learnt} == {weight}
    between = [token for token, weight in zip(sample.ids[start:], sample.weights[start:], strict=True) if not weight]
    assert text_of(task, between) == f"\n{THERAPIST_LINE}\n{STRATEGY_LINE}\n{RESPONSE_LINE}"


def test_a_long_reply_weighs_no_more_than_a_usual_one(task: SftTask) -> None:
    sample = task.encode(1, random.Random(0))
    reply = [weight for weight, line in zip(sample.weights, sample.lines, strict=True) if line == 3]
    assert len(reply) > 5 * USUAL_REPLY
    assert sum(reply) == pytest.approx(task.config.response_weight * USUAL_REPLY)


def test_a_clip_alone_teaches_the_clients_emotion(task: SftTask) -> None:
    for offset, modality in ((0, "voice"), (6, "face")):
        sample = task.encode(len(task.items) + offset, random.Random(0))
        assert set(sample.lines) == {-1, 0}
        assert max(sample.weights) == task.clips[offset].weight
        assert (sample.audio is not None, sample.video is not None) == (modality == "voice", modality == "face")


def test_what_has_no_weight_has_no_gradient(task: SftTask) -> None:
    """The loss equals the weighted cross-entropy of the answer's tokens alone, computed row by row."""
    metrics = task.loss([0, 3, len(task.items)], random.Random(5))
    batch, total = (0, 3, len(task.items)), torch.zeros(())
    for index, rng in zip(batch, row_rngs(batch, random.Random(5)), strict=True):
        row = task.encode(index, rng)
        with torch.no_grad():
            logits = task.model(input_ids=torch.tensor([row.ids]), **task.media([row])).logits[0].log_softmax(-1)
        for place, weight in enumerate(row.weights):
            if weight:
                total = total - weight * logits[place - 1, row.ids[place]]
    torch.testing.assert_close(metrics["loss"], total / 3, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("gold", "none", "kind"), [(1.0, 0.0, "gold"), (0.0, 1.0, "none"), (0.0, 0.0, "predicted")]
)
def test_the_history_is_of_the_configured_kind(gold: float, none: float, kind: str) -> None:
    task = make_task(gold_history=gold, no_labels=none)
    sample = task.encode(1, random.Random(0))
    item = task.items[1]
    units = [token for turn in task.history(item, kind) for token in task.processor.encode_history_turn(turn)]
    assert sample.history == units
    client, therapist = task.history(item, kind)
    if kind == "gold":
        assert (client.emotion, therapist.strategy, client.emotion_confirmed) == (EMOTIONS[0], "open question", True)
    elif kind == "none":
        assert (client.emotion, therapist.emotion, therapist.strategy) == (None, None, None)
    else:
        emotion, strategy = task.predictions["0", 0]
        assert (client.emotion, therapist.strategy) == (emotion, strategy)
        assert not client.emotion_confirmed
        assert not therapist.strategy_confirmed


def test_the_kinds_of_history_come_as_often_as_configured(task: SftTask, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: Counter[str] = Counter()
    history = task.history
    monkeypatch.setattr(task, "history", lambda item, kind: kinds.update([kind]) or history(item, kind))
    rng = random.Random(0)
    for _ in range(400):
        task.encode(0, rng)
    assert {kind: n / 400 for kind, n in kinds.items()} == {
        "gold": pytest.approx(0.5, abs=0.08), "none": pytest.approx(0.2, abs=0.06), "predicted": pytest.approx(0.3, abs=0.07)
    }  # fmt: skip


def test_predicted_labels_come_from_dialogues_that_were_not_learnt() -> None:
    made = dialogues(15)
    found = predicted_history(made)
    assert set(found) == {(d.id, i) for d in made for i in (0, 2)}
    # A word that stands in one dialogue alone cannot be known to the classifier that predicts it.
    odd = [*made, Dialogue("15", "train", (DialogueTurn("client", "zebra zebra", "disgust"), made[0].turns[1]))]
    assert predicted_history(odd)["15", 0][0] != "disgust"


def test_voices_and_faces_are_given_as_often_as_configured(task: SftTask) -> None:
    rng, seen, agreed, acted = random.Random(1), Counter[tuple[bool, bool]](), 0, 0
    for _ in range(6000):
        voice, face = task._media_of("fear", rng)
        seen[voice is not None, face is not None] += 1
        for clip in filter(None, (voice, face)):
            acted += 1
            agreed += MEDIA_EMOTIONS[clip.emotion] == "fear"
        if voice and face:
            assert voice.emotion == face.emotion
    cfg = task.config
    for key, part in (((True, False), cfg.p_audio), ((False, True), cfg.p_video), ((True, True), cfg.p_both)):
        assert seen[key] / 6000 == pytest.approx(part, abs=0.02)
    # what is drawn at random agrees once in six
    assert agreed / acted == pytest.approx(cfg.agreement + (1 - cfg.agreement) / 6, abs=0.03)


def test_depression_is_shown_by_sad_voices() -> None:
    task = make_task(p_audio=1.0, p_video=0.0, p_both=0.0, agreement=1.0)
    voice, face = task._media_of("depression", random.Random(0))
    assert voice is not None
    assert face is None
    assert MEDIA_EMOTIONS[voice.emotion] == "sadness"


def test_class_balance_weighs_rare_emotions_more() -> None:
    plain, balanced = make_task(), make_task(class_balance=1.0)
    assert set(plain.class_weight.values()) == {1.0}
    seen = Counter(item.client.emotion for item in balanced.items)
    shares = [balanced.class_weight[emotion or ""] * count for emotion, count in seen.items()]
    assert shares == pytest.approx([shares[0]] * len(shares))


def test_rows_with_and_without_media_share_a_batch(task: SftTask) -> None:
    plain = Encoded([1], [0.0], [-1], [], None, None)
    full = Encoded([1], [0.0], [-1], [5, 6], torch.ones(4, 16, 135), torch.ones(3, 24))
    media = task.media([plain, full])
    assert media["video_modes"].tolist() == media["audio_modes"].tolist() == [1, 0]
    assert media["video_frames"].tolist() == [0, 4]
    assert media["audio_mask"].sum(1).tolist() == [0, 3]
    assert media["history_mask"].sum(1).tolist() == [0, 2]


def test_a_short_run_learns(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = SftConfig(out=tmp_path / "run", epochs=12, lr=3e-2, batch_tokens=4000, precision="no", response_weight=0.0)
    model, processor = tiny_model()
    layers = r".*language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj"
    model.add_adapter(LoraConfig(r=4, target_modules=layers), adapter_name=ADAPTER)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or "_mode." in name)
    short = [dataclasses.replace(d, turns=d.turns[:2]) for d in dialogues(15)]
    task = SftTask(config, model, processor, short, clips())
    samples = list(range(len(task.lengths)))
    with torch.no_grad():
        before = float(task.loss(samples, random.Random(0))["loss"])
    Loop(config, model, task.lengths, task.loss, config.out).run()
    with torch.no_grad():
        assert float(task.loss(samples, random.Random(0))["loss"]) < 0.7 * before
