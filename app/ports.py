"""What a session needs of the engine: so that its logic loads no model, and the types say so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from multimood_core.decoding import Sampling
from multimood_core.engine import Event
from multimood_core.records import CheckpointId, Context, HistoryTurn, LabelPrediction, Turn


class Run(Protocol):
    """What the session needs of ``engine.TurnRun``."""

    @property
    def decoder(self) -> Decoder: ...

    def events(self, sampling: Sampling | None = None) -> Iterator[Event]: ...

    def words_alone(self) -> LabelPrediction | None: ...


class Decoder(Protocol):
    """What the session needs of ``decoding.AnswerDecoder``."""

    def label(self, task: str, choose: str | None = None) -> LabelPrediction: ...

    def reply(self, sampling: Sampling | None = None) -> Iterator[str]: ...


class EngineLike(Protocol):
    """What a session needs of ``engine.Engine``."""

    @property
    def checkpoint(self) -> HasId: ...

    def memory(self) -> Any: ...

    def prepare(self, history: Sequence[HistoryTurn], context: Context, memory: Any) -> None: ...

    def begin(
        self, turn: Turn, history: Sequence[HistoryTurn], context: Context, memory: Any, media_seconds: float
    ) -> Run: ...


class HasId(Protocol):
    @property
    def id(self) -> CheckpointId: ...
