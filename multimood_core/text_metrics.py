"""Scores of replies against what the therapist really said, item by item, so that differences can be tested in pairs.

Every definition has a name of its own; two that share one in the literature are two here:

- ``bleu2_released``: sentence BLEU with weights 0.99 and 0.01, lower case, no smoothing: what the paper's released code
  calls BLEU-2, and nearly BLEU-1. ``bleu2`` is the same with 0.5 and 0.5, ``bleu2_corpus`` sacrebleu's over all items.
- ``rouge_l``: F1 of the longest common subsequence of stems.
- ``meteor``: only where NLTK finds WordNet; ``meteor_stem`` matches words and stems, no synonyms, and lies below it.
- ``bertscore/roberta-large``: only where those weights lie on this machine. ``tokenscore/minilm`` matches tokens in the
  same way with the carried encoder; the two are on different scales.

A reply that is absent scores 0. It is counted, not dropped.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from nltk.tokenize import NLTKWordTokenizer
from nltk.translate.bleu_score import sentence_bleu
from nltk.translate.meteor_score import single_meteor_score
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU
from torch import nn

from multimood_core.errors import ModelError
from multimood_core.sentences import sentences_of, words_of

Metric = Callable[[Sequence[str], Sequence[str]], list[float]]
"""References and replies of equal number -> one score each."""
_BERT_LAYER: Final = 17  # of roberta-large, what bert-score takes for English (Zhang et al. 2020, appendix B)


class TokenMatcher(Protocol):
    """Scores replies by how well their tokens' states match the reference's."""

    @property
    def name(self) -> str: ...

    def __call__(self, references: Sequence[str], replies: Sequence[str]) -> list[float]: ...


@dataclass(frozen=True, slots=True)
class ResponseScores:
    """``items`` holds each metric's score of every item, ``summary`` what is said of all of them together."""

    items: Mapping[str, Sequence[float]]
    summary: Mapping[str, float]
    n: int
    n_empty: int

    def plain(self) -> dict[str, Any]:
        """Means and summary in plain values."""
        means = {name: float(np.mean(values)) for name, values in self.items.items()}
        return {"n": self.n, "n_empty": self.n_empty} | means | dict(self.summary)


def tokens_of(text: str) -> list[str]:
    """NLTK's word tokens, lower case. Sentences are split by ``sentences_of``, as Punkt's data is not carried."""
    tokenizer = NLTKWordTokenizer()
    return [token.lower() for sentence in sentences_of(text) for token in tokenizer.tokenize(sentence)]


def bleu(references: Sequence[str], replies: Sequence[str], weights: tuple[float, float]) -> list[float]:
    """NLTK's sentence BLEU without smoothing: without a shared pair of words it is next to 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of every reply that shares no pair
        pairs = [(tokens_of(a), tokens_of(b)) for a, b in zip(references, replies, strict=True)]
        return [float(sentence_bleu([a], b, weights=weights)) if a and b else 0.0 for a, b in pairs]


def rouge_l(references: Sequence[str], replies: Sequence[str]) -> list[float]:
    """rouge_score's ROUGE-L F1, stemmed."""
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    pairs = zip(references, replies, strict=True)
    return [float(scorer.score(reference, reply)["rougeL"].fmeasure) for reference, reply in pairs]


class _NoSynonyms:
    def synsets(self, word: str) -> list[Any]:
        return []


@cache
def wordnet() -> Any | None:
    """NLTK's WordNet where its data lie on this machine; it is not carried."""
    from nltk.corpus import wordnet as corpus

    try:
        corpus.ensure_loaded()
    except LookupError:
        return None
    return corpus


def meteor(references: Sequence[str], replies: Sequence[str], synonyms: Any | None = None) -> list[float]:
    """NLTK's METEOR; without ``synonyms`` (WordNet) only words and stems match."""
    with_words = synonyms or _NoSynonyms()
    pairs = [(tokens_of(a), tokens_of(b)) for a, b in zip(references, replies, strict=True)]
    return [float(single_meteor_score(a, b, wordnet=with_words)) if a and b else 0.0 for a, b in pairs]


def token_f1(query: torch.Tensor, passage: torch.Tensor) -> float:
    """F1 of greedily matched token states (n, D) and (m, D), each of length 1; 0 where one has none."""
    if not len(query) or not len(passage):
        return 0.0
    similarity = query @ passage.T
    recall, precision = float(similarity.max(0).values.mean()), float(similarity.max(1).values.mean())
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


class MiniLMTokens:
    """Token matching with the carried MiniLM, special tokens left out. Its own scale, and its own name."""

    name: Final = "tokenscore/minilm"

    def __init__(self, encoder: Callable[[Sequence[str]], Sequence[Any]]) -> None:
        self.encoder = encoder

    def __call__(self, references: Sequence[str], replies: Sequence[str]) -> list[float]:
        states = self.encoder([*references, *replies])
        pairs = zip(states[len(references) :], states[: len(references)], strict=True)
        return [token_f1(reply.tokens, reference.tokens) for reply, reference in pairs]


