"""Who gets which item and what becomes of a judgment: by cases, by machine-made histories, and with twenty at once."""

from __future__ import annotations

import random
import tempfile
import threading
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy import select

from app.studies import schema
from app.studies.adjudication import settled_labels
from app.studies.errors import AbsentError, InputError, RefusedError, StudyError
from app.studies.guidelines import PRACTICE
from app.studies.people import People, Person
from app.studies.store import Store
from tests.app.studies.scene import KEYS, Scene, gate_gold

WIN = dict.fromkeys(KEYS, "win")
LOSS = dict.fromkeys(KEYS, "loss")
TIE = dict.fromkeys(KEYS, "tie")


def votes_of(store: Store) -> dict[int, list[tuple[int, dict[str, str]]]]:
    """Pair -> rater and current verdicts of each official judgment, in the order of assignment."""
    query = (
        select(schema.assignment.c.id, schema.assignment.c.pair_id, schema.assignment.c.rater_id, schema.judgment.c.verdicts)
        .join(schema.judgment, schema.judgment.c.assignment_id == schema.assignment.c.id)
        .where(schema.assignment.c.kind == "official", schema.assignment.c.state == "judged")
        .order_by(schema.assignment.c.id, schema.judgment.c.version)
    )
    newest: dict[int, Any] = {}
    with store.read() as connection:
        for row in connection.execute(query):
            newest[row.id] = row
    found: dict[int, list[tuple[int, dict[str, str]]]] = defaultdict(list)
    for row in newest.values():
        found[row.pair_id].append((row.rater_id, row.verdicts))
    return found


def test_two_agree_and_a_third_and_a_fourth_settle_what_they_do_not(scene: Scene) -> None:
    number = scene.study(items=1)
    raters = scene.raters(number, 4)
    cast = [WIN, WIN | {"comfort": "tie"}, WIN | {"comfort": "loss"}, WIN | {"comfort": "loss"}]
    for person, verdicts in zip(raters[:2], cast, strict=False):
        task = scene.take(person, number).task
        assert task is not None
        scene.judge(person, number, task, scene.left_verdicts(task, verdicts))
    assert scene.take(raters[0], number).phase == "done", "nobody adjudicates an item of their own"
    for person, verdicts in zip(raters[2:], cast[2:], strict=True):
        task = scene.take(person, number).task
        assert task is not None
        assert set(task) == {"assignment", "problem", "situation", "turns", "a", "b"}, "blind: no vote, stage or system"
        scene.judge(person, number, task, scene.left_verdicts(task, verdicts))
    (pair,) = scene.pairs(number)
    assert (pair.state, pair.labels) == ("settled", WIN | {"comfort": "loss"})


def test_verdicts_are_kept_for_the_system_whichever_side_it_was_shown_on(scene: Scene) -> None:
    number = scene.study(items=16)
    (person,) = scene.raters(number, 1)
    sides = Counter()
    while (task := scene.take(person, number).task) is not None:
        first_is_one = task["a"].startswith("one")
        sides[first_is_one] += 1
        scene.judge(person, number, task, dict.fromkeys(KEYS, "a" if first_is_one else "b"))
    assert set(map(str, votes_of(scene.store)[scene.pairs(number)[0].id][0][1].values())) == {"win"}
    assert all(vote == WIN for votes in votes_of(scene.store).values() for _, vote in votes)
    assert 2 < sides[True] < 14, "which response stands first is random"


def test_a_closed_browser_and_a_second_tab_go_on_with_the_same_item(scene: Scene) -> None:
    number = scene.study(items=3)
    (person,) = scene.raters(number, 1)
    first, second = scene.take(person, number), scene.take(person, number)
    assert first.task == second.task
    assert first.task is not None
    scene.judge(person, number, first.task, dict.fromkeys(KEYS, "a"))
    with pytest.raises(StudyError, match="judged already"):
        scene.judge(person, number, first.task, dict.fromkeys(KEYS, "b"))
    assert scene.take(person, number).done == 1


