"""The app's memory over a thousand turns: ``python -m tests.safety.memory_over_turns --turns 1000``.

Typed turns through sessions of fifty turns each, every reply edited and every session closed after its last turn, with
replies of one token. ``--tiny`` takes a language model of two small layers, under which everything else is real.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from pathlib import Path

import numpy as np
import psutil

from app.session import Session
from app.sessions import Sessions
from app.worker import Worker
from multimood_core.decoding import Sampling
from multimood_core.engine import Engine, TurnRun
from multimood_core.records import CheckpointId
from multimood_core.registry import DEFAULT, Calibration, Checkpoint
from tests.multimood_core.tiny import tiny_model

A_SESSION = 50  # turns
MEASURED = 25  # turns between two measurements


def _turn(session: Session, number: int) -> None:
    session.type_turn(f"This is turn number {number}, and nothing in it is like the one before.")
    with session.changed:
        if not session.changed.wait_for(lambda: not session.busy, 600):
            raise SystemExit(f"turn {number} was not answered")
    if session.problem:
        raise SystemExit(f"turn {number}: {session.problem}")
    session.edit("Go on.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=1000)
    parser.add_argument("--checkpoint", default=DEFAULT)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    events = TurnRun.events
    TurnRun.events = lambda run, sampling=None: events(run, sampling or Sampling(max_tokens=1))  # type: ignore[method-assign]
    if options.tiny:
        model, processor = tiny_model()
        engine = Engine(Checkpoint(CheckpointId("tiny", "0" * 64), Path(), model, processor, Calibration()))
    else:
        engine = Engine(options.checkpoint)
    worker = Worker()
    sessions, process, begun = Sessions(engine, worker), psutil.Process(), time.monotonic()
    rows: list[tuple[int, float]] = []
    session = None
    for number in range(options.turns):
        if number % A_SESSION == 0:
            if session is not None:
                sessions.close(session.token)
            session = sessions.open()
            session.acknowledge()
        assert session is not None
        _turn(session, number)
        if (number + 1) % MEASURED == 0:
            gc.collect()
            rows.append((number + 1, process.memory_info().rss / 2**20))
            if (number + 1) % (options.turns // 10 or 1) < MEASURED:
                print(f"{number + 1:>6} turns  {rows[-1][1]:>6.0f} MB  {time.monotonic() - begun:>5.0f} s", flush=True)
    worker.close()
    late = np.array(rows[len(rows) // 5 :])
    slope = 1000 * float(np.polyfit(late[:, 0], late[:, 1], 1)[0])
    print(f"{engine.checkpoint.id.name}: {slope:+.1f} MB a thousand turns, after the first fifth")
    return 0


if __name__ == "__main__":
    sys.exit(main())
