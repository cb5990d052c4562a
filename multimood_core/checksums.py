"""Hashes of a checkpoint's files, kept beside them in ``SHA256SUMS`` and checked whenever the checkpoint is loaded.

    python -m multimood_core.checksums FOLDER ...    records the files as they are now, after a change that was meant

The file has the form of ``sha256sum``, whose ``sha256sum -c SHA256SUMS`` checks it too. It finds damage and edits that were
not meant; who edits weights and records them anew is not stopped, but every answer names the hash of what gave it.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from multimood_core.errors import ModelError

SUMS: Final = "SHA256SUMS"
# What decides the answers of a checkpoint folder, in the order in which its own hash takes them.
DECIDING: Final = (
    "config.json", "adapter_config.json", "adapter_model.safetensors", "modules.safetensors", "calibration.json",
)  # fmt: skip

log = logging.getLogger("multimood.core")


def deciding_files(folder: Path) -> list[Path]:
    """The files of a checkpoint that decide its answers, as far as they are there."""
    return [folder / name for name in DECIDING if (folder / name).is_file()]


def checkpoint_sha256(folder: Path) -> str:
    """SHA-256 over the names and contents of the files that decide the answers."""
    digest = hashlib.sha256()
    for path in deciding_files(folder):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def record_sums(folder: Path) -> None:
    """Write ``SHA256SUMS`` for the files as they are now."""
    text = "".join(f"{_sha256(path)}  {path.name}\n" for path in deciding_files(folder))
    partial = folder / f".{SUMS}.partial"
    partial.write_text(text, encoding="utf-8")
    partial.replace(folder / SUMS)


def check_sums(folder: Path, required: bool = False) -> None:
    """Refuse files that are not those that were recorded.

    Args:
        folder: of a checkpoint.
        required: also refuse a folder in which nothing was recorded; else its hash is written to the log.

    Raises:
        ModelError: a file changed, went or came; says which, what was expected and how to mend it.
    """
    path = folder / SUMS
    mend = (
        "Copy the checkpoint again from where it came. If the change was meant, record it with "
        f"`python -m multimood_core.checksums {folder}`."
    )
    if not path.is_file():
        if required:
            raise ModelError(f"Expected {SUMS} beside the weights in {folder}, but it is absent. {mend}")
        log.warning("%s has no %s, so its files were not checked; their hash is %s", folder, SUMS, checkpoint_sha256(folder))
        return
    recorded = _read(path)
    found = {file.name: file for file in deciding_files(folder)}
    if absent := sorted(recorded.keys() - found.keys()):
        raise ModelError(f"Expected {', '.join(absent)} in {folder} by its {SUMS}, but there is no such file. {mend}")
    if added := sorted(found.keys() - recorded.keys()):
        raise ModelError(f"{', '.join(added)} came into {folder} after its {SUMS} was written. {mend}")
    for name, file in found.items():
        if (now := _sha256(file)) != recorded[name]:
            raise ModelError(f"{file} was changed: expected SHA-256 {recorded[name]}, got {now}. {mend}")


def _read(path: Path) -> dict[str, str]:
    try:
        pairs = [line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {name.strip(): digest for digest, name in pairs}
    except (OSError, ValueError) as cause:
        raise ModelError(f"Expected a line with SHA-256 and name for each file in {path}: {cause}") from cause


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(argv: Sequence[str] | None = None) -> int:
    """Records the files of checkpoints as they are now; 1 where one cannot be."""
    parser = argparse.ArgumentParser(prog="python -m multimood_core.checksums", description=main.__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    for folder in parser.parse_args(argv).folders:
        if not deciding_files(folder):
            print(f"Expected the folder of a checkpoint, with {DECIDING[0]}, got {folder}.", file=sys.stderr)
            return 1
        record_sums(folder)
        print(f"{folder}: {checkpoint_sha256(folder)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
