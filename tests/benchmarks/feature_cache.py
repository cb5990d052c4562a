"""An epoch of SFT with the towers' features read from the cache, and with every clip encoded anew; prints a Markdown table.

    python -m tests.benchmarks.feature_cache [--dialogues 10] [--size 640x480]

Every client turn has a clip of its own: eight seconds of a drawn face that speaks, H.264 and AAC at 25 pictures a second. Both
ways run the same batches on the mini model, with both modalities in every sample; the one without the cache reads each turn's
clip, chooses its pictures, finds the faces and runs both towers, as ``train.features`` does, in every epoch.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import torch

from app.demo import draw_face
from multimood_core.dialogues import Dialogue, DialogueTurn, write_dialogues
from tests import synthetic
from tests.benchmarks import scene
from train.config import run_command
from train.features import ClipFeatures, Towers, media_of
from train.loop import Loop
from train.mixture import CORPUS, SftConfig, build_task
from train.sft import build

RATE = 25  # pictures a second
TURNS = 10  # of a dialogue


def write_data(root: Path, dialogues: int, size: tuple[int, int]) -> list[Dialogue]:
    """Dialogues whose client turns have clips, in the form that the data stage writes, below ``root``."""
    written = []
    voice = torch.nn.functional.interpolate(torch.from_numpy(scene.speech())[None, None], scale_factor=3.0)[0, 0].numpy()
    for number in range(dialogues):
        turns = []
        for index, turn in enumerate(scene.dialogue(TURNS)):
            media = f"{number}_{index}.mp4" if turn.speaker == "client" else None
            if media:
                start = number + index / TURNS
                images = [
                    cv2.resize(draw_face(-0.8, 0.5, start + picture / RATE), size) for picture in range(int(scene.SECONDS * RATE))
                ]
                synthetic.write_clip(root / media, images=images, sound=voice, fps=RATE)
            turns.append(DialogueTurn(turn.speaker, f"{turn.text} {number}", turn.emotion, turn.strategy, media=media))
        written.append(Dialogue(str(number), "train", tuple(turns), scene.CONTEXT))
    (root / CORPUS).mkdir()
    write_dialogues(root / CORPUS / "train.jsonl", written)
    return written


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dialogues", type=int, default=10, help=f"of {TURNS} turns each")
    parser.add_argument("--size", default="640x480", help="of the clips' pictures, width and height")
    args = parser.parse_args(argv)
    width, height = (int(side) for side in args.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        dialogues = write_data(root, args.dialogues, (width, height))
        config = replace(
            SftConfig(), data=root, root=root, cache=root / "features", out=root / "run", voices=(), faces=(), projectors=None,
            compressor=None, p_audio=0.0, p_video=0.0, p_both=1.0, batch_tokens=2048,
        )  # fmt: skip
        paths = media_of(dialogues, root)
        features = ClipFeatures(Towers.load(), config.cache)
        began = time.perf_counter()
        kept = features.turns(paths)
        encoding = time.perf_counter() - began
        if any(turn.video is None or turn.audio is None for turn in kept):
            raise SystemExit("Expected a face and a voice in every clip; what was timed would not be the whole work.")
        model, processor = build(config)
        task = build_task(config, model, processor)
        loop = Loop(config, model, task.lengths, task.loss, config.out)
        model.train()
        loop._train_on(loop.batches[0])  # what happens once alone
        began = time.perf_counter()
        for batch in loop.batches:
            loop._train_on(batch)
        epoch = time.perf_counter() - began
    items = len(task.lengths)
    print(f"\n{torch.get_num_threads()} threads, {items} items, clips of {scene.SECONDS:g} s, {width} x {height}.\n")
    print("| an epoch | seconds | an item |\n|---|---|---|")
    print(f"| with the cache | {epoch:.1f} | {epoch / items:.2f} |")
    whole = epoch + encoding
    print(f"| without: the clips' decoding and the towers beside it | {whole:.1f} | {whole / items:.2f} |")
    print(f"| times | {whole / epoch:.2f} | |")


if __name__ == "__main__":
    run_command(main)
