"""Results and files: checked against independent libraries, read back whole, and refused where they were changed."""

from __future__ import annotations

import io
import json
import random
import zipfile
from typing import Any

import numpy as np
import pytest
from statsmodels.stats import inter_rater

from app.studies import export, report
from app.studies.errors import InputError, StudyError
from app.studies.records import Submission
from app.studies.results import gather, results
from multimood_core.preference import VERDICTS
from tests.app.studies.scene import KEYS, Scene


def judged_study(scene: Scene, items: int = 3, raters: int = 4, seed: int = 0, **settings: Any) -> int:
    """A study that raters with noisy opinions have worked through."""
    number = scene.study(items=items, systems=("one", "two", "three"), **settings)
    for index, person in enumerate(scene.raters(number, raters)):
        rng = random.Random(f"{seed}/{index}")

        def rule(task: Any, rng: random.Random = rng) -> dict[str, str]:
            wanted = {key: rng.choices(VERDICTS, (6, 2, 2))[0] for key in KEYS}
            return scene.left_verdicts(task, wanted)

        scene.work_off(person, number, rule)
    return number


@pytest.fixture
def number(scene: Scene) -> int:
    return judged_study(scene)


def test_agreement_is_that_of_the_first_two_judgments(scene: Scene, number: int) -> None:
    with scene.store.read() as connection:
        found, rows = results(connection, number), export.judgment_rows(connection, number)
    for key in KEYS:
        firsts: dict[Any, list[str]] = {}
        for row in sorted(rows, key=lambda r: r["assignment"]):
            firsts.setdefault((row["item"], row["left_system"], row["right_system"]), []).append(row["verdicts"][key])
        counts = np.array([[votes[:2].count(v) for v in VERDICTS] for votes in firsts.values() if len(votes) >= 2])
        table = found["agreement"][key]
        assert table["fleiss"]["value"] == pytest.approx(inter_rater.fleiss_kappa(counts, method="fleiss"))
        assert table["fleiss"]["n"] == len(counts)
        assert table["percent"]["value"] == pytest.approx((counts.max(1) == 2).mean())


def test_a_study_without_judgments_says_so_everywhere(scene: Scene) -> None:
    number = scene.study(items=2)
    scene.raters(number, 2)
    with scene.store.read() as connection:
        found = results(connection, number)
        shown = report.page(connection, number)
    assert found["agreement"]["overall"]["fleiss"]["why"] == "no unit has 2 labels yet"
    assert "No judgment yet" in shown
    assert "no comparisons yet" in shown


def test_one_verdict_for_everything_is_shown_as_not_defined(scene: Scene) -> None:
    number = scene.study(items=5)
    for person in scene.raters(number, 2):
        scene.work_off(person, number, lambda task: dict.fromkeys(KEYS, "tie"))
    with scene.store.read() as connection:
        found, shown = results(connection, number), report.page(connection, number)
    assert found["agreement"]["overall"]["fleiss"]["value"] is None
    assert "same category" in shown
    assert "<details open><summary>Cohen's kappa of each two raters" in shown, "paper cannot be unfolded"
    assert "<details open" not in report.fragment(found)
    assert [r["straight"] for r in found["raters"]] == [1.0, 1.0]
    assert [r["longest_run"] for r in found["raters"]] == [5, 5]


def test_a_habit_of_choosing_the_first_shows_as_position_bias(scene: Scene) -> None:
    number = scene.study(items=8)
    (person,) = scene.raters(number, 1)
    scene.work_off(person, number, lambda task: dict.fromkeys(KEYS, "a"))
    with scene.store.read() as connection:
        bias = results(connection, number)["position"]["overall"]
    assert (bias["n"], bias["share"]) == (8, 1.0)
    assert bias["p"] == pytest.approx(2 / 2**8)


def test_attention_checks_are_counted(scene: Scene) -> None:
    number = scene.study(items=8, attention_every=2)
    good, bad = scene.raters(number, 2)
    gold = {pair.id: pair.gold for pair in scene.pairs(number, "attention")}
    assert gold
    scene.work_off(bad, number, lambda task: dict.fromkeys(KEYS, "a" if task["a"] == task["b"] else "tie"))

    def careful(task: Any) -> dict[str, str]:
        if task["a"] == task["b"]:
            return dict.fromkeys(KEYS, "tie")
        return dict.fromkeys(KEYS, "a" if task["a"][0] in "ot" and task["a"].endswith("words.") else "b")

    scene.work_off(good, number, careful)
    with scene.store.read() as connection:
        rows = {row["code"]: row for row in results(connection, number)["raters"]}
    assert rows["R1"]["checks"] == rows["R1"]["checks_passed"] > 0
    assert rows["R2"]["checks"] > rows["R2"]["checks_passed"] == 0


