"""Prints the table of ``speed``. Times depend on the machine and are not asserted; what was timed is."""

from __future__ import annotations

import pytest

from multimood_core.registry import DEFAULT, available
from tests.benchmarks import speed

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]


def test_a_turn_is_timed_from_its_end_to_its_last_token(capsys: pytest.CaptureFixture[str]) -> None:
    if DEFAULT not in available():
        pytest.skip(f"no checkpoint {DEFAULT} in assets/checkpoints to time")
    about, rows = speed.measure(repeats=3)
    with capsys.disabled():
        print("", about, speed.table(rows), sep="\n\n")
    assert all(value > 0 for row in rows for value in row.values)
    figures = [row.median for row in rows]
    labels, asr, heard, first, first_heard, last, last_heard = figures[:7]
    assert labels < first < last, "the reply comes after the labels"
    assert asr < heard < first_heard < last_heard, "recognised words come before everything else"


def test_a_bar_is_met_on_its_own_side_alone() -> None:
    assert speed.Row("", (1.0, 2.0, 9.0), "s", 2.0).met
    assert not speed.Row("", (1.0, 2.1, 9.0), "s", 2.0).met
    assert not speed.Row("", (4.9,), "times", 5.0, least=True).met
    assert speed.Row("", (4.9,), "s").met is None
