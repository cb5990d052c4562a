"""A session from start to report in a process of its own, for the memory that it takes.

    python -m tests.benchmarks.whole_session CHECKPOINT

Serves the app, takes two spoken turns in real time with the live read-out on, a typed one, another reply and the report,
and prints one JSON object: the process's peak of resident memory in bytes, and what was done.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

from app.build import Served, serving
from app.report import as_html, as_json
from app.session import Exchange, Phase, Session
from multimood_core.engine import Engine
from tests.benchmarks import scene

HISTORY = 40  # turns


def peak_resident() -> int:
    """Bytes. The kernel's mark of this process alone: ``ru_maxrss`` would begin with that of the parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("expected VmHWM in /proc/self/status; this benchmark needs Linux")


def seed(session: Session) -> None:
    """Puts the earlier turns into the session, as if they had been said."""
    turns = scene.dialogue(HISTORY)
    for client, therapist in zip(turns[::2], turns[1::2], strict=True):
        session.exchanges.append(
            Exchange(
                len(session.exchanges) + 1, "typed", session.started, words=client.text, decision="edited", said=therapist.text,
                corrections={"client_emotion": client.emotion or "", "strategy": therapist.strategy or ""},
            )
        )


def wait(session: Session) -> None:
    version = -1
    while session.busy:
        version = session.watch(version, 0.2)
    assert session.phase is Phase.DECIDING, f"the turn was not answered: {session.problem}"


def run(served: Served) -> Session:
    """The session; every turn has to be answered."""
    session = served.sessions.open()
    session.acknowledge()
    session.describe(scene.CONTEXT.problem, scene.CONTEXT.situation)
    seed(session)
    for _ in range(2):
        buffer, began = session.begin_capture(), time.monotonic()
        for number in range(len(scene.pictures())):
            time.sleep(max(0.0, began + number / scene.FRAMES_A_SECOND - time.monotonic()))
            scene.fill(buffer, number)
        session.end_capture()
        wait(session)
        session.accept()
    session.type_turn(scene.WORDS)
    wait(session)
    session.regenerate()
    wait(session)
    session.reject()
    assert as_html(session)
    assert as_json(session)
    return session


def main(checkpoint: str) -> None:
    engine = Engine(checkpoint)
    engine.transcriber.load()
    with serving(engine, port=0) as served:
        session = run(served)
        peak = peak_resident()
    answered = session.exchanges[HISTORY // 2 :]
    print(json.dumps({"peak_bytes": peak, "turns": [[e.source, e.suggestion] for e in answered]}))


if __name__ == "__main__":
    main(sys.argv[1])
