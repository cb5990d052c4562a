"""GoEmotions becomes sentences with one of the seven emotions; what has none of them is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from multimood_core.errors import DataError
from train.goemotions import read_goemotions

NAMES = ("anger", "annoyance", "surprise", "neutral", "joy", "remorse")


def write(folder: Path, rows: str = "") -> Path:
    (folder / "labels.txt").write_text("\n".join(NAMES))
    for name in ("train", "dev", "test"):
        (folder / f"{name}.tsv").write_text(rows)
    return folder


def test_kinds_of_one_emotion_are_that_emotion_and_what_is_of_two_or_none_is_counted(tmp_path: Path) -> None:
    rows = 'stop it\t0,1\ta\n"what a day\t4\tb\nreally?\t2\tc\nwell\t3,5\td\nsorry\u200b\t5\te\n'
    splits, left_out = read_goemotions(write(tmp_path, rows))
    assert [(d.id, d.turns[0].text, d.turns[0].emotion) for d in splits["val"]] == [
        ("a", "stop it", "anger"),
        ("b", '"what a day', "joy"),
        ("e", "sorry", "sadness"),
    ]
    assert {split: {d.split for d in found} for split, found in splits.items()} == {s: {s} for s in ("train", "val", "test")}
    assert left_out == {"surprise": 3, "neutral and remorse": 3}


@pytest.mark.parametrize("row", ["only text\n", "text\tx\tid\n", "text\t9\tid\n"])
def test_a_row_of_another_shape_is_named_with_its_file(tmp_path: Path, row: str) -> None:
    with pytest.raises(DataError, match=r"train\.tsv"):
        read_goemotions(write(tmp_path, row))


def test_a_folder_without_the_emotions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels\.txt"):
        read_goemotions(tmp_path)
