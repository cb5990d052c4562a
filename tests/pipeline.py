"""Every stage of training end to end on synthetic data, from tables and clips to a checkpoint that answers a turn.

    make pipeline        (python -m tests.pipeline)

The data are written to ``build/pipeline`` first: dialogues in MESC's layout, turns with clips of a drawn face that speaks,
acted voices and faces. Stages run by their own commands' code with ``train/configs/*_smoke.yaml``, a few steps each, on the
real embedded model. Prints what each took, and the processor's time, which other work on the machine does not lengthen.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from unittest.mock import patch

import cv2

from app.demo import draw_face
from multimood_core.engine import Engine, Finished
from multimood_core.labels import EMOTIONS, MEDIA_EMOTIONS, STRATEGIES
from multimood_core.media import read_turn
from multimood_core.records import TurnPrediction
from tests import synthetic
from tests.train.fresh_process import forget_process

REPOSITORY: Final = Path(__file__).resolve().parent.parent
BUILD: Final = Path("build/pipeline")
SETS: Final = BUILD / "sets"
CHECKPOINTS: Final = BUILD / "checkpoints"
NAME: Final = "pipeline-ppo"
_FEELINGS: Final = ("alone", "angry", "sick of it", "empty", "all right", "glad", "afraid")
_DIALOGUES: Final = {"train": 6, "val": 2, "test": 2}


def write_sets(root: Path = SETS) -> None:
    """The synthetic data sets: ``mesc`` (two items a dialogue), its turns' ``clips``, ``voices`` and ``faces``."""
    shutil.rmtree(root, ignore_errors=True)
    (root / "mesc" / "clips").mkdir(parents=True)
    rows, splits = [], {split: [] for split in _DIALOGUES}
    number = 0
    for split, count in _DIALOGUES.items():
        for _ in range(count):
            turns = []
            for turn in range(4):
                emotion, strategy = (number + turn) % len(EMOTIONS), (number + turn) % len(STRATEGIES)
                feeling = _FEELINGS[emotion]
                if turn % 2 == 0:
                    said, rest = f"I feel {feeling} today {number}", ["Client", EMOTIONS[emotion], "undefined"]
                else:
                    said, rest = f"Since when are you {feeling}", ["Therapist", "neutral", STRATEGIES[strategy]]
                rows.append([said, *rest, number, turn])
                turns.append({"text": f"{said}. The speaker looks at the camera."})
            splits[split].append({"problem_type": "work", "situation": f"Lost a job {number} months ago.", "dialog": turns})
            number += 1
    with (root / "mesc" / "MESC.csv").open("w", newline="", encoding="utf-8") as file:
        header = ["Utterance", "Speaker", "Emotion", "Strategy", "Dialogue_ID", "Utterance_ID"]
        csv.writer(file).writerows([header, *rows])
    for split in ("val", "test"):
        (root / "mesc" / f"{split}.json").write_text(json.dumps(splits[split]))
    for dialogue in range(2):
        write_film(root / "mesc" / "clips" / f"{dialogue}_0.mp4", dialogue)
    for name, suffix in (("voices", "wav"), ("faces", "png")):
        (root / name).mkdir()
        table = [["file", "emotion", "speaker"]]
        for index, emotion in enumerate(MEDIA_EMOTIONS):
            file = f"{emotion}.{suffix}"
            table.append([file, emotion, str(index % 2)])
            if name == "voices":
                sound = synthetic.spoken(1.0, seed=index)
                synthetic.write_clip(root / name / file, sound=sound, rate=16_000, audio="pcm_s16le")
            else:
                grey = cv2.cvtColor(draw_face(index / 3 - 1, 1 - index / 3, 0.0), cv2.COLOR_RGB2GRAY)
                cv2.imwrite(str(root / name / file), cv2.resize(grey, (48, 48)))
        with (root / name / "labels.csv").open("w", newline="", encoding="utf-8") as file_:
            csv.writer(file_).writerows(table)


def write_film(path: Path, seed: int) -> Path:
    """A second of a drawn face that speaks."""
    images = [cv2.resize(draw_face(-0.8, 0.5, seed + i / 8), (640, 480)) for i in range(8)]
    return synthetic.write_clip(path, images=images, sound=synthetic.spoken(1.0, rate=48_000, seed=seed), fps=8)


STAGES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("data", ("--config", "train/configs/data_smoke.yaml", f"--root={SETS}")),
    ("features", ("--config", "train/configs/features_smoke.yaml", f"--root={SETS}")),
    ("projectors", ("--config", "train/configs/projectors_smoke.yaml", f"--root={SETS}")),
    ("compressor", ("--config", "train/configs/compressor_smoke.yaml")),
    ("sft", ("--config", "train/configs/sft_smoke.yaml", f"--root={SETS}")),
    ("reward_model", ("--config", "train/configs/reward_model_smoke.yaml", f"--root={SETS}")),
    ("grpo", ("--config", "train/configs/grpo_smoke.yaml", f"--root={SETS}")),
    ("ppo", ("--config", "train/configs/ppo_smoke.yaml", f"--root={SETS}")),
    ("evaluate", ("--data", str(SETS / "voices"), "--checkpoint", str(BUILD / "ppo/final"), "--out", str(BUILD / "voices.json"))),
    ("export", ("--config", "train/configs/export_smoke.yaml")),
)  # fmt: skip


def run_stage(name: str, words: Sequence[str]) -> None:
    """Run one stage as its command does."""
    module = importlib.import_module(f"train.{name}")
    forget_process()
    with patch.object(sys, "argv", [str(module.__file__), *words]):
        module.main(list(words))


def answer(folder: Path, clip: Path) -> TurnPrediction:
    """What a checkpoint says of a turn that was recorded."""
    engine = Engine(folder, language="en")
    turn = dataclasses.replace(read_turn(clip), text="I feel alone today")
    (finished,) = (event for event in engine.predict(turn) if isinstance(event, Finished))
    return finished.prediction


def main() -> int:
    """Run all of it; returns the exit status."""
    taken: dict[str, tuple[float, float]] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        taken[name] = time.perf_counter() - wall, time.process_time() - cpu

    with timed("all"):
        shutil.rmtree(BUILD, ignore_errors=True)
        with timed("synthetic data"):
            write_sets()
        for name, words in STAGES:
            print(f"\n== python -m train.{name} {' '.join(words)}", flush=True)
            with timed(name):
                run_stage(name, words)
        with timed("a turn"):
            prediction = answer(CHECKPOINTS / NAME, SETS / "mesc/clips/0_0.mp4")
    print(f"\n{prediction.client_emotion.label}, {prediction.strategy.label}: {prediction.response!r}\n")
    for name, (wall, cpu) in taken.items():
        print(f"{name:16s} {wall:6.1f} s, of the processor {cpu:6.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
