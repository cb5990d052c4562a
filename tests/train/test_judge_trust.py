"""One command prints judges against people, and writes the same beside its JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from multimood_core.errors import DataError
from tests.multimood_core.test_judge_trust import scores, write
from train.judge_trust import main


def folder(path: Path) -> Path:
    path.mkdir()
    rng = np.random.default_rng(0)
    people = rng.integers(1, 5, (30, 2))
    for name, shift in (("human", 0), ("mild", 1)):
        rows = [[str(i), "", *(scores(Empathy=int(v) + shift, Safety=int(v)) for v in row)] for i, row in enumerate(people)]
        write(path / f"{name}.csv", rows)
    return path


def test_a_mild_judge_is_seen_as_mild(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "t.json"
    main(["--data", str(folder(tmp_path / "ratings")), "--samples", "100", "--out", str(out)])
    report = json.loads(out.read_text())
    mild = report["judges"]["mild"]["attributes"]
    assert mild["Empathy"]["bias"]["value"] == 1
    assert mild["Empathy"]["consistency"]["value"] == pytest.approx(1)
    assert mild["Empathy"]["agreement"]["value"] < 0.9
    assert mild["Safety"]["agreement"]["value"] == pytest.approx(1)
    assert mild["mean"]["bias"]["value"] == pytest.approx(1 / 7)
    assert mild["Guidance"]["agreement"]["value"] is None  # everybody gives 4 everywhere: nothing to agree about
    printed = capsys.readouterr().out
    assert "| Guidance | 60 | 0 | not defined |" in printed
    assert "NaN" not in out.read_text()
    assert "| Empathy | 60 | 0 | 1.000 [1.000, 1.000] |" in printed
    assert "| Empathy | 60 | 0 | 1.000 [1.000, 1.000] |" in (tmp_path / "t.md").read_text()
    assert "python -m train.judge_trust --samples 100" in (tmp_path / "t.html").read_text()


def test_a_folder_without_judges_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got none"):
        main(["--data", str(tmp_path)])


def test_the_real_judges_are_milder_than_people(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not (data_dir / "mentalalign").is_dir():
        pytest.skip(f"no mentalalign in {data_dir}")
    main(["--data", str(data_dir / "mentalalign"), "--samples", "20"])
    printed = capsys.readouterr().out
    assert "8000 replies of 10 systems in 800 conversations" in printed
