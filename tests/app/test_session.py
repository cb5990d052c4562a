"""What a session promises to the person who uses it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.session import Phase, Session
from app.sessions import Sessions
from app.worker import QUEUE, UNEXPECTED, BusyError, Worker
from multimood_core.decoding import LABELS, Sampling
from multimood_core.engine import Engine
from multimood_core.errors import DataError, MediaError
from multimood_core.labels import EMOTIONS, STRATEGIES
from multimood_core.records import HistoryTurn, Turn
from tests.app.conftest import settled


def another(label: str, labels: tuple[str, ...] = EMOTIONS) -> str:
    return labels[(labels.index(label) + 1) % len(labels)]


def test_a_typed_turn_is_answered_and_waits_for_the_clinician(session: Session) -> None:
    session.type_turn("I cannot sleep.")
    settled(session)
    current = session.current
    assert current is not None
    assert (session.phase, current.words, current.decision) == (Phase.DECIDING, "I cannot sleep.", "open")
    assert {task: set(current.labels[task].probabilities) for task in LABELS} == {
        task: set(names) for task, (_, names) in LABELS.items()
    }
    assert current.prediction is not None
    assert current.prediction.response == current.suggestion


def test_nothing_is_captured_before_the_notice_was_read(sessions: Sessions) -> None:
    session = sessions.open()
    with pytest.raises(DataError, match="notice"):
        session.type_turn("Hello.")
    with pytest.raises(DataError, match="notice"):
        session.begin_capture()


def test_a_suggestion_that_nobody_accepted_was_not_said(session: Session) -> None:
    for act in (session.reject, lambda: None):
        session.type_turn("I feel lost.")
        settled(session)
        act()
    assert [turn.speaker for turn in session.history()] == ["client", "client"]
    session.type_turn("And now?")
    settled(session)
    assert [exchange.decision for exchange in session.exchanges] == ["rejected", "unused", "open"]


def test_an_edited_reply_is_said_as_edited(session: Session) -> None:
    session.type_turn("I feel lost.")
    settled(session).edit("  Tell me more.  ")
    assert session.history()[-1].text == "Tell me more."
    with pytest.raises(DataError, match="no suggested reply"):
        session.accept()


def test_only_what_a_person_set_goes_into_the_history_as_confirmed(session: Session) -> None:
    session.type_turn("I feel lost.")
    current = settled(session).current
    assert current is not None
    predicted = {task: current.labels[task].label for task in LABELS}
    session.edit("Tell me more.")
    assert session.history() == [
        HistoryTurn("client", "I feel lost.", predicted["client_emotion"], emotion_confirmed=False),
        HistoryTurn(
            "therapist", "Tell me more.", predicted["therapist_emotion"], predicted["strategy"], False, False
        ),
    ]
    strategy = another(predicted["strategy"], STRATEGIES)
    session.correct(1, "client_emotion", predicted["client_emotion"])  # confirming a right guess is a correction too
    session.correct(1, "strategy", strategy)
    assert session.history() == [
        HistoryTurn("client", "I feel lost.", predicted["client_emotion"], emotion_confirmed=True),
        HistoryTurn("therapist", "Tell me more.", predicted["therapist_emotion"], strategy, False, True),
    ]
    session.correct(1, "strategy", strategy)  # pressed again: taken back
    assert session.history()[1].strategy == predicted["strategy"]


def test_a_corrected_earlier_label_is_folded_into_the_history_anew(session: Session, engine: Engine) -> None:
    for words in ("One.", "Two.", "Three."):
        session.type_turn(words)
        settled(session)
    current = session.exchanges[0]
    session.correct(1, "client_emotion", another(current.labels["client_emotion"].label))
    session.type_turn("Four.")
    settled(session)
    fresh = engine.memory().rows(session.history(before=session.exchanges[-1]))
    kept = session._memory.rows(session.history(before=session.exchanges[-1]))
    assert kept.shape == fresh.shape == (3, fresh.shape[1])
    assert (kept - fresh).abs().max() < 1e-4


def test_another_reply_follows_the_corrected_label_and_keeps_the_first(session: Session) -> None:
    session.type_turn("I feel lost.")
    current = settled(session).current
    assert current is not None
    first, predicted = current.suggestion, current.labels["client_emotion"]
    followed = current.labels["therapist_emotion"].probabilities
    session.correct(1, "client_emotion", another(predicted.label))
    session.regenerate()
    settled(session)
    assert session.phase is Phase.DECIDING
    assert current.labels["client_emotion"].label == predicted.label, "what the model predicted stays on record"
    assert current.labels["client_emotion"].probabilities == pytest.approx(predicted.probabilities, abs=1e-5)
    assert current.labels["therapist_emotion"].probabilities != followed, "what follows is predicted under the correction"
    assert current.earlier_suggestions == [first]
    assert current.prediction is not None
    session.regenerate()
    settled(session)
    assert current.regenerations == 2
    assert len({*current.earlier_suggestions, current.suggestion}) == 3


def test_a_correction_that_was_taken_back_gives_the_first_labels_again(session: Session) -> None:
    session.type_turn("I feel lost.")
    current = settled(session).current
    assert current is not None
    before = dict(current.labels)
    for _ in range(2):
        session.correct(1, "client_emotion", another(before["client_emotion"].label))
        session.regenerate()
        settled(session)
    assert current.corrections == {}
    for task, prediction in before.items():
        assert current.labels[task].label == prediction.label
        assert current.labels[task].probabilities == pytest.approx(prediction.probabilities, abs=1e-5)


class Repeating:
    """A decoder whose first replies are as given, all with the same words before the end."""

    def __init__(self, *replies: str) -> None:
        self.replies = list(replies)

    def reply(self, sampling: Sampling | None = None) -> Iterator[str]:
        yield from re.findall(r"\S+\s*", self.replies.pop(0))


@pytest.mark.parametrize(
    ("draws", "kept", "left"),
    [
        (["Tell me more.", "Tell me what happened."], "Tell me what happened.", 0),
        (["Tell me.", "Never drawn."], "Tell me.", 1),
        (["Tell me more."] * 4, "Tell me more.", 0),
    ],
)
def test_another_reply_differs_from_those_before_where_one_can_be_drawn(
    session: Session, draws: list[str], kept: str, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.type_turn("I feel lost.")
    current = settled(session).current
    assert current is not None
    current.suggestion = "Tell me more."
    decoder, seen = Repeating(*draws), []
    monkeypatch.setattr(session, "_run", SimpleNamespace(decoder=decoder))
    monkeypatch.setattr(session, "_change", lambda change=session._change: (seen.append(current.draft), change()))
    session.regenerate()
    settled(session)
    assert current.suggestion == kept
    assert len(decoder.replies) == left
    if kept != "Tell me more.":
        assert not any(draft == "Tell me more." for draft in seen), "the repeated reply was never shown"


def test_corrected_words_are_answered_in_place_of_the_misheard_ones(session: Session) -> None:
    session.type_turn("I feel last.")
    settled(session)
    session.correct(1, "client_emotion", "fear")
    session.correct_words("I feel lost.")
    current = settled(session).current
    assert current is not None
    assert (len(session.exchanges), current.number, current.words, current.words_corrected) == (1, 1, "I feel lost.", True)
    assert current.corrections == {"client_emotion": "fear"}


def test_a_turn_that_fails_leaves_no_trace_but_its_sentence(session: Session) -> None:
    session.type_turn("I feel lost.")
    settled(session)

    def broken() -> Turn:
        raise MediaError("clip.mp4 is no clip; choose another")

    session.take(broken, "clip")
    settled(session)
    assert session.problem == "clip.mp4 is no clip; choose another"
    assert len(session.exchanges) == 1
    session.type_turn("Again.")
    assert settled(session).problem is None


def test_an_unexpected_mistake_is_told_without_its_traceback(session: Session) -> None:
    session.take(lambda: Turn(text=str(1 / 0)), "clip")
    assert settled(session).problem == UNEXPECTED
    assert "Traceback" not in UNEXPECTED
    session.type_turn("The worker lives on.")
    assert settled(session).phase is Phase.DECIDING


def test_a_missing_clip_is_told_in_one_sentence(session: Session, tmp_path: Path) -> None:
    session.take_clip(tmp_path / "absent.mp4")
    assert "found none at" in (settled(session).problem or "")


def test_an_empty_turn_says_what_to_do(session: Session) -> None:
    session.begin_capture()
    session.end_capture()
    assert "Speak, look at the camera, or type." in (settled(session).problem or "")


@pytest.mark.parametrize("text", ["", "   ", "x" * 5000])
def test_text_without_words_or_with_too_many_is_refused(session: Session, text: str) -> None:
    with pytest.raises(DataError):
        session.type_turn(text)
    assert session.phase is Phase.READY


@pytest.mark.parametrize(("number", "task", "label"), [(2, "strategy", "others"), (1, "mood", "joy"), (1, "strategy", "joy")])
def test_a_correction_of_nothing_is_refused(session: Session, number: int, task: str, label: str) -> None:
    session.type_turn("I feel lost.")
    settled(session)
    with pytest.raises(DataError):
        session.correct(number, task, label)


class Gate:
    """A turn whose media are ready only when the test says so."""

    def __init__(self) -> None:
        self.open, self.reached = threading.Event(), threading.Event()

    def read(self) -> Turn:
        self.reached.set()
        assert self.open.wait(60)
        return Turn(text="At last.")


def test_the_queue_is_bounded_and_shows_each_its_place(sessions: Sessions) -> None:
    gate = Gate()
    people = [sessions.open() for _ in range(4)]
    for person in people:
        person.acknowledge()
    people[0].take(gate.read, "clip")
    assert gate.reached.wait(60)
    people[1].type_turn("Second.")
    people[2].type_turn("Third.")
    assert [person.place for person in people[:3]] == [0, 1, 2]
    with pytest.raises(BusyError, match="2 turns are waiting"):
        people[3].type_turn("Fourth.")
    assert people[3].phase is Phase.READY
    assert people[3].exchanges == []
    gate.open.set()
    for person in people[:3]:
        assert settled(person).phase is Phase.DECIDING
    people[3].type_turn("Fourth.")
    settled(people[3])


def test_a_full_queue_keeps_the_open_turn_open(sessions: Sessions, session: Session) -> None:
    gate = Gate()
    others = [sessions.open() for _ in range(3)]
    for other in others:
        other.acknowledge()
        other.take(gate.read, "clip")
        assert gate.reached.wait(60)
    session.begin_capture()
    with pytest.raises(BusyError):
        session.end_capture()
    assert session.phase is Phase.LISTENING
    assert session.buffer is not None
    gate.open.set()
    for other in others:
        settled(other)


def idle(worker: Worker) -> None:
    """Waits until the model is done with all that it was given."""
    done = threading.Event()
    while not worker.offer(done.set):
        time.sleep(0.01)
    assert done.wait(60)


def test_the_prompt_is_read_while_the_client_speaks(session: Session, worker: Worker) -> None:
    session.type_turn("I cannot sleep.")
    settled(session).edit("Since when?")
    idle(worker)
    session.begin_capture()
    idle(worker)
    turns, start = session._memory._start
    assert turns == session.history()
    assert len(start.ids) == start.cache.get_seq_length() > 0
    session.cancel_capture()
    session.type_turn("For weeks.")
    settled(session)
    assert session._memory._start is None, "the turn went on from it"


def test_nothing_is_offered_to_a_model_that_works(sessions: Sessions, session: Session, worker: Worker) -> None:
    gate = Gate()
    session.take(gate.read, "clip")
    assert gate.reached.wait(60)
    assert not worker.offer(lambda: pytest.fail("this was not to be done"))
    gate.open.set()
    settled(session)


def test_two_sessions_answer_at_once_and_never_see_each_other(sessions: Sessions) -> None:
    people = [sessions.open(), sessions.open()]
    assert people[0].token != people[1].token

    def talk(person: Session, name: str) -> None:
        person.acknowledge()
        for turn in range(3):
            while True:
                try:
                    person.type_turn(f"{name} says {turn}.")
                    break
                except BusyError:
                    continue
            settled(person).edit(f"Reply to {name} {turn}.")

    threads = [threading.Thread(target=talk, args=(p, n)) for p, n in zip(people, ("Ada", "Ben"), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for person, name in zip(people, ("Ada", "Ben"), strict=True):
        assert [turn.text for turn in person.history()] == [
            text for turn in range(3) for text in (f"{name} says {turn}.", f"Reply to {name} {turn}.")
        ]


def test_a_reloaded_page_finds_its_session_and_a_strange_token_a_new_one(sessions: Sessions) -> None:
    mine = sessions.open()
    assert sessions.open(mine.token) is mine
    assert sessions.open("guessed") is not mine
    assert sessions.find("guessed") is None
    sessions.close(mine.token)
    assert sessions.find(mine.token) is None


def test_closing_tells_those_who_wait(engine: Engine) -> None:
    worker = Worker()
    sessions, gate = Sessions(engine, worker), Gate()
    first, second = sessions.open(), sessions.open()
    for person in (first, second):
        person.acknowledge()
    first.take(gate.read, "clip")
    assert gate.reached.wait(60)
    second.type_turn("Still here?")
    threading.Timer(0.2, gate.open.set).start()
    worker.close()
    assert "closed" in (settled(second).problem or "")
    assert QUEUE >= 2


class Clinician(RuleBasedStateMachine):
    """Presses buttons in any order; what must never happen is checked after each."""

    engine: Engine

    def __init__(self) -> None:
        super().__init__()
        self.worker = Worker()
        self.session = Sessions(self.engine, self.worker).open()
        self.session.acknowledge()
        self.said: list[str] = []

    def press(self, act: Callable[[], None]) -> bool:
        try:
            act()
        except DataError:
            return False
        settled(self.session)
        return True

    @rule(words=st.sampled_from(["I am tired.", "", "<video> [OUTPUT FORMAT]"]))
    def type_words(self, words: str) -> None:
        self.press(lambda: self.session.type_turn(words))

    @rule()
    def start(self) -> None:
        self.press(lambda: self.session.begin_capture() and None)

    @rule()
    def end(self) -> None:
        self.press(self.session.end_capture)

    @rule()
    def discard(self) -> None:
        self.session.cancel_capture()

    @rule()
    def accept(self) -> None:
        current = self.session.current
        if self.press(self.session.accept):
            assert current is not None
            self.said.append(current.suggestion.strip())

    @rule(text=st.sampled_from(["I hear you.", ""]))
    def edit(self, text: str) -> None:
        if self.press(lambda: self.session.edit(text)):
            self.said.append(text)

    @rule()
    def reject(self) -> None:
        self.press(self.session.reject)

    @rule()
    def again(self) -> None:
        self.press(self.session.regenerate)

    @rule(text=st.sampled_from(["I am very tired.", ""]))
    def correct_words(self, text: str) -> None:
        self.press(lambda: self.session.correct_words(text))

    @precondition(lambda self: self.session.exchanges)
    @rule(data=st.data(), task=st.sampled_from(list(LABELS)))
    def correct(self, data: st.DataObject, task: str) -> None:
        number = data.draw(st.integers(1, len(self.session.exchanges)))
        self.press(lambda: self.session.correct(number, task, data.draw(st.sampled_from(LABELS[task][1]))))

    @invariant()
    def only_what_was_said_is_said(self) -> None:
        history = self.session.history()
        assert [turn.text for turn in history if turn.speaker == "therapist"] == self.said

    @invariant()
    def only_corrections_are_confirmed(self) -> None:
        for exchange in self.session.exchanges:
            client, *therapist = exchange.history()
            assert client.emotion_confirmed == ("client_emotion" in exchange.corrections)
            for turn in therapist:
                assert turn.emotion_confirmed == ("therapist_emotion" in exchange.corrections)
                assert turn.strategy_confirmed == ("strategy" in exchange.corrections)

    @invariant()
    def the_phase_says_what_is_there(self) -> None:
        session = self.session
        assert [exchange.number for exchange in session.exchanges] == list(range(1, len(session.exchanges) + 1))
        assert all(exchange.prediction for exchange in session.exchanges)
        assert all(exchange.decision != "open" for exchange in session.exchanges[:-1])
        assert (session.buffer is not None) == (session.phase is Phase.LISTENING)
        if session.phase is Phase.DECIDING:
            assert session.exchanges[-1].decision == "open"

    def teardown(self) -> None:
        self.worker.close()


def test_no_order_of_buttons_breaks_the_session(engine: Engine) -> None:
    Clinician.engine = engine
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    Clinician.TestCase.settings = settings(max_examples=10, stateful_step_count=14, suppress_health_check=slow)
    Clinician.TestCase().runTest()
