"""The language model under a checkpoint, before any training, asked in words alone; it takes the checkpoint's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import torch
from transformers import DynamicCache

from multimood_core.decoding import Sampling, draw_token
from multimood_core.errors import ModelError
from multimood_core.prompts import Piece, chat_template, clean_text
from multimood_core.registry import Checkpoint
from multimood_core.sharing import base_language_model
from multimood_core.text_models import Template

NAME: Final = "base language model"


class BaseTextModel:
    """A ``text_models.TextModel`` whose answers can also be had piece by piece.

    Args:
        checkpoint: whose frozen weights it takes.
        sampling: how ``complete`` draws.
    """

    name: Final = NAME

    def __init__(self, checkpoint: Checkpoint, sampling: Sampling | None = None) -> None:
        self.model, self.processor = base_language_model(checkpoint), checkpoint.processor
        self.sampling = sampling or Sampling()

    def complete(self, prompt: Callable[[Template], list[Piece]], max_tokens: int) -> str:
        return "".join(self.stream(prompt, self.sampling, max_tokens))

    def stream(self, prompt: Callable[[Template], list[Piece]], sampling: Sampling, max_tokens: int) -> Iterator[str]:
        """The answer in pieces of text, as they come.

        Raises:
            ModelError: the prompt leaves no room for an answer.
        """
        tokenizer, ids = self.processor.tokenizer, list[int]()
        for piece in prompt(chat_template(tokenizer)):
            text = clean_text(piece.text) if piece.typed else piece.text
            ids += tokenizer(text, add_special_tokens=False, split_special_tokens=piece.typed).input_ids
        room = getattr(self.model.config, "max_position_embeddings", None)
        if room and len(ids) + max_tokens > room:
            raise ModelError(
                f"The {NAME} reads {room} tokens, but the prompt has {len(ids)} and its answer may have {max_tokens}. "
                "Take a turn with a shorter history."
            )
        generator = torch.Generator().manual_seed(sampling.seed)
        cache, barred = DynamicCache(config=self.model.config), torch.tensor(self.processor.media_token_ids)
        produced: list[int] = []
        shown, given = "", ids
        for _ in range(max_tokens):
            with torch.inference_mode():
                output = self.model(input_ids=torch.tensor([given]), past_key_values=cache, use_cache=True, logits_to_keep=1)
            token = draw_token(output.logits[0, -1].float(), produced, barred, sampling, generator)
            if token == tokenizer.eos_token_id:
                return
            produced.append(token)
            given = [token]
            text = tokenizer.decode(produced, skip_special_tokens=True)
            if not text.endswith("\ufffd") and len(text) > len(shown):  # half a character waits for its other half
                yield text[len(shown) :]
                shown = text
