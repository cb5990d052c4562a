"""Two reports are compared on the items that both have, and only where they mean the same."""

from __future__ import annotations

from typing import Any

import pytest

from multimood_core.comparison import compare_reports
from multimood_core.errors import DataError


def report(said: list[str | None], start: int = 0, protocol: str = "gold-history", **more: Any) -> dict[str, Any]:
    items = []
    for i, label in enumerate(said, start=start):
        predicted = {} if label is None else {"strategy": {"label": label, "probabilities": {}}}
        items.append({"id": f"{i // 2}/{i}", "truth": {"strategy": "ab"[i % 2]}, "predicted": predicted})
    return {"data": "mesc", "protocol": protocol, "command": "C", "items": items} | more


def test_the_difference_is_that_on_the_shared_items() -> None:
    # items 2 to 5 are shared; the first is right four times, the second twice (one of its answers is none)
    found = compare_reports(report(["a", "b"] * 3), report(["a", "a", None, "b"], start=2, protocol="self-history"))
    assert (found["n"], found["n_only_first"], found["n_only_second"], found["dialogues"]) == (4, 2, 0, 2)
    assert found["differences"]["strategy"]["accuracy"]["value"] == pytest.approx(0.5)
    assert found["differences"]["strategy"]["accuracy"]["groups"] == 2
    assert found["second"]["protocol"] == "self-history"
    assert "response" not in found["differences"]


def test_replies_are_compared_item_by_item() -> None:
    first = report(["a", "b"], responses={"items": {"rouge_l": [0.5, 0.7], "words": [1, 2]}})
    second = report(["b"], start=1, responses={"items": {"rouge_l": [0.4]}})
    found = compare_reports(first, second)
    assert found["differences"]["response"]["rouge_l"]["value"] == pytest.approx(0.3)


def test_clips_are_grouped_by_speaker() -> None:
    items = [
        {"id": f"{i}.wav", "group": f"speaker {i // 3}", "truth": "joy", "predicted": {"label": "joy", "probabilities": {}}}
        for i in range(6)
    ]
    clips = {"data": "emodb", "protocol": "clips", "command": "C", "items": items}
    other = clips | {"items": [item | {"predicted": None} for item in items]}
    found = compare_reports(clips, other)
    assert found["dialogues"] == 2
    assert found["differences"]["client_emotion"]["accuracy"]["value"] == 1


def test_reports_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(DataError, match="share none"):
        compare_reports(report(["a"]), report(["b"], start=1))
    other = report(["a"])
    other["items"][0]["truth"] = {"strategy": "c"}
    with pytest.raises(DataError, match="truth of item 0/0"):
        compare_reports(report(["a"]), other)
    with pytest.raises(DataError, match="single items"):
        compare_reports(report([]), report(["a"]))
