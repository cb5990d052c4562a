"""What lies in a folder of reports is a report with its head, or is told in a sentence; nothing else happens."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from multimood_core.comparison import side_by_side
from multimood_core.documents import Pair, as_fragment, as_markdown, pictures
from multimood_core.errors import DataError
from multimood_core.evaluation import score_labels
from multimood_core.records import LabelPrediction
from multimood_core.reports import blocks_of
from multimood_core.stored_reports import head_of, read_report


def report(system: str, said: str, items: bool = True, **more: Any) -> dict[str, Any]:
    """Ten answers in five dialogues; ``said`` has a letter for each, the truth alternates a and b."""
    predicted = [LabelPrediction(letter, {"a": 0.6, "b": 0.4} if letter == "a" else {"a": 0.1, "b": 0.9}) for letter in said]
    truth, groups = [*"ab" * (len(said) // 2)], [f"d{i // 2}" for i in range(len(said))]
    scores = score_labels(truth, predicted, groups)
    rows = [
        {"id": f"{group}/{i}", "truth": {"strategy": t}, "predicted": {"strategy": {"label": p.label, "probabilities": {}}}}
        for i, (t, p, group) in enumerate(zip(truth, predicted, groups, strict=True))
    ]
    made = {
        "data": "mesc", "split": "val", "protocol": "gold-history", "n": len(said), "system": system, "command": "C",
        "tasks": {"strategy": scores}, "baselines": {"majority": {"strategy": scores}}, "items": rows if items else [],
    }  # fmt: skip
    return made | more


def test_the_head_is_what_the_report_tells(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    known = {"checkpoint": {"name": "mini", "sha256": "ab" * 32}, "date": "2026-02-03T04:05:06+02:00"}
    path.write_text(json.dumps(report("one", "ab" * 5) | known))
    head = head_of(read_report(path), 0.0)
    assert (head.kind, head.system, head.data, head.split, head.protocol) == ("evaluation", "one", "mesc", "val", "gold-history")
    assert head.date.isoformat() == "2026-02-03T02:05:06+00:00"
    assert (head.sha256, head.n, head.scores, head.paired) == ("ab" * 32, 10, {"strategy": 1.0}, True)
    older = report("", "ab" * 5) | {"checkpoint": {"name": "mini", "sha256": ""}}
    del older["split"]
    head = head_of(older, 86400.0)
    assert (head.system, head.split, head.date.isoformat()) == ("mini", "all", "1970-01-02T00:00:00+00:00")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "no whole JSON"),
        ("[" * 100_000, "no whole JSON"),
        ("\ufffd\x00", "no whole JSON"),
        ("[1, 2]", "data, protocol, n, tasks, baselines, command is absent"),
        ('{"loss": 1}', "is absent or of another form"),
        ('{"first": 1, "second": {}}', "first, differences, command is absent"),
    ],
)
def test_what_is_no_report_is_told_without_its_path(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(content)
    with pytest.raises(DataError, match=said) as raised:
        read_report(path)
    assert str(tmp_path) not in str(raised.value)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_report(tmp_path / "none.json")
    path = tmp_path / "big.json"
    path.touch()
    os.truncate(path, 200 * 2**20)  # a hole, which takes no room
    with pytest.raises(DataError, match="at most 128 MB, got 200 MB"):
        read_report(path)


@pytest.mark.parametrize("broken", [{"tasks": {"strategy": []}}, {"checkpoint": 3}, {"date": "yesterday"}, {"split": 4}])
def test_a_part_of_another_form_is_told(broken: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="another form"):
        head_of(report("one", "ab") | broken, 0.0)


@pytest.mark.parametrize("broken", [{"tasks": {"strategy": {"accuracy": 1}}}, {"responses": {"n": 1}}, {"baselines": {"x": 4}}])
def test_a_document_of_a_broken_report_is_an_error_with_a_way_on(broken: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="Run its command again"):
        blocks_of(report("one", "ab" * 3) | broken)


def test_two_reports_stand_side_by_side_with_their_differences() -> None:
    first, second = report("one", "ab" * 5), report("two", "aa" * 4 + "ab")
    parts = {"r_sim": {"n": 10, "n_missing": 0, "mean": 0.4, "interval": [0.3, 0.5]}}
    first["rewards"] = {"parts": parts, "baselines": {}, "items": [1]}
    found = side_by_side(first, second) | {"command": "python -m train.evaluate --compare A.json B.json"}
    assert found["differences"]["strategy"]["accuracy"]["value"] == pytest.approx(0.4)  # 10 of 10 less 6 of 10
    assert "items" not in found["first"]["rewards"]
    blocks = blocks_of(json.loads(json.dumps(found)))  # as it is stored
    pairs = {side.name: side for block in blocks if isinstance(block, Pair) for side in (block.first, block.second) if side}
    kinds = [f"strategy-{kind}-{letter}" for kind in ("confusion", "recall", "reliability") for letter in "AB"]
    assert set(pairs) == {*kinds, "rewards-A"}
    assert {"strategy-scores", "strategy-differences", *pairs} == {picture.name for picture in pictures(blocks)}
    text = as_markdown(blocks, "figures")
    assert "A one (mesc, gold-history) and B two (mesc, gold-history)" in text
    assert "| accuracy | +40.00 |" in text
    assert "figures/strategy-recall-B.svg" in text
    fragment = as_fragment(blocks, top=3)
    assert fragment.startswith("<h3>")
    assert "<h1>" not in fragment


def test_without_single_items_the_scores_stand_side_by_side_alone() -> None:
    found = side_by_side(report("one", "ab" * 5, items=False), report("two", "ab" * 5)) | {"command": "C"}
    text = as_markdown(blocks_of(found), "figures")
    assert "No paired differences: Expected a report with its single items" in text
    assert "A one" in text
    assert "| difference |" not in text


def test_words_of_a_report_are_words_in_its_page() -> None:
    said = "<img src=x onerror=alert(1)>"
    made = report(said, "ab" * 5) | {"command": said, "data": said}
    made["tasks"]["strategy"]["recall"] = {said: 0.5, "$\\frac{": 0.2}
    fragment = as_fragment(blocks_of(made), top=3)
    assert "<img" not in fragment
    assert fragment.count("&lt;img src=x") >= 3


def test_rewards_of_replies_are_a_document_too(tmp_path: Path) -> None:
    row = {"value": 0.25, "low": 0.2, "high": 0.3, "missing": 0}
    found = {
        "sft": {"n": 4, "parts": {"reward": row, "words": row}, "differences": {}},
        "grpo": {"n": 4, "parts": {"reward": row}, "differences": {"reward": {"value": 0.1, "low": 0, "high": 0.2, "p": 0.04}}},
    }
    path = tmp_path / "r.json"
    path.write_text(json.dumps(found))
    head = head_of(read_report(path), 0.0)
    assert (head.kind, head.system, head.n, head.paired) == ("rewards", "sft and grpo", 4, False)
    text = as_markdown(blocks_of(found), "figures")
    assert "| reward | 0.250 (0.200 to 0.300) | 0.250 (0.200 to 0.300) |" in text
    assert "| reward | +0.100 | +0.000 to +0.200 | 0.040 |" in text
