"""MESC is merged as the paper counts it, clip folders keep the seven emotions, and other files are refused by name."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from multimood_core.dialogues import Dialogue, DialogueTurn, items_of, read_dialogues
from multimood_core.errors import DataError
from train import data
from train.data import ClipFolder, clean_utterance, main, read_clip_folder, read_dfew, read_mesc
from train.turns import Clip, Leak, data_hash, leakage, leakage_table, read_clips, read_split

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
SEEN = "The speaker looks away."
VAL = [{"problem_type": "", "situation": "", "dialog": [{"text": f"Good day. {SEEN}"}, {"text": "GOOD DAY"}]}]


def write_mesc(
    root: Path, rows: Sequence[list[str]] = ROWS, header: Sequence[str] = HEADER, **splits: list[dict[str, Any]]
) -> Path:
    """A little MESC: dialogue 0 is in no JSON and so of the training split, dialogue 1 is val.json's."""
    folder = root / "mesc"
    folder.mkdir(exist_ok=True)
    with (folder / "MESC.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    for split, dialogues in ({"val": VAL, "test": []} | splits).items():
        (folder / f"{split}.json").write_text(json.dumps(dialogues), encoding="utf-8")
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
    assert splits["test"] == []


@pytest.mark.usefixtures("counted")
def test_the_json_tells_split_problem_situation_and_what_is_seen(tmp_path: Path) -> None:
    about = VAL[0] | {"problem_type": "grief", "situation": "a &amp; b"}
    (dialogue,) = read_mesc(write_mesc(tmp_path, val=[about]))["val"]
    assert (dialogue.context.problem, dialogue.context.situation) == ("grief", "a & b")
    assert dialogue.turns == (
        DialogueTurn("client", "Good day", "joy", description=SEEN),
        DialogueTurn("therapist", "Good day", "joy", "others"),
    )


def test_of_two_dialogues_alike_each_split_gets_one(tmp_path: Path) -> None:
    rows = [[*row[:4], number, row[5]] for number in "12" for row in ROWS[5:]]
    splits = read_mesc(write_mesc(tmp_path, rows, test=VAL), {"train": 0, "val": 1, "test": 1})
    assert [d.id for d in splits["val"]] != [d.id for d in splits["test"]]


def test_markup_goes_and_the_words_stay() -> None:
    assert clean_utterance("{\\an8}<b>No</b> # ♫ &quot;way&quot;？") == 'No "way"?'


def spoken(name: str, split: str, *texts: str, person: str = "") -> Dialogue:
    turns = [DialogueTurn("client" if i % 2 == 0 else "therapist", text, person=person) for i, text in enumerate(texts)]
    return Dialogue(name, split, tuple(turns))


def test_leakage_counts_dialogues_exchanges_and_turns_whatever_their_case_and_punctuation(tmp_path: Path) -> None:
    train = [spoken("0", "train", "Good day", "Good day"), spoken("1", "train", "I am lost.", "Since when?")]
    val = [spoken("2", "val", "GOOD day!", "good, day")]
    test = [spoken("3", "test", "good day", "And now?"), spoken("4", "test", "Nothing", "Since when?")]
    leaks = leakage({"mesc": {"train": train, "val": val, "test": test}}, tmp_path)
    counts = {(leak.split, leak.other, leak.what): (leak.shared, leak.total) for leak in leaks}
    assert counts == {
        ("val", "train", "dialogues"): (1, 1), ("val", "train", "exchanges"): (1, 1), ("val", "train", "client turns"): (1, 1),
        ("test", "train", "dialogues"): (0, 2), ("test", "train", "exchanges"): (0, 2), ("test", "train", "client turns"): (1, 2),
        ("test", "val", "dialogues"): (0, 2), ("test", "val", "exchanges"): (0, 2), ("test", "val", "client turns"): (1, 2),
    }  # fmt: skip
    assert next(leak for leak in leaks if leak.what == "client turns" and leak.other == "train").examples == ("2/0",)
    assert ["mesc", "val", "train", "dialogues", "1", "of", "1"] in [line.split() for line in leakage_table(leaks).splitlines()]


def test_clips_leak_by_their_bytes_and_by_their_people(tmp_path: Path) -> None:
    for name, content in (("a.wav", b"1"), ("b.wav", b"1"), ("c.wav", b"2")):
        (tmp_path / name).write_bytes(content)
    train = [data.clip_dialogue(Clip(tmp_path / "a.wav", "joy", "03"), "train", tmp_path)]
    seen = (Clip(tmp_path / "b.wav", "joy", "03"), Clip(tmp_path / "c.wav", "joy", "04"))
    test = [data.clip_dialogue(clip, "test", tmp_path) for clip in seen]
    assert leakage({"v": {"train": train, "test": test}}, tmp_path) == [
        Leak("v", "test", "train", "clips", 1, 2, ("b.wav",)),
        Leak("v", "test", "train", "people", 1, 2, ("03",)),
    ]


def test_another_number_of_items_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"3721.*got \{'train': 1"):
        read_mesc(write_mesc(tmp_path))


def replaced(column: int, value: str) -> list[list[str]]:
    return [[*ROWS[0][:column], value, *ROWS[0][column + 1 :]], *ROWS[1:]]


