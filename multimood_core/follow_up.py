"""A reward that needs no judge: did the reply make what the client really said next more likely?

A reference language model reads the talk with the reply and without it. What its log-likelihood of the client's real
next turn gains, in nats a token, goes through a logistic curve: 0.5 where the reply tells nothing of what followed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from multimood_core.prompts import clean_text
from multimood_core.registry import fast_dtype
from multimood_core.rewards import ReplySituation
from multimood_core.sentences import words_of
from multimood_core.weights import weights_path

_TURNS: Final = 4  # turns before the client's that stand in the prompt
_NEXT_TOKENS: Final = 48  # of the client's next turn; later words hang more on its own beginning than on the reply
_PROMPT_TOKENS: Final = 512


@dataclass(frozen=True, slots=True)
class FollowUpReward:
    """Follow-up likelihood in [0, 1]; missing where the client's next turn is not known.

    Args:
        model: the reference, a causal language model or a ``MultiMoodForConditionalGeneration`` (read without its
            adapter): anything with ``lm_head`` over a decoder.
        tokenizer: the model's.
        spread: standard deviation of the gain over real replies, in nats a token; the curve's unit.
    """

    model: Any
    tokenizer: Any
    spread: float
    name: str = "r_follow_up"

    @classmethod
    def embedded(cls, spread: float, device: str = "cpu") -> FollowUpReward:
        """With the packaged language model as it is, before any training.

        Raises:
            ModelError: its weights are not prepared.
        """
        folder = weights_path("smollm2")
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=fast_dtype(device))
        return cls(model.to(device).eval().requires_grad_(False), AutoTokenizer.from_pretrained(folder), spread)

    def __call__(self, situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[float | None]:
        values: list[float | None] = [None] * len(replies)
        known = [i for i, s in enumerate(situations) if words_of(s.next_client or "")]
        gains = self.gains([situations[i] for i in known], [replies[i] for i in known])
        for i, gain in zip(known, gains, strict=True):
            values[i] = 1 / (1 + math.exp(-gain / self.spread)) if words_of(replies[i]) else 0.0
        return values

    def gains(self, situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[float]:
        """Nats a token that each reply adds to the log-likelihood of the situation's ``next_client``."""
        without = {s: self._likelihood(_transcript(s), str(s.next_client)) for s in set(situations)}
        return [
            self._likelihood(_transcript(s, reply), str(s.next_client)) - without[s]
            for s, reply in zip(situations, replies, strict=True)
        ]

    @torch.inference_mode()
    def _likelihood(self, before: str, after: str) -> float:
        prompt = self.tokenizer(before, add_special_tokens=False)["input_ids"][-_PROMPT_TOKENS:]
        target = self.tokenizer(f" {clean_text(after)}", add_special_tokens=False)["input_ids"][:_NEXT_TOKENS]
        device = self.model.lm_head.weight.device
        with _reference(self.model) as decoder:
            states = decoder(input_ids=torch.tensor([prompt + target], device=device)).last_hidden_state
        head = self.model.lm_head.weight
        logits = states[0, len(prompt) - 1 : -1].to(head.dtype) @ head.T  # (target, vocabulary)
        chosen = torch.tensor(target, device=device)
        return float(_log_likelihood(logits, chosen).mean())


def _log_likelihood(logits: Tensor, chosen: Tensor) -> Tensor:
    return logits.float().log_softmax(-1).gather(1, chosen[:, None])[:, 0]


def _transcript(situation: ReplySituation, reply: str | None = None) -> str:
    turns = [(turn.speaker, turn.text) for turn in situation.history[-_TURNS:]] + [("client", situation.client)]
    turns += [("therapist", reply)] if reply is not None else []
    return "".join(f"{speaker.capitalize()}: {clean_text(text)}\n" for speaker, text in turns) + "Client:"


@contextmanager
def _reference(model: Any) -> Iterator[Any]:
    """The decoder as it was before its adapter."""
    adapted = getattr(model, "_hf_peft_config_loaded", False)
    if adapted:
        model.disable_adapters()
    try:
        yield getattr(model.model, "language_model", model.model)
    finally:
        if adapted:
            model.enable_adapters()
