"""Weight files on disk: safetensors, and pickles of plain tensors, one file or sharded.

A ``.bin`` or ``.pt`` file is a pickle, which can run a program when it is read. It is only ever read as plain tensors.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from multimood_core.errors import ModelError

Archive = tuple[list[str], Callable[[str], Tensor]]


@contextmanager
def open_weights(path: Path) -> Iterator[Archive]:
    """Open a weight file: its keys, and a function that reads one tensor.

    Raises:
        ModelError: the file is absent, damaged or holds anything but tensors.
    """
    if not path.is_file():
        raise ModelError(f"The weight file {path} is missing. Download the checkpoint again, all of its files.")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt") as file:
                yield list(file.keys()), file.get_tensor
        except SafetensorError as error:
            raise ModelError(f"{path} is no whole safetensors file ({error}). Download it again.") from error
        return
    try:
        # Only the zip format of torch can be mapped; older files are read whole.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # the unpickler raises whatever a damaged stream makes of it
        raise ModelError(
            f"{path} was refused: it is damaged, or holds more than plain tensors and could run a program on this "
            "machine. Download it again, or ask its publisher for safetensors."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path} should hold tensors by name, but holds something else. Use the published file.")
    yield list(state), state.__getitem__


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: the file is absent, damaged or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({error}). Download it again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} should hold a JSON object, but holds a {type(content).__name__}. Download it again.")
    return content


def weight_files(folder: Path) -> list[Path]:
    """The files of a folder as transformers saves it, one or sharded; the index has to agree with the shards.

    Raises:
        ModelError: there is no such file, or index and shards disagree.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if index.is_file():
            placed = read_json(index).get("weight_map")
            if not isinstance(placed, dict) or any(Path(str(file)).name != file for file in placed.values()):
                raise ModelError(f"{index} should map keys to files beside it, but does not. Download it again.")
            files = [folder / file for file in sorted(set(placed.values()))]
            for file in files:
                with open_weights(file) as (keys, _):
                    absent = {key for key, place in placed.items() if place == file.name} - set(keys)
                if absent:
                    raise ModelError(
                        f"{file} lacks {len(absent)} of the keys that {index.name} promises, such as {min(absent)}. "
                        "Download both again from the same revision."
                    )
            return files
        if (folder / name).is_file():
            return [folder / name]
    raise ModelError(
        f"{folder} holds no model.safetensors, pytorch_model.bin or index of shards. "
        "Give the folder of a whole checkpoint."
    )
