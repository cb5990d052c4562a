"""MESC is merged as the paper counts it, clip folders keep the seven emotions, and other files are refused by name."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from multimood_core.dialogues import DialogueTurn, items_of
from multimood_core.errors import DataError
from train import data
from train.data import ClipFolder, clean_utterance, leakage, read_clip_folder, read_mesc

HEADER = ["Utterance", "Speaker", "Emotion", "Strategy", "Dialogue_ID", "Utterance_ID"]
ROWS = [
    ["I told you.", "Client", "sadness", "undefined", "0", "0"],
    ["♪ <i>Leave me</i> alone ♪", "Client", "anger", "undefined", "0", "1"],
    ["Please，now", "client ", "Anger", "undefined", "0", "2"],
    ["Why?", "Therapist", "neutral", "Open question", "0", "3"],
    ["I see.", "Therapist", "joy", "Communication skills", "0", "4"],
    ["Good day", "Client", "joy", "undefined", "1", "0"],
    ["Good day", "Therapist", "joy", "Others", "1", "1"],
]
PLACES = [["0", "train", "grief", "a &amp; b"], ["1", "val", "", ""]]


def write_mesc(root: Path, rows: list[list[str]] = ROWS, places: list[list[str]] = PLACES, header: list[str] = HEADER) -> Path:
    folder = root / "mesc"
    folder.mkdir(exist_ok=True)
    tables = [("MESC.csv", header, rows), ("split_map.csv", ["dialogue_id", "split", "problem_type", "situation"], places)]
    for name, first, body in tables:
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([first, *body])
    return root


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The little data set above has its own number of items."""
    monkeypatch.setattr(data, "MESC_ITEMS", {"train": 1, "val": 1, "test": 0})


@pytest.mark.usefixtures("counted")
def test_utterances_of_one_speaker_merge_and_the_majority_names_the_turn(tmp_path: Path) -> None:
    splits = read_mesc(write_mesc(tmp_path))
    (dialogue,) = splits["train"]
    assert dialogue.turns == (
        DialogueTurn("client", "I told you. Leave me alone Please, now", "anger"),
        # one neutral and one joy: the first; likewise the strategy
        DialogueTurn("therapist", "Why? I see.", "neutral", "open question"),
    )
    assert (dialogue.context.problem, dialogue.context.situation) == ("grief", "a & b")
    assert splits["test"] == []


def test_markup_goes_and_the_words_stay() -> None:
    assert clean_utterance("{\\an8}<b>No</b> # ♫ &quot;way&quot;？") == 'No "way"?'


@pytest.mark.usefixtures("counted")
def test_leakage_counts_dialogues_and_turns_word_for_word(tmp_path: Path) -> None:
    same = [["Good day", "Client", "joy", "undefined", "2", "0"], ["GOOD day", "Therapist", "joy", "Others", "2", "1"]]
    rows = [row for row in ROWS if row[4] == "1"] + same
    splits = read_mesc(write_mesc(tmp_path, rows, [["1", "val", "", ""], ["2", "train", "", ""]]))
    found = leakage(splits)
    assert (found["val dialogues also in train"], found["val client turns also in train"]) == (1, 1)
    assert (found["test dialogues also in train"], found["test client turns also in train"]) == (0, 0)


def test_another_number_of_items_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"3721.*got \{'train': 1"):
        read_mesc(write_mesc(tmp_path))


def replaced(column: int, value: str) -> list[list[str]]:
    return [[*ROWS[0][:column], value, *ROWS[0][column + 1 :]], *ROWS[1:]]


@pytest.mark.parametrize(
    ("rows", "places", "header", "says"),
    [
        (replaced(2, "hungry"), PLACES, HEADER, "dialogue 0: expected one of anger.*'hungry'"),
        (replaced(3, "hypnosis"), PLACES, HEADER, "dialogue 0: expected one of open question.*'hypnosis'"),
        (replaced(1, "Doctor"), PLACES, HEADER, "expected Client or Therapist.*'doctor'"),
        (ROWS, PLACES[:1], HEADER, "expected dialogue 1 in one of train, val, test, got none"),
        (ROWS, [PLACES[0], ["1", "dev", "", ""]], HEADER, "got dev"),
        (ROWS, PLACES, ["Text", *HEADER[1:]], "expected rows with columns .*Utterance.* with Text"),
        ([], PLACES, HEADER, "got 0 rows"),
        ([*ROWS, ["only this"]], PLACES, HEADER, "line 9: .*the row is shorter"),
    ],
)
def test_tables_that_are_not_mesc_are_refused(
    tmp_path: Path, rows: list[list[str]], places: list[list[str]], header: list[str], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        read_mesc(write_mesc(tmp_path, rows, places, header))


def test_absent_data_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"split_map\.csv.*cannot be read"):
        read_mesc(tmp_path)
    monkeypatch.setenv("MULTIMOOD_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"nowhere.*Set MULTIMOOD_DATA"):
        read_mesc()


def test_the_released_mesc_has_the_papers_items(data_dir: Path) -> None:
    splits = read_mesc(data_dir)  # it checks 3,721, 445 and 454 itself
    assert {split: len(list(items_of(dialogues))) for split, dialogues in splits.items()} == {
        "train": 3721, "val": 445, "test": 454,
    }  # fmt: skip
    for dialogues in splits.values():
        for item in items_of(dialogues):
            assert item.client.emotion
            assert item.therapist.emotion
            assert item.therapist.strategy


def write_clips(folder: Path, table: str) -> Path:
    (folder / "labels.csv").write_text(table, encoding="utf-8")
    for name in ("a.wav", "b.wav", "c.wav"):
        (folder / name).write_bytes(b"")
    return folder


def test_a_clip_folder_keeps_the_seven_emotions_and_counts_the_rest(tmp_path: Path) -> None:
    table = "\ufefffile,emotion,actor\na.wav,Happy,01\nb.wav,surprised,02\nb.wav,calm,02\nc.wav,boredom,\nc.wav,surprised,\n"
    found = read_clip_folder(write_clips(tmp_path, table))
    assert isinstance(found, ClipFolder)
    assert [(clip.path.name, clip.emotion, clip.speaker) for clip in found.clips] == [
        ("a.wav", "joy", "01"),
        ("b.wav", "neutral", "02"),
    ]
    assert found.left_out == {"surprised": 2, "boredom": 1}


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("file,emotion\na.wav,joy\nb.wav,hungry\n", r"labels\.csv, line 3: expected one of anger.*'hungry'"),
        ("file,emotion\na.wav,joy\nd.wav,joy\n", r"labels\.csv, line 3: there is no file .*d\.wav"),
        ("file,emotion\n,joy\n", "line 2: there is no file"),
        ("file,mood\na.wav,joy\n", "expected rows with columns file, emotion, got 1 rows with file, mood"),
        ("file,emotion\n", "got 0 rows"),
        ("file,emotion\na.wav\n", "line 2: .*the row is shorter"),
    ],
)
def test_a_faulty_clip_table_is_named(tmp_path: Path, table: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_clip_folder(write_clips(tmp_path, table))


def test_a_folder_without_a_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"file, emotion.*labels\.csv"):
        read_clip_folder(tmp_path)
    (tmp_path / "labels.csv").write_bytes(b"file,emotion\n\xff\xff,joy\n")
    with pytest.raises(DataError, match="cannot be read"):
        read_clip_folder(tmp_path)
