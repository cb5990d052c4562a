"""Files that appear complete or not at all, whatever kills the process that writes them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from multimood_core.errors import ModelError

# torch.save raises RuntimeError and safetensors an error of its own where the system refuses to write.
WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)


def write_whole(folder: Path, fill: Callable[[Path], Any]) -> None:
    """Make ``folder`` appear complete or not at all: fill a sibling, flush it to the disk, rename.

    Raises:
        ModelError: it cannot be written, as when the disk is full; what stood there before is untouched.
    """
    recover(folder)
    staging = folder.with_name(folder.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        fill(staging)
        publish(folder)
    except WRITE_ERRORS as cause:
        shutil.rmtree(staging, ignore_errors=True)
        raise ModelError(
            f"Could not write {folder}: {cause}. The last complete one is untouched; make room if the disk is full, and --resume."
        ) from cause


def publish(folder: Path) -> None:
    """Flush ``folder``'s filled sibling to the disk and put it in ``folder``'s place."""
    staging = folder.with_name(folder.name + ".partial")
    for path in [*staging.rglob("*"), staging]:
        flush(path)
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    staging.rename(folder)
    flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Put the complete folder back in its place where a process died between the two renames of ``publish``."""
    old = folder.with_name(folder.name + ".old")
    if old.is_dir() and not folder.exists():
        old.rename(folder)


def write_file(path: Path, fill: Callable[[Path], Any]) -> None:
    """The same for a single file."""
    staging = path.with_name(path.name + ".partial")
    try:
        fill(staging)
        flush(staging)
        staging.rename(path)
        flush(path.parent)
    except WRITE_ERRORS as cause:
        staging.unlink(missing_ok=True)
        raise ModelError(f"Could not write {path}: {cause}. Make room if the disk is full, and run the command again.") from cause


def flush(path: Path) -> None:
    """Have the system write a file, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
