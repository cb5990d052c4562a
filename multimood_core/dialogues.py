"""Dialogues of a data set in the project's one turn format (jsonl), and the items that they are evaluated and trained on.

An item is a client turn that a therapist turn follows (MESC's four tasks); a turn is a run of one speaker's utterances.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from multimood_core.errors import DataError
from multimood_core.labels import EMOTIONS, SPEAKERS, STRATEGIES
from multimood_core.prompts import whole_text
from multimood_core.records import Context, HistoryTurn, Speaker

MAX_FILE: Final = 512 * 2**20  # bytes of a jsonl file: it is read into memory whole
MAX_TURNS: Final = 4096  # of a history: each takes a place in the prompt, and the embedded model has 8,192
MAX_CHARACTERS: Final = 100_000  # of one turn: an hour of talk; longer ones are a file that was taken for a turn


@dataclass(frozen=True, slots=True)
class DialogueTurn:
    """One merged turn: the speaker's words, majority labels, where its clip lies and who is seen there, if it is known."""

    speaker: Speaker
    text: str
    emotion: str | None = None
    strategy: str | None = None
    description: str = ""
    media: str | None = None
    person: str = ""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A dialogue of one split of a data set."""

    id: str
    split: str
    turns: tuple[DialogueTurn, ...]
    context: Context = field(default_factory=Context)


@dataclass(frozen=True, slots=True)
class Item:
    """A client turn (``dialogue.turns[index]``) with the therapist's turn that answers it."""

    dialogue: Dialogue
    index: int

    @property
    def id(self) -> str:
        return f"{self.dialogue.id}/{self.index}"

    @property
    def client(self) -> DialogueTurn:
        return self.dialogue.turns[self.index]

    @property
    def therapist(self) -> DialogueTurn:
        return self.dialogue.turns[self.index + 1]

    def history(self, gold: bool = True) -> tuple[HistoryTurn, ...]:
        """The turns before, with gold labels or without any."""
        return tuple(
            HistoryTurn(t.speaker, t.text, t.emotion if gold else None, t.strategy if gold else None)
            for t in self.dialogue.turns[: self.index]
        )


def items_of(dialogues: Iterable[Dialogue]) -> Iterator[Item]:
    """Every client turn that a therapist turn follows, in order."""
    for dialogue in dialogues:
        for index, (turn, after) in enumerate(zip(dialogue.turns, dialogue.turns[1:], strict=False)):
            if (turn.speaker, after.speaker) == SPEAKERS:
                yield Item(dialogue, index)


def write_dialogues(path: Path, dialogues: Iterable[Dialogue]) -> None:
    """Write one dialogue a line."""
    with path.open("w", encoding="utf-8") as file:
        for dialogue in dialogues:
            file.write(json.dumps(asdict(dialogue), ensure_ascii=False) + "\n")


def _lines(path: Path, what: str) -> list[tuple[int, str]]:
    """The file's lines that are not empty, with their numbers. U+2028 and the like stand inside JSON and end no line."""
    try:
        if (size := path.stat().st_size) > MAX_FILE:
            raise DataError(f"Expected a jsonl file of {what} of at most {MAX_FILE:,} bytes, {path} has {size:,}; split it.")
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as cause:
        raise DataError(f"Expected a jsonl file of {what} at {path}, but it cannot be read: {cause}") from cause
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def read_dialogues(path: Path) -> list[Dialogue]:
    """Read what ``write_dialogues`` wrote.

    Raises:
        DataError: the file cannot be read, or a line is not a dialogue; says which line and what was wrong.
    """
    dialogues = []
    for number, line in _lines(path, "dialogues"):
        try:
            raw = json.loads(line)
            turns = tuple(_checked(DialogueTurn(**turn)) for turn in raw["turns"])
            context = Context(**{name: _words(text) for name, text in raw.get("context", {}).items()})
            dialogues.append(Dialogue(_words(raw["id"]), _words(raw["split"]), turns, context))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as cause:
            raise DataError(f"{path}, line {number}: expected a dialogue with id, split and turns: {cause!r}") from cause
    return dialogues


def _checked(turn: DialogueTurn) -> DialogueTurn:
    """``turn``, whose speaker and labels are of the closed sets and whose texts are texts; else a ValueError."""
    for value, allowed in ((turn.speaker, SPEAKERS), (turn.emotion, (None, *EMOTIONS)), (turn.strategy, (None, *STRATEGIES))):
        if value not in allowed:
            raise ValueError(f"{value!r} is none of {', '.join(str(name) for name in allowed)}")
    media = None if turn.media is None else _words(turn.media)
    return replace(
        turn, text=_words(turn.text), description=_words(turn.description), media=media, person=_words(turn.person)
    )


def _words(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:60]!r} is no text")
    if len(value) > MAX_CHARACTERS:
        raise ValueError(f"a text of {len(value):,} characters; at most {MAX_CHARACTERS:,} may be")
    return whole_text(value)


def read_history(path: Path) -> list[HistoryTurn]:
    """Read a session's history: one turn a line, ``{"speaker", "text", "emotion", "strategy"}``, the labels optional.

    Raises:
        DataError: the file cannot be read, or a line is no such turn; says which line and what was expected.
    """
    turns = []
    for number, line in _lines(path, "earlier turns"):
        where = f"{path}, line {number}"
        try:
            raw = json.loads(line)
        except (ValueError, RecursionError) as cause:
            raise DataError(f"{where}: expected one JSON object a line, got {line[:60]!r} ({cause}).") from cause
        if not isinstance(raw, dict) or raw.get("speaker") not in SPEAKERS or not isinstance(raw.get("text"), str):
            raise DataError(f'{where}: expected {{"speaker": "client"|"therapist", "text": "..."}}, got {line[:80]!r}.')
        for key, allowed in (("emotion", EMOTIONS), ("strategy", STRATEGIES)):
            if raw.get(key) is not None and raw[key] not in allowed:
                raise DataError(f"{where}: expected {key} to be one of {', '.join(allowed)}, got {raw[key]!r}.")
        if len(raw["text"]) > MAX_CHARACTERS:
            raise DataError(f"{where}: expected a text of at most {MAX_CHARACTERS:,} characters, got {len(raw['text']):,}.")
        turns.append(HistoryTurn(raw["speaker"], whole_text(raw["text"]), raw.get("emotion"), raw.get("strategy")))
    if len(turns) > MAX_TURNS:
        raise DataError(f"Expected at most {MAX_TURNS:,} earlier turns, {path} has {len(turns):,}; keep the last ones.")
    return turns