def test_the_same_request_twice_is_one_judgment(scene: Scene) -> None:
    number = scene.study(items=1)
    (person,) = scene.raters(number, 1)
    task = scene.take(person, number).task
    assert task is not None
    one = scene.judge(person, number, task, key="same")
    assert scene.judge(person, number, task, key="same") == one
    with pytest.raises(InputError, match="new key"):
        scene.judge(person, number, task, dict.fromkeys(KEYS, "a"), key="same")


def test_undo_adds_a_version_and_moves_the_label(scene: Scene) -> None:
    number = scene.study(items=1, overlap=1)
    (person,) = scene.raters(number, 1)
    task = scene.take(person, number).task
    assert task is not None
    scene.judge(person, number, task, scene.left_verdicts(task, WIN))
    assert scene.pairs(number)[0].labels == WIN
    before = scene.desk.previous(person, number, None)
    assert before["verdicts"] == scene.left_verdicts(task, WIN)
    scene.judge(person, number, before, scene.left_verdicts(before, LOSS), replaces=before["replaces"])
    assert scene.pairs(number)[0].labels == LOSS
    with pytest.raises(StudyError, match="judged already"):
        scene.judge(person, number, before, scene.left_verdicts(before, TIE), replaces=1)
    with scene.store.read() as connection:
        versions = connection.execute(select(schema.judgment.c.version).order_by(schema.judgment.c.id)).scalars().all()
    assert versions == [1, 2]


def test_undo_that_restores_agreement_or_ends_it(scene: Scene) -> None:
    number = scene.study(items=1)
    one, two, three = scene.raters(number, 3)
    for person, verdicts in ((one, WIN), (two, LOSS)):
        task = scene.take(person, number).task
        assert task is not None
        scene.judge(person, number, task, scene.left_verdicts(task, verdicts))
    assert scene.pairs(number)[0].queue == 1
    before = scene.desk.previous(two, number, None)
    scene.judge(two, number, before, scene.left_verdicts(before, WIN), replaces=before["replaces"])
    assert scene.pairs(number)[0].state == "settled"
    assert scene.take(three, number).task is None


def test_what_two_raters_cannot_judge_is_set_aside_and_can_be_put_back(scene: Scene) -> None:
    number = scene.study(items=1)
    raters = scene.raters(number, 4)
    for person in raters[:2]:
        task = scene.take(person, number).task
        assert task is not None
        scene.judge(person, number, task, reason="unclear")
    assert scene.take(raters[2], number).task is None
    (pair,) = scene.pairs(number)
    assert pair.state == "aside"
    scene.studies.put_back(scene.researcher, number, pair.id)
    assert scene.take(raters[0], number).task is None, "who has seen it does not see it again"
    assert scene.take(raters[2], number).task is not None


def test_a_rater_deleted_midway_leaves_judgments_and_gives_back_what_was_open(scene: Scene) -> None:
    number = scene.study(items=2)
    gone, other = scene.raters(number, 2)
    task = scene.take(gone, number).task
    assert task is not None
    scene.judge(gone, number, task)
    open_one = scene.take(gone, number).task
    assert open_one is not None
    scene.people.set_enabled(scene.admin, gone.id, False, scene.studies.leave_all)
    assert sum(len(v) for v in votes_of(scene.store).values()) == 1
    assert scene.work_off(other, number, lambda task: dict.fromkeys(KEYS, "tie")) == 2
    third = scene.raters(number, 1)[0]
    assert scene.work_off(third, number, lambda task: dict.fromkeys(KEYS, "tie")) == 1, "the item given back needs a second"
    assert {pair.state for pair in scene.pairs(number)} == {"settled"}


