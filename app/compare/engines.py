"""The engines of a running app: one for each checkpoint, all on the frozen weights of the first."""

from __future__ import annotations

import threading

from app.ports import EngineLike
from multimood_core import registry
from multimood_core.engine import Engine
from multimood_core.errors import DataError
from multimood_core.sharing import fits_beside, load_beside


class Engines:
    """Loads checkpoints by name and keeps them: each takes a tenth of what the first took.

    Args:
        first: the app's own engine.
    """

    def __init__(self, first: EngineLike) -> None:
        self.first = first
        self._loaded: dict[str, EngineLike] = {first.checkpoint.id.name: first}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """What can be loaded, the app's own first."""
        mine = self.first.checkpoint.id.name
        return [mine, *(name for name in registry.available() if name != mine)]

    def get(self, name: str) -> EngineLike:
        """The engine of a checkpoint; loading it takes seconds the first time.

        Raises:
            DataError: no such checkpoint is installed.
            ModelError: it cannot be loaded.
        """
        with self._lock:
            if name not in self._loaded:
                if name not in self.names():
                    raise DataError(f"Expected a checkpoint of {', '.join(self.names())}, got {name!r}.")
                self._loaded[name] = self._load(name)
            return self._loaded[name]

    def _load(self, name: str) -> Engine:
        first = self.first
        if isinstance(first, Engine) and fits_beside(registry.resolve(name), first.checkpoint):
            return Engine(load_beside(name, first.checkpoint), beside=first)
        return Engine(name)  # trained on another language model or other towers: it brings its own
