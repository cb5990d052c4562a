"""Language models that can be asked with a prompt in their own chat format, in a folder or behind an endpoint.

A folder has the hub's layout and lies on this machine; an endpoint is OpenAI-compatible. Neither has eyes or ears.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import torch

from multimood_core.decoding import Sampling
from multimood_core.endpoint import Endpoint
from multimood_core.errors import ModelError
from multimood_core.prompts import Piece, chat_template, clean_text
from multimood_core.registry import fast_dtype

Template = Callable[[list[dict[str, str]]], str]
_BATCH: Final = 8  # prompts that a local language model answers together
_BATCH_TOKENS: Final = 8192  # of their prompts, padded: attention's memory grows with them
_GATHER: Final = 0.02  # seconds in which a batch waits for more
_BETWEEN: Final = "\x1d"  # between two chat messages; clean_text removes it from whatever a person wrote


class TextModel(Protocol):
    """A language model without eyes and ears."""

    @property
    def name(self) -> str: ...

    def complete(self, prompt: Callable[[Template], list[Piece]], max_tokens: int) -> str | None:
        """The model's answer to the prompt that ``prompt`` makes with the model's chat template; None if none came."""


@dataclass(slots=True, eq=False)
class _Asked:
    """A prompt's ids (L,), how many tokens its answer may have, and the answer once it was written."""

    ids: list[int]
    most: int
    answer: str | None = None


class LocalTextModel:
    """A causal language model of the hub's layout in a folder.

    Prompts that several threads ask at a time are answered together, which is several times faster; which ones meet in a batch
    is a matter of time, and rounding follows it, so that now and then a word differs between two runs. Asked one at a time, and
    where answers are drawn (a temperature above 0, each then written alone), the same seed gives the same text.

    Args:
        folder: with config, weights and tokenizer.
        sampling: how its answers are drawn.
        device: where it runs.
        dtype: of its weights; by default what the device multiplies fast.

    Raises:
        ModelError: the folder holds no such model.
    """

    def __init__(
        self, folder: Path, sampling: Sampling | None = None, device: str = "cpu", dtype: torch.dtype | None = None
    ) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            # PyTorch's fused attention is half as fast in bfloat16 on a CPU where prompts are padded.
            attention = "eager" if device == "cpu" else "sdpa"
            model = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, dtype=dtype or fast_dtype(device), attn_implementation=attention
            )
        except (OSError, ValueError, KeyError) as cause:
            raise ModelError(f"Expected a causal language model with its tokenizer in {folder}: {cause}") from cause
        self.model: Any = model.eval().requires_grad_(False)
        self.model.to(device)
        self.name, self.sampling, self.device = Path(folder).name, sampling or Sampling(), device
        self._writing, self._waiting, self._last = threading.Lock(), deque[_Asked](), 1

    def complete(self, prompt: Callable[[Template], list[Piece]], max_tokens: int) -> str:
        asked = _Asked(self._ids(prompt, max_tokens), max_tokens)
        self._waiting.append(asked)
        with self._writing:
            if asked.answer is None:  # else it was in the batch of another thread
                self._write(self._batch(asked))
        assert asked.answer is not None
        return asked.answer

    def _ids(self, prompt: Callable[[Template], list[Piece]], max_tokens: int) -> list[int]:
        ids: list[int] = []
        for piece in prompt(chat_template(self.tokenizer)):
            text = clean_text(piece.text) if piece.typed else piece.text
            ids += self.tokenizer(text, add_special_tokens=False, split_special_tokens=piece.typed).input_ids
        room = getattr(self.model.config, "max_position_embeddings", None)
        if room and len(ids) + max_tokens > room:
            raise ModelError(
                f"{self.name} reads {room} tokens, but the prompt has {len(ids)} and its answer may have {max_tokens}. "
                "Give it fewer turns with --history-turns."
            )
        return ids

    def _batch(self, asked: _Asked) -> list[_Asked]:
        """``asked`` and what else waits for answers as long."""
        if self._last > 1:
            time.sleep(_GATHER)  # those of the last batch are on their way back with their next prompt
        others = [one for one in [self._waiting.popleft() for _ in range(len(self._waiting))] if one is not asked]
        alike = [one for one in others if one.most == asked.most and not self.sampling.temperature]
        batch = [asked]
        for one in alike:
            width = max(len(other.ids) for other in (*batch, one))
            if len(batch) < _BATCH and (len(batch) + 1) * width <= _BATCH_TOKENS:
                batch.append(one)
        self._waiting.extend(one for one in others if one not in batch)
        self._last = len(batch)
        return batch

    def _write(self, batch: Sequence[_Asked]) -> None:
        drawn: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if self.sampling.temperature:
            torch.manual_seed(self.sampling.seed)
            drawn = {
                "do_sample": True,
                "temperature": self.sampling.temperature,
                "top_p": self.sampling.top_p,
                "top_k": 0,
            }
        width, pad = max(len(one.ids) for one in batch), self.tokenizer.pad_token_id or self.tokenizer.eos_token_id
        given = torch.tensor([[pad] * (width - len(one.ids)) + one.ids for one in batch], device=self.device)
        mask = torch.tensor([[0] * (width - len(one.ids)) + [1] * len(one.ids) for one in batch], device=self.device)
        # No penalty for repetition, which our own replies have: the names of the lines repeat words, and have to.
        with torch.inference_mode():
            output = self.model.generate(
                given, attention_mask=mask, max_new_tokens=batch[0].most, pad_token_id=pad, **drawn
            )
        for one, answer in zip(batch, output[:, width:], strict=True):
            one.answer = str(self.tokenizer.decode(answer, skip_special_tokens=True))


class EndpointTextModel:
    """A model behind an OpenAI-compatible endpoint, with its cache and counters."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    @property
    def name(self) -> str:
        return self.endpoint.settings.model

    def complete(self, prompt: Callable[[Template], list[Piece]], max_tokens: int) -> str | None:
        """The answer; ``max_tokens`` is the endpoint's own setting, so that the cache knows it.

        Raises:
            ModelError: the endpoint refuses every call, or too many calls failed.
        """
        pieces = prompt(lambda messages: _BETWEEN.join(message["content"] for message in messages))
        text = "".join(clean_text(piece.text) if piece.typed else piece.text for piece in pieces)
        roles = ("system", "user")
        messages = [{"role": r, "content": t} for r, t in zip(roles, text.split(_BETWEEN), strict=True)]
        return self.endpoint.ask([messages], [lambda answer: bool(answer.strip())])[0]


def text_model_weights(name: str) -> Path:
    """The folder of a language model: a path, or ``smollm2`` for the embedded one before any of our training.

    Raises:
        ModelError: there is no such folder.
    """
    if name == "smollm2":
        from multimood_core.weights import weights_path

        return weights_path("smollm2")
    if not (folder := Path(name)).is_dir():
        raise ModelError(
            f"Expected a folder with a causal language model, or smollm2 for the embedded one, got {name!r}."
        )
    return folder