def test_who_is_no_rater_or_asks_for_another_s_item_is_refused(scene: Scene) -> None:
    number = scene.study(items=2)
    one, two = scene.raters(number, 2)
    task = scene.take(one, number).task
    assert task is not None
    with pytest.raises(AbsentError):
        scene.judge(two, number, task)
    stranger = scene.person("annotator", "stranger")
    for act in (lambda: scene.take(stranger, number), lambda: scene.judge(stranger, number, task)):
        with pytest.raises(RefusedError):
            act()
    scene.studies.close(scene.researcher, number)
    with pytest.raises(StudyError, match="closed"):
        scene.judge(one, number, task)
    assert scene.take(one, number).phase == "closed"


def test_half_a_judgment_or_an_impossible_one_is_refused(scene: Scene) -> None:
    number = scene.study(items=1)
    (person,) = scene.raters(number, 1)
    task = scene.take(person, number).task
    assert task is not None
    wrong: list[tuple[dict[str, str] | None, str, float]] = [
        ({"fluency": "a"}, "", 1.0),
        (dict.fromkeys(KEYS, "win"), "", 1.0),
        (None, "bored", 1.0),
        (None, "", -1.0),
        (None, "", float("nan")),
    ]
    for verdicts, reason, seconds in wrong:
        with pytest.raises(InputError):
            scene.judge(person, number, task, verdicts, reason, seconds=seconds)
    assert votes_of(scene.store) == {}


