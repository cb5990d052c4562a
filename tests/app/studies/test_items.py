"""Items: uploads line by line, stratified draws, what de-identification takes out, and the set-up's refusals."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from app.studies import schema
from app.studies.deidentify import deidentified
from app.studies.errors import InputError, StudyError
from app.studies.guidelines import CRITERIA, PRACTICE
from app.studies.items import Drawing, NewItem, draw, read_dialogue_upload, read_upload
from app.studies.overview import overview, preview
from app.studies.records import StudySettings, as_plain, settings_of
from multimood_core.dialogues import Dialogue, DialogueTurn, Item, items_of
from tests.app.studies.scene import KEYS, Scene, gate_gold, line


def dialogues(count: int, rare: int = 2) -> list[Item]:
    """Items of which most are sadness with an open question and ``rare`` are joy with approval."""
    made = []
    for i in range(count):
        emotion, strategy = ("joy", "approval") if i < rare else ("sadness", "open question")
        turns = (DialogueTurn("client", f"Words {i}.", emotion), DialogueTurn("therapist", f"Answer {i}.", "neutral", strategy))
        made += list(items_of([Dialogue(f"d{i}", "val", turns)]))
    return made


def test_a_draw_keeps_the_shares_of_strategies_and_emotions_and_its_seed() -> None:
    items = dialogues(100, rare=20)
    drawn = draw(items, 25, seed=1)
    assert Counter(i.client.emotion for i in drawn) == {"sadness": 20, "joy": 5}
    assert [i.id for i in drawn] == [i.id for i in draw(items[::-1], 25, seed=1)], "the order of the file does not matter"
    assert {i.id for i in drawn} != {i.id for i in draw(items, 25, seed=2)}
    assert len({i.id for i in drawn}) == 25


def test_a_draw_by_chance_alone_is_seeded_and_looks_at_no_label() -> None:
    items = dialogues(100, rare=20)
    draws = [draw(items, 25, seed, stratified=False) for seed in range(20)]
    assert [i.id for i in draws[0]] == [i.id for i in draw(items[::-1], 25, 0, stratified=False)]
    assert len({sum(i.client.emotion == "joy" for i in drawn) for drawn in draws}) > 1, "the shares are left to chance"


@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 5), st.booleans())
def test_any_draw_has_its_size_and_no_item_twice(count: int, rare: int, seed: int, stratified: bool) -> None:
    drawn = draw(dialogues(60, rare), count, seed, stratified)
    assert len({item.id for item in drawn}) == count


def test_more_than_there_are_cannot_be_drawn() -> None:
    with pytest.raises(InputError, match="1 to 5"):
        draw(dialogues(5), 6, 0)


BAD: list[tuple[str, Any]] = [
    ("not JSON", "expected one JSON object"),
    ([], "one JSON object"),
    ({"responses": {}}, "none empty"),
    ({"responses": {"one": " "}}, "none empty"),
    ({"turns": []}, "turns"),
    ({"turns": [{"speaker": "user", "text": "x"}]}, "speaker"),
    ({"turns": [{"speaker": "therapist", "text": "x"}]}, "client's turn as the last"),
    ({"emotion": "surprise"}, "emotion of"),
    ({"gold": {"fluency": "win"}}, "win, tie or loss"),
    ({"gold": dict.fromkeys(KEYS, "win"), "responses": {"a": "x"}}, "two responses"),
    ({"id": ""}, "id of at least"),
    ({"surprise": 1}, "keys of"),
]


@pytest.mark.parametrize(("change", "said"), BAD)
def test_a_broken_line_is_named_with_what_was_expected(change: Any, said: str) -> None:
    broken = change if isinstance(change, str) else json.dumps(json.loads(line("bad")) | change if change else change)
    with pytest.raises(InputError, match="Line 2") as raised:
        read_upload(f"{line('good')}\n{broken}\n".encode(), CRITERIA)
    assert said in str(raised.value)


def test_nothing_of_a_broken_file_is_taken(scene: Scene) -> None:
    number = scene.study(items=1, opened=False)
    for second in ("not JSON", line("item-0")):  # unreadable, and refused by what the study has already
        with pytest.raises(InputError):
            scene.studies.add_items(scene.researcher, number, read_upload(f"{line('good')}\n{second}".encode(), CRITERIA))
    assert overview(scene.store, scene.researcher, number)["items"] == {"official": 1}


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"\n\n"])
def test_a_file_without_items_is_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        read_upload(data, CRITERIA)


@given(st.binary(max_size=300))
def test_any_bytes_give_items_or_a_sentence(data: bytes) -> None:
    for read in (lambda: read_upload(data, CRITERIA), lambda: read_dialogue_upload(data)):
        with contextlib.suppress(InputError):
            read()


def test_a_duplicate_id_is_refused_in_a_file_and_across_files(scene: Scene) -> None:
    with pytest.raises(InputError, match="different id"):
        read_upload(f"{line('x')}\n{line('x')}".encode(), CRITERIA)
    number = scene.studies.create(scene.researcher, "s", StudySettings(gate_size=0))
    scene.studies.add_items(scene.researcher, number, read_upload(line("x").encode(), CRITERIA))
    other = json.dumps(json.loads(line("x")) | {"turns": [{"speaker": "client", "text": "Something else."}]})
    with pytest.raises(InputError, match="other contents"):
        scene.studies.add_items(scene.researcher, number, read_upload(other.encode(), CRITERIA))
    with pytest.raises(InputError, match="already"):
        scene.studies.add_items(scene.researcher, number, read_upload(line("x").encode(), CRITERIA))
    third = line("x", {"three": "A third system's response."})
    scene.studies.add_items(scene.researcher, number, read_upload(third.encode(), CRITERIA))
    external = b'{"id": "x", "responses": {"four": "Written elsewhere."}}'
    scene.studies.add_items(scene.researcher, number, read_upload(external, CRITERIA))
    systems = overview(scene.store, scene.researcher, number)["systems"]
    assert [s["name"] for s in systems] == ["one", "two", "three", "four"]
    with pytest.raises(InputError, match="Expected turns for 'y'"):
        scene.studies.add_items(scene.researcher, number, read_upload(external.replace(b'"x"', b'"y"'), CRITERIA))


def test_a_draft_can_be_emptied_after_a_wrong_upload_and_an_open_study_cannot(scene: Scene) -> None:
    kept = scene.study(items=1)
    before = overview(scene.store, scene.researcher, kept)["items"]
    number = scene.study(items=2, opened=False, gate_pool=2)
    scene.studies.clear(scene.researcher, number)
    found = overview(scene.store, scene.researcher, number)
    assert (found["items"], found["systems"], found["gold"]) == ({}, [], 0)
    scene.studies.add_items(scene.researcher, number, read_upload(line("item-0").encode(), CRITERIA))
    with pytest.raises(StudyError, match="opened"):
        scene.studies.clear(scene.researcher, kept)
    assert overview(scene.store, scene.researcher, kept)["items"] == before


def test_a_study_says_all_that_it_lacks_before_it_opens(scene: Scene) -> None:
    number = scene.studies.create(scene.researcher, "empty", StudySettings(gate_size=10))
    with pytest.raises(StudyError, match="two systems.*add items.*entrance test needs 10"):
        scene.studies.open(scene.researcher, number)
    half = [line("a", {"one": "Words."}), line("b", {"one": "Words.", "two": "Others."})]
    scene.studies.add_items(scene.researcher, number, read_upload("\n".join(half).encode(), CRITERIA))
    with pytest.raises(StudyError, match="1 response of two"):
        scene.studies.open(scene.researcher, number)
    same = [line(f"g{i}", gold=dict.fromkeys(KEYS, "tie")) for i in range(10)]
    scene.studies.add_items(scene.researcher, number, read_upload("\n".join(same).encode(), CRITERIA))
    with pytest.raises(StudyError, match="same verdict"):
        scene.studies.open(scene.researcher, number)


def test_what_was_opened_stays_as_it_was_but_the_guideline_may_be_reworded(scene: Scene) -> None:
    number = scene.study(items=1)
    for change in (
        lambda: scene.studies.configure(scene.researcher, number, StudySettings(overlap=1)),
        lambda: scene.studies.add_items(scene.researcher, number, read_upload(line("late").encode(), CRITERIA)),
        lambda: scene.studies.reword(scene.researcher, number, CRITERIA[:3]),
    ):
        with pytest.raises(StudyError):
            change()
    assert scene.studies.reword(scene.researcher, number, CRITERIA) == 2
    (person,) = scene.raters(number, 1)
    assert scene.take(person, number).guideline_version == 2


def test_drawn_items_of_the_gate_get_their_gold_in_the_app(scene: Scene) -> None:
    number = scene.study(items=2, opened=False, gate_size=6)
    scene.studies.sample(scene.researcher, number, dialogues(12), Drawing(6, "gate"))
    keys = [f"d{i}/0" for i in range(12)]
    with scene.store.read() as connection:
        drawn = connection.execute(select(schema.item.c.key).where(schema.item.c.kind == "gate")).scalars().all()
    assert set(drawn) <= set(keys)
    assert scene.studies.next_gold(scene.researcher, number) is None, "their responses are not there yet"
    by_key = {item.id: item for item in dialogues(12)}
    new = []
    for key in drawn:
        turns = ({"speaker": "client", "text": by_key[key].client.text, "emotion": None, "strategy": None},)
        new.append(NewItem(key, "gate", "", "", turns, None, None, {"one": f"one {key}", "two": f"two {key}"}))
    scene.studies.add_items(scene.researcher, number, new)
    gold: dict[str, dict[str, str]] = {}
    while (task := scene.studies.next_gold(scene.researcher, number)) is not None:
        assert not {"left_system", "right_system"} & set(task)
        wanted = gate_gold(len(gold))
        straight = task["a"].startswith("one")
        places = ("a", "tie", "b") if straight else ("b", "tie", "a")
        sent = {key: places[("win", "tie", "loss").index(verdict)] for key, verdict in wanted.items()}
        scene.studies.set_gold(scene.researcher, number, task["pair"], sent)
        gold[task["a"].split()[1]] = wanted
    assert len(gold) == 6
    assert sorted(map(str, gold.values())) == sorted(str(pair.gold) for pair in scene.pairs(number, "gate"))
    scene.studies.open(scene.researcher, number)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Write to anna.b@mail.example or call +49 (30) 123-4567.", "Write to [mail] or call [number]."),
        ("I met Mr. Miller and Dr Sara Stone on 12 March 2024.", "I met Mr. [name] and Dr [name] on [date]."),
        ("My name is Anna, see www.page.example/x", "My name is [name], see [address]"),
        ("We live at 12 Elm Street, since 1.2.2020", "We live at [street], since [date]"),
        ("Lena said so, and lenas cat.", "[name] said so, and lenas cat."),
        ("I am 42, I sleep 3 hours, 10 of 12 nights.", "I am 42, I sleep 3 hours, 10 of 12 nights."),
    ],
)
def test_what_points_to_a_person_is_taken_out(text: str, shown: str) -> None:
    assert deidentified(text, ["Lena"]) == shown


def test_items_are_stored_without_it(scene: Scene) -> None:
    number = scene.studies.create(scene.researcher, "s", StudySettings(gate_size=0, hidden_names=("Lena",)))
    raw = json.loads(line("x", {"one": "Tell Lena.", "two": "Mail a@b.example."}))
    raw["turns"] = [{"speaker": "client", "text": "Lena left. Call 030 1234567."}]
    scene.studies.add_items(scene.researcher, number, read_upload(json.dumps(raw).encode(), CRITERIA))
    (seen,) = preview(scene.store, scene.researcher, number)
    assert seen["turns"] == [{"speaker": "client", "text": "[name] left. Call [number]."}]
    assert [one["text"] for one in seen["responses"]] == ["Tell [name].", "Mail [mail]."]
    assert preview(scene.store, scene.researcher, number, seen["id"]) == []
    with scene.store.read() as connection:
        stored = str([connection.exec_driver_sql(f"SELECT * FROM {table}").all() for table in ("item", "response")])
    for word in ("Lena", "a@b", "1234567"):
        assert word not in stored


def test_the_tutorial_uses_every_verdict_and_the_five_criteria() -> None:
    assert [c.name for c in CRITERIA] == ["Fluency", "Identification", "Comfort", "Suggestions", "Overall"]
    assert all(c.definition and c.good and c.bad for c in CRITERIA)
    assert {verdict for entry in PRACTICE for verdict in entry.gold} == {"win", "tie", "loss"}
    assert len({entry.key for entry in PRACTICE}) == len(PRACTICE)


def test_settings_read_back_as_they_were_written() -> None:
    settings = StudySettings(overlap=3, gate_kappa=0.5, hidden_names=("A", "B"))
    assert settings_of(json.loads(json.dumps(as_plain(settings)))) == settings
