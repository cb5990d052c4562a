"""The answer's four lines from one prefilled prompt: labels by likelihood, then the reply as a stream.

The prompt is read once. Each label is chosen among the allowed strings by their likelihood under the cached prefix, in the
paper's order (client's emotion, therapist's emotion, strategy), each conditioned on the ones before; the reply goes on
from the same cache. So nothing is ever unparsable, and every class has a probability.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from transformers import DynamicCache

from multimood_core.errors import ModelError
from multimood_core.labels import EMOTIONS, STRATEGIES
from multimood_core.model import MultiMoodForConditionalGeneration
from multimood_core.processor import MultiMoodProcessor
from multimood_core.prompts import CLIENT_LINE, RESPONSE_LINE, STRATEGY_LINE, THERAPIST_LINE, Piece
from multimood_core.records import LabelPrediction
from multimood_core.registry import Calibration

LABELS: Final = {
    "client_emotion": (CLIENT_LINE, EMOTIONS),
    "therapist_emotion": (THERAPIST_LINE, EMOTIONS),
    "strategy": (STRATEGY_LINE, STRATEGIES),
}
MAX_REPLY_TOKENS: Final = 96  # a therapist turn of MESC has 17 tokens on average


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the reply is drawn; temperature 0 takes the likeliest token, and then the seed changes nothing.

    The reply cannot end before ``min_tokens``.
    """

    temperature: float = 0.0
    top_p: float = 0.9
    seed: int = 0
    min_tokens: int = 0
    max_tokens: int = MAX_REPLY_TOKENS
    repetition_penalty: float = 1.1


@dataclass(frozen=True, slots=True)
class PromptStart:
    """The first tokens of a prompt, read before the rest is known; whoever goes on from them uses them up."""

    ids: list[int]
    cache: DynamicCache
    media: frozenset[str]
    """Names of the media arguments that stand in it."""


def read_start(model: MultiMoodForConditionalGeneration, ids: list[int], media: dict[str, Tensor]) -> PromptStart:
    """Read a prompt's first tokens with the media that stand among them."""
    cache = DynamicCache(config=model.config.text_config)
    with torch.inference_mode():
        model.model(input_ids=torch.tensor([ids], device=model.device), past_key_values=cache, use_cache=True, **media)
    return PromptStart(ids, cache, frozenset(media))


