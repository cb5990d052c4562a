"""What the page and the reports say, and what they never say."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from app import demo, theme, view
from app.live_layout import HELP, NOTICE, STAGE
from app.report import as_html, as_json
from app.session import Session
from app.timeline import svg
from multimood_core.conflict import Conflicts
from multimood_core.labels import EMOTIONS
from multimood_core.records import LabelPrediction, Modalities
from tests.app.conftest import settled

APP = Path(view.__file__).resolve().parent
EVIL = '<img src=x onerror=alert(1)> & "quotes" {{ 7919 * 7907 }}'


@pytest.fixture
def told(session: Session) -> Session:
    """A session with a turn of each kind of decision, corrections, and text that would be code if it were not escaped."""
    session.describe(EVIL, EVIL)
    for number, decide in enumerate((session.accept, lambda: session.edit(EVIL), session.reject), 1):
        session.type_turn(f"{EVIL} {number}")
        current = settled(session).current
        assert current is not None
        if not current.suggestion.strip():
            session.edit("Said.")
        else:
            decide()
    session.correct(1, "client_emotion", "fear")
    session.correct(2, "strategy", "approval")
    session.note(EVIL)
    session.type_turn("And the last one.")
    return settled(session)


def screens(session: Session) -> str:
    timeline = view.timeline(svg(session.exchanges, session.notes))
    return view.middle(session) + view.panel(session) + view.earlier(session) + timeline + view.notes(session)


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_what_a_person_wrote_is_never_code(told: Session) -> None:
    for text in (screens(told), as_html(told)):
        tags = Tags(text).found
        assert not [tag for tag, _ in tags if tag in ("img", "script")]
        assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
        assert "62615533" not in text  # their product, which no template may work out
        assert "{{ 7919 * 7907 }}" in text


def test_pages_and_reports_ask_no_other_host(told: Session) -> None:
    for text in (screens(told), as_html(told), theme.style(), theme.head(), NOTICE, HELP, STAGE):
        hosts = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text)) - {"http://www.w3.org"}
        assert not hosts


def test_all_seven_probabilities_and_the_top_three_strategies_are_shown(told: Session) -> None:
    buttons = [a for tag, a in Tags(view.panel(told)).found if tag == "button"]
    commands = [str(a["data-do"]) for a in buttons]
    assert [c for c in commands if ":client_emotion:" in c] == [f"correct:4:client_emotion:{name}" for name in EMOTIONS]
    assert [a["data-key"] for a in buttons if ":client_emotion:" in str(a["data-do"])] == list("1234567")
    before_more = view.panel(told).split("<details>")[0]
    assert before_more.count(":strategy:") == 3


def test_a_correction_is_seen_everywhere(told: Session) -> None:
    assert 'class="mm-mini mm-on mm-ring"' in view.earlier(told)
    assert "set by the clinician" in svg(told.exchanges)
    assert "set by the clinician: fear" in as_html(told)
    assert json.loads(as_json(told))["turns"][0]["labels"]["client_emotion"]["set_by_clinician"] == "fear"


def test_the_timeline_is_sound_svg_with_a_word_for_every_colour(told: Session) -> None:
    root = ElementTree.fromstring(svg(told.exchanges, told.notes))
    words = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert words >= set(EMOTIONS)
    titles = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert sum(title.startswith("turn ") for title in titles) == 4


def test_an_export_says_what_was_said_and_by_which_weights(told: Session) -> None:
    found = json.loads(as_json(told))
    assert found["checkpoint"] == {"name": "tiny", "sha256": "0" * 64}
    assert [turn["checkpoint"] for turn in found["turns"]] == [found["checkpoint"]] * len(found["turns"])
    assert [turn["reply"]["decision"] for turn in found["turns"]][1:] == ["edited", "rejected", "open"]
    assert found["turns"][1]["reply"]["said"] == EVIL
    assert found["turns"][2]["reply"]["said"] is None
    assert abs(sum(found["turns"][0]["labels"]["strategy"]["probabilities"].values()) - 1) < 1e-6
    report = as_html(told)
    assert "0" * 64 in report
    assert report.count(f"tiny, SHA-256 {'0' * 12}<") + report.count(f"tiny, SHA-256 {'0' * 12}\n") == len(found["turns"])
    assert "no medical device" in " ".join(report.split())


def test_an_empty_session_exports_too(session: Session) -> None:
    assert json.loads(as_json(session))["turns"] == []
    assert "No turn was taken." in as_html(session)


def test_little_evidence_is_called_not_enough_signal(told: Session) -> None:
    current = told.current
    assert current is not None
    flat = dict.fromkeys(EMOTIONS, 1 / 7)
    current.labels["client_emotion"] = type(current.labels["client_emotion"])("anger", flat)
    assert "uncertain: weak signal" in view.panel(told)


def test_what_is_read_aloud_does_not_change_with_the_clock(told: Session) -> None:
    status = r'role="status">(.*?)</p>'
    heard = [re.findall(status, view.middle(told, seconds)) for seconds in (0.5, 7.5)]
    assert heard[0] == heard[1]
    label = told.exchanges[-1].label("client_emotion")
    assert f"Predicted expression: {label}." in heard[0][0]
    told.type_turn("And one more.")
    assert "Predicted expression" not in "".join(re.findall(status, view.middle(told, 1.0)))


def test_notes_stand_in_the_page(told: Session) -> None:
    told.note("Second.")
    assert re.findall(r"<b>(.*?)</b>", view.notes(told)) == ["after turn 4", "after turn 3"]


def test_depression_agrees_with_a_sad_face(told: Session) -> None:
    current = told.current
    assert current is not None
    current.corrections["client_emotion"] = "depression"
    agree, differ = {"sadness": 0.8, "joy": 0.2}, {"joy": 0.9, "anger": 0.1}
    words = LabelPrediction("depression", {"depression": 0.8, "joy": 0.2})
    thresholds = Conflicts({"face/voice": 0.4, "face/words": 0.4, "voice/words": 0.4}, "")
    current.expressions, current.words_alone = {"face": agree, "voice": differ}, words
    assert view.agreement(current, thresholds) == "conflicting: face and voice, voice and words"
    current.expressions = {"face": agree}
    assert view.agreement(current, thresholds) == "signals do not conflict"
    current.expressions, current.words_alone = {}, None
    assert view.agreement(current, thresholds) == ""


def _texts() -> list[tuple[str, str]]:
    files = [*APP.rglob("*.py"), *APP.rglob("*.html"), *APP.rglob("*.js")]
    return [(str(path.relative_to(APP)), path.read_text(encoding="utf-8")) for path in files]


@pytest.mark.parametrize(("name", "text"), _texts(), ids=lambda value: value if len(value) < 40 else "")
def test_the_words_stay_careful(name: str, text: str) -> None:
    shown = re.sub(r'""".*?"""', "", text, flags=re.S) if name.endswith(".py") and name != "live_layout.py" else text
    strings = re.findall(r'"([^"\n]*)"', shown) + re.findall(r">([^<>{}]+)<", shown)
    for string in strings:
        assert not re.search(r"\bdetected\b|\bdiagnos", string, re.I), string
        assert not re.search(r"[a-z]!(\s|$)", string), string


def test_the_demo_needs_nothing_that_this_project_did_not_make() -> None:
    for step, turn in enumerate(demo.TURNS):
        made = demo.demo_turn(step)
        assert (made.text is not None) == (turn.sound is None)
        assert (made.frames is not None) == (turn.mouth is not None)
        assert made.waveform is None or 2 < made.waveform.seconds < 8


@pytest.mark.parametrize(
    ("modalities", "says"),
    [
        (Modalities("used", "used", "transcribed"), "words (transcribed), voice, face"),
        (Modalities("no_face", "silent", "given"), "words (typed), voice (no sound), face (no face in the picture)"),
        (Modalities("missing", "used", "missing"), "words (none), voice, face (not recorded)"),
    ],
)
def test_what_reached_the_model_is_said_in_words(modalities: Modalities, says: str) -> None:
    assert view.used_modalities(modalities) == says
