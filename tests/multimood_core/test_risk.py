"""What the risk screen finds in words, what it leaves alone, and that its files are what they were."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from multimood_core.errors import ModelError
from multimood_core.risk import ASSETS, PIECE, Reading, RiskScreen, pieces_of, window_score
from multimood_core.risk_lexicon import CATEGORIES, Lexicon, Sign, fold

LINES = yaml.safe_load((ASSETS / "lines.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def screen() -> RiskScreen:
    return RiskScreen.from_folder()


@pytest.fixture(scope="module")
def lexicon(screen: RiskScreen) -> Lexicon:
    return screen.lexicon


def alarmed(screen: RiskScreen, text: str) -> bool:
    return bool(screen.judge([screen.read(text)]))


def test_there_are_enough_hard_negatives_and_none_stands_in_both_parts() -> None:
    tuned, held = (LINES["without risk"][part] for part in ("tuned", "held"))
    assert len(tuned) + len(held) >= 100
    assert not set(tuned) & set(held)


def test_ways_of_speaking_that_harm_nobody_raise_few_alarms(screen: RiskScreen) -> None:
    assert not alarmed(screen, "I could kill for a pizza right now.")
    raised = [line for part in ("tuned", "held") for line in LINES["without risk"][part] if alarmed(screen, line)]
    assert len(raised) <= 20, raised  # 15 of 130 when this was written, all by the head


@pytest.mark.parametrize("category", CATEGORIES)
def test_risk_as_it_is_spoken_is_found_and_named(screen: RiskScreen, category: str) -> None:
    parts = LINES["with risk"][category]
    tuned = [{risk.category for risk in screen.judge([screen.read(line)])} for line in parts["tuned"]]
    assert all(category in found for found in tuned)
    held = [alarmed(screen, line) for line in parts["held"]]
    assert sum(held) >= len(held) / 2, f"{sum(held)} of {len(held)}"


@pytest.mark.parametrize("text", ["I don't want to die.", "No, I have never thought of killing myself.", "I'd never hurt him."])
def test_what_is_denied_does_not_count(lexicon: Lexicon, text: str) -> None:
    assert not lexicon.matches(text)


@pytest.mark.parametrize(
    "text",
    [
        "I don't want to live any more.",
        "I'm not sure if I want to die.",
        "No. I want to die.",
        "I don't cry any more, I want to die.",
        "I, like, want to, um, die",
        "I WANT TO DIE",
        "I want to di\u200be",
        "i dont want to be alive",
        "I don\u2019t want to live anymore",
    ],
)
def test_a_negation_elsewhere_and_odd_writing_hide_nothing(lexicon: Lexicon, text: str) -> None:
    assert lexicon.matches(text)


def test_turns_that_are_harmless_alone_add_up(screen: RiskScreen) -> None:
    alone = 0
    for turns in LINES["windows with risk"]:
        readings = [screen.read(turn) for turn in turns]
        alone += any(screen.judge([reading]) for reading in readings)
        assert any(risk.why == "conversation" for risk in screen.judge(readings)), turns
    assert alone <= 1, "these are no conversations of harmless turns any more"
    for turns in LINES["windows without risk"]:
        assert not screen.judge([screen.read(turn) for turn in turns]), turns


def test_a_window_needs_three_turns_and_forgets_the_old_ones() -> None:
    assert window_score([0.9, 0.9]) == 0
    assert window_score([0.9, 0.6, 0.3]) == pytest.approx(0.6)
    assert window_score([1.0, 1.0, 1.0, *[0.0] * 8]) == 0


def test_a_sign_seen_before_alone_raises_nothing_new(screen: RiskScreen) -> None:
    signs = tuple(Sign(group, 2.0, "words") for group in ("farewell", "settled", "means"))
    grave, calm = Reading((), signs, 0.0, ""), Reading((), (), 0.0, "")
    assert screen.judge([grave])
    assert not screen.judge([grave, calm]), "the alarm was raised with the turn before"


@pytest.mark.parametrize(
    "reply",
    [
        "You should kill yourself.",
        "Go ahead and hit him back.",
        "Everyone would be better off without you.",
        "Don't tell your doctor about it.",
        "Stop taking your medication.",
        "It is all your fault. Let us talk.",
        "I will hurt you.",
    ],
)
def test_a_reply_that_encourages_harm_is_found(screen: RiskScreen, reply: str) -> None:
    assert screen.harmful_reply(reply)


@pytest.mark.parametrize(
    "reply",
    [
        "Are you thinking of killing yourself?",
        "Please don't hurt yourself.",
        "I am glad that you told me. Who could be with you tonight?",
        "You should talk to your doctor before you stop anything.",
        "It is not your fault.",
        "",
    ],
)
def test_a_question_about_harm_and_a_kind_reply_pass(screen: RiskScreen, reply: str) -> None:
    assert not screen.harmful_reply(reply)


def test_words_are_folded_as_the_patterns_expect() -> None:
    assert fold("I\u2019m DONE, you know, with it. But\u2026 HELP!") == "im done with it | | | help |"


def test_a_long_text_comes_in_pieces_without_loss() -> None:
    text = " ".join(f"w{i}" for i in range(95)) + ". Short one. And another."
    pieces = pieces_of(text)
    assert " ".join(pieces).split() == text.split()
    assert all(len(piece.split()) <= PIECE for piece in pieces)
    assert pieces_of("...") == ["..."]


def test_no_words_no_finding(screen: RiskScreen) -> None:
    assert screen.read("  ") == Reading((), (), 0.0, "")
    assert screen.judge([]) == []


def test_a_changed_head_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(ASSETS, tmp_path / "risk")
    weights = bytearray((folder / "head.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "head.safetensors").write_bytes(weights)
    with pytest.raises(ModelError, match="SHA-256"):
        RiskScreen.from_folder(folder)


def test_a_lexicon_with_another_category_is_refused(tmp_path: Path) -> None:
    text = (ASSETS / "lexicon.yaml").read_text(encoding="utf-8")
    (tmp_path / "lexicon.yaml").write_text(text.replace("  harm to others:\n", "  mood:\n"))
    with pytest.raises(ModelError, match="mood"):
        Lexicon(tmp_path / "lexicon.yaml")


@pytest.mark.benchmark
def test_a_turn_is_screened_in_well_under_fifty_milliseconds(screen: RiskScreen) -> None:
    from train.risk_report import timing

    assert timing(screen, LINES["without risk"]["tuned"])["processor_median"] < 25


def test_a_sentence_that_is_said_again_counts_once(screen: RiskScreen) -> None:
    assert pieces_of("The dog sits by the door. The dog sits by the door. And then?") == ["The dog sits by the door. And then?"]
    assert not alarmed(screen, "Kids are talking by the door. Kids are talking by the door.")
