"""What a session keeps of its dialogue between turns: compressed turns, and the start of the next prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from multimood_core.conv_compressor import CompressorState
from multimood_core.decoding import PromptStart
from multimood_core.model import MultiMoodForConditionalGeneration
from multimood_core.processor import MultiMoodProcessor
from multimood_core.records import HistoryTurn

_KEPT_STATES: Final = 64  # states of the last turns that stay in memory; of older turns every 64th


@dataclass(slots=True)
class HistoryMemory:
    """The compressed turns of one session: memory row and, for a way back, compressor state after each.

    ``rows(history)`` folds only what is new. When an earlier turn has changed (a corrected label) it goes back to the
    last state before that turn and folds from there. What was read of the next prompt while the client still spoke waits
    here too (``keep``, ``take``).
    """

    model: MultiMoodForConditionalGeneration
    processor: MultiMoodProcessor
    folded: int = 0
    """Tokens folded so far, over the memory's whole life: what the compression has cost."""
    _start: tuple[list[HistoryTurn], PromptStart] | None = None
    _turns: list[HistoryTurn] = field(default_factory=list)
    _text_tokens: list[int] = field(default_factory=list)
    _rows: Tensor | None = None
    _states: dict[int, CompressorState] = field(default_factory=dict)

    def rows(self, history: Sequence[HistoryTurn]) -> Tensor:
        """``<MEM>`` states (len(history), D_llm) of ``history``."""
        same = 0
        for known, turn in zip(self._turns, history, strict=False):
            if known is not turn and known != turn:
                break
            same += 1
        if same < len(self._turns):
            self._go_back(same)
        for turn in history[len(self._turns) :]:
            self._fold(turn)
        return self._buffer(len(history))[: len(history)].clone()

    def keep(self, history: Sequence[HistoryTurn], start: PromptStart) -> None:
        """Keep what was read of the next prompt, which comes after ``history``, in place of what was kept before."""
        self._start = list(history), start

    def holds(self, history: Sequence[HistoryTurn], ids: Sequence[int]) -> bool:
        """Whether what is kept is the start of the prompt ``ids`` after ``history``."""
        if self._start is None:
            return False
        turns, start = self._start
        return turns == list(history) and start.ids == list(ids[: len(start.ids)])

    def take(self, history: Sequence[HistoryTurn], ids: Sequence[int]) -> PromptStart | None:
        """What was read of the prompt ``ids`` after ``history``; None when it is another prompt or none was read."""
        start = self._start[1] if self._start and self.holds(history, ids) else None
        self._start = None
        return start

    @property
    def text_tokens(self) -> int:
        """Tokens that the turns folded last would take as text."""
        return sum(self._text_tokens)

    def _go_back(self, same: int) -> None:
        start = max((n for n in self._states if n <= same), default=0)
        del self._turns[start:], self._text_tokens[start:]
        self._states = {n: state for n, state in self._states.items() if n <= start}

    def _fold(self, turn: HistoryTurn) -> None:
        unit = self.processor.encode_history_turn(turn)
        count = len(self._turns)
        with torch.inference_mode():
            folded = self.model.model.compress(torch.tensor([unit]), state=self._states.get(count))
            self._buffer(count + 1)[count] = folded.memory[0]
        self._turns.append(turn)
        self._text_tokens.append(self.processor.history_text_tokens([turn]))
        self._states[count + 1] = folded.state
        self.folded += len(unit)
        passed = count + 1 - _KEPT_STATES
        if passed % _KEPT_STATES:
            self._states.pop(passed, None)

    def _buffer(self, count: int) -> Tensor:
        """Room for ``count`` rows; doubled when it is full, so that a long session is not copied at every turn."""
        if self._rows is None:
            self._rows = torch.zeros(_KEPT_STATES, self.model.config.llm_size)
        while len(self._rows) < count:
            self._rows = torch.cat([self._rows, torch.zeros_like(self._rows)])
        return self._rows