def test_a_bundle_reads_back_into_the_same_study(scene: Scene, number: int) -> None:
    with scene.store.read() as connection:
        data = export.bundle(connection, number, report.page(connection, number))
        before = results(connection, number)
        rows = export.judgment_rows(connection, number)
    other = export.read_bundle(scene.store, scene.researcher, data)
    with scene.store.read() as connection:
        assert results(connection, other) == before
        assert [r["verdicts"] for r in export.judgment_rows(connection, other)] == [r["verdicts"] for r in rows]
        again = export.bundle(connection, other, "")
    assert export.read_bundle(scene.store, scene.researcher, again) not in (number, other)
    with pytest.raises(StudyError, match="record"):
        scene.studies.open(scene.researcher, other)


def test_a_bundle_names_no_account(scene: Scene) -> None:
    number = scene.study(items=1)
    person = scene.person("annotator", "anna-the-rater")
    scene.studies.add_rater(scene.researcher, number, person.id)
    with scene.store.read() as connection:
        data = export.bundle(connection, number, report.page(connection, number))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert not [name for name in archive.namelist() if b"anna-the-rater" in archive.read(name)]


def test_a_bundle_that_was_changed_is_refused_and_leaves_nothing(scene: Scene) -> None:
    number = judged_study(scene, items=1, raters=3)
    with scene.store.read() as connection:
        data = export.bundle(connection, number, "")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist()}
    before = len(scene.studies_of(scene.researcher))
    for name, old, new in (("judgment.jsonl", b"0", b"1"), ("results.json", b"0", b"1"), ("study.json", b"a study", b"another")):
        assert old in files[name]
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for entry, content in (files | {name: files[name].replace(old, new, 1)}).items():
                archive.writestr(entry, content)
        with pytest.raises(InputError, match="changed"):
            export.read_bundle(scene.store, scene.researcher, packed.getvalue())
    assert len(scene.studies_of(scene.researcher)) == before


def test_what_is_no_bundle_is_one_sentence(scene: Scene) -> None:
    for data in (b"", b"no zip", b"PK\x03\x04 broken"):
        with pytest.raises(InputError, match="bundle"):
            export.read_bundle(scene.store, scene.researcher, data)


def test_a_study_without_judgments_still_has_its_columns(scene: Scene) -> None:
    number = scene.study(items=1)
    with scene.store.read() as connection:
        (header,) = export.as_csv(connection, number).splitlines()
    assert header.split(",")[-len(KEYS) :] == list(KEYS)


def test_preference_pairs_hold_what_training_needs_and_no_tie(scene: Scene, number: int) -> None:
    with scene.store.read() as connection:
        rows = [json.loads(text) for text in export.preference_pairs(connection, number).splitlines()]
    settled = [pair.labels.get("overall") for pair in scene.pairs(number)]
    assert len(rows) == settled.count("win") + settled.count("loss")
    for row in rows:
        assert row["chosen"].startswith(row["chosen_system"])
        assert row["rejected"].startswith(row["rejected_system"])
        assert row["client"]["speaker"] == "client"
    with scene.store.read() as connection, pytest.raises(InputError, match="criterion"):
        export.preference_pairs(connection, number, "beauty")


def test_text_in_a_spreadsheet_is_never_a_formula(scene: Scene) -> None:
    number = scene.study(items=1)
    (person,) = scene.raters(number, 1)
    task = scene.take(person, number).task
    assert task is not None
    sent = Submission(task["assignment"], dict.fromkeys(KEYS, "a"), "", '=HYPERLINK("http://x")', 2.0, "a-key-of-mine", None)
    scene.desk.judge(person, number, sent)
    with scene.store.read() as connection:
        assert "\"'=HYPERLINK" in export.as_csv(connection, number)


def test_what_a_person_wrote_is_never_code_in_the_report(scene: Scene) -> None:
    number = scene.study(items=1, systems=("<script>one</script>", "two"))
    with scene.store.read() as connection:
        shown = report.page(connection, number)
    assert "<script" not in shown
    assert "http" not in shown


def test_a_judge_is_compared_with_the_labels_from_either_side(scene: Scene, number: int) -> None:
    pairs = {pair.id: pair for pair in scene.pairs(number) if pair.state == "settled"}
    with scene.store.read() as connection:
        rows = gather(connection, number).pairs
    turned = {"win": "loss", "loss": "win", "tie": "tie"}
    lines = []
    for place, number_of in enumerate(pairs):
        row, labels = rows[number_of], pairs[number_of].labels
        if place % 2:
            lines.append({"judge": "j", "item": row.key, "left": row.left, "right": row.right, "verdicts": labels})
        else:
            verdicts = {key: turned[verdict] for key, verdict in labels.items()}
            lines.append({"judge": "j", "item": row.key, "left": row.right, "right": row.left, "verdicts": verdicts})
    data = "\n".join(map(json.dumps, lines)).encode()
    assert export.add_judge(scene.store, scene.researcher, number, data) == len(lines)
    with scene.store.read() as connection:
        found = results(connection, number)["judges"]
    assert [row["value"] for row in found] == [1.0] * len(KEYS)
    assert {row["n"] for row in found} == {len(lines)}
    with pytest.raises(InputError, match="Line 1"):
        export.add_judge(scene.store, scene.researcher, number, data)
