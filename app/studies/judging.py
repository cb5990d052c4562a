"""Automatic judges on a study's items, beside the people: item by item, each stored before the next is begun.

A judge of the core scores one response at a time, so no order of two can sway it; its verdict on a pair is the response
with the higher score. Stopped or killed at any point, the job goes on with the pairs that the judge has not judged.

The local judge needs no network. A judge elsewhere runs for a study where its researcher sends back the host that was shown
with what it would be told, and as long as that host is turned on (``app/remote.py``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import Connection, Select, exists, func, insert, select

from app.remote import Remote
from app.studies.background import Background
from app.studies.errors import InputError, StudyError
from app.studies.lookup import criteria_in, led_study
from app.studies.people import Person
from app.studies.records import Criterion
from app.studies.schema import item, judge_verdict, pair, response
from app.studies.store import Store
from multimood_core.judges import DIMENSION_NAMES, Judge, TrustReward
from multimood_core.preference import Verdict
from multimood_core.records import Context, HistoryTurn
from multimood_core.rewards import EMBEDDED, PartedScore, ReplySituation

# Which part of a judge's score speaks to which of the paper's criteria; none of its dimensions is fluency or a suggestion.
GROUNDS: Final[Mapping[str, str]] = {"identification": "empathy", "comfort": "empathy", "overall": "all that it judges"}
MARGIN: Final = 1 / 18  # scores in [0, 1] closer than half a step of the endpoint's ten-point scale are a tie
BATCH: Final = 4  # items judged together; an endpoint has their responses side by side


@dataclass(frozen=True, slots=True)
class Offer:
    """A judge that can be run: ``host`` is empty where nothing leaves this computer, ``fields`` is what it would be told."""

    key: str
    name: str
    dimensions: tuple[str, ...]
    host: str = ""
    fields: tuple[str, ...] = ()


def local_judge() -> tuple[Judge, str]:
    """The embedded judge with its name in a study, which says what weights it has."""
    # Takes seconds to load, and most studies have no use for it.
    from multimood_core.local_judge import LocalJudge
    from multimood_core.text_encoder import MiniLM

    return LocalJudge.from_folder(EMBEDDED, MiniLM()), local_name()


def local_name() -> str:
    """``local``, and the SHA-256 of what decides its scores."""
    digest = hashlib.sha256()
    for name in ("judge.json", "heads.safetensors"):
        path = EMBEDDED / name
        if path.is_file():
            digest.update(path.read_bytes())
    return f"local {digest.hexdigest()[:12]}"


class Judging:
    """One judge at a time, on one study.

    Args:
        store: the database.
        remote: the gate before a judge elsewhere.
        local: loads the local judge.
    """

    def __init__(self, store: Store, remote: Remote, local: Callable[[], tuple[Judge, str]] = local_judge) -> None:
        self._store, self._remote, self._local = store, remote, local
        self._work = Background("multimood-judge", "A judge is at work already; wait for it, or stop it first.")
        self._name = ""

    def overview(self, by: Person, number: int) -> dict[str, Any]:
        """What can be run, how much there is to judge, and how far the judge is that runs or ran last."""
        with self._store.read() as connection:
            led_study(connection, by, number)
            _, criteria = criteria_in(connection, number)
            responses = select(func.count()).select_from(response).where(
                exists().where(pair.c.study_id == number, pair.c.kind == "official",
                               (pair.c.left_id == response.c.id) | (pair.c.right_id == response.c.id))
            )  # fmt: skip
            texts = connection.execute(responses).scalar_one()
        status = self._work.status(number, lambda: self._counts(number, self._name))
        judges = [asdict(offer) | {"done": self._counts(number, offer.name)[0]} for offer in self._offers()]
        judged = [criterion.name for criterion in _judged(criteria)]
        hosts = [one for one in self._remote.shown() if any(use["purpose"] == "study" for use in one["uses"])]
        return {"judges": judges, "criteria": judged, "responses": texts, "name": self._name, "remote": hosts, **status}

    def _counts(self, number: int, judge: str) -> tuple[int, int]:
        with self._store.read() as connection:
            done = connection.execute(_pairs(number, func.count()).where(_by(judge))).scalar_one()
            return done, connection.execute(_pairs(number, func.count())).scalar_one()

    def start(self, by: Person, number: int, key: str, host: str) -> None:
        """Begins, or goes on, with the pairs that the judge has not judged.

        Args:
            by: who leads the study.
            number: of it.
            key: ``local`` or ``endpoint``.
            host: where the texts of this study may go, as it was shown and agreed to; empty for the local judge.

        Raises:
            StudyError: the study is a draft or a record, has none of the criteria, or a judge is at work.
            InputError: no such judge, or the host is another than was shown.
            RemoteOffError: nobody has turned that host on.
        """
        with self._store.read() as connection:
            row = led_study(connection, by, number)
            criteria = _judged(criteria_in(connection, number)[1])
        if row.state == "draft":
            raise StudyError("There is nothing to judge before the study was opened.")
        if row.origin_sha256 is not None:
            raise StudyError("An imported study is a record and is not judged any further.")
        if not criteria:
            raise StudyError(
                f"These judges speak to {', '.join(GROUNDS)} alone, which this study does not ask: bring in verdicts as a file."
            )
        offer = next((one for one in self._offers() if one.key == key), None)
        if offer is None:
            raise InputError(f"Expected a judge of {', '.join(one.key for one in self._offers())}, got {key!r}.")
        if host != offer.host:
            raise InputError(f"Texts would go to {offer.host or 'nobody'}, which is not what was agreed to ({host or 'nobody'}).")
        if offer.host:
            self._remote.require_on(offer.host)
        self._work.begin(number, self._counts(number, offer.name)[0], lambda: self._run(by, number, offer, criteria))
        self._name = offer.name

    def stop(self, number: int | None = None) -> None:
        """Ends the job, of this study alone where one is given, after the items that are being judged."""
        self._work.stop(number)

    def _run(self, by: Person, number: int, offer: Offer, criteria: Sequence[Criterion]) -> str:
        """Returns what could not be judged, in words."""
        with self._store.read() as connection:
            waiting = _waiting(connection, number, offer.name)
        if not waiting:
            return ""
        judge = self._elsewhere(by, number) if offer.host else self._local()[0]
        reward, failed = TrustReward(judge), 0
        items = list(waiting)
        for start in range(0, len(items), BATCH):
            if self._work.stopped.is_set():
                return ""
            some = items[start : start + BATCH]
            scores = self._scores(reward, {key: waiting[key] for key in some})
            rows = []
            for pair_id, left, right in (one for key in some for one in waiting[key]):
                verdicts = verdicts_of_scores(scores[left], scores[right], criteria)
                failed += not verdicts
                rows += [{"pair_id": pair_id, "judge": offer.name, "criterion": k, "verdict": v} for k, v in verdicts.items()]
            if rows:
                with self._store.write(number) as connection:
                    connection.execute(insert(judge_verdict), rows)
        return f"{failed} could not be judged; run it again for them." if failed else ""

    def _offers(self) -> list[Offer]:
        offers = [Offer("local", local_name(), ("empathy",))]
        if (found := self._remote.offer("study")) is not None:
            name = f"{found.model} at {found.host}"[:120]
            offers.append(Offer("endpoint", name, DIMENSION_NAMES, found.host, found.fields))
        return offers

    def _elsewhere(self, by: Person, number: int) -> Judge:
        from multimood_core.endpoint_judge import EndpointJudge

        return EndpointJudge(self._remote.endpoint("study", by.name, str(number)))

    def _scores(self, reward: TrustReward, some: Mapping[int, Sequence[tuple[int, int, int]]]) -> dict[int, PartedScore]:
        """The score of each response of these items, by its number."""
        numbers = sorted({n for pairs in some.values() for _, left, right in pairs for n in (left, right)})
        with self._store.read() as connection:
            query = select(response.c.id, response.c.text, item.c.problem, item.c.situation, item.c.turns)
            rows = connection.execute(
                query.join(item, item.c.id == response.c.item_id).where(response.c.id.in_(numbers)).order_by(response.c.id)
            ).all()
        scored = reward.parted([_situation(row) for row in rows], [row.text for row in rows])
        return {row.id: score for row, score in zip(rows, scored, strict=True)}


def verdicts_of_scores(left: PartedScore, right: PartedScore, criteria: Sequence[Criterion]) -> dict[str, Verdict]:
    """Verdicts of the left response; a criterion on which a score is missing is left out, never filled in."""
    found: dict[str, Verdict] = {}
    for criterion in criteria:
        part = GROUNDS[criterion.key]
        a, b = (score.parts.get(part) if part in DIMENSION_NAMES else score.value for score in (left, right))
        if a is not None and b is not None:
            found[criterion.key] = "tie" if abs(a - b) < MARGIN else "win" if a > b else "loss"
    return found


def _judged(criteria: Sequence[Criterion]) -> list[Criterion]:
    return [criterion for criterion in criteria if criterion.key in GROUNDS]


def _situation(row: Any) -> ReplySituation:
    turns = [HistoryTurn(turn["speaker"], turn["text"]) for turn in row.turns]
    return ReplySituation(turns[-1].text, tuple(turns[:-1]), Context(row.problem, row.situation))


def _pairs(number: int, *columns: Any) -> Select[Any]:
    return select(*columns).select_from(pair).where(pair.c.study_id == number, pair.c.kind == "official")


def _by(judge: str) -> Any:
    return exists().where(judge_verdict.c.pair_id == pair.c.id, judge_verdict.c.judge == judge)


def _waiting(connection: Connection, number: int, judge: str) -> dict[int, list[tuple[int, int, int]]]:
    """Item -> its pairs without a verdict of this judge: pair, left and right response."""
    found: dict[int, list[tuple[int, int, int]]] = {}
    query = _pairs(number, pair.c.item_id, pair.c.id, pair.c.left_id, pair.c.right_id).where(~_by(judge))
    for item_id, *rest in connection.execute(query.order_by(pair.c.item_id, pair.c.id)):
        found.setdefault(item_id, []).append((rest[0], rest[1], rest[2]))
    return found
