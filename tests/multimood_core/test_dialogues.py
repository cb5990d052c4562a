"""Dialogues come back as they were written; a history file's errors name the line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from multimood_core.dialogues import (
    MAX_TURNS,
    Dialogue,
    DialogueTurn,
    items_of,
    read_dialogues,
    read_history,
    write_dialogues,
)
from multimood_core.errors import DataError
from multimood_core.records import Context, HistoryTurn

DIALOGUE = Dialogue(
    "7",
    "val",
    (
        DialogueTurn("therapist", "What brings you here?", "neutral", "open question"),
        DialogueTurn("client", "I can’t sleep\u2028at all.", "fear", media="7/1.mp4"),
        DialogueTurn("therapist", "Since when?", "neutral", "open question"),
        DialogueTurn("client", "For weeks.", "sadness", description="looks down"),
    ),
    Context("insomnia", "works at night"),
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "dialogues.jsonl"
    write_dialogues(path, [DIALOGUE, Dialogue("8", "val", ())])
    assert read_dialogues(path) == [DIALOGUE, Dialogue("8", "val", ())]


def test_an_item_is_a_client_turn_that_a_therapist_answers() -> None:
    (item,) = items_of([DIALOGUE])
    assert item.id == "7/1"
    assert (item.client, item.therapist) == DIALOGUE.turns[1:3]
    assert item.history() == (HistoryTurn("therapist", "What brings you here?", "neutral", "open question"),)
    assert item.history(gold=False) == (HistoryTurn("therapist", "What brings you here?"),)


@pytest.mark.parametrize("line", ["{", '{"id": "9"}', '{"id": "9", "split": "val", "turns": [{"spoke": "client"}]}', "[]"])
def test_a_line_that_is_no_dialogue_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "dialogues.jsonl"
    write_dialogues(path, [DIALOGUE])
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 2: expected a dialogue"):
        read_dialogues(path)


def test_a_history_file_gives_confirmed_turns(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    said = "first\u2028and last"  # what JSON may hold as it stands, though str.splitlines breaks there
    rows = [{"speaker": "client", "text": said, "emotion": "fear"}, {"speaker": "therapist", "text": "Go on.", "strategy": None}]
    text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(f"\ufeff{text}\r\n", encoding="utf-8")
    assert read_history(path) == [HistoryTurn("client", said, "fear"), HistoryTurn("therapist", "Go on.")]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("not JSON", "one JSON object a line"),
        ('["client", "Hello"]', '"speaker": "client"'),
        ('{"speaker": "doctor", "text": "Hello"}', '"speaker": "client"'),
        ('{"speaker": "client", "text": 5}', '"text": "..."'),
        ('{"speaker": "client"}', '"text": "..."'),
        ('{"speaker": "client", "text": "Hello", "emotion": "happy"}', "emotion to be one of anger.*'happy'"),
        ('{"speaker": "client", "text": "Hello", "emotion": 3}', "emotion to be one of"),
        ('{"speaker": "therapist", "text": "Hello", "strategy": "hypnosis"}', "strategy to be one of"),
    ],
)
def test_an_error_in_a_history_file_names_its_line(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(f'{{"speaker": "client", "text": "fine"}}\n\n{line}\n', encoding="utf-8")
    with pytest.raises(DataError, match=rf"history\.jsonl, line 3: expected .*{says}"):
        read_history(path)


def test_a_history_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.jsonl", tmp_path):
        with pytest.raises(DataError, match=f"earlier turns at {path}"):
            read_history(path)
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        read_history(binary)


def test_a_history_longer_than_a_prompt_can_hold_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    lines = ['{"speaker": "client", "text": "and on"}'] * MAX_TURNS
    path.write_text("\n".join(lines))
    assert len(read_history(path)) == MAX_TURNS
    path.write_text("\n".join([*lines, lines[0]]))
    with pytest.raises(DataError, match="at most 4,096 earlier turns, .*long.jsonl has 4,097"):
        read_history(path)
