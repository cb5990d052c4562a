"""Scores of replies equal those of the libraries that others use, and keep apart what has one name elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sacrebleu.metrics import BLEU
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from multimood_core import text_metrics
from multimood_core.errors import ModelError
from multimood_core.text_encoder import TextStates
from multimood_core.text_metrics import (
    BertScore,
    MiniLMTokens,
    bleu,
    distinct,
    meteor,
    rouge_l,
    score_responses,
    token_f1,
    tokens_of,
)
from tests.multimood_core.tiny import tokenizer_file

REFERENCES = ["The cat sat on the mat.", "How are you? I'm fine, thanks.", "Go on."]
REPLIES = ["The cat is on the mat.", "How do you feel? I'm here.", "Tell me."]


def test_bleu_of_a_case_computed_by_hand() -> None:
    # 6 of 7 tokens are shared; of 6 pairs: the-cat, on-the, the-mat, mat-.
    standard = (6 / 7 * 4 / 6) ** 0.5
    assert bleu(REFERENCES[:1], REPLIES[:1], (0.5, 0.5)) == [pytest.approx(standard)]
    released = (6 / 7) ** 0.99 * (4 / 6) ** 0.01
    assert bleu(REFERENCES[:1], REPLIES[:1], (0.99, 0.01)) == [pytest.approx(released)]
    # a shorter reply is punished by e^(1 - 7/3): "The cat." has 3 tokens, all shared, and one of two pairs
    assert bleu(REFERENCES[:1], ["The cat."], (0.5, 0.5)) == [pytest.approx(np.exp(1 - 7 / 3) * 0.5**0.5)]
    # one word shared and no pair: the released definition falls to nearly nothing as well
    assert bleu(["Go on."], ["Please go"], (0.99, 0.01))[0] < 1e-3


def test_tokens_split_a_point_from_every_sentence() -> None:
    assert tokens_of("I'm fine. Go ON.") == ["i", "'m", "fine", ".", "go", "on", "."]


def test_rouge_is_that_of_stems() -> None:
    # reference 3 words, reply 3 words, subsequence of stems "cat sit": 2/3 both ways
    assert rouge_l(["the cats sitting"], ["a cat sits"]) == [pytest.approx(2 / 3)]
    assert rouge_l(REFERENCES[:1], REPLIES[:1]) == [pytest.approx(5 / 6)]


def test_meteor_without_synonyms_matches_words_and_stems() -> None:
    # "the" and stems of "cats", "cat": 2 matches of 3; one chunk: penalty 0.5 * (1/2)^3; F mean is 2/3
    assert meteor(["the cats sat"], ["the cat lay"]) == [pytest.approx(2 / 3 * (1 - 0.5 / 8))]

    class Synonyms:
        def synsets(self, word: str) -> list[object]:
            lemma = type("Lemma", (), {"name": lambda self: "sat"})()
            return [type("Synset", (), {"lemmas": lambda self: [lemma]})()] if word == "lay" else []

    # with a synonym three match in one chunk
    assert meteor(["the cats sat"], ["the cat lay"], Synonyms()) == [pytest.approx(1 - 0.5 / 27)]


def test_the_corpus_score_is_sacrebleus() -> None:
    scores = score_responses(REFERENCES, REPLIES)
    expected = BLEU(max_ngram_order=2).corpus_score([r.lower() for r in REPLIES], [[r.lower() for r in REFERENCES]])
    assert scores.summary["bleu2_corpus"] == pytest.approx(expected.score / 100)


def test_distinct_counts_every_gram_once() -> None:
    assert distinct(["a b a", "A b"], 1) == pytest.approx(2 / 5)
    assert distinct(["a b a", "A b"], 2) == pytest.approx(2 / 3)
    assert distinct(["", "..."], 1) == 0


def test_an_absent_reply_scores_nothing_and_is_counted() -> None:
    all_there, half = score_responses(REFERENCES, REFERENCES), score_responses(REFERENCES, [REFERENCES[0], None, "  "])
    assert all_there.n_empty == 0
    assert (half.n, half.n_empty) == (3, 2)
    for name in ("bleu2", "bleu2_released", "rouge_l"):
        assert all_there.plain()[name] == pytest.approx(1)
        assert half.plain()[name] == pytest.approx(1 / 3)
    assert half.items["words"] == [6, 0, 0]
    with pytest.raises(ValueError, match="got 1 and 2"):
        score_responses(["a", "b"], ["a"])


def test_tokens_are_matched_both_ways() -> None:
    e = torch.eye(3)
    # reply has tokens 0 and 1, reference 0: precision 1/2, recall 1
    assert token_f1(e[:2], e[:1]) == pytest.approx(2 / 3)
    assert token_f1(e[:1], e[1:2]) == 0
    assert token_f1(e[:0], e[:1]) == 0
    states = {"a": TextStates(e[:2], e[0]), "b": TextStates(e[:1], e[0])}
    matcher = MiniLMTokens(lambda texts: [states[text] for text in texts])
    assert score_responses(["b"], ["a"], [matcher]).items["tokenscore/minilm"] == [pytest.approx(2 / 3)]


def test_bertscore_equals_the_package(tmp_path: Path) -> None:
    package = pytest.importorskip("bert_score", reason="bert-score is not installed (requirements-dev.txt)")
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=400, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24, initializer_range=0.5
    )
    RobertaModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    first, last = "<|im_start|>", "<|im_end|>"
    inner = Tokenizer.from_str(tokenizer_file())
    ids = [(token, inner.token_to_id(token)) for token in (first, last)]
    inner.post_processor = TemplateProcessing(single=f"{first} $A {last}", special_tokens=ids)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<|endoftext|>", cls_token=first, sep_token=last, model_max_length=64
    )
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer("a").input_ids[0] == ids[0][1]
    _, _, expected = package.score(REPLIES, REFERENCES, model_type=str(tmp_path), num_layers=2)
    found = BertScore(tmp_path, layer=2, name="bertscore/tiny")(REFERENCES, REPLIES)
    assert found == pytest.approx(expected.tolist(), abs=1e-5)
    with pytest.raises(ModelError, match="encoder for BERTScore"):
        BertScore(tmp_path / "none")


def test_meteor_takes_its_full_name_only_with_wordnet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_metrics, "wordnet", lambda: None)
    assert "meteor" not in score_responses(["a b"], ["a b"]).items
    assert "meteor_stem" in score_responses(["a b"], ["a b"]).items
