"""Systems put through a data set, item by item, in a folder of its own: stopped at any moment it goes on where it was."""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from app.audit import HERE
from app.compare.errors import StoppedError
from app.compare.slices import on_worker
from app.compare.systems import Catalogue, Choice
from app.compare.tables import score
from app.ports import EngineLike
from app.worker import UNEXPECTED, Worker
from multimood_core.decoding import Sampling
from multimood_core.dialogues import Dialogue, Item, items_of, read_dialogues, write_dialogues
from multimood_core.engine import Engine
from multimood_core.errors import DataError, MultiMoodError
from multimood_core.evaluation import Answer, Conditions, ItemResult, Question, System, evaluate_dialogues
from multimood_core.journal import Journal
from multimood_core.rewards import RewardFunction
from multimood_core.systems import CheckpointSystem, ZeroShotSystem

MOST: Final = 4  # systems
PROTOCOLS: Final = ("gold-history", "self-history")

log = logging.getLogger("multimood.app")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a batch does.

    Attributes:
        name: of the data.
        systems: with the hashes of their weights.
        protocol: which labels stand in the history.
        sampling: of the replies.
        made: seconds since 1970.
    """

    name: str
    systems: tuple[Choice, ...]
    protocol: str
    sampling: Sampling
    made: float

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def read(cls, path: Path) -> Plan:
        """What was written from ``plain``."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            systems = tuple(Choice(**one) for one in raw["systems"])
            return cls(raw["name"], systems, raw["protocol"], Sampling(**raw["sampling"]), raw["made"])
        except (OSError, ValueError, TypeError, KeyError) as cause:
            raise DataError(f"The plan of this batch cannot be read: {cause!r}. Delete it and begin another.") from cause


@dataclass(slots=True)
class Progress:
    """How far the running batch is."""

    id: str
    done: int = 0
    wanted: int = 0
    now: str = ""
    began: float = field(default_factory=time.monotonic)
    before: int = 0

    @property
    def seconds_left(self) -> float | None:
        fresh = self.done - self.before
        return (time.monotonic() - self.began) / fresh * (self.wanted - self.done) if fresh > 0 else None


