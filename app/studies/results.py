"""What a study has found so far: agreement, preferences, and how the raters worked.

Agreement rests on the first ``overlap`` judgments of each pair alone. A third or fourth judgment exists only where the first
ones differ; with it in the sample, agreement would look worse or better than it was.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection, select

from app.studies.lookup import criteria_in, settings_in, study_row
from app.studies.records import Criterion, StudySettings
from app.studies.schema import assignment, item, judge_verdict, judgment, pair, rater, response, system
from multimood_core.agreement import MISSING, Agreement, Estimate, agreement, cohen_kappa
from multimood_core.preference import VERDICTS, bradley_terry, position_bias, win_tie_loss

HASTY_SECONDS: Final = 4.0  # two responses of 20 words take longer to read
PAIR_SAMPLES: Final = 400  # resamples for each two raters; of twenty raters there are 190 pairs
CODES: Final[Mapping[str, int]] = {verdict: code for code, verdict in enumerate(VERDICTS)}


@dataclass(frozen=True, slots=True)
class Judged:
    """The newest version of one judgment."""

    pair: int
    rater: int
    kind: str
    verdicts: Mapping[str, str]
    reason: str
    seconds: float
    left_first: bool


@dataclass(frozen=True, slots=True)
class PairRow:
    """A pair of the official queue: which systems, where it stands, its labels so far."""

    key: str
    left: str
    right: str
    state: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Gathered:
    """What the results are computed from."""

    settings: StudySettings
    criteria: tuple[Criterion, ...]
    raters: Mapping[int, str]
    judged: Sequence[Judged]
    pairs: Mapping[int, PairRow]
    gold: Mapping[int, Mapping[str, str]]
    judges: Mapping[str, Mapping[str, Mapping[int, str]]]


def gather(connection: Connection, number: int) -> Gathered:
    """Reads a study's judgments, in the order of their assignment."""
    row = study_row(connection, number)
    codes = {r.id: r.code for r in connection.execute(select(rater).where(rater.c.study_id == number).order_by(rater.c.id))}
    query = (
        select(
            assignment.c.id, assignment.c.pair_id, assignment.c.rater_id, assignment.c.kind, judgment.c.verdicts,
            judgment.c.reason, judgment.c.seconds, judgment.c.left_first,
        )
        .join(judgment, judgment.c.assignment_id == assignment.c.id)
        .join(rater, rater.c.id == assignment.c.rater_id)
        .where(rater.c.study_id == number, assignment.c.kind.in_(("official", "attention")))
        .order_by(assignment.c.id, judgment.c.version)
    )  # fmt: skip
    newest = {r[0]: r for r in connection.execute(query)}
    judged = [Judged(*r[1:]) for r in newest.values()]
    left, right = system.alias("left"), system.alias("right")
    of_left, of_right = response.alias("of_left"), response.alias("of_right")
    official = (
        select(pair.c.id, item.c.key, left.c.name, right.c.name, pair.c.state, pair.c.labels)
        .join(item, item.c.id == pair.c.item_id)
        .join(of_left, of_left.c.id == pair.c.left_id)
        .join(of_right, of_right.c.id == pair.c.right_id)
        .join(left, left.c.id == of_left.c.system_id)
        .join(right, right.c.id == of_right.c.system_id)
        .where(pair.c.study_id == number, pair.c.kind == "official")
        .order_by(pair.c.id)
    )
    pairs = {r[0]: PairRow(*r[1:]) for r in connection.execute(official)}
    checks = select(pair.c.id, pair.c.gold).where(pair.c.study_id == number, pair.c.kind == "attention")
    judges: dict[str, dict[str, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))
    for r in connection.execute(select(judge_verdict).join(pair).where(pair.c.study_id == number)):
        judges[r.judge][r.criterion][r.pair_id] = r.verdict
    gold = {r[0]: r[1] for r in connection.execute(checks)}
    return Gathered(settings_in(row), criteria_in(connection, number)[1], codes, judged, pairs, gold, judges)


def first_votes(found: Gathered) -> tuple[np.ndarray, list[str], dict[str, np.ndarray]]:
    """Of each pair the first ``overlap`` judgments: pair numbers, rater codes, and criterion -> (pairs, raters) codes."""
    rows, columns, cast = [], [], []
    seen: Counter[int] = Counter()
    place = {number: i for i, number in enumerate(found.raters)}
    for one in found.judged:
        if one.kind == "official" and not one.reason and seen[one.pair] < found.settings.overlap:
            seen[one.pair] += 1
            rows.append(one.pair)
            columns.append(place[one.rater])
            cast.append(one.verdicts)
    units, index = np.unique(np.array(rows, dtype=np.int64), return_inverse=True)
    matrices = {}
    for criterion in found.criteria:
        matrix = np.full((len(units), len(place)), MISSING, dtype=np.int64)
        matrix[index, columns] = [CODES[verdicts[criterion.key]] for verdicts in cast]
        matrices[criterion.key] = matrix
    return units, list(found.raters.values()), matrices


def agreements(found: Gathered) -> dict[str, Agreement]:
    """Every statistic of each criterion."""
    _, _, matrices = first_votes(found)
    return {
        key: agreement(matrix, len(VERDICTS), found.settings.overlap, pair_samples=PAIR_SAMPLES, seed=found.settings.seed)
        for key, matrix in matrices.items()
    }


