"""Labels come by exact likelihood in the paper's order; the reply goes on from the same cache."""

from __future__ import annotations

import pytest
import torch

from multimood_core.decoding import LABELS, AnswerDecoder, Sampling
from multimood_core.errors import ModelError
from multimood_core.labels import EMOTIONS, STRATEGIES
from multimood_core.prompts import CLIENT_LINE, STRATEGY_LINE, THERAPIST_LINE, Piece
from multimood_core.registry import Calibration, Scaling
from tests.multimood_core.tiny import tiny_model


def decoder(calibration: Calibration | None = None) -> tuple[AnswerDecoder, list[int]]:
    model, processor = tiny_model(seed=5)
    ids = processor.encode_prompt("nobody listens to me")
    return AnswerDecoder(model, processor, calibration or Calibration(), torch.tensor([ids]), {}), ids


def test_probabilities_equal_those_of_the_whole_strings_without_a_cache() -> None:
    answer, ids = decoder()
    model, processor = answer.model, answer.processor
    found = {task: answer.label(task) for task in LABELS}
    prefix = list(ids)
    for task, line in zip(LABELS, (CLIENT_LINE, THERAPIST_LINE, STRATEGY_LINE), strict=True):
        prefix += processor.encode_pieces([Piece(line if line == CLIENT_LINE else f"\n{line}")])
        scores = []
        for name in LABELS[task][1]:
            value = processor.encode_value(name)
            with torch.no_grad():
                logp = model(input_ids=torch.tensor([prefix + value])).logits[0].log_softmax(-1)
            scores.append(sum(logp[len(prefix) - 1 + i, token] for i, token in enumerate(value)))
        expected = torch.stack(scores).softmax(-1)
        torch.testing.assert_close(torch.tensor(list(found[task].probabilities.values())), expected, atol=1e-4, rtol=1e-3)
        prefix += processor.encode_value(found[task].label)


def test_every_class_has_a_probability_and_the_likeliest_is_chosen() -> None:
    answer, _ = decoder()
    for task, names in zip(LABELS, (EMOTIONS, EMOTIONS, STRATEGIES), strict=True):
        label = answer.label(task)
        assert tuple(label.probabilities) == names
        assert sum(label.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert label.probabilities[label.label] == max(label.probabilities.values())


def test_a_temperature_flattens_and_does_not_reorder() -> None:
    plain, _ = decoder()
    warm, _ = decoder(Calibration(client_emotion=Scaling(4.0)))
    a, b = plain.label("client_emotion"), warm.label("client_emotion")
    assert a.label == b.label
    assert max(b.probabilities.values()) < max(a.probabilities.values())
    assert sorted(EMOTIONS, key=a.probabilities.get) == sorted(EMOTIONS, key=b.probabilities.get)  # type: ignore[arg-type]


def test_labels_keep_their_order_and_the_reply_comes_last() -> None:
    answer, _ = decoder()
    with pytest.raises(ModelError, match="client_emotion comes first"):
        answer.label("strategy")
    with pytest.raises(ModelError, match="has not been chosen"):
        list(answer.reply())


def test_a_corrected_label_goes_back_and_changes_what_follows() -> None:
    answer, _ = decoder()
    first = {task: answer.label(task) for task in LABELS}
    list(answer.reply(Sampling(max_tokens=5)))
    other = next(e for e in EMOTIONS if e != first["client_emotion"].label)
    assert answer.label("client_emotion", choose=other).label == first["client_emotion"].label, "the prediction stays the model's"
    changed = answer.label("therapist_emotion")
    assert changed.probabilities != first["therapist_emotion"].probabilities
    assert answer.label("client_emotion").probabilities == pytest.approx(first["client_emotion"].probabilities, abs=1e-5)
    with pytest.raises(ModelError, match="to be one of"):
        answer.label("client_emotion", choose="boredom")


def test_the_same_seed_gives_the_same_reply_and_no_media_token() -> None:
    answer, _ = decoder()
    for task in LABELS:
        answer.label(task)
    draws = [list(answer.reply(Sampling(temperature=1.5, top_p=1.0, seed=s, max_tokens=30))) for s in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert len(draws[0]) > 1, "the reply comes in pieces"
    assert not any(token in "".join(d) for d in draws for token in ("<video>", "<audio>", "<history>", "<MEM>"))


def test_a_reply_of_the_least_length_does_not_end_before() -> None:
    answer, _ = decoder()
    for task in LABELS:
        answer.label(task)

    def written(seed: int, least: int) -> int:
        list(answer.reply(Sampling(max_tokens=0)))  # reads the line's name, which is no part of the reply
        before = answer.cache.get_seq_length()
        list(answer.reply(Sampling(temperature=1.5, top_p=1.0, seed=seed, min_tokens=least, max_tokens=30)))
        grown = answer.cache.get_seq_length() - before
        answer.label("strategy")
        return grown

    early = next(seed for seed in range(200) if written(seed, 0) < 30)
    assert written(early, 30) == 30
