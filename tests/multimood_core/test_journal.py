"""What was done stands on the disk, whatever ends the run; what was done under other settings is not taken for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from multimood_core.errors import DataError
from multimood_core.evaluation import ItemResult
from multimood_core.journal import Journal
from multimood_core.records import LabelPrediction


def result(number: int, missing: bool = False) -> ItemResult:
    predicted = {} if missing else {"strategy": LabelPrediction("approval", {"approval": 0.5, "others": 0.5})}
    return ItemResult(f"4/{number}", {"strategy": "approval"}, predicted, 0.5, "Weiter.\u2028", "Gut.", "x", missing, 9, 2)


def test_results_come_back_as_they_were_and_what_is_missing_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "R.json.partial.jsonl"
    journal = Journal(path, {"split": "val"})
    for row in (result(1), result(3, missing=True), result(5)):
        journal.add(row)
    again = Journal(path, {"split": "val"})
    assert again.known == {"4/1": result(1), "4/5": result(5)}
    again.close()
    assert not path.exists()
    assert Journal(path, {"split": "test"}).known == {}


def test_a_line_that_was_cut_off_is_dropped_and_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path, {})
    journal.add(result(1))
    journal.add(result(3))
    path.write_bytes(path.read_bytes()[:-40])
    again = Journal(path, {})
    assert set(again.known) == {"4/1"}
    again.add(result(3))
    assert set(Journal(path, {}).known) == {"4/1", "4/3"}


def test_another_runs_results_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal(path, {"checkpoint": "a"})
    with pytest.raises(DataError, match='another run.*"a".*another --out'):
        Journal(path, {"checkpoint": "b"})
    path.write_text('{}\n{"id": 3}\n')
    with pytest.raises(DataError, match="begin anew"):
        Journal(path, {})
