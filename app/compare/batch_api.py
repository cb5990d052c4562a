"""The requests of batches; ``api`` puts them among the tab's."""

from __future__ import annotations

import json
import secrets
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from starlette.responses import Response

from app.compare import places
from app.compare.batch import Batches, limited
from app.compare.systems import Catalogue, Choice, chosen
from app.compare.tables import as_csv, as_json, preference_pairs, table
from app.compare.values import Call, sampling_of, text_of, whole_of
from app.worker import Worker
from multimood_core.dialogues import Dialogue, items_of, read_dialogues
from multimood_core.errors import DataError
from multimood_core.rewards import RewardFunction

UPLOADS: Final = 4  # files that wait for their batch
FILES: Final = {"items.csv": "text/csv", "results.json": "application/json", "preferences.jsonl": "application/jsonl"}


class BatchRequests:
    """What the page asks about batches.

    Args:
        catalogue: the systems.
        worker: the model's thread.
        rewards: gives the reward function.
    """

    def __init__(self, catalogue: Catalogue, worker: Worker, rewards: Callable[[], RewardFunction]) -> None:
        self._catalogue, self._worker, self._rewards = catalogue, worker, rewards
        self._lock = threading.Lock()
        self._made: Batches | None = None
        self._uploads: OrderedDict[str, tuple[str, list[Dialogue]]] = OrderedDict()
        self.table: list[tuple[str, str, Callable[[Call], Any], bool]] = [
            ("GET", "/batches", lambda c: [self.batches.status(one) for one in self.batches.listed()], False),
            ("POST", "/upload", self._upload, True),
            ("POST", "/batch", self._create, False),
            ("GET", "/batch/{id}", lambda c: self._state(c.path["id"]), False),
            ("POST", "/batch/{id}", self._change, False),
            ("GET", "/batch/{id}/{name}", self._file, False),
        ]

    @property
    def batches(self) -> Batches:
        """The batches of the folder, which is made on first use."""
        with self._lock:
            if self._made is None:
                folder = places.kept() / "batches"
                folder.mkdir(exist_ok=True)
                self._made = Batches(folder, self._catalogue, self._worker, self._rewards)
            return self._made

    def close(self) -> None:
        if self._made is not None:
            self._made.stop()

    def _upload(self, call: Call) -> Any:
        """A file of dialogues; what is wrong with it is told with its line."""
        name = Path(call.query.get("name", "") or "upload.jsonl").name[:80]
        with tempfile.TemporaryDirectory(prefix="multimood-upload-") as folder:
            path = Path(folder) / "upload.jsonl"
            path.write_bytes(call.data)
            try:
                found = read_dialogues(path)
            except DataError as cause:
                raise DataError(str(cause).replace(f"{path}, line", f"{name}, line").replace(str(path), name)) from cause
        n = sum(1 for _ in items_of(found))
        if not n:
            raise DataError(f"Expected client turns that a therapist's turn follows in {name}, but none of its turns is one.")
        key = secrets.token_urlsafe(12)
        with self._lock:
            self._uploads[key] = (name, found)
            while len(self._uploads) > UPLOADS:
                self._uploads.popitem(last=False)
        return {"upload": key, "name": name, "dialogues": len(found), "items": n}

    def _create(self, call: Call) -> Any:
        values = call.values
        choices: list[Choice] = chosen(self._catalogue, values)
        name, dialogues, learnt = self._data(values)
        batches = self.batches
        if batches.running:
            raise DataError("A batch runs already; wait for it, or cancel it first.")
        protocol, sampling = text_of(values, "protocol", 40), sampling_of(values.get("sampling"))
        made = batches.create(name, dialogues, choices, protocol, sampling, learnt)
        batches.run(made, call.who)
        return self._state(made)

    def _data(self, values: Mapping[str, Any]) -> tuple[str, list[Dialogue], list[Dialogue] | None]:
        upload = text_of(values, "upload", 64)
        learnt: list[Dialogue] | None = None
        if upload:
            with self._lock:
                found = self._uploads.get(upload)
            if found is None:
                raise DataError("This file is not in memory any more; choose it again.")
            name, dialogues = found
        else:
            one = places.find(text_of(values, "data", 64))
            name, dialogues, learnt = one.name, places.dialogues(one), places.learnt_from(one)
        first = whole_of(values, "first", 1, len(dialogues), 1)
        count = whole_of(values, "count", 1, len(dialogues), len(dialogues))
        part = list(limited(dialogues, first, count))
        whole = len(part) == len(dialogues)
        return name if whole else f"{name}, dialogues {first} to {first + len(part) - 1}", part, learnt

    def _state(self, identifier: str) -> dict[str, Any]:
        found = self.batches.status(identifier)
        return found | {"table": table(self.batches.scores(identifier)) if found["scored"] else None}

    def _change(self, call: Call) -> Any:
        identifier, batches = call.path["id"], self.batches
        match call.values.get("do"):
            case "run":
                batches.run(identifier, call.who)
            case "cancel":
                batches.stop(identifier)
            case "delete":
                batches.delete(identifier)
                return {}
            case other:
                raise DataError(f"Expected run, cancel or delete, got {other!r}.")
        return self._state(identifier)

    def _file(self, call: Call) -> Response:
        identifier, name, batches = call.path["id"], call.path["name"], self.batches
        if name not in FILES:
            raise DataError(f"Expected one of {', '.join(FILES)}, got {name!r}.")
        scores, plan, results = batches.scores(identifier), batches.plan(identifier), batches.results(identifier)
        systems = [choice.name for choice in plan.systems]
        if name == "items.csv":
            text = as_csv(systems, results, scores)
        elif name == "results.json":
            text = as_json(plan.plain(), results, scores)
        else:
            rows = preference_pairs(systems, batches.items(identifier), results, scores)
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        headers = {"Content-Disposition": f'attachment; filename="multimood-batch-{name}"'}
        return Response(text, headers=headers, media_type=FILES[name])
