"""What the risk screen finds and what it raises for nothing: by person, by post, by level, with intervals over people."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from multimood_core.bootstrap import interval, mean_of, resamples
from multimood_core.risk import WINDOW, Reading, RiskScreen, Thresholds, window_score
from multimood_core.risk_lexicon import Lexicon
from train.risk_data import AT_RISK, LEVELS, Lines, everyday

CURVE = tuple(round(0.02 * step, 2) for step in range(1, 50))
WINDOWS = (0.0, 0.05, 0.1, 1.0)  # how far below the turn's threshold the window's stands; 1: the window is not used


@dataclass(frozen=True, slots=True)
class Screened:
    """One person's posts, read in order."""

    name: str
    level: str
    readings: tuple[Reading, ...]

    @property
    def at_risk(self) -> bool:
        return self.level in AT_RISK

    def alarms(self, thresholds: Thresholds, lexicon: Lexicon | None, head: bool = True) -> list[bool]:
        """Whether each post raises the alarm; each alarm is taken as cleared at once, so the window begins anew after it."""
        found, window = [], list[Reading]()
        for reading in self.readings:
            window = [*window, reading][-WINDOW:]
            alarmed = bool(lexicon and reading.matches)
            if head:
                scores = [one.score for one in window]
                alarmed = alarmed or reading.score >= thresholds.turn or window_score(scores) >= thresholds.window
            if lexicon and reading.signs and not alarmed:
                signs = {sign.group: sign.weight for one in window for sign in one.signs}
                alarmed = sum(signs.values()) >= lexicon.alarm and len(signs) >= lexicon.least_groups
            found.append(alarmed)
            if alarmed:
                window = []
        return found


def curve(people: Sequence[Screened], lexicon: Lexicon) -> list[dict[str, float]]:
    """Recall of people at risk against alarmed posts per 100 of the others, by threshold."""
    points = []
    for turn in CURVE:
        for below in WINDOWS:
            window = turn - below if below < 1 else 2.0
            alarms = [person.alarms(Thresholds(turn, window), lexicon) for person in people]
            risky = [any(found) for person, found in zip(people, alarms, strict=True) if person.at_risk]
            quiet = [one for person, found in zip(people, alarms, strict=True) if not person.at_risk for one in found]
            points.append(
                {"turn": turn, "window": window, "recall": float(np.mean(risky)), "false alarms": 100 * float(np.mean(quiet))}
            )
    return points


def measure_people(people: Sequence[Screened], screen: RiskScreen) -> dict[str, Any]:
    """Lexicon, head and both: people noticed, and posts alarmed per 100, by level and together, with 95 % intervals."""
    found: dict[str, Any] = {}
    for name, lexicon, head in (("lexicon", screen.lexicon, False), ("head", None, True), ("both", screen.lexicon, True)):
        alarms = {person.name: person.alarms(screen.thresholds, lexicon, head) for person in people}
        groups = {level: [p for p in people if p.level == level] for level in LEVELS}
        groups["Ideation and above"] = [p for p in people if p.at_risk]
        groups["not at risk"] = [p for p in people if not p.at_risk]
        found[name] = {group: _rates(some, alarms) for group, some in groups.items() if some}
    return found


def _rates(people: Sequence[Screened], alarms: Mapping[str, Sequence[bool]]) -> dict[str, Any]:
    noticed = [any(alarms[person.name]) for person in people]
    posts = [float(one) for person in people for one in alarms[person.name]]
    owners = [person.name for person in people for _ in alarms[person.name]]
    return {
        "people": len(people),
        "posts": len(posts),
        "noticed": asdict(interval(mean_of(noticed), resamples([person.name for person in people]))),
        "posts alarmed": asdict(interval(mean_of(posts), resamples(owners))),
    }


def measure_lines(lines: Lines, screen: RiskScreen) -> dict[str, Any]:
    """Hand-written single lines: alarms where none should be, and what is found of each category."""
    raised = [bool(screen.judge([screen.read(text)])) for text in lines.without]
    found = {}
    for category, texts in lines.risks.items():
        risks = [screen.judge([screen.read(text)]) for text in texts]
        found[category] = {"n": len(texts), "alarmed": sum(map(bool, risks)),
                           "named": sum(any(risk.category == category for risk in one) for one in risks)}  # fmt: skip
    return {"without risk": {"n": len(raised), "alarmed": sum(raised)}, "with risk": found}


def measure_windows(windows: Mapping[bool, Sequence[Sequence[str]]], screen: RiskScreen) -> dict[str, Any]:
    """Hand-written conversations: in how many a single turn alarms, and in how many the conversation does."""
    found = {}
    for risk, some in windows.items():
        readings = [[screen.read(text) for text in texts] for texts in some]
        single = [any(screen.judge([one]) for one in texts) for texts in readings]
        together = [bool(screen.judge(texts)) for texts in readings]
        found["with risk" if risk else "without risk"] = {"n": len(some), "by a turn": sum(single), "together": sum(together)}
    return found


def measure_everyday(corpus: str, split: str, screen: RiskScreen) -> dict[str, Any]:
    """Alarms per 100 client turns of talk that nobody has read for risk: among them some that are right."""
    readings = [screen.read(text) for text in everyday(corpus, split)]
    words, any_ = ([screen_found(screen, one, model) for one in readings] for model in (False, True))
    return {
        "corpus": corpus, "split": split, "turns": len(readings),
        "lexicon": 100 * float(np.mean(words)), "both": 100 * float(np.mean(any_)),
    }  # fmt: skip


def screen_found(screen: RiskScreen, reading: Reading, model: bool) -> bool:
    """Whether a turn alone raises the alarm, by its words or by the model too."""
    return any(model or risk.why != "model" for risk in screen.judge([reading]))


def timing(screen: RiskScreen, turns: Sequence[str]) -> dict[str, float]:
    """Milliseconds that the screen takes for a turn, judged after seven others."""
    taken, worked, readings = list[float](), list[float](), list[Reading]()
    for text in turns:
        begun, busy = time.perf_counter(), time.process_time()
        readings = [*readings, screen.read(text)][-WINDOW:]
        screen.judge(readings)
        taken.append(1000 * (time.perf_counter() - begun))
        worked.append(1000 * (time.process_time() - busy))
    found = {"": taken, "processor_": worked}
    quantiles = (("median", 0.5), ("p95", 0.95))
    return {"turns": len(taken)} | {f"{n}{key}": float(np.quantile(v, q)) for n, v in found.items() for key, q in quantiles}