def results(connection: Connection, number: int) -> dict[str, Any]:
    """Everything that the results page and the report show, as plain values."""
    found = gather(connection, number)
    return {
        "criteria": [{"key": c.key, "name": c.name} for c in found.criteria],
        "judgments": sum(one.kind == "official" and not one.reason for one in found.judged),
        "agreement": _agreement_table(found),
        "preferences": _preferences(found),
        "strengths": _strengths(found),
        "position": _positions(found),
        "raters": _raters(found),
        "judges": _judges(found),
    }


def plain_estimate(estimate: Estimate) -> dict[str, Any]:
    """An estimate with its word."""
    return asdict(estimate) | {"word": estimate.word}


def _agreement_table(found: Gathered) -> dict[str, Any]:
    codes = list(found.raters.values())
    return {
        key: {
            "fleiss": plain_estimate(one.fleiss),
            "alpha": plain_estimate(one.alpha),
            "percent": asdict(one.percent),
            "pairs": [
                {"raters": [codes[i], codes[j]], **plain_estimate(estimate)} for (i, j), estimate in one.pairs.items()
            ],
        }
        for key, one in agreements(found).items()
    }


def _preferences(found: Gathered) -> list[dict[str, Any]]:
    """Win, tie and loss of the left system by settled labels, for each two systems and criterion."""
    cells: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in found.pairs.values():
        for key, verdict in row.labels.items():
            cells[row.left, row.right][key].append(verdict)
    tables = []
    for (left, right), by_criterion in sorted(cells.items()):
        rows = {}
        for criterion in found.criteria:
            table = win_tie_loss(by_criterion[criterion.key])
            shares: dict[str, Any] = {verdict: table.share(verdict) for verdict in VERDICTS}
            rows[criterion.key] = asdict(table) | shares | {"n": table.n}
        tables.append({"left": left, "right": right, "rows": rows})
    return tables


def _strengths(found: Gathered) -> dict[str, Any]:
    """Bradley-Terry of each criterion by settled labels."""
    made = {}
    for criterion in found.criteria:
        compared = [(r.left, r.right, r.labels[criterion.key]) for r in found.pairs.values() if criterion.key in r.labels]
        fitted = bradley_terry(compared, samples=400, seed=found.settings.seed)
        made[criterion.key] = {"n": fitted.n, "why": fitted.why, "strengths": [asdict(s) for s in fitted.strengths]}
    return made


def _positions(found: Gathered) -> dict[str, Any]:
    """For each criterion, how often the response shown first was preferred, over all judgments."""
    made = {}
    for criterion in found.criteria:
        first = second = 0
        for one in found.judged:
            verdict = one.verdicts.get(criterion.key)
            if one.kind == "official" and verdict in ("win", "loss"):
                preferred_first = (verdict == "win") == one.left_first
                first, second = first + preferred_first, second + (not preferred_first)
        made[criterion.key] = asdict(position_bias(first, second))
    return made


def _raters(found: Gathered) -> list[dict[str, Any]]:
    """Speed, straight-lining, attention checks and distance from the labels, for each rater."""
    rows = []
    for number, code in found.raters.items():
        mine = [one for one in found.judged if one.rater == number]
        official = [one for one in mine if one.kind == "official" and not one.reason]
        checks = [one for one in mine if one.kind == "attention" and not one.reason]
        passed = sum(all(one.verdicts[key] == v for key, v in found.gold[one.pair].items()) for one in checks)
        vectors = [_as_shown(one) for one in official]
        longest = run = 0
        for before, after in zip([None, *vectors], vectors, strict=False):
            run = run + 1 if after == before else 1
            longest = max(longest, run)
        count = len(official)
        rows.append(
            {
                "code": code,
                "judged": count,
                "declined": sum(one.kind == "official" and bool(one.reason) for one in mine),
                "median_seconds": statistics.median(one.seconds for one in official) if official else None,
                "hasty": sum(one.seconds < HASTY_SECONDS for one in official) / count if count else None,
                "straight": sum(len(set(vector)) == 1 for vector in vectors) / count if count else None,
                "longest_run": longest,
                "checks": len(checks),
                "checks_passed": passed,
            }
        )
    return rows


def _as_shown(one: Judged) -> tuple[str, ...]:
    """The answers as the rater pressed them: a run of the same key is one on the page, not by systems."""
    turn = {"win": "loss", "loss": "win", "tie": "tie"}
    return tuple(v if one.left_first else turn[v] for v in one.verdicts.values())


def _judges(found: Gathered) -> list[dict[str, Any]]:
    """Each automatic judge against the people's labels, on the pairs that both have and the criteria that it judges."""
    rows = []
    for judge, by_criterion in sorted(found.judges.items()):
        for criterion in found.criteria:
            said = by_criterion.get(criterion.key, {})
            if not said:
                continue  # it does not judge this criterion
            shared = [(found.pairs[n].labels[criterion.key], v) for n, v in said.items()
                      if n in found.pairs and criterion.key in found.pairs[n].labels]  # fmt: skip
            people, machine = ([CODES[side[i]] for side in shared] for i in (0, 1))
            kappa = cohen_kappa(people, machine, len(VERDICTS), seed=found.settings.seed)
            same = sum(a == b for a, b in shared) / len(shared) if shared else None
            rows.append({"judge": judge, "criterion": criterion.key, "percent": same, **plain_estimate(kappa)})
    return rows
