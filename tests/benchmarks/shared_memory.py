"""Memory of checkpoints that share their frozen weights; prints a row for each.

    python -m tests.benchmarks.shared_memory [--checkpoint NAME_OR_FOLDER ...]

A checkpoint that is named once stands for three: copies of it whose adapters were changed by noise. Two figures for each
number of loaded checkpoints: the bytes of all distinct storages of their tensors, which is exact, and what the process
holds (resident set) beyond what it held before the first was loaded, after an answer of each.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors.torch import load_file, save_file

from multimood_core.checksums import record_sums
from multimood_core.decoding import LABELS, AnswerDecoder
from multimood_core.prompts import AUDIO_TOKEN, HISTORY_TOKEN, VIDEO_TOKEN
from multimood_core.registry import DEFAULT, Checkpoint, load, resolve
from multimood_core.sharing import load_beside

MIB = 2**20


def perturbed(name_or_dir: str | Path, folder: Path, seed: int) -> Path:
    """A copy of a checkpoint whose adapter was changed by noise of a tenth of its own size."""
    made = folder / f"copy-{seed}"
    shutil.copytree(resolve(name_or_dir), made, ignore=shutil.ignore_patterns("reports"))
    noise, path = torch.Generator().manual_seed(seed), made / "adapter_model.safetensors"
    state = {k: v + 0.1 * v.float().std() * torch.randn(v.shape, generator=noise).to(v) for k, v in load_file(path).items()}
    save_file({k: v.contiguous() for k, v in state.items()}, path)
    record_sums(made)  # the change is meant
    return made


def tensor_bytes(checkpoints: Sequence[Checkpoint]) -> int:
    """Bytes of the distinct storages of all parameters and buffers."""
    sizes = {}
    for checkpoint in checkpoints:
        for tensor in chain(checkpoint.model.parameters(), checkpoint.model.buffers()):
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def resident() -> int:
    """Bytes of this process that lie in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def answer(checkpoint: Checkpoint, words: str = "Nobody has called me for weeks.") -> dict[str, Any]:
    """Labels with probabilities and the likeliest reply to words alone."""
    model, processor = checkpoint.model, checkpoint.processor
    ids = processor.expand(processor.encode_prompt(words), {VIDEO_TOKEN: 1, AUDIO_TOKEN: 1, HISTORY_TOKEN: 1})
    media = {"video_modes": torch.tensor([1]), "audio_modes": torch.tensor([1])}
    decoder = AnswerDecoder(model, processor, checkpoint.calibration, torch.tensor([ids]), media)
    labels = {task: dict(decoder.label(task).probabilities) for task in LABELS}
    return {"labels": labels, "reply": "".join(decoder.reply())}


def measure(folders: Sequence[str | Path]) -> list[dict[str, Any]]:
    """For 1, 2, ... loaded checkpoints: their bytes, the process's growth, and the last one's answer."""
    before, loaded, rows = resident(), list[Checkpoint](), []
    for folder in folders:
        loaded.append(load_beside(folder, loaded[0]) if loaded else load(folder))
        said = answer(loaded[-1])
        rows.append({"tensors": tensor_bytes(loaded), "resident": resident() - before, "answer": said})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", nargs="+", default=[DEFAULT])
    parser.add_argument("--json", action="store_true", help="print the rows as JSON, with the answers")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        named = list(args.checkpoint)
        given = named if len(named) > 1 else [*named, *(perturbed(named[0], Path(folder), seed) for seed in (1, 2))]
        rows = measure(given)
    if args.json:
        print(json.dumps(rows))
        return
    print("| checkpoints | bytes of tensors | times one | process | times one |\n|---|---|---|---|---|")
    for count, row in enumerate(rows, 1):
        cells = [f"{row[key] / MIB:.0f} MiB | {row[key] / rows[0][key]:.3f}" for key in ("tensors", "resident")]
        print(f"| {count} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
