"""The paper's tables hold the reports' figures beside the paper's, and only of what is comparable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from multimood_core.errors import DataError
from train.paper_tables import PAPER, ablations_table, main, systems_table

TASKS = ("client_emotion", "therapist_emotion", "strategy")


def report(system: str, **changed: Any) -> dict[str, Any]:
    row = {"accuracy": 0.5, "weighted_f1": 0.25, "macro_f1": 0.1, "uar": 0.2, "n_unparsed": 3}
    replies = {"n": 4, "bleu2_released": 0.0618, "bleu2": 0.02, "rouge_l": 0.15, "tokenscore/minilm": 0.24}
    return {
        "data": "mesc", "split": "test", "protocol": "gold-history", "n": 4, "system": system, "command": f"ask {system}",
        "tasks": dict.fromkeys(TASKS, row),
        "baselines": {"majority": {"strategy": {"accuracy": 0.4, "weighted_f1": 0.2}}},
        "responses": replies | {"baselines": {"constant response": replies | {"rouge_l": 0.1}}},
    } | changed  # fmt: skip


def test_our_rows_stand_beside_the_paper_s_and_the_trivial_ones() -> None:
    lines = systems_table([report("ours"), report("zero-shot")]).splitlines()
    theirs = "58.60 / 57.78 | 99.33 / 99.00 | 42.81 / 39.65 | 6.18 |  | 17.86 | 86.80"
    assert f"| MultiMood SFT+GRPO, 7B (paper) |  | {theirs} |  |  |" in lines
    labels = "50.00 / 25.00 | 50.00 / 25.00 | 50.00 / 25.00"
    assert f"| **ours** | 4 | {labels} | 6.18 | 2.00 | 15.00 |  | 24.00 | 3 / 3 / 3 |" in lines
    assert "| majority | 4 |  |  | 40.00 / 20.00 |  |  |  |  |  |  |" in lines
    assert "| constant response | 4 |  |  |  | 6.18 | 2.00 | 10.00 |  | 24.00 |  |" in lines
    assert lines[-2:] == ["- ours: `ask ours`", "- zero-shot: `ask zero-shot`"]
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + len(PAPER) + 4
    assert len({line.count("|") for line in rows}) == 1


@pytest.mark.parametrize("other", [{"n": 3}, {"protocol": "self-history"}, {"split": "val"}])
def test_reports_of_other_items_or_protocols_share_no_table(other: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="ask other is another"):
        systems_table([report("ours"), report("other", **other)])
    silent = report("other")
    del silent["responses"]
    with pytest.raises(DataError, match="with replies"):
        systems_table([report("ours"), silent])


def test_an_ablation_shows_the_paper_s_row_and_says_what_was_not_run() -> None:
    gap = {"accuracy": {"value": 0.125, "p": 0.0012}}
    told = {"differences": {"client_emotion": gap, "response": {"rouge_l": {"value": -0.01, "p": 0.5}}}}
    variants = {"history 0": report("ours", **told), "history 5": report("ours")}
    found = report("ours", ablations="table7", variants=variants, not_run={"no video": "no clips"})
    lines = ablations_table(found).splitlines()
    assert lines[2].startswith("| **ours, everything** | 4 |")
    assert [line.split(" | ")[0] for line in lines[3:6]] == ["| history 0", "| history 0 (paper)", "| history 5"]
    assert [line.split(" | ")[0] for line in lines[6:8]] == ["| majority", "| constant response"]
    less = "everything less history 0, in points of accuracy and ROUGE-L"
    assert lines[-2] == f"- {less}: client's emotion +12.50 (p 0.001), ROUGE-L -1.00 (p 0.500)"
    assert lines[-1] == "- no video was not run: no clips."
    with pytest.raises(DataError, match="--ablations"):
        ablations_table(report("ours"))


def test_each_kind_of_ablations_has_its_own_place(tmp_path: Path) -> None:
    readme, paths = tmp_path / "README.md", []
    readme.write_text("".join(f"<!-- {name}: how -->\n<!-- /{name} -->\n" for name in ("ablations", "smes")))
    for kind in ("table7", "smes"):
        paths.append(tmp_path / f"{kind}.json")
        paths[-1].write_text(json.dumps(report(kind, ablations=kind, variants={"none": report(kind)}, items=[])))
    main(["--ablations", *map(str, paths), "--readme", str(readme)])
    first, second = readme.read_text().split("<!-- smes: how -->")
    assert "**table7, everything**" in first
    assert "**smes, everything**" in second
    assert "SMES (paper)" not in first
    assert "SMES (paper)" in second


def test_the_command_prints_and_writes_into_the_readme(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, readme = tmp_path / "r.json", tmp_path / "README.md"
    path.write_text(json.dumps(report("ours", items=[])))
    readme.write_text("<!-- systems: how -->\n<!-- /systems -->\n")
    main(["--reports", str(path), "--readme", str(readme)])
    table = systems_table([report("ours")])
    assert table in capsys.readouterr().out
    assert readme.read_text() == f"<!-- systems: how -->\n{table}\n<!-- /systems -->\n"
