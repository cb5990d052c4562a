"""What happens when a client's words may show risk: what is withheld, shown, offered and kept, and until when."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from app import alert_view, view
from app.about import safety_page
from app.exchange import HELD_BACK, Exchange
from app.live_layout import NOTICE
from app.report import as_html, as_json
from app.safety import MOST_PRESSING, PARTS, Safety, read_country
from app.session import Phase, Session
from app.sessions import Sessions
from multimood_core.engine import Event, Labelled, ReplyPart
from multimood_core.errors import DataError, ModelError
from multimood_core.risk import ASSETS
from multimood_core.risk_lexicon import CATEGORIES
from tests.app.conftest import settled

GRAVE = "I want to die."
CODES = list(yaml.safe_load((ASSETS / "resources.yaml").read_text(encoding="utf-8"))["countries"])


@pytest.fixture(scope="module")
def alarmed(engine: object) -> Iterator[Session]:
    """A session with a grave turn; its tests look and change nothing."""
    from app.worker import Worker

    worker = Worker()
    session = Sessions(engine, worker, Safety.load("DE")).open()  # type: ignore[arg-type]
    session.acknowledge()
    session.type_turn("Work was long today.")
    settled(session).edit("What made it long?")
    session.type_turn(GRAVE)
    yield settled(session)
    worker.close()


def current(session: Session) -> Exchange:
    assert session.current is not None
    return session.current


# -- what is withheld --------------------------------------------------------------------------------------------------


def test_no_reply_of_the_model_is_written_or_shown_on_a_hit(alarmed: Session) -> None:
    found = current(alarmed)
    assert alarmed.phase is Phase.DECIDING
    assert (found.withheld, found.prediction) == ("risk", None)
    assert found.prepared is not None
    assert found.suggestion == found.prepared.text
    assert set(found.labels) == {"client_emotion", "therapist_emotion", "strategy"}, "the labels are shown all the same"


def test_every_turn_is_screened_before_its_labels_and_its_reply(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    read, apply, write = session.guard.safety.screen.read, session._apply, session._write
    screen = type(session.guard.safety.screen)
    monkeypatch.setattr(screen, "read", lambda self, words: (order.append("screen"), read(words))[1])

    def applied(exchange: Exchange, event: Event) -> None:
        order.append(type(event).__name__)
        apply(exchange, event)

    monkeypatch.setattr(session, "_apply", applied)
    monkeypatch.setattr(session, "_write", lambda exchange, part: (order.append(ReplyPart.__name__), write(exchange, part))[1])
    session.type_turn("Work was long today.")
    settled(session)
    assert order.count("screen") == 1
    assert order.index("screen") < order.index(Labelled.__name__)
    if ReplyPart.__name__ in order:
        assert order.index("screen") < order.index(ReplyPart.__name__)


def test_a_screen_that_fails_lets_no_reply_through(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, words: str) -> None:
        raise ModelError("The screen cannot run.")

    monkeypatch.setattr(type(session.guard.safety.screen), "read", broken)
    session.type_turn("Work was long today.")
    assert settled(session).problem == "The screen cannot run."
    assert session.exchanges == []


def test_while_an_alert_stands_replies_stay_withheld_and_then_come_back(session: Session) -> None:
    session.type_turn(GRAVE)
    settled(session).edit("I am here.")
    session.type_turn("The weather is fine.")
    assert current(settled(session)).withheld == "alert"
    with pytest.raises(DataError, match="clear it first"):
        session.regenerate()
    session.clear_alerts("Spoke with her, her sister is on the way.")
    session.regenerate()
    assert current(settled(session)).withheld == ""
    assert current(session).prepared is None
    session.type_turn("The weather is fine.")
    assert current(settled(session)).withheld == ""


def test_harmless_turns_that_add_up_raise_the_alert(session: Session) -> None:
    turns = yaml.safe_load((ASSETS / "lines.yaml").read_text(encoding="utf-8"))["windows with risk"][0]
    for turn in turns:
        session.type_turn(turn)
        settled(session)
    assert [alert.turn for alert in session.guard.alerts][-1] <= len(turns)
    assert any(risk.why == "conversation" for alert in session.guard.alerts for risk in alert.risks)


def test_words_that_are_corrected_are_screened_again(session: Session) -> None:
    session.type_turn("I want some pie.")
    settled(session)
    assert not session.guard.standing
    session.correct_words(GRAVE)
    assert current(settled(session)).withheld == "risk"
    session.clear_alerts("Misheard.")
    session.edit("I hear you.")
    session.correct_words("I want to kill myself.")  # after the decision the words alone change
    assert session.guard.standing
    assert current(session).said == "I hear you."


class Written:
    """A model that writes what a test wants."""

    def __init__(self, text: str) -> None:
        self.text = text

    def reply(self, sampling: object = None) -> Iterator[str]:
        yield from re.findall(r"\S+\s*", self.text)

    def label(self, task: str, choose: str | None = None) -> None:
        raise AssertionError("no label was changed")


@pytest.mark.parametrize("harm", ["I hear you. You should just go and kill yourself.", "Then hit him back, you should hurt him."])
def test_a_harmful_reply_is_withheld_and_no_word_of_it_is_shown(session: Session, harm: str) -> None:
    session.type_turn("Work was long today.")
    settled(session)
    shown: list[str] = []
    decoder = Written(harm)
    session._run = type("Run", (), {"decoder": decoder})()  # type: ignore[assignment]
    change = session._change

    def changed() -> None:
        shown.append(current(session).suggestion)
        change()

    session._change = changed  # type: ignore[method-assign]
    session.regenerate()
    found = current(settled(session))
    assert (found.withheld, found.suggestion, found.draft) == ("reply", "", "")
    assert not any("kill" in text or "hurt" in text for text in shown)
    assert "could have encouraged harm" in view.middle(session)
    with pytest.raises(DataError, match="no suggested reply"):
        session.accept()
    decoder.text = "I hear you. What was the longest part of the day for you today?"
    session.regenerate()
    assert current(settled(session)).suggestion == decoder.text
    assert HELD_BACK >= 1


# -- the clinician is alerted, and it stays -----------------------------------------------------------------------------


def test_the_alert_is_told_in_words_a_shape_and_to_screen_readers(alarmed: Session) -> None:
    shown = alert_view.banner(alarmed)
    assert re.search(r'<div role="alert"><h2[^>]*>.*\u25b2.*Safety alert: possible self-harm \(turn 2\)', shown)
    assert "<q dir=\"auto\">want to die</q>" in shown
    assert "It misses some risk" in shown
    assert '<button type="button" class="mm-alert-strip"' in shown
    assert "withheld" in view.middle(alarmed)


def test_no_page_claims_that_everything_is_found(alarmed: Session) -> None:
    for text in (alert_view.banner(alarmed), view.middle(alarmed), NOTICE, as_html(alarmed), alert_view.INCOMPLETE):
        assert not re.search(r"\b(all|every|any) risks?\b|\bno risk\b|\b(is|are) safe\b|100 %|reliably|guarantee", text, re.I)
    assert "misses some" in NOTICE


def test_an_alert_stays_across_reloads_and_idle_hours_until_it_is_cleared_with_a_reason(
    sessions: Sessions, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.type_turn(GRAVE)
    settled(session)
    assert sessions.open(session.token).guard.standing, "a page that is loaded again finds the same session"
    session.touched -= 10**6
    sessions.open()
    assert sessions.find(session.token) is session, "a standing alert is not forgotten"
    for reason in ("", "   "):
        with pytest.raises(DataError):
            session.clear_alerts(reason)
    assert session.guard.standing
    session.clear_alerts("Safety plan made, crisis team informed.")
    assert not session.guard.standing
    assert alert_view.banner(session) == ""
    with pytest.raises(DataError, match="nothing to clear"):
        session.clear_alerts("Again.")


def test_alerts_and_their_reasons_are_in_the_exports(session: Session) -> None:
    session.type_turn(GRAVE)
    settled(session)
    assert "not cleared" in as_html(session)
    session.clear_alerts("<b>Called</b> the crisis team.")
    found = json.loads(as_json(session))
    assert found["mode"] == "simulation or research"
    (alert,) = found["alerts"]
    assert (alert["turn"], alert["categories"], alert["reason"]) == (1, ["self-harm"], "<b>Called</b> the crisis team.")
    assert alert["cleared"] >= alert["raised"]
    assert found["turns"][0]["reply"]["withheld"] == "risk"
    assert set(found["turns"][0]["reply"]["prepared"]) == {"category", *PARTS}
    assert "&lt;b&gt;Called&lt;/b&gt; the crisis team." in as_html(session)


# -- help and the prepared answer ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", CODES)
def test_each_country_has_an_emergency_number_and_a_line_for_every_category(code: str) -> None:
    country = read_country(code)
    assert country.emergency
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", country.compiled)
    assert "verif" in country.note.lower()
    covered = {category for line in country.lines for category in line.categories}
    assert covered >= {"self-harm", "abuse"}
    assert all(line.contact and line.source for line in country.lines)


def test_the_help_of_the_chosen_country_is_shown_with_its_date(alarmed: Session) -> None:
    shown = alert_view.banner(alarmed)
    assert "Help, Germany" in shown
    assert "0800 111 0 111" in shown
    assert read_country("DE").compiled in shown
    assert "988" not in shown


def test_a_country_that_is_not_listed_is_refused_with_those_that_are() -> None:
    with pytest.raises(ModelError, match=r"US \(United States\)"):
        Safety.load("XX")


def test_an_edited_list_of_help_is_what_is_shown(tmp_path: Path) -> None:
    text = (ASSETS / "resources.yaml").read_text(encoding="utf-8")
    (tmp_path / "resources.yaml").write_text(text.replace("0800 111 0 111 or 0800 111 0 222", "our own ward 7"))
    assert any(line.contact == "our own ward 7" for line in read_country("de", tmp_path).lines)
    (tmp_path / "resources.yaml").write_text("countries: 7")
    with pytest.raises(ModelError, match="not as its first lines say"):
        read_country("DE", tmp_path)


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("code", ["INT", "US", "DE"])
def test_the_prepared_answer_has_its_four_parts(category: str, code: str) -> None:
    safety = Safety.load(code)
    answer = safety.answer([category])
    assert answer.category == category
    assert re.match(r"Thank you for", answer.acknowledge), "what was said is acknowledged first"
    assert re.search(r"\b(not enough|cannot)\b", answer.boundary), "the boundary is said plainly"
    assert "?" in answer.transition, "the transition goes on with the person, by a question"
    assert safety.country.emergency in answer.guide, "it leads to people who can be there"
    assert any(word in answer.guide for word in ("together", "with you"))
    assert answer.text == " ".join((answer.acknowledge, answer.boundary, answer.transition, answer.guide))
    assert not re.search(r"I can ?not (help|talk|discuss|assist)|I am (just )?an? (AI|program)", answer.text), "no bare refusal"
    assert "{" not in answer.text
    assert not safety.screen.harmful_reply(answer.text)


def test_the_most_pressing_category_is_answered() -> None:
    safety = Safety.load()
    assert safety.answer(["abuse", "self-harm"]).category == "self-harm"
    assert set(MOST_PRESSING) == set(CATEGORIES)


def test_an_answer_without_one_of_its_parts_is_refused(tmp_path: Path) -> None:
    for name in ("resources.yaml",):
        (tmp_path / name).write_text((ASSETS / name).read_text(encoding="utf-8"))
    answers = yaml.safe_load((ASSETS / "answers.yaml").read_text(encoding="utf-8"))
    del answers["abuse"]["transition"]
    (tmp_path / "answers.yaml").write_text(yaml.safe_dump(answers))
    from app.safety import _read_answers

    with pytest.raises(ModelError, match="under abuse"):
        _read_answers(tmp_path)


def test_the_prepared_answer_is_a_draft_that_only_the_clinician_says(session: Session) -> None:
    session.type_turn(GRAVE)
    settled(session)
    assert [turn.speaker for turn in session.history()] == ["client"], "it was offered, not said"
    shown = view.middle(session)
    for title in alert_view.TITLES.values():
        assert f"<dt>{title}</dt>" in shown
    assert "prepared answer" in shown
    text = current(session).suggestion
    session.accept()
    assert session.history()[-1].text == text
    assert session.guard.standing, "to accept an answer clears nothing"


# -- disclosure ---------------------------------------------------------------------------------------------------------


def test_the_first_thing_that_is_said_is_that_this_is_an_ai_for_simulation_and_research() -> None:
    first = NOTICE.split("</p>")[0]
    assert "You are about to use an AI" in first
    assert "simulation and" in first


def test_the_note_on_places_links_to_a_document_in_the_app() -> None:
    address = re.search(r'href="multimood/about/safety#([\w-]+)"', NOTICE)
    assert address
    page = safety_page()
    assert f'<h2 id="{address[1]}">' in page
    assert not re.search(r"https?://", page), "nothing of it is elsewhere"
