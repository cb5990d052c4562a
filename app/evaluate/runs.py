"""Training runs and checkpoints: what there is, where a checkpoint comes from, and a run's curves."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from app.evaluate.places import Places, id_of
from app.evaluate.shelf import Kept, version_of
from app.studies.errors import AbsentError
from multimood_core import figures
from multimood_core.checksums import checkpoint_sha256
from multimood_core.errors import DataError
from multimood_core.lineage import weights_hash
from multimood_core.run_curves import CURVES, METRICS, RunCurves, line_of, read_curves, smoothed

RECENT: Final = 600.0  # seconds; a step of reinforcement learning on two cores takes two minutes
MAX_CARD: Final = 256 * 1024  # bytes
DEEPEST: Final = 12  # generations of parents that are followed
# What the tab is for, in this order; what else a run logged stands behind it.
LABELS: Final = {
    "loss": "loss", "reward": "reward", "kl": "KL to the reference (nats a token)", "length": "tokens a reply",
    "entropy": "entropy (nats)", "value_loss": "loss of the value network", "accuracy": "accuracy",
}  # fmt: skip
PART: Final = "part/"
MAIN: Final = ("loss", "reward", "kl", "length", "entropy")


@dataclass(frozen=True, slots=True)
class Run:
    """A run, or what a checkpoint keeps of one. ``state``: running, stopped, finished or kept; ``problem``: no curves."""

    id: str
    name: str
    folder: str
    path: Path
    state: str
    changed: datetime.datetime
    steps: int = 0
    measures: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that lies on this computer, with what its ``lineage.json`` tells."""

    id: str
    name: str
    place: str
    folder: Path
    told: Mapping[str, Any]
    problem: str = ""

    @property
    def reported(self) -> str:
        """The hash by which reports and the card name it; empty for what is no checkpoint of the registry's form."""
        return checkpoint_sha256(self.folder) if (self.folder / "modules.safetensors").is_file() else ""

    @property
    def card(self) -> str:
        """The model card's text; empty where there is none."""
        path = self.folder / "README.md"
        if not path.is_file():
            return ""
        return path.read_bytes()[:MAX_CARD].decode("utf-8", errors="replace")


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A checkpoint in a chain: ``role`` is what it was to its child. ``note`` says whether its files are still those."""

    role: str
    name: str
    sha256: str
    told: Mapping[str, Any]
    note: str
    parents: Sequence[Ancestor] = field(default=())


@dataclass(frozen=True, slots=True)
class Panel:
    """One measure of the chosen runs: its figure, and for each run the last value, its mean, and the validation's last."""

    name: str
    svg: str
    rows: Sequence[tuple[str, float | None, float | None, float | None]]