class Batches:
    """All batches of a folder; one runs at a time.

    Args:
        folder: where each has a folder.
        catalogue: the systems.
        worker: the model's thread.
        rewards: gives the reward function.
    """

    def __init__(
        self, folder: Path, catalogue: Catalogue, worker: Worker, rewards: Callable[[], RewardFunction]
    ) -> None:
        self.folder, self._catalogue, self._worker, self._rewards = folder, catalogue, worker, rewards
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._progress: Progress | None = None
        self._problems: dict[str, str] = {}

    # -- what there is ---------------------------------------------------------------------------------------------

    def listed(self) -> list[str]:
        """Ids, newest first."""
        found = [path.parent for path in self.folder.glob("*/plan.json")]
        return [path.name for path in sorted(found, key=lambda path: -path.stat().st_mtime)]

    def _at(self, identifier: str) -> Path:
        if identifier not in self.listed():
            raise DataError("This batch is gone; reload the page for those that there are.")
        return self.folder / identifier

    def plan(self, identifier: str) -> Plan:
        return Plan.read(self._at(identifier) / "plan.json")

    def items(self, identifier: str) -> list[Item]:
        return list(items_of(read_dialogues(self._at(identifier) / "dialogues.jsonl")))

    def results(self, identifier: str) -> dict[int, list[ItemResult]]:
        """Place of a system -> its results so far, in the order of the items."""
        plan, folder = self.plan(identifier), self._at(identifier)
        order = [item.id for item in self.items(identifier)]
        found = {}
        for place in range(len(plan.systems)):
            path = folder / f"{place}.jsonl"
            known = Journal(path, _settings(plan, place)).known if path.is_file() else {}
            found[place] = [known[key] for key in order if key in known]
        return found

    def status(self, identifier: str) -> dict[str, Any]:
        """Items done and wanted, whether it runs, seconds that it may take, and what went wrong."""
        plan, progress = self.plan(identifier), self._progress
        running = self.running and progress is not None and progress.id == identifier
        if running and progress is not None:  # its journals are being written: nobody else opens them
            done, wanted, now, left = progress.done, progress.wanted, progress.now, progress.seconds_left
        else:
            done = sum(len(rows) for rows in self.results(identifier).values())
            wanted, now, left = len(self.items(identifier)) * len(plan.systems), "", None
        return {
            "id": identifier, "name": plan.name, "systems": [one.name for one in plan.systems], "protocol": plan.protocol,
            "made": plan.made, "done": done, "wanted": wanted, "running": running, "now": now, "seconds_left": left,
            "problem": self._problems.get(identifier, ""), "scored": (self._at(identifier) / "scores.json").is_file(),
        }  # fmt: skip

    def scores(self, identifier: str) -> dict[str, Any]:
        """The table of a batch that is complete.

        Raises:
            DataError: it is not yet.
        """
        path = self._at(identifier) / "scores.json"
        if not path.is_file():
            raise DataError("This batch is not complete yet; go on with it first.")
        return dict(json.loads(path.read_text(encoding="utf-8")))

    # -- what is done ----------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def create(
        self,
        name: str,
        dialogues: Sequence[Dialogue],
        choices: Sequence[Choice],
        protocol: str,
        sampling: Sampling,
        learnt: Sequence[Dialogue] | None = None,
    ) -> str:
        """A new batch with a copy of its data, so that it can go on whatever becomes of the original.

        Args:
            name: of the data.
            dialogues: that are asked about.
            choices: who is asked.
            protocol: ``gold-history`` or ``self-history``.
            sampling: of the replies.
            learnt: from which baselines learn.
        """
        if not 1 <= len(choices) <= MOST or len(set(choices)) != len(choices):
            raise DataError(f"Expected 1 to {MOST} different systems, got {', '.join(c.name for c in choices) or 'none'}.")
        if protocol not in PROTOCOLS:
            raise DataError(f"Expected a protocol of {', '.join(PROTOCOLS)}, got {protocol!r}.")
        if not any(items_of(dialogues)):
            raise DataError(f"Expected client turns that a therapist's turn follows in {name}, got none.")
        plan = Plan(name, tuple(self._catalogue.loaded(choice) for choice in choices), protocol, sampling, time.time())
        identifier = secrets.token_hex(8)
        folder = self.folder / identifier
        folder.mkdir(parents=True, mode=0o700)
        write_dialogues(folder / "dialogues.jsonl", dialogues)
        if learnt is not None:
            write_dialogues(folder / "learnt.jsonl", learnt)
        (folder / "plan.json").write_text(json.dumps(plan.plain()), encoding="utf-8")  # last: now it is there
        return identifier

    def run(self, identifier: str, who: str = HERE) -> None:
        """Begins, or goes on with, a batch.

        Args:
            identifier: of the batch.
            who: begins it, for the log of what a remote system is told.

        Raises:
            DataError: another one runs, or nobody has turned its remote system on.
        """
        folder = self._at(identifier)
        self._catalogue.require_on(self.plan(identifier).systems)
        with self._lock:
            if self.running:
                raise DataError("A batch runs already; wait for it, or cancel it first.")
            self._stopped.clear()
            self._problems.pop(identifier, None)
            self._progress = Progress(identifier)
            self._thread = threading.Thread(target=self._run, args=(folder, who), name="multimood-batch", daemon=True)
            self._thread.start()

    def stop(self, identifier: str | None = None) -> None:
        """Ends the batch that runs, or that of this id alone, after the item that runs; its results are kept."""
        progress = self._progress
        if identifier is not None and (progress is None or progress.id != identifier):
            return
        self._stopped.set()
        thread = self._thread
        if thread is not None:
            thread.join(60)

    def delete(self, identifier: str) -> None:
        """Deletes a batch that does not run, with its data."""
        folder = self._at(identifier)
        if self.running and self._progress is not None and self._progress.id == identifier:
            raise DataError("This batch runs; cancel it first.")
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()

    def _run(self, folder: Path, who: str) -> None:
        try:
            self._go_on(folder, who)
        except StoppedError:
            pass
        except MultiMoodError as error:
            self._problems[folder.name] = str(error)
        except Exception:
            log.exception("a batch failed")
            self._problems[folder.name] = f"{UNEXPECTED.split(';')[0]}; what was done is kept."

    def _go_on(self, folder: Path, who: str) -> None:
        plan, dialogues = Plan.read(folder / "plan.json"), read_dialogues(folder / "dialogues.jsonl")
        items, progress = list(items_of(dialogues)), self._progress
        assert progress is not None
        journals = [Journal(folder / f"{place}.jsonl", _settings(plan, place)) for place in range(len(plan.systems))]
        progress.before = progress.done = sum(len(journal.known) for journal in journals)
        progress.wanted = len(items) * len(plan.systems)
        results = []
        for choice, journal in zip(plan.systems, journals, strict=True):
            progress.now = choice.name

            def done(result: ItemResult, journal: Journal = journal) -> None:
                journal.add(result)
                progress.done += 1

            system = self._system(choice, plan.sampling, who)
            conditions = Conditions(plan.protocol)  # type: ignore[arg-type]
            results.append(evaluate_dialogues(system, dialogues, conditions, journal.known, done=done))
        progress.now = "the scores"
        learnt = folder / "learnt.jsonl"
        baselines = list(items_of(read_dialogues(learnt))) if learnt.is_file() else None
        names = [choice.name for choice in plan.systems]
        scores = on_worker(
            self._worker, lambda: score(names, results, items, baselines, self._rewards(), plan.protocol), self._stopped
        )
        part = folder / "scores.part"
        part.write_text(json.dumps(scores), encoding="utf-8")
        part.replace(folder / "scores.json")

    def _system(self, choice: Choice, sampling: Sampling, who: str) -> System:
        """The system of a plan, each answer in its turn on the model's thread.

        Raises:
            DataError: the weights are not those that the batch was begun with.
            RemoteOffError: nobody has turned the remote system on.
        """
        if choice.kind == "remote":
            return _Stoppable(ZeroShotSystem(self._catalogue.text_model(choice, sampling, who)), self._stopped)
        if choice.kind == "base":
            base = self._catalogue.base()
            base.sampling = sampling
            return _OnWorker(ZeroShotSystem(base, reply_tokens=sampling.max_tokens), self._worker, self._stopped)
        engine: EngineLike = self._catalogue.engine(choice)
        if engine.checkpoint.id.sha256 != choice.sha256:
            raise DataError(f"The weights of {choice.name} have changed since this batch was begun; begin another.")
        assert isinstance(engine, Engine)
        return _OnWorker(CheckpointSystem(engine, responses=sampling), self._worker, self._stopped)


@dataclass(frozen=True, slots=True)
class _Stoppable:
    system: System
    stopped: threading.Event

    @property
    def name(self) -> str:
        return self.system.name

    def answer(self, question: Question) -> Answer:
        if self.stopped.is_set():
            raise StoppedError("Stopped.")
        return self.system.answer(question)


@dataclass(frozen=True, slots=True)
class _OnWorker:
    system: System
    worker: Worker
    stopped: threading.Event

    @property
    def name(self) -> str:
        return self.system.name

    def answer(self, question: Question) -> Answer:
        return on_worker(self.worker, lambda: self.system.answer(question), self.stopped)


def _settings(plan: Plan, place: int) -> Mapping[str, Any]:
    return {"system": asdict(plan.systems[place]), "protocol": plan.protocol, "sampling": asdict(plan.sampling)}


def limited(dialogues: Sequence[Dialogue], first: int, count: int) -> Iterator[Dialogue]:
    """Dialogues ``first`` (from 1) and those after it, ``count`` in all: whole ones, as a history belongs to its dialogue."""
    yield from dialogues[first - 1 : first - 1 + count]