@pytest.mark.parametrize(
    ("rows", "header", "says"),
    [
        (replaced(2, "hungry"), HEADER, "dialogue 0: expected one of anger.*'hungry'"),
        (replaced(3, "hypnosis"), HEADER, "dialogue 0: expected one of open question.*'hypnosis'"),
        (replaced(1, "Doctor"), HEADER, "expected Client or Therapist.*'doctor'"),
        (ROWS, ["Text", *HEADER[1:]], "expected rows with columns .*Utterance.* with Text"),
        ([], HEADER, "got 0 rows"),
        ([*ROWS, ["only this"]], HEADER, "line 9: .*the row is shorter"),
        (ROWS[:5], HEADER, r"val\.json, dialogue 0: expected the words of one dialogue .* got those of none"),
    ],
)
def test_tables_that_are_not_mesc_are_refused(tmp_path: Path, rows: list[list[str]], header: list[str], says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_mesc(write_mesc(tmp_path, rows, header))


@pytest.mark.parametrize("text", ["[", '{"a": 1}', '[{"dialog": []}]', "null"])
def test_a_json_that_is_not_mescs_is_refused(tmp_path: Path, text: str) -> None:
    (write_mesc(tmp_path) / "mesc/val.json").write_text(text)
    with pytest.raises(DataError, match=r"Expected a list of dialogues .*val\.json"):
        read_mesc(tmp_path)


def test_absent_data_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"MESC\.csv.*cannot be read"):
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
    with (data_dir / "mesc/split_map.csv").open(encoding="utf-8-sig", newline="") as file:  # made by another hand
        places = {row["dialogue_id"]: row for row in csv.DictReader(file)}
    for split, dialogues in splits.items():
        for dialogue in dialogues:
            place = places[dialogue.id]
            assert place["split"] == split
            assert dialogue.context.situation == clean_utterance(place["situation"])


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


def write_dfew(root: Path) -> Path:
    (root / "Clip/original/part_1").mkdir(parents=True)
    for number in (1, 2, 3):
        (root / f"Clip/original/part_1/{number}.mp4").write_bytes(b"")
    for split, rows in (("train", "1,1\n2,5\n"), ("test", "3,7\n")):
        folder = root / f"EmoLabel_DataSplit/{split}(single-labeled)"
        folder.mkdir(parents=True)
        (folder / "set_2.csv").write_text(f"video_name,label\n{rows}")
    return root


def test_dfews_folds_keep_six_emotions_and_count_the_surprised(tmp_path: Path) -> None:
    splits = read_dfew(write_dfew(tmp_path), fold=2)
    assert [(clip.path.name, clip.emotion) for clip in splits["train"].clips] == [("1.mp4", "joy")]
    assert splits["train"].left_out == {"surprise": 1}
    assert [(clip.path.name, clip.emotion) for clip in splits["test"].clips] == [("3.mp4", "fear")]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("1,8", "line 2: expected a clip's number and a label from 1 to 7, got '1' and '8'"),
        ("x,1", "line 2: .*'x'"),
        ("9,1", "line 2: expected one clip named 9 below .*Clip, got none"),
        ("1,1", r"got .*1\.mp4, .*00001\.avi|got .*00001\.avi, .*1\.mp4"),
    ],
)
def test_a_faulty_fold_is_named(tmp_path: Path, rows: str, says: str) -> None:
    folder = write_dfew(tmp_path)
    (folder / "EmoLabel_DataSplit/train(single-labeled)/set_2.csv").write_text(f"video_name,label\n{rows}\n")
    if "avi" in says:
        (folder / "Clip/00001.avi").write_bytes(b"")
    with pytest.raises(DataError, match=says):
        read_dfew(folder, fold=2)


def stage(root: Path, out: Path, *more: str) -> None:
    words = [f"--root={root}", f"--out={out}", "--items={train: 1, val: 1, test: 0}", "--clips=[voices]", *more]
    main(words)


def test_the_stage_writes_one_format_for_dialogues_and_clips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_mesc(tmp_path)
    (root / "voices").mkdir()
    write_clips(root / "voices", "file,emotion,speaker\na.wav,happy,01\nb.wav,surprised,01\n")
    (root / "cut").mkdir()
    (root / "cut/0_0.mp4").write_bytes(b"clip")
    stage(root, tmp_path / "out", f"--turn_clips={root / 'cut'}")
    printed = capsys.readouterr().out
    assert "voices: 1 clips of 'surprised' left out" in printed
    assert "mesc train: 1 dialogues, 1 items" in printed
    (dialogue,) = read_split("mesc", "train", tmp_path / "out")
    assert [turn.media for turn in dialogue.turns] == ["cut/0_0.mp4", None]
    assert read_dialogues(tmp_path / "out/mesc/train.jsonl") == [dialogue]
    assert read_clips("voices", "train", tmp_path / "out", root) == [Clip(root / "voices/a.wav", "joy", "01")]
    report = json.loads((tmp_path / "out/leakage.json").read_text())
    assert {leak["what"] for leak in report} == {"dialogues", "exchanges", "client turns"}
    assert data_hash(["mesc"], "train", tmp_path / "out") != data_hash(["mesc"], "val", tmp_path / "out")


def test_a_dry_run_writes_nothing_and_an_absent_stage_is_named(tmp_path: Path) -> None:
    root = write_mesc(tmp_path)
    (root / "voices").mkdir()
    write_clips(root / "voices", "file,emotion\na.wav,joy\n")
    stage(root, tmp_path / "out", "--dry-run")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match=r"Expected mesc's train split at .*Run python -m train\.data"):
        read_split("mesc", "train", tmp_path / "out")


def test_people_kept_apart_are_the_test_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_mesc(tmp_path)
    monkeypatch.setattr(data, "HELD_OUT_SPEAKERS", {"voices": {"02"}})
    (root / "voices").mkdir()
    write_clips(root / "voices", "file,emotion,actor\na.wav,joy,01\nb.wav,joy,02\nc.wav,fear,01\n")
    stage(root, tmp_path / "out")
    assert [clip.speaker for clip in read_clips("voices", "train", tmp_path / "out", root)] == ["01", "01"]
    assert [clip.speaker for clip in read_clips("voices", "test", tmp_path / "out", root)] == ["02"]