class Runs:
    """The runs and checkpoints of ``places``, looked for anew at each listing."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._curves, self._hashes, self._panels = Kept(64), Kept(256), Kept(256)

    # -- runs --------------------------------------------------------------------------------------------------------

    def listed(self) -> list[Run]:
        """Runs, the last changed first, then the curves that checkpoints keep."""
        runs = [self._run(path) for path in self._metrics()]
        kept = [self._run(path) for path in self._kept()]
        return sorted(runs, key=lambda run: run.changed, reverse=True) + sorted(kept, key=lambda run: run.name)

    def _metrics(self) -> Iterator[Path]:
        for folder in self._places.runs:
            yield from _inside(folder, f"*/{METRICS}")

    def _kept(self) -> Iterator[Path]:
        yield from _inside(self._places.checkpoints, f"*/{CURVES}")

    def _run(self, path: Path) -> Run:
        written, name = path.stat().st_mtime, path.parent.name
        changed = datetime.datetime.fromtimestamp(written, datetime.UTC)
        if path.name == CURVES:
            state = "kept"
        elif (path.parent / "final").is_dir() and (path.parent / "final").stat().st_mtime >= written - 60:
            state = "finished"
        else:
            state = "running" if time.time() - written < RECENT else "stopped"
        about = Run(id_of(path), name, self._places.shown(path.parent), path, state, changed)
        try:
            curves = self.curves(path)
        except DataError as error:
            return _with(about, problem=str(error))
        return _with(about, steps=curves.steps, measures=tuple(curves.measures))

    def find(self, identifier: str) -> Run:
        """The run of that id.

        Raises:
            AbsentError: no listed run has it.
        """
        for path in (*self._metrics(), *self._kept()):
            if id_of(path) == identifier:
                return self._run(path)
        raise AbsentError("There is no such run any more; load the list again.")

    def curves(self, path: Path) -> RunCurves:
        """What a run logged so far.

        Raises:
            DataError: nothing that could be drawn.
        """
        return self._curves.get(version_of(path), lambda: read_curves(path))

    def panels(self, runs: Sequence[Run], window: int, everything: bool) -> list[Panel]:
        """A figure for each measure that any of the runs has.

        Args:
            runs: one or two, drawn over each other.
            window: steps that a point of the smooth line is the mean of.
            everything: also what is logged beside loss, reward and its parts, divergence, length and entropy.

        Raises:
            DataError: a run has nothing that could be drawn.
        """
        found = [(self._name_in(run, runs), self.curves(run.path)) for run in runs]
        names = sorted({name for _, curves in found for name in curves.measures}, key=_place)
        shown = [name for name in names if everything or name in MAIN or name.startswith(PART)]
        versions = tuple(version_of(run.path) for run in runs)
        return [
            self._panels.get((name, versions, window), lambda name=name: _panel(name, found, window))  # type: ignore[misc]
            for name in shown
        ]

    def _name_in(self, run: Run, runs: Sequence[Run]) -> str:
        alike = sum(other.name == run.name for other in runs) > 1
        return run.folder if alike else run.name

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def checkpoints(self) -> list[Saved]:
        """Those of the registry first, then what runs ended with."""
        return [self._saved(folder, "registry") for folder in self._registry()] + [
            self._saved(folder, "run") for folder in self._finals()
        ]

    def _registry(self) -> list[Path]:
        return [path.parent for path in _inside(self._places.checkpoints, "*/modules.safetensors")]

    def _finals(self) -> list[Path]:
        found = (path.parent for folder in self._places.runs for path in _inside(folder, "*/final/lineage.json"))
        return list(dict.fromkeys(found))

    def _saved(self, folder: Path, place: str) -> Saved:
        name = folder.name if place == "registry" else self._places.shown(folder)
        told, problem = _lineage(folder)
        return Saved(id_of(folder), name, place, folder, told, problem)

    def checkpoint(self, identifier: str) -> Saved:
        """The checkpoint of that id.

        Raises:
            AbsentError: no listed checkpoint has it.
        """
        for saved in self.checkpoints():
            if saved.id == identifier:
                return saved
        raise AbsentError("There is no such checkpoint any more; load the list again.")

    def chain(self, saved: Saved) -> Ancestor:
        """A checkpoint with its parents and theirs, as far as this computer knows them."""
        return self._ancestor("", saved.name, self._hash(saved.folder), saved, (), "")

    def _ancestor(
        self, role: str, name: str, sha256: str, saved: Saved | None, below: tuple[str, ...], note: str
    ) -> Ancestor:
        told = saved.told if saved else {}
        parents = []
        if saved and saved.id not in below and len(below) < DEEPEST:
            for what, parent, digest in _parents(told):
                mine, remark = self._resolve(parent, digest)
                parents.append(self._ancestor(what, parent, digest, mine, (*below, saved.id), remark))
        return Ancestor(role, name, sha256, told, note, tuple(parents))

    def _resolve(self, name: str, sha256: str) -> tuple[Saved | None, str]:
        """The listed checkpoint that a lineage names, by its hash, or else by its name; the name opens no file."""
        known = self.checkpoints()
        if sha256:
            for saved in known:
                if self._hash(saved.folder) == sha256:
                    return saved, "the same files are on this computer"
        for saved in known:
            if name in (saved.name, self._places.shown(saved.folder)):
                return saved, "its files have changed since" if sha256 else "by its name; no hash was recorded"
        return None, "not on this computer"

    def _hash(self, folder: Path) -> str:
        files = tuple(version_of(path) for path in sorted(folder.glob("*.safetensors")))
        return self._hashes.get((str(folder), files), lambda: weights_hash(folder))


def _inside(folder: Path, pattern: str) -> Iterator[Path]:
    """Files below a folder; links that lead out of it are not."""
    root = folder.resolve()
    for path in sorted(root.glob(pattern)):
        if path.is_file() and path.resolve().is_relative_to(root):
            yield path


def _with(run: Run, **more: Any) -> Run:
    return Run(run.id, run.name, run.folder, run.path, run.state, run.changed, **more)


def _lineage(folder: Path) -> tuple[Mapping[str, Any], str]:
    try:
        told = json.loads((folder / "lineage.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, "It has no lineage.json."
    except (OSError, ValueError) as cause:
        return {}, f"Its lineage.json cannot be read: {cause}"
    if not isinstance(told, dict):
        return {}, f"Expected an object in its lineage.json, got {type(told).__name__}."
    return told, ""


def _parents(told: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What it was to the child, name and hash of each parent; older lineages have names alone."""
    parents = told.get("parents")
    if isinstance(parents, dict):
        for what, parent in parents.items():
            if isinstance(parent, dict):
                yield str(what), str(parent.get("name", "")), str(parent.get("sha256", ""))
        return
    for what in ("parent", "compressor"):
        if isinstance(told.get(what), str):
            yield what, told[what], ""


def _place(name: str) -> tuple[int, str]:
    order = list(MAIN)
    if name in order:
        return order.index(name), name
    return (len(order) if name == PART + "total" or name.startswith(PART) else len(order) + 1), name


def _panel(name: str, found: Sequence[tuple[str, RunCurves]], window: int) -> Panel:
    lines = [line for run, curves in found if (line := line_of(run, curves, name, window))]
    rows = [
        (
            line.name,
            line.values[-1] if line.values else None,
            smoothed([int(s) for s in line.steps], line.values, window)[-1] if line.values else None,
            line.validation[-1][1] if line.validation else None,
        )
        for line in lines
    ]
    label = LABELS.get(name, f"reward: {name.removeprefix(PART)}" if name.startswith(PART) else name)
    return Panel(label, figures.curve(lines, ""), rows)  # the caption names it