def test_a_clock_that_jumps_changes_only_the_time_that_is_shown(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    number = scene.study(items=2)
    raters = scene.raters(number, 2)
    rng = random.Random(0)
    monkeypatch.setattr("app.studies.assignment.now", lambda: rng.choice([0.0, 4e9, -5.0, 1e9]))
    for person in raters:
        assert scene.work_off(person, number, lambda task: dict.fromkeys(KEYS, "tie")) == 2
    assert {pair.state for pair in scene.pairs(number)} == {"settled"}


# -- training --------------------------------------------------------------------------------------------------------


def answer(scene: Scene, task: dict[str, Any], good: bool) -> dict[str, str]:
    """The gold of a gate item, or the same answer to everything."""
    if not good:
        return dict.fromkeys(KEYS, "a")
    index = int(task["turns"][-1]["text"].split("gate-")[1].rstrip(").")) if "gate-" in task["turns"][-1]["text"] else 0
    return scene.left_verdicts(task, gate_gold(index))


def test_the_gate_opens_above_its_kappa_and_else_trains_again_with_other_items(scene: Scene) -> None:
    number = scene.study(items=2, gate_size=5, gate_pool=12, practice=True)
    good, bad = scene.raters(number, 2)
    told: dict[tuple[str, str], str] = {}
    for person, careful in ((good, True), (bad, False)):
        first = scene.take(person, number)
        assert (first.phase, first.left) == ("practice", 6)
        for _ in range(6):
            task = scene.take(person, number).task
            assert task is not None
            saved = scene.judge(person, number, task)
            assert saved.feedback is not None
            assert set(saved.feedback["gold"]) == set(KEYS)
            told[task["turns"][-1]["text"], task["a"]] = saved.feedback["note"]
        seen = []
        for _ in range(5):
            work = scene.take(person, number)
            assert (work.phase, work.round) == ("gate", 1)
            assert work.task is not None
            seen.append(work.task["turns"][-1]["text"])
            assert scene.judge(person, number, work.task, answer(scene, dict(work.task), careful)).feedback is None
        assert len(set(seen)) == 5
        after = scene.take(person, number)
        assert after.last_gate is not None
        assert after.last_gate["passed"] == careful
        if careful:
            assert after.phase == "official"
            assert set(after.last_gate["kappas"].values()) == {1.0}
        else:
            assert (after.phase, after.round) == ("practice", 2), "the official queue stays shut"
            for _ in range(6):
                task = scene.take(person, number).task
                assert task is not None
                scene.judge(person, number, task)
            again = []
            for _ in range(5):
                task = scene.take(person, number).task
                assert task is not None
                again.append(task["turns"][-1]["text"])
                scene.judge(person, number, task, answer(scene, dict(task), False))
            assert not set(again) & set(seen), "the second round has other items"
            for _ in range(6):
                task = scene.take(person, number).task
                assert task is not None
                scene.judge(person, number, task)
            with pytest.raises(StudyError, match="have not seen"):
                scene.take(person, number)


    for entry in PRACTICE:  # the explanation speaks of A and B as they stood on the page
        for text, places in ((entry.first, ("A", "B")), (entry.second, ("B", "A"))):
            if entry.first != entry.second and (entry.client, text) in told:
                note = entry.note.replace("{first}", places[0]).replace("{second}", places[1])
                assert told[entry.client, text] == note


def test_kappa_at_the_gate_equals_scikit_learn(scene: Scene) -> None:
    from sklearn.metrics import cohen_kappa_score

    number = scene.study(items=2, gate_size=12, gate_pool=12)
    (person,) = scene.raters(number, 1)
    rng, truth, own = random.Random(3), [], []
    for _ in range(12):
        task = dict(scene.take(person, number).task or {})
        places = answer(scene, task, True)
        index = int(task["turns"][-1]["text"].split("gate-")[1].rstrip(")."))
        wanted = gate_gold(index)
        if rng.random() < 0.3:
            wanted = wanted | {"comfort": rng.choice(["win", "tie", "loss"])}
            places = scene.left_verdicts(task, wanted)
        truth.append(gate_gold(index)["comfort"])
        own.append(wanted["comfort"])
        scene.judge(person, number, task, places)
    last = scene.take(person, number).last_gate
    assert last is not None
    assert last["kappas"]["comfort"] == pytest.approx(cohen_kappa_score(truth, own), abs=1e-12)


def test_attention_checks_come_unannounced_and_count_for_no_label(scene: Scene) -> None:
    number = scene.study(items=12, attention_every=3)
    (person,) = scene.raters(number, 1)
    kinds = []
    while (task := scene.take(person, number).task) is not None:
        assert scene.take(person, number).phase == "official"
        with scene.store.read() as connection:
            query = select(schema.assignment.c.kind).where(schema.assignment.c.id == task["assignment"])
            kinds.append(connection.execute(query).scalar_one())
        scene.judge(person, number, task)
    assert kinds.count("official") == 12
    assert kinds[3] == "attention"
    assert 3 <= kinds.count("attention") <= 4
    assert {pair.labels == {} for pair in scene.pairs(number, "attention")} == {True}


# -- many histories, and many at once --------------------------------------------------------------------------------


class Raters(RuleBasedStateMachine):
    """Any order of taking, judging, declining, undoing, leaving and coming back."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = Store(f"sqlite:///{Path(self.folder.name) / 's.sqlite3'}")
        self.scene = Scene(self.store, People(self.store, hasher=PasswordHasher(1, 8, 1)))
        self.number = self.scene.study(items=4)
        self.raters = self.scene.raters(self.number, 5)
        self.judged: dict[str, dict[str, str]] = {}

    def teardown(self) -> None:
        self.finish()
        self.store.close()
        self.folder.cleanup()

    @rule(who=st.integers(0, 4), choice=st.sampled_from(["a", "tie", "b"]), odd=st.sampled_from(["a", "tie", "b"]))
    def judge(self, who: int, choice: str, odd: str) -> None:
        task = self.work(who)
        if task is not None:
            self.scene.judge(self.raters[who], self.number, task, dict.fromkeys(KEYS, choice) | {"comfort": odd})

    @rule(who=st.integers(0, 4))
    def look(self, who: int) -> None:
        assert self.work(who) == self.work(who)

    @rule(who=st.integers(0, 4))
    def decline(self, who: int) -> None:
        task = self.work(who)
        if task is not None:
            self.scene.judge(self.raters[who], self.number, task, reason="unclear")

    @rule(who=st.integers(0, 4), choice=st.sampled_from(["a", "tie", "b"]))
    def undo(self, who: int, choice: str) -> None:
        try:
            before = self.scene.desk.previous(self.raters[who], self.number, None)
        except (StudyError, RefusedError):
            return
        verdicts = dict.fromkeys(KEYS, choice)
        self.scene.judge(self.raters[who], self.number, before, verdicts, replaces=before["replaces"])

    @rule(who=st.integers(0, 4))
    def leave(self, who: int) -> None:
        self.scene.studies.remove_rater(self.scene.researcher, self.number, self.place(who))

    @rule(who=st.integers(0, 4))
    def return_(self, who: int) -> None:
        self.scene.studies.add_rater(self.scene.researcher, self.number, self.raters[who].id)

    @invariant()
    def holds(self) -> None:
        with self.store.read() as connection:
            rows = connection.execute(select(schema.assignment).where(schema.assignment.c.kind == "official")).all()
        seen = Counter((row.pair_id, row.rater_id) for row in rows)
        assert not [key for key, n in seen.items() if n > 1], "an item was seen twice by one rater"
        votes = votes_of(self.store)
        open_by_rater = Counter(row.rater_id for row in rows if row.state == "open")
        assert max(open_by_rater.values(), default=0) <= 1
        for pair in self.scene.pairs(self.number):
            cast = [verdicts for _, verdicts in votes.get(pair.id, [])]
            waiting = sum(row.pair_id == pair.id and row.state == "open" for row in rows)
            assert pair.labels == settled_labels(cast, 2, KEYS)
            if pair.state == "settled":
                assert set(pair.labels) == set(KEYS)
            elif pair.state == "open":
                assert pair.queue is not None or waiting, "an item was lost: open, and nobody has it or is wanted for it"
            assert len(cast) + waiting <= 5

    def finish(self) -> None:
        """Whatever happened, five fresh raters settle everything that was not set aside."""
        for person in self.raters:
            self.scene.studies.remove_rater(self.scene.researcher, self.number, self.place(self.raters.index(person)))
        for person in self.scene.raters(self.number, 4):
            self.scene.work_off(person, self.number, lambda task: dict.fromkeys(KEYS, "tie"))
        assert {pair.state for pair in self.scene.pairs(self.number)} <= {"settled", "aside"}

    def work(self, who: int) -> Any:
        try:
            return self.scene.take(self.raters[who], self.number).task
        except RefusedError:
            return None

    def place(self, who: int) -> int:
        with self.store.read() as connection:
            query = select(schema.rater.c.id).where(schema.rater.c.account_id == self.raters[who].id)
            return int(connection.execute(query).scalar_one())


TestRaters = Raters.TestCase
TestRaters.settings = settings(max_examples=8, stateful_step_count=20, deadline=None)


def test_twenty_raters_at_once_lose_and_double_nothing(scene: Scene) -> None:
    number = scene.study(items=16, attention_every=4)
    raters = scene.raters(number, 20)
    problems: list[BaseException] = []
    barrier = threading.Barrier(len(raters))

    def work(person: Person, index: int) -> None:
        rng = random.Random(index)
        try:
            barrier.wait()
            scene.work_off(person, number, lambda task: {key: rng.choice(["a", "tie", "b"]) for key in KEYS})
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(person, i)) for i, person in enumerate(raters)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not problems, problems[0]
    for person in raters:  # a third may be wanted by the very last judgment, when the others have left
        scene.work_off(person, number, lambda task: dict.fromkeys(KEYS, "tie"))
    votes = votes_of(scene.store)
    assert len(votes) == 16
    for pair in scene.pairs(number):
        assert pair.state == "settled"
        assert 2 <= len(votes[pair.id]) <= 4
        assert len({rater for rater, _ in votes[pair.id]}) == len(votes[pair.id])
        assert pair.labels == settled_labels([verdicts for _, verdicts in votes[pair.id]], 2, KEYS)
