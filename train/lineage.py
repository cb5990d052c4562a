"""Where a checkpoint comes from, written beside it: stage, parents, data, settings, commit, seed and steps."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from multimood_core.lineage import weights_hash
from train.config import plain_config


def lineage(stage: str, config: Any, parents: Mapping[str, Path | None], data: str, steps: int) -> dict[str, Any]:
    """The content of ``lineage.json``.

    Args:
        stage: its name.
        config: the resolved settings, with a ``seed``.
        parents: what was gone on from, by what it is, with its folder.
        data: SHA-256 of the data that was learnt from.
        steps: that were made.
    """
    known = {what: path for what, path in parents.items() if path}
    return {
        "stage": stage,
        "parents": {what: {"name": str(path), "sha256": weights_hash(path)} for what, path in known.items()},
        "commands": commands(known.values()),
        "data_sha256": data,
        "config": plain_config(config),
        "commit": commit(),
        "seed": config.seed,
        "steps": steps,
    }


def commands(parents: Iterable[Path]) -> list[str]:
    """The commands that made the parents, each once and in order, and this process's own where it is a stage's."""
    found: dict[str, None] = {}
    for folder in parents:
        path = folder / "lineage.json"
        if path.is_file():
            found |= dict.fromkeys(json.loads(path.read_text()).get("commands", ()))
    script = Path(sys.argv[0])
    if script.parent == Path(__file__).parent:
        found[shlex.join(["python", "-m", f"train.{script.stem}", *sys.argv[1:]])] = None
    return list(found)


def commit() -> str:
    """The commit that this code is at, with ``+`` where files differ from it; "unknown" outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
