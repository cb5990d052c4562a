"""``python -m multimood_core predict CLIP``: what the model says of one client turn."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

# Nothing is ever fetched: every weight is local, and a hub that cannot be reached must not cost a minute of retries.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from multimood_core.dialogues import read_history
from multimood_core.errors import MultiMoodError
from multimood_core.records import Context, Turn, TurnPrediction

_FAILED = 2
# bitsandbytes, which peft imports, tells on stderr which kernels it would like to fetch.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, as for everything else that cannot be used."""
        self.exit(_FAILED, f"{message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m multimood_core", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    predict = commands.add_parser("predict", help="read one client turn from a clip, a sound, a picture or words")
    predict.add_argument("clip", type=Path, nargs="?", help="video, sound or picture; leave out for words alone (--text)")
    predict.add_argument("--text", help="the client's words; without it they are transcribed from the sound")
    predict.add_argument("--history", type=Path, help="jsonl of earlier turns: speaker, text[, emotion][, strategy]")
    predict.add_argument("--problem", default="", help="the client's type of problem")
    predict.add_argument("--situation", default="", help="the client's situation")
    predict.add_argument("--checkpoint", help="a name in assets/checkpoints, or a folder; the default one when absent")
    predict.add_argument("--language", help="spoken language (ISO 639-1); found out by itself when absent")
    predict.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    return parser


def run_predict(args: argparse.Namespace) -> TurnPrediction:
    """Read the inputs, then load the model, so that a bad clip is refused in a second and not after the loading."""
    from multimood_core.media import read_turn

    started = time.monotonic()
    turn = Turn() if args.clip is None else read_turn(args.clip)
    turn = replace(turn, text=args.text)
    history = read_history(args.history) if args.history else []
    media = time.monotonic() - started

    from transformers.utils.logging import disable_progress_bar

    from multimood_core.engine import Engine, Finished
    from multimood_core.registry import DEFAULT

    disable_progress_bar()  # what goes to stderr is a sentence, or nothing
    engine = Engine(DEFAULT if args.checkpoint is None else args.checkpoint, language=args.language)
    if args.language is not None:  # refused also where nothing has to be transcribed
        engine.transcriber.load()
    context = Context(args.problem, args.situation)
    for event in engine.predict(turn, history, context, media_seconds=media):
        if isinstance(event, Finished):
            return event.prediction
    raise AssertionError("the engine ended without its last event")


def as_json(prediction: TurnPrediction) -> dict[str, Any]:
    """The documented JSON object. What one modality shows alone belongs to the live view and is left out."""
    return {key: value for key, value in asdict(prediction).items() if key != "expressions"}


def _show(prediction: TurnPrediction) -> None:
    print(f"client says          {prediction.transcript or '(no words)'}")
    for name in ("client_emotion", "therapist_emotion", "strategy"):
        label = getattr(prediction, name)
        print(f"{name.replace('_', ' '):20s} {label.label} ({label.probabilities[label.label]:.2f})")
    print(f"suggested reply      {prediction.response}")
    used = prediction.modalities
    print(f"from                 video {used.video}, audio {used.audio}, text {used.text}")
    print(f"answered by          {prediction.checkpoint.name}, SHA-256 {prediction.checkpoint.sha256[:12]}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    if args.clip is None and not (args.text or "").strip():
        parser.error("expected a clip, or words with --text")
    try:
        if args.json:  # libraries that print must not spoil the one object on stdout
            stdout, sys.stdout = sys.stdout, sys.stderr
            try:
                prediction = run_predict(args)
            finally:
                sys.stdout = stdout
            print(json.dumps(as_json(prediction), ensure_ascii=False))
        else:
            _show(run_predict(args))
    except MultiMoodError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return _FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
