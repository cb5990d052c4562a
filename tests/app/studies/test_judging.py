"""Judges of the core on a study's items: one by one, resumed, beside the people, and to nobody who was not agreed to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import select

from app.audit import Audit
from app.remote import Remote, RemoteOffError
from app.studies import export, judging, schema
from app.studies.errors import InputError, StudyError
from app.studies.judging import MARGIN, Judging, local_name, verdicts_of_scores
from app.studies.records import StudySettings, criteria_of
from app.studies.results import results
from multimood_core.endpoint import JUDGE
from multimood_core.judges import Judge, Judgement
from multimood_core.rewards import PartedScore, ReplySituation
from multimood_core.sentences import sentences_of
from tests.app.studies.scene import KEYS, Scene
from tests.multimood_core.stub_endpoint import Answer, scores_text, serve

WARM = "I hear how heavy that was for you, and I am sorry that you had to carry it alone. What was the worst of it?"
COLD = "Okay. Next topic."


class Counting:
    """Empathy by the length of a reply; counts what it was given, and what it is told to fail on it fails on."""

    name = "counting"
    dimensions: Sequence[str] = ("empathy",)

    def __init__(self, fails: Callable[[str], bool] = lambda reply: False) -> None:
        self.seen: list[tuple[ReplySituation, str]] = []
        self.fails = fails

    def __call__(self, situations: Sequence[ReplySituation], replies: Sequence[str]) -> list[Judgement | None]:
        self.seen += zip(situations, replies, strict=True)
        found: list[Judgement | None] = []
        for reply in replies:
            sentences = tuple(sentences_of(reply))
            scores = tuple({"empathy": min(1.0, len(reply) / 100)} for _ in sentences)
            found.append(None if self.fails(reply) else Judgement(sentences, scores))
        return found


def ended(judge: Judging, scene: Scene, number: int) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while (found := judge.overview(scene.researcher, number))["running"]:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found


def verdicts_in(scene: Scene) -> list[Any]:
    with scene.store.read() as connection:
        return list(connection.execute(select(schema.judge_verdict).order_by(schema.judge_verdict.c.id)))


@pytest.fixture
def number(scene: Scene) -> int:
    """An open study of six items whose first system is warm and whose second is cold."""
    number = scene.study(items=6, systems=("warmling", "coldling"))
    with scene.store.write() as connection:
        systems = dict(connection.execute(select(schema.system.c.name, schema.system.c.id)).all())  # type: ignore[arg-type]
        for name, text in (("warmling", WARM), ("coldling", COLD)):
            mine = schema.response.c.system_id == systems[name]
            connection.execute(schema.response.update().where(mine).values(text=text))
    return number


def test_the_local_judge_prefers_the_warm_reply_and_stands_beside_the_people(scene: Scene, number: int) -> None:
    for person in scene.raters(number, 2):
        scene.work_off(person, number, lambda task: scene.left_verdicts(task, dict.fromkeys(KEYS, "win")))
    judge = Judging(scene.store, Remote(Audit()))
    judge.start(scene.researcher, number, "local", "")
    found = ended(judge, scene, number)
    assert (found["done"], found["wanted"], found["problem"]) == (6, 6, "")
    assert {(row.judge, row.verdict) for row in verdicts_in(scene)} == {(local_name(), "win")}
    with scene.store.read() as connection:
        rows = results(connection, number)["judges"]
    assert [row["criterion"] for row in rows] == ["identification", "comfort", "overall"], "it has no say in the others"
    assert {row["percent"] for row in rows} == {1.0}
    assert {row["word"] for row in rows} == {"not defined"}, "one category only: said, not hidden"


def test_a_judge_that_was_stopped_or_failed_goes_on_with_what_is_missing(scene: Scene, number: int) -> None:
    first = Counting(fails=lambda reply: len(first.seen) > 2 * judging.BATCH)  # the second batch fails
    broken = Judging(scene.store, Remote(Audit()), lambda: (first, "counting"))
    broken.start(scene.researcher, number, "local", "")
    found = ended(broken, scene, number)
    assert (found["done"], found["problem"]) == (judging.BATCH, "2 could not be judged; run it again for them.")
    kept, second = verdicts_in(scene), Counting()
    again = Judging(scene.store, Remote(Audit()), lambda: (second, "counting"))  # as after a restart of the app
    again.start(scene.researcher, number, "local", "")
    assert ended(again, scene, number)["done"] == 6
    assert len(second.seen) == 2 * 2, "what was judged is not judged again"
    assert verdicts_in(scene)[: len(kept)] == kept
    situation, _ = second.seen[0]
    assert situation.client.startswith("I keep thinking of"), "the judge sees what the reply answers"
    again.start(scene.researcher, number, "local", "")
    assert ended(again, scene, number)["problem"] == ""
    assert len(second.seen) == 4


def test_a_judge_is_refused_where_it_has_nothing_to_say(scene: Scene, number: int) -> None:
    judge = Judging(scene.store, Remote(Audit()))
    draft = scene.study(items=1, opened=False)
    with pytest.raises(StudyError, match="before the study was opened"):
        judge.start(scene.researcher, draft, "local", "")
    with scene.store.read() as connection:
        record = export.read_bundle(scene.store, scene.researcher, export.bundle(connection, number, ""))
    for act in (
        lambda: judge.start(scene.researcher, record, "local", ""),
        lambda: export.add_judge(scene.store, scene.researcher, record, b"{}"),
    ):
        with pytest.raises(StudyError, match="record"):
            act()
    other = scene.studies.create(scene.researcher, "other", StudySettings(gate_size=0), criteria_of(
        [{"key": "colour", "name": "Colour", "definition": "Which is more colourful."}]))  # fmt: skip
    with scene.store.write() as connection:
        connection.execute(schema.study.update().where(schema.study.c.id == other).values(state="open"))
    with pytest.raises(StudyError, match="does not ask"):
        judge.start(scene.researcher, other, "local", "")


def test_no_text_leaves_before_its_host_was_turned_on_and_agreed_to_for_the_study(
    scene: Scene, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Remote(Audit())
    judge = Judging(scene.store, remote)
    monkeypatch.delenv(f"{JUDGE}_MODEL", raising=False)
    assert [one["key"] for one in judge.overview(scene.researcher, number)["judges"]] == ["local"], "off by default"
    with pytest.raises(InputError, match="a judge of local"):
        judge.start(scene.researcher, number, "endpoint", "")

    def respond(n: int, request: dict[str, Any]) -> Answer:
        if n == judging.BATCH * 2:  # two responses an item: the first four items are judged by then
            remote.turn_off("anna")
            return Answer(status=500, body=b"oops")
        return Answer(scores_text(8, 8))

    with serve(respond) as stub:
        monkeypatch.setenv(f"{JUDGE}_MODEL", "some-model")
        monkeypatch.setenv(f"{JUDGE}_URL", stub.url)
        (_, offer) = judge.overview(scene.researcher, number)["judges"]
        assert offer["host"] in stub.url
        assert "client-words" in offer["fields"]
        with pytest.raises(RemoteOffError):
            judge.start(scene.researcher, number, "endpoint", offer["host"])
        remote.turn_on(offer["host"], "anna")
        for host in ("", "elsewhere.example"):
            with pytest.raises(InputError, match="not what was agreed"):
                judge.start(scene.researcher, number, "endpoint", host)
        assert stub.requests == []
        judge.start(scene.researcher, number, "endpoint", offer["host"])
        found = ended(judge, scene, number)
        assert (found["done"], offer["host"] in found["problem"]) == (judging.BATCH, True), "turned off while it ran"
        remote.turn_on(offer["host"], "anna")
        before = len(stub.requests)
        judge.start(scene.researcher, number, "endpoint", offer["host"])
        found = ended(judge, scene, number)
    assert (found["done"], found["problem"]) == (6, "")
    assert len(stub.requests) == before + 4, "one for each response"
    sent = json.dumps(stub.requests)
    assert "I keep thinking of" in sent
    for word in ("warmling", "coldling", "rita"):
        assert word not in sent, "no name of a system or a person goes along"
    assert {row.criterion for row in verdicts_in(scene)} == {"identification", "comfort", "overall"}
    assert {row.verdict for row in verdicts_in(scene)} == {"tie"}


def test_scores_become_verdicts_with_a_margin_and_are_never_filled_in() -> None:
    criteria = criteria_of([{"key": key, "name": key, "definition": "x"} for key in ("overall", "comfort")])
    base, much, little = 0.5, 0.5 + 1.01 * MARGIN, 0.5 + 0.99 * MARGIN

    def score(value: float | None, empathy: float | None) -> PartedScore:
        return PartedScore(value, {"empathy": empathy})

    assert verdicts_of_scores(score(much, base), score(base, much), criteria) == {"overall": "win", "comfort": "loss"}
    assert verdicts_of_scores(score(little, base), score(base, None), criteria) == {"overall": "tie"}
    assert verdicts_of_scores(score(None, None), score(base, base), criteria) == {}


def test_a_judge_of_the_core_fits_the_protocol() -> None:
    judge: Judge = Counting()
    assert judge.dimensions == ("empathy",)
