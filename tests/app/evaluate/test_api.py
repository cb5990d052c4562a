"""The requests of Evaluate and Runs: what is listed is shown, what is broken costs a line, what is outside stays there."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import time
import zipfile
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from app.evaluate.api import PREFIX, EvaluateApi
from app.evaluate.places import REPORTS, RUNS, places
from app.web import HEADER
from multimood_core.checksums import checkpoint_sha256
from multimood_core.run_curves import keep_curves
from tests.app.evaluate.folders import HOSTILE, SECRET, make


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("folders")


@pytest.fixture(scope="module")
def api(root: Path) -> EvaluateApi:
    return EvaluateApi(make(root))


@pytest.fixture(scope="module")
def client(api: EvaluateApi) -> TestClient:
    return TestClient(Starlette(routes=api.routes), base_url="http://127.0.0.1", headers={HEADER: "1"})


def shown(client: TestClient, path: str) -> str:
    answer = client.get(f"{PREFIX}/{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()["html"]


def ids(api: EvaluateApi) -> dict[str, str]:
    return {one.name: one.id for one in api.shelf.listed()}


def test_good_reports_are_listed_newest_first_and_others_cost_a_line(client: TestClient) -> None:
    page = shown(client, "reports")
    assert re.findall(r'data-open="\w+">([^<]+)<', page) == ["after", "before", "clips"]
    assert page.count("<li>") == 2
    assert re.search(r"<b>torn</b>.*no whole JSON", page)
    assert re.search(r"<b>foreign</b>.*data, protocol, n, tasks, baselines, command is absent", page)
    for word in ("2026-02-02 03:04", "gold-history", "abababababab", "emodb", "scores alone"):
        assert word in page
    assert HOSTILE not in page
    assert "&lt;img src=x" in page


def test_a_report_opens_with_its_figures(client: TestClient, api: EvaluateApi) -> None:
    page = shown(client, f"report/{ids(api)['after']}")
    for caption in ("Confusion: truth by rows", "Recall of each class", "Reliability: accuracy", "Reward of the replies"):
        assert caption in page
    assert page.count("<svg ") == page.count("<figure>") == 4
    found = re.findall(r'\bid="([^"]+)"', page)
    assert len(found) == len(set(found))
    torn = client.get(f"{PREFIX}/report/{ids(api)['torn']}")
    assert (torn.status_code, "no whole JSON" in torn.json()["error"]) == (409, True)


def test_two_reports_are_compared_with_paired_differences(client: TestClient, api: EvaluateApi) -> None:
    known = ids(api)
    page = shown(client, f"compare/{known['after']}/{known['before']}")
    assert "A after RL (mesc, gold-history) and B before RL" in page
    assert "--compare reports/after.json reports/before.json" in page, "the command finds the two again"
    assert "+40.00" in page
    assert "10 items of 5 groups" in page
    assert page.count('<div class="pair">') == 4
    apart = shown(client, f"compare/{known['after']}/{known['clips']}")
    assert "No paired differences: Expected a report with its single items" in apart


def test_reports_and_comparisons_are_taken_along(client: TestClient, api: EvaluateApi, root: Path) -> None:
    known = ids(api)
    pair = f"compare/{known['after']}/{known['before']}"
    for path, name in ((f"report/{known['after']}", "after"), (pair, "after-and-before")):
        answers = {kind: client.get(f"{PREFIX}/{path}/file/{kind}") for kind in ("json", "zip", "html")}
        for kind, answer in answers.items():
            assert f'filename="{name}.{kind}"' in answer.headers["content-disposition"]
        with zipfile.ZipFile(io.BytesIO(answers["zip"].content)) as archive:
            text = archive.read(f"{name}/{name}.md").decode()
            assert {f"{name}/{figure}" for figure in re.findall(r"\]\((figures/[^)]+)\)", text)} < set(archive.namelist())
        assert answers["html"].text.startswith("<!doctype html>")
    assert client.get(f"{PREFIX}/report/{known['after']}/file/json").content == (root / "reports" / "after.json").read_bytes()
    assert client.get(f"{PREFIX}/report/{known['foreign']}/file/json").status_code == 409, "only reports leave the folder"
    assert client.get(f"{PREFIX}/report/{known['after']}/file/py").status_code == 404


def test_nothing_outside_of_the_listed_folders_is_reached(client: TestClient, api: EvaluateApi, root: Path) -> None:
    assert SECRET not in shown(client, "reports")
    assert not {"link", "secret"} & set(ids(api))
    outside = root / "outside" / "secret.json"
    tries = [str(outside), "../outside/secret.json", "..%2f..%2foutside%2fsecret.json", "%2e%2e/outside", "link", "0" * 16, "%00"]
    for identifier in tries:
        for path in ("report/{}", "report/{}/file/json", "compare/{}/" + ids(api)["after"], "checkpoint/{}"):
            answer = client.get(f"{PREFIX}/{path.format(identifier)}")
            assert answer.status_code == 404, (path, identifier, answer.text)
            assert SECRET not in answer.text
        assert client.get(f"{PREFIX}/curves", params={"run": identifier}).status_code == 404
    # nor does a name in a file lead anywhere
    page = shown(client, f"checkpoint/{api.runs.checkpoints()[0].id}")
    assert "../../outside/secret" in page
    assert page.count("not on this computer") == 1


def test_only_our_own_page_is_answered(client: TestClient, api: EvaluateApi) -> None:
    fillings = {"{id}": ids(api)["after"], "{first}": ids(api)["after"], "{second}": ids(api)["before"], "{kind}": "json"}
    for path in api.paths:
        for name, value in fillings.items():
            path = path.replace(name, value)
        assert client.get(PREFIX + path, headers={HEADER: ""}).status_code == 403, path
        assert client.post(PREFIX + path).status_code == 405, path


def test_runs_and_checkpoints_are_listed(client: TestClient, root: Path) -> None:
    os.utime(root / "runs" / "grpo" / "metrics.jsonl", (time.time() - 3600,) * 2)
    page = shown(client, "runs")
    assert re.findall(r'aria-label="show ([^"]+)"', page) == ["runs/sft", "runs/grpo"]
    assert re.findall(r'mm-e-(running|stopped|finished|kept)"', page) == ["finished", "stopped"]
    assert "a line of JSON with its step" in page  # the one without curves
    assert re.findall(r'data-checkpoint="\w+">([^<]+)<', page) == ["mini-grpo", "runs/sft/final"]


def test_a_checkpoint_tells_its_chain_by_hashes_and_its_card_is_harmless(client: TestClient, api: EvaluateApi) -> None:
    mine = api.runs.checkpoints()[0]
    chain = api.runs.chain(mine)
    assert [(one.role, one.note) for one in chain.parents] == [
        ("policy", "the same files are on this computer"),  # found by its hash: the name is another
        ("reward model", "not on this computer"),
    ]
    page = shown(client, f"checkpoint/{mine.id}")
    told = (checkpoint_sha256(mine.folder), "c0ffee", "da" * 32, "python -m train.grpo", "<strong>bold</strong>", "<td>1</td>")
    for word in (chain.sha256, chain.parents[0].sha256, *told):
        assert word in page
    card = page[page.index("Model card") :]
    assert not re.search(r"<(img|script|iframe)|src=\"|href=\"javascript", card)
    assert "&lt;script&gt;" in card


def test_curves_of_two_runs_stand_over_each_other_and_are_drawn_again_when_they_go_on(
    client: TestClient, api: EvaluateApi, root: Path
) -> None:
    known = {run.name: run.id for run in api.runs.listed()}
    query = {"run": [known["sft"], known["grpo"]], "window": "5"}
    first = client.get(f"{PREFIX}/curves", params=query).json()
    names = re.findall(r'mm-e-curve" aria-label="([^"]+)"', first["html"])
    assert names == ["loss", "reward", "KL to the reference (nats a token)", "tokens a reply", "entropy (nats)", "reward: r_sim"]
    assert "<td>2</td><td>2.2</td><td>1.5</td>" in first["html"]  # SFT's last loss, the mean of its last five, validation
    assert client.get(f"{PREFIX}/curves", params=query | {"seen": first["seen"]}).json()["same"]
    with (root / "runs" / "grpo" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 41, "loss": 0.5}) + "\n")
    again = client.get(f"{PREFIX}/curves", params=query | {"seen": first["seen"]}).json()
    assert again["live"]
    assert again["seen"] != first["seen"]
    everything = client.get(f"{PREFIX}/curves", params={"run": known["grpo"], "everything": "1"}).json()["html"]
    assert 'aria-label="lr"' in everything
    for bad in ({"run": list(known.values())}, {"window": "0", "run": known["sft"]}, {"window": "x", "run": known["sft"]}, {}):
        assert client.get(f"{PREFIX}/curves", params=bad).status_code == 400, bad


def test_a_checkpoint_s_own_curve_is_a_run_too(client: TestClient, api: EvaluateApi, root: Path) -> None:
    keep_curves(root / "runs" / "sft", root / "checkpoints" / "mini-grpo")
    kept = [run for run in api.runs.listed() if run.state == "kept"]
    assert [(run.name, run.steps) for run in kept] == [("mini-grpo", 60)]
    (root / "checkpoints" / "mini-grpo" / "curves.jsonl").unlink()


def test_the_folders_are_the_project_s_own_unless_others_are_named(tmp_path: Path) -> None:
    own = places({})
    assert [place.folder.name for place in own.reports] == ["checkpoints", "runs"]
    other = places({REPORTS: f"{tmp_path}{os.pathsep}{tmp_path / 'b'}", RUNS: str(tmp_path / "c")})
    assert [place.folder for place in other.reports] == [tmp_path, tmp_path / "b"]
    assert other.runs == (tmp_path / "c",)
    nothing = EvaluateApi(dataclasses.replace(other, checkpoints=tmp_path / "d"))  # a checkpoint's own curve is a run too
    empty = TestClient(Starlette(routes=nothing.routes), base_url="http://localhost", headers={HEADER: "1"})
    assert "No report yet" in shown(empty, "reports")
    assert "No run yet" in shown(empty, "runs")