class BertScore:
    """BERTScore's F1 without importance weights and rescaling (Zhang et al. 2020), as the ``bert-score`` package gives it.

    Args:
        folder: an encoder with its tokenizer, such as roberta-large.
        layer: whose states are compared.
        name: under which the score is reported.

    Raises:
        ModelError: the folder holds no encoder.
    """

    def __init__(self, folder: Path | str, layer: int = _BERT_LAYER, name: str = "bertscore/roberta-large") -> None:
        from transformers import AutoModel, AutoTokenizer

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        except (OSError, ValueError) as cause:
            raise ModelError(f"Expected an encoder for BERTScore at {folder}: {cause}") from cause
        self.model, self.layer, self.name = model.eval().requires_grad_(False), layer, name

    def __call__(self, references: Sequence[str], replies: Sequence[str]) -> list[float]:
        known = {text: self._states(text) for text in {*references, *replies}}
        return [self._f1(known[reply], known[reference]) for reference, reply in zip(references, replies, strict=True)]

    @torch.inference_mode()
    def _states(self, text: str) -> tuple[torch.Tensor, torch.Tensor]:
        """States (L, D) of length 1 and which of them (L,) are no special tokens."""
        inputs = self.tokenizer(
            text.strip(), truncation=True, max_length=512, return_tensors="pt", return_special_tokens_mask=True
        )
        special = inputs.pop("special_tokens_mask")[0].bool()
        hidden = self.model(**inputs, output_hidden_states=True).hidden_states[self.layer][0]
        return nn.functional.normalize(hidden, dim=-1), ~special

    @staticmethod
    def _f1(reply: tuple[torch.Tensor, torch.Tensor], reference: tuple[torch.Tensor, torch.Tensor]) -> float:
        # Special tokens may be matched but are not averaged: the package gives them the weight 0.
        if not bool(reply[1].any()) or not bool(reference[1].any()):
            return 0.0
        similarity = reply[0] @ reference[0].T
        precision = float(similarity.max(1).values[reply[1]].mean())
        recall = float(similarity.max(0).values[reference[1]].mean())
        return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def token_matchers() -> list[TokenMatcher]:
    """MiniLM's, and roberta-large's where its weights lie in the hub's cache of this machine.

    Raises:
        ModelError: MiniLM's weights cannot be prepared.
    """
    from huggingface_hub import try_to_load_from_cache

    from multimood_core.text_encoder import MiniLM

    found: list[TokenMatcher] = [MiniLMTokens(MiniLM())]
    if isinstance(place := try_to_load_from_cache("roberta-large", "config.json"), str):
        found.append(BertScore(Path(place).parent))
    return found


def distinct(replies: Sequence[str], n: int) -> float:
    """Share of different n-grams among all n-grams of the replies (Li et al. 2016)."""
    grams = [tuple(words[i : i + n]) for words in map(words_of, replies) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def score_responses(
    references: Sequence[str], replies: Sequence[str | None], matchers: Sequence[TokenMatcher] = ()
) -> ResponseScores:
    """All scores of a system's replies.

    Args:
        references: what the therapist really said.
        replies: one for each, None where there is none.
        matchers: scores by token states, from ``token_matchers``.

    Raises:
        ValueError: lengths differ, or there is nothing to score.
    """
    if len(references) != len(replies) or not references:
        raise ValueError(f"expected as many replies as references and at least one, got {len(replies)} and {len(references)}")
    said = [reply or "" for reply in replies]
    filled = [bool(words_of(reply)) for reply in said]
    metrics: dict[str, Metric] = {
        "bleu2_released": lambda a, b: bleu(a, b, (0.99, 0.01)),
        "bleu2": lambda a, b: bleu(a, b, (0.5, 0.5)),
        "rouge_l": rouge_l,
        "meteor_stem": meteor,
    }
    if (synonyms := wordnet()) is not None:
        metrics["meteor"] = lambda a, b: meteor(a, b, synonyms)
    metrics |= {matcher.name: matcher for matcher in matchers}
    places = [i for i, there in enumerate(filled) if there]
    items = {}
    for name, metric in metrics.items():
        scores = [0.0] * len(said)
        found = metric([references[i] for i in places], [said[i] for i in places]) if places else []
        for i, score in zip(places, found, strict=True):
            scores[i] = score
        items[name] = scores
    items["words"] = [float(len(words_of(reply))) for reply in said]
    corpus = BLEU(max_ngram_order=2, lowercase=True)
    return ResponseScores(
        items,
        {
            "bleu2_corpus": corpus.corpus_score(said, [list(references)]).score / 100,
            "distinct_1": distinct(said, 1),
            "distinct_2": distinct(said, 2),
            "words_of_reference": float(np.mean([len(words_of(reference)) for reference in references])),
        },
        len(said),
        filled.count(False),
    )
