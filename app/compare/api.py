"""The Compare tab's requests: for who may know which system said what, each comparison known by a secret id."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from app.access import person_of, require_leader
from app.audit import HERE
from app.compare import places
from app.compare.batch_api import BatchRequests
from app.compare.comparison import Comparison
from app.compare.engines import Engines
from app.compare.shown import shown
from app.compare.sources import Sources
from app.compare.systems import Catalogue, chosen
from app.compare.values import Call, sampling_of
from app.compare.votes import Votes, preference_pairs, ranking
from app.compare.voting import lock_vote
from app.remote import Remote
from app.sessions import Sessions
from app.studies.guidelines import CRITERIA
from app.web import MAX_JSON, json_of, route
from multimood_core.errors import DataError
from multimood_core.rewards import RewardFunction, embedded_rewards

PREFIX: Final = "/multimood/compare"
MAX_FILE: Final = 200 * 2**20  # bytes; ten minutes of a phone's video
KEEP: Final = 32  # comparisons; the oldest that does not run is forgotten first


class CompareApi:
    """Routes of the tab.

    Args:
        sessions: whose turns can be compared.
        engines: checkpoints by name.
        remote: the gate before a model elsewhere.
        rewards: makes the reward function, on first use.
    """

    def __init__(
        self,
        sessions: Sessions,
        engines: Engines,
        remote: Remote,
        rewards: Callable[[], RewardFunction] = embedded_rewards,
    ) -> None:
        self.catalogue, self.sources = Catalogue(engines, remote), Sources(sessions)
        self._worker, self._make_rewards = sessions.worker, rewards
        self._made: RewardFunction | None = None
        self._lock, self._making = threading.Lock(), threading.Lock()
        self._comparisons: dict[str, Comparison] = {}
        self._batches = BatchRequests(self.catalogue, sessions.worker, self.rewards)
        table: list[tuple[str, str, Callable[[Call], Any], bool]] = [
            ("GET", "/choices", self._choices, False),
            ("GET", "/data/{data}/{number:int}", lambda c: self.sources.item(c.path["data"], c.path["number"])[1], False),
            ("POST", "/clip", lambda c: {"clip": self.sources.keep_clip(c.data, c.query.get("name", ""))}, True),
            ("POST", "/start", self._start, False),
            ("GET", "/comparison/{id}", lambda c: shown(self._find(c)), False),
            ("POST", "/comparison/{id}/stop", self._stop, False),
            ("POST", "/comparison/{id}/vote", self._vote, False),
            ("GET", "/ranking", lambda c: {"votes": len(self.votes.all()), "criteria": ranking(self.votes.all())}, False),
            ("GET", "/votes/{name}", self._votes_file, False),
            *self._batches.table,
        ]
        self.routes = [self._route(*row) for row in table]

    @property
    def votes(self) -> Votes:
        return Votes(places.kept() / "votes.jsonl")

    def rewards(self) -> RewardFunction:
        """The reward function, made once."""
        with self._making:
            if self._made is None:
                self._made = self._make_rewards()
            return self._made

    def close(self) -> None:
        """Stops what runs."""
        with self._lock:
            running = list(self._comparisons.values())
        for one in running:
            one.stop(wait=5)
        self._batches.close()

    def _route(self, method: str, path: str, handler: Callable[[Call], Any], file: bool) -> BaseRoute:
        def answer(request: Request, data: bytes) -> Any:
            values = {} if file or method == "GET" else json_of(data)
            person = person_of(request.scope)
            who = person.name if person else HERE
            return handler(Call(values, data, request.query_params, request.path_params, who))

        return route(method, PREFIX + path, answer, require_leader, MAX_FILE if file else MAX_JSON)

    # -- one turn --------------------------------------------------------------------------------------------------

    def _choices(self, call: Call) -> Any:
        found = places.data_sets()
        return {
            "systems": [asdict(choice) for choice in self.catalogue.names()],
            "remote": [one for one in self.catalogue.remote.shown() if any(u["purpose"] == "compare" for u in one["uses"])],
            "data": [{"id": one.id, "name": one.name} for one in found],
            "no_data": "" if found else places.none_found(),
            "criteria": [{"key": c.key, "name": c.name, "definition": c.definition} for c in CRITERIA],
        }

    def _start(self, call: Call) -> Any:
        choices, sampling = chosen(self.catalogue, call.values), sampling_of(call.values.get("sampling"))
        source = call.values.get("source")
        moment = self.sources.moment(source if isinstance(source, dict) else {})
        blind = call.values.get("blind") is True
        made = Comparison(self.catalogue, self._worker, self.rewards, moment, choices, sampling, blind, call.who)
        with self._lock:
            resting = sorted((c for c in self._comparisons.values() if not c.running), key=lambda c: c.touched)
            for old in resting[: max(0, len(self._comparisons) - KEEP + 1)]:
                del self._comparisons[old.id]
            if len(self._comparisons) >= KEEP:
                raise DataError(f"{KEEP} comparisons run already; stop one first.")
            self._comparisons[made.id] = made
        made.start()
        return shown(made)

    def _find(self, call: Call) -> Comparison:
        with self._lock:
            found = self._comparisons.get(call.path["id"])
        if found is None:
            raise DataError("This comparison is gone, its vote is kept if there was one; begin another.")
        return found

    def _stop(self, call: Call) -> Any:
        found = self._find(call)
        found.stop(wait=30)
        return shown(found)

    def _vote(self, call: Call) -> Any:
        found = self._find(call)
        lock_vote(found, self.votes, call.values, time.time())
        return shown(found)

    def _votes_file(self, call: Call) -> Response:
        votes = self.votes.all()
        match call.path["name"]:
            case "votes.jsonl":
                rows = [asdict(vote) for vote in votes]
            case "preferences.jsonl":
                rows = preference_pairs(votes, call.query.get("criterion", "overall"))
            case other:
                raise DataError(f"Expected votes.jsonl or preferences.jsonl, got {other!r}.")
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        name = {"Content-Disposition": f'attachment; filename="multimood-compare-{call.path["name"]}"'}
        return Response(text, headers=name, media_type="application/jsonl")
