"""What else people have labelled, and whether a judge of replies can be learnt from it. Each is measured before it is left out.

TrustLLM (Huang et al. 2024) labels statements and actions, C-SSRS Reddit (Gaur et al. 2019) what clients write. Neither
labels a reply. AnnoMI (Wu et al. 2022) says of counselling sessions whether they are good, which checks the trained judge
on counsellors' own words that it has not seen.
"""

from __future__ import annotations

import csv
import json
import re
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from multimood_core.bootstrap import Interval, interval, resamples
from multimood_core.errors import DataError
from multimood_core.local_judge import LocalJudge
from multimood_core.sentences import words_of
from multimood_core.text_encoder import MiniLM
from train.judge_agreement import auc, human_agreement
from train.turns import data_root

_FOLDS: Final = 5
_STRENGTH: Final = 1e-3  # of the linear reading; 384 standardised states
_SEVERITY: Final = ("Supportive", "Indicator", "Ideation", "Behavior", "Attempt")
_SAMPLES: Final = 500
_POSTS: Final = 8  # of a person that are read
_BETWEEN: Final = re.compile(r"['\"], ['\"]")  # the posts stand as a Python list, in long cells cut off before its end


@dataclass(frozen=True, slots=True)
class Check:
    """One measurement: of ``what`` in ``data``, a statistic with its interval over ``n`` things, and what follows."""

    what: str
    data: str
    statistic: str
    n: int
    value: Interval
    follows: str


@dataclass(frozen=True, slots=True)
class Labelled:
    """Texts with the one level that people gave them; what is of one group stays in one fold."""

    texts: tuple[str, ...]
    level: int
    group: str


def statement_checks(encoder: MiniLM, root: Path | None = None) -> list[Check]:
    """Linear readings of MiniLM's states of what TrustLLM and C-SSRS Reddit label, with five folds."""
    root = root or data_root()
    archive = root / "trustllm" / "dataset.zip"
    sentences = [row for row in _entries(archive, "fairness/stereotype_recognition") if row["label"] != "unrelated"]
    stereotypes = [Labelled((r["sentence"],), int(r["label"] == "stereotype"), r["context"]) for r in sentences]
    actions = [
        Labelled((row["action"],), int(np.sign(row["label"])) + 1, row["action"])
        for row in _entries(archive, "ethics/implicit_SocialChemistry101")
    ]
    answers = [
        Labelled((row[key],), level, row["prompt"])
        for row in _entries(archive, "truthfulness/sycophancy")
        for key, level in (("n_completion", 1), ("s_completion", 0))
        if row[key]
    ]
    return [
        _reading(encoder, stereotypes, "stereotype or its opposite (fairness)", "TrustLLM, StereoSet's sentences",
                 "single sentences about groups, none of them said to a client"),
        _reading(encoder, actions, "bad, neutral or good action (ethical guidance)", "TrustLLM, Social Chemistry 101",
                 "labels an action that is named; a reply that names a client's bad action need not advise it"),
        _reading(encoder, answers, "own or flattering opinion (truthfulness)", "TrustLLM, sycophancy by persona",
                 "written answers on matters of opinion; whether one flatters hangs on the question, not on its words"),
        _reading(encoder, _posts(root), "severity of risk, five levels (safety)", "C-SSRS Reddit, 409 people",
                 "labels what a client writes; no data here say which reply to it is safe"),
    ]  # fmt: skip


def counsellor_checks(judge: LocalJudge, root: Path | None = None) -> list[Check]:
    """What the judged empathy has to do with experts' labels of counsellors' turns and sessions that it has not seen (AnnoMI)."""
    path = (root or data_root()) / "annomi" / "AnnoMI-simple.csv"
    columns = ("transcript_id", "mi_quality", "interlocutor", "main_therapist_behaviour", "utterance_text")
    rows = [row for row in _table(path, columns) if row["interlocutor"] == "therapist" and words_of(row["utterance_text"])]
    judged = judge([], [row["utterance_text"] for row in rows])
    scores = np.array([judgement.dimension("empathy") for judgement in judged if judgement])
    sessions = [row["transcript_id"] for row in rows]
    listening = np.array([row["main_therapist_behaviour"] in ("reflection", "question") for row in rows])
    turns = interval(auc(listening, scores.round(3)), resamples(sessions, _SAMPLES))
    names = sorted(set(sessions))
    owner = np.array([names.index(session) for session in sessions])
    good = np.array([any(row["mi_quality"] == "high" for row in rows if row["transcript_id"] == name) for name in names])
    means = np.bincount(owner, scores) / np.bincount(owner)
    whole = interval(auc(good, means), resamples(names))
    area = "area under the ROC curve (chance: 0.5)"
    return [
        Check("reflections and questions above advice and other talk (empathy)", "AnnoMI, turns", area, len(rows), turns,
              "experts labelled what the counsellor does in a turn; the judge has seen none of these sessions"),
        Check("good sessions above poor ones (empathy)", "AnnoMI, sessions", area, len(names), whole,
              "experts labelled whole sessions; compared is the mean over the counsellor's turns"),
    ]  # fmt: skip


def _reading(encoder: MiniLM, things: Sequence[Labelled], what: str, data: str, follows: str) -> Check:
    features = np.stack([np.mean([s.pooled.numpy() for s in encoder(thing.texts)], axis=0) for thing in things])
    levels = np.array([thing.level for thing in things])
    groups = [thing.group for thing in things]
    said, score = np.zeros_like(levels), np.zeros(len(levels))
    for train, test in GroupKFold(_FOLDS, shuffle=True, random_state=0).split(features, levels, groups):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=_STRENGTH, max_iter=500))
        model.fit(features[train], levels[train])
        said[test] = model.predict(features[test])
        score[test] = model.predict_proba(features[test]) @ model.classes_
    found = human_agreement(levels, said, score, groups, _SAMPLES)
    return Check(what, data, "quadratic kappa", found.n, found.kappa, follows)


def _entries(archive: Path, name: str) -> list[dict[str, Any]]:
    try:
        with zipfile.ZipFile(archive) as file:
            return json.loads(file.read(f"dataset/{name}.json"))
    except (OSError, KeyError, zipfile.BadZipFile, ValueError) as cause:
        raise DataError(f"Expected TrustLLM's {name} in {archive}: {cause}") from cause


def _posts(root: Path) -> list[Labelled]:
    """Each person's first posts."""
    rows = _table(root / "cssrs_reddit" / "posts_labels.csv", ("User", "Post", "Label"))
    return [
        Labelled(tuple(_BETWEEN.split(row["Post"].strip("[]'\""))[:_POSTS]), _SEVERITY.index(row["Label"]), row["User"])
        for row in rows
    ]


def _table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, csv.Error) as cause:
        raise DataError(f"Expected a table ({', '.join(columns)}) at {path}: {cause}") from cause
    if not rows or not set(rows[0]) >= set(columns):
        raise DataError(f"{path}: expected columns {', '.join(columns)}, got {', '.join(rows[0] if rows else ())}.")
    return rows