class AnswerDecoder:
    """One turn's answer. Call ``label`` for each task in order, then ``reply``; ``reply`` may be called again.

    Args:
        model: in evaluation mode.
        processor: the checkpoint's.
        calibration: temperatures of the three labels.
        input_ids: (1, L) prompt with expanded placeholders.
        media: the model's media arguments.
        start: what of the prompt was read already; it is not read again.

    Raises:
        ModelError: the prompt begins otherwise than ``start``.
    """

    def __init__(
        self,
        model: MultiMoodForConditionalGeneration,
        processor: MultiMoodProcessor,
        calibration: Calibration,
        input_ids: Tensor,
        media: dict[str, Tensor],
        start: PromptStart | None = None,
    ) -> None:
        self.model, self.processor, self.calibration = model, processor, calibration
        self.cache = start.cache if start else DynamicCache(config=model.config.text_config)
        self._marks: dict[str, tuple[int, Tensor]] = {}
        read = len(start.ids) if start else 0
        if start and input_ids[0, :read].tolist() != start.ids:
            raise ModelError("The prompt begins otherwise than what was read of it; read this prompt from its beginning.")
        media = {name: value for name, value in media.items() if not (start and name in start.media)}
        first = torch.tensor([processor.encode_pieces([Piece(CLIENT_LINE)])])
        self._logits = self._feed(torch.cat([input_ids[:, read:], first.to(input_ids)], 1), media)
        self._next = "client_emotion"
        self._waiting: list[int] = []  # tokens that stand in the answer and were not read yet

    def _read_on(self) -> None:
        """Read what waits, only now that something depends on it: a label is shown before the line after it is read."""
        if self._waiting:
            self._logits = self._feed(torch.tensor([self._waiting]))
            self._waiting = []

    def _feed(self, ids: Tensor, media: dict[str, Tensor] | None = None) -> Tensor:
        with torch.inference_mode():
            output = self.model(
                input_ids=ids.to(self.model.device),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
                **(media or {}),
            )
        return output.logits[0, -1].float().cpu()

    def label(self, task: str, choose: str | None = None) -> LabelPrediction:
        """Score the allowed strings of ``task`` and go on with the likeliest, or with ``choose``.

        What is returned is the model's own prediction in both cases. Calling it again for an earlier task goes back to that
        point and forgets what came after.

        Raises:
            ModelError: the task is unknown, comes too early, or ``choose`` is none of its strings.
        """
        if task not in LABELS:
            raise ModelError(f"Expected one of {', '.join(LABELS)}, got {task!r}.")
        if task in self._marks:
            self._back_to(task)
        elif task != self._next:
            raise ModelError(f"Labels are chosen in the order {', '.join(LABELS)}; {self._next} comes first.")
        self._read_on()
        self._marks[task] = (self.cache.get_seq_length(), self._logits)
        names = LABELS[task][1]
        values = [self.processor.encode_value(name) for name in names]
        scaling = getattr(self.calibration, task)
        bias = torch.tensor([scaling.bias.get(name, 0.0) for name in names])
        probabilities = (self.likelihoods(values) / scaling.temperature + bias).softmax(-1).tolist()
        best = max(zip(probabilities, names, strict=True))[1]
        taken = choose or best
        if taken not in names:
            raise ModelError(f"Expected {task} to be one of {', '.join(names)}, got {taken!r}.")
        self._next = self._after(task)
        line = RESPONSE_LINE if self._next == "reply" else LABELS[self._next][0]
        self._waiting = values[names.index(taken)] + self.processor.encode_pieces([Piece(f"\n{line}")])
        return LabelPrediction(best, dict(zip(names, probabilities, strict=True)))

    def likelihoods(self, values: Sequence[Sequence[int]]) -> Tensor:
        """Log-likelihood (n,) of each token string after what the cache holds."""
        first = self._logits.log_softmax(-1)
        scores = torch.stack([first[value[0]] for value in values])
        chains = [value[:-1] for value in values]
        tokens = [token for chain in chains for token in chain]
        if not any(len(value) > 1 for value in values):
            return scores
        # All strings are read at once beside each other: each token sees the prefix and its own string's tokens.
        past, count = self.cache.get_seq_length(), len(tokens)
        owner = torch.tensor([i for i, chain in enumerate(chains) for _ in chain])
        step = torch.tensor([j for chain in chains for j in range(len(chain))])
        own = (owner[:, None] == owner) & (step[:, None] >= step)
        seen = torch.cat([torch.ones(count, past, dtype=torch.bool), own], 1)
        device, dtype = self.model.device, self.model.get_input_embeddings().weight.dtype
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
        with torch.inference_mode():
            logits = self.model(
                input_ids=torch.tensor([tokens], device=device),
                attention_mask=mask[None, None].to(device),
                position_ids=(past + step)[None].to(device),
                past_key_values=self.cache,
                use_cache=True,
            ).logits[0].cpu()
        self.cache.crop(-count)
        following = torch.tensor([token for value in values for token in value[1:]])
        gains = logits.float().log_softmax(-1).gather(1, following[:, None])[:, 0]
        return scores.index_add(0, owner, gains)

    def reply(self, sampling: Sampling | None = None) -> Iterator[str]:
        """The reply in pieces of text, as they come; begins anew each time it is called.

        Raises:
            ModelError: the labels have not all been chosen yet.
        """
        sampling = sampling or Sampling()
        if self._next != "reply":
            raise ModelError(f"The reply follows the labels; {self._next} has not been chosen yet.")
        if "reply" in self._marks:
            self._back_to("reply")
        self._read_on()
        self._marks["reply"] = (self.cache.get_seq_length(), self._logits)
        generator = torch.Generator().manual_seed(sampling.seed)
        tokenizer, shown = self.processor.tokenizer, ""
        produced: list[int] = []
        media, ends = self.processor.media_token_ids, [tokenizer.eos_token_id, *_line_ends(tokenizer)]
        logits = self._logits
        for _ in range(sampling.max_tokens):
            barred = torch.tensor(media + ends if len(produced) < sampling.min_tokens else media)
            token = draw_token(logits, produced, barred, sampling, generator)
            if token in ends:
                break
            produced.append(token)
            text = tokenizer.decode(produced, skip_special_tokens=True).lstrip()
            if not text.endswith("\ufffd") and len(text) > len(shown):  # half a character waits for its other half
                yield text[len(shown) :]
                shown = text
            logits = self._feed(torch.tensor([[token]]))

    def _after(self, task: str) -> str:
        order = [*LABELS, "reply"]
        return order[order.index(task) + 1]

    def _back_to(self, mark: str) -> None:
        length, self._logits = self._marks[mark]
        self._waiting = []
        surplus = self.cache.get_seq_length() - length
        if surplus:
            self.cache.crop(-surplus)
        order = [*LABELS, "reply"]
        for later in order[order.index(mark) :]:
            self._marks.pop(later, None)
        self._next = mark


def _line_ends(tokenizer: Any) -> list[int]:
    ids = tokenizer("\n", add_special_tokens=False).input_ids
    return ids if len(ids) == 1 else []


def draw_token(
    logits: Tensor, produced: list[int], barred: Tensor, sampling: Sampling, generator: torch.Generator
) -> int:
    """The next token from ``logits`` (vocabulary,), never one of ``barred``."""
    logits = logits.clone()
    logits[barred] = -torch.inf
    if produced and sampling.repetition_penalty != 1:
        seen = torch.tensor(sorted(set(produced)))
        penalty = sampling.repetition_penalty  # Keskar et al. 2019: a token that stands already loses likelihood
        logits[seen] = torch.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
    if sampling.temperature == 0:
        return int(logits.argmax())
    probabilities, order = (logits / sampling.temperature).softmax(-1).sort(descending=True)
    probabilities[probabilities.cumsum(-1) - probabilities > sampling.top_p] = 0
    return int(order[torch.multinomial(probabilities, 1, generator=generator)])
