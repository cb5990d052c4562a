"""From typed records to tensors: tokenises the prompt around media placeholders and prepares pictures and sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AutoProcessor, PreTrainedTokenizerBase, ProcessorMixin

from multimood_core.config import MultiMoodConfig
from multimood_core.errors import ModelError
from multimood_core.prompts import (
    AUDIO_TOKEN,
    HISTORY_TOKEN,
    MEDIA_TOKENS,
    MEMORY_TOKEN,
    VIDEO_TOKEN,
    Piece,
    chat_template,
    clean_text,
    prompt_pieces,
    turn_pieces,
)
from multimood_core.records import Context, HistoryTurn

MAX_UTTERANCE_TOKENS: Final = 256  # a client turn of MESC has 23 words on average; longer text keeps its end
MAX_TURN_TOKENS: Final = 96  # an earlier turn
MAX_CONTEXT_TOKENS: Final = 64  # problem or situation
_LONGEST_TOKEN: Final = 64  # characters; no tokenizer in use has longer ones


class MultiMoodProcessor(ProcessorMixin):
    """Tokenizer and prompt of one checkpoint.

    Args:
        tokenizer: the language model's tokenizer; the four media tokens are added when it lacks them.
        prompt: ``ecot`` or ``brief``.
        recent_turns: turns that stand as text beside ``<history>``.
        guesses: labels that nobody confirmed stand in the history too.
    """

    attributes = ["tokenizer"]
    tokenizer_class = "AutoTokenizer"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: str = "ecot",
        recent_turns: int = 4,
        guesses: bool = False,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        absent = [t for t in MEDIA_TOKENS if t not in tokenizer.get_vocab()]
        if absent:
            tokenizer.add_tokens(absent, special_tokens=True)
        self.prompt = prompt
        self.recent_turns = recent_turns
        self.guesses = guesses
        super().__init__(tokenizer, chat_template=chat_template, **kwargs)

    def register(self, config: MultiMoodConfig) -> None:
        """Write the ids of the media tokens and how the prompt is made into ``config``."""
        ids = self.tokenizer.convert_tokens_to_ids(list(MEDIA_TOKENS))
        config.video_token_id, config.audio_token_id, config.history_token_id, config.memory_token_id = ids
        config.prompt, config.recent_turns, config.guesses = self.prompt, self.recent_turns, self.guesses

    @property
    def media_token_ids(self) -> list[int]:
        """Ids that the model must never generate."""
        return self.tokenizer.convert_tokens_to_ids(list(MEDIA_TOKENS))

    def encode_pieces(self, pieces: Sequence[Piece], limit: int | None = None) -> list[int]:
        """Tokenise pieces; typed ones with special tokens switched off and cut to their last ``limit`` tokens."""
        ids: list[int] = []
        for piece in pieces:
            if piece.typed:
                text = clean_text(piece.text)[-limit * _LONGEST_TOKEN if limit else None :]
                typed = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
                ids += typed[-limit:] if limit else typed
            else:
                ids += self.tokenizer(piece.text, add_special_tokens=False).input_ids
        return ids

    def encode_value(self, text: str) -> list[int]:
        """What follows one of the answer's line names: a label or a reply, as the model itself would write it."""
        return self.tokenizer(f" {clean_text(text)}", add_special_tokens=False, split_special_tokens=True).input_ids

    def encode_history_turn(self, turn: HistoryTurn) -> list[int]:
        """One unit U_i of the compressor's input, closed by ``<MEM>``."""
        memory = self.tokenizer.convert_tokens_to_ids(MEMORY_TOKEN)
        return [*self.encode_pieces(turn_pieces(self._shown(turn)), limit=MAX_TURN_TOKENS), memory]

    def history_text_tokens(self, history: Sequence[HistoryTurn]) -> int:
        """Tokens that the history takes as text: what the compressor saves."""
        return sum(len(self.encode_pieces(turn_pieces(self._shown(t)))) for t in history)

    def _shown(self, turn: HistoryTurn) -> HistoryTurn:
        return turn if self.guesses else turn.without_guesses()

    def encode_prompt(
        self,
        utterance: str,
        history: Sequence[HistoryTurn] = (),
        context: Context | None = None,
        descriptions: str = "",
        recent_turns: int | None = None,
    ) -> list[int]:
        """The prompt's ids (L,), each of ``<video>``, ``<audio>`` and ``<history>`` standing once.

        Long words keep their last tokens: the end of what a client says weighs most, and the prompt stays bounded.

        Raises:
            ModelError: the tokenizer's template lost or doubled a placeholder.
        """
        recent = self.recent_turns if recent_turns is None else recent_turns
        context = context or Context()
        shorten = self._shorten
        pieces = prompt_pieces(
            self.prompt,
            chat_template(self.tokenizer),
            shorten(utterance, MAX_UTTERANCE_TOKENS),
            recent=[
                replace(self._shown(t), text=shorten(t.text, MAX_TURN_TOKENS))
                for t in (history[-recent:] if recent else ())
            ],
            context=Context(shorten(context.problem, MAX_CONTEXT_TOKENS), shorten(context.situation, MAX_CONTEXT_TOKENS)),
            descriptions=shorten(descriptions, MAX_UTTERANCE_TOKENS),
        )
        ids = self.encode_pieces(pieces)
        for token in (VIDEO_TOKEN, AUDIO_TOKEN, HISTORY_TOKEN):
            count = ids.count(self.tokenizer.convert_tokens_to_ids(token))
            if count != 1:
                raise ModelError(
                    f"Expected {token} once in the prompt, but it stands there {count} times. Check the chat template."
                )
        return ids

    def _shorten(self, text: str, limit: int) -> str:
        """The end of ``text`` that fits ``limit`` tokens, cut before tokenising so that 100,000 characters cost little."""
        text = clean_text(text)[-limit * _LONGEST_TOKEN :]  # cleaned first: invisible characters push no words out
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        return text if len(ids) <= limit else self.tokenizer.decode(ids[-limit:]).lstrip("\ufffd ")

    def expand(self, input_ids: Sequence[int], counts: dict[str, int]) -> list[int]:
        """Repeat each placeholder as often as features will stand in its place.

        Args:
            input_ids: ids from ``encode_prompt``.
            counts: features for each of ``<video>``, ``<audio>`` and ``<history>``.
        """
        repeat = {self.tokenizer.convert_tokens_to_ids(token): n for token, n in counts.items()}
        return [token for token in input_ids for _ in range(repeat.get(token, 1))]

    def pad(self, rows: Sequence[Sequence[int]], side: str = "right") -> tuple[Tensor, Tensor]:
        """Stack ids into (B, L) with the attention mask (B, L)."""
        width = max(len(row) for row in rows)
        fill = self.tokenizer.pad_token_id
        fill = self.tokenizer.eos_token_id if fill is None else fill
        ids = torch.full((len(rows), width), fill, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for i, row in enumerate(rows):
            place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
            ids[i, place] = torch.tensor(row, dtype=torch.long)
            mask[i, place] = 1
        return ids, mask


AutoProcessor.register(MultiMoodConfig, MultiMoodProcessor)
