"""How fast a large study is: ``python -m tests.benchmarks.study_speed [DATABASE_URL]`` prints two rows.

A study of 10,000 items with two systems and 20 raters who judge at once over HTTP, each with two seconds between two requests
for an item (people take five times as long and more), and the agreement over 50,000 judgments of five criteria.
"""

from __future__ import annotations

import hashlib
import random
import socket
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import httpx
import numpy as np
import uvicorn
from argon2 import PasswordHasher
from starlette.applications import Starlette

from app.audit import Audit
from app.remote import Remote
from app.studies import schema
from app.studies.api import StudyApi
from app.studies.people import People
from app.studies.requests import COOKIE, PREFIX
from app.studies.store import Store
from app.web import HEADER
from app.worker import Worker
from multimood_core.agreement import MISSING, agreement
from tests.app.studies.scene import KEYS, Scene
from tests.app.studies.serve import no_model

RATERS, ITEMS = 20, 10_000
JUDGMENTS = 50_000
THINKING = 2.0  # seconds between two items of one rater, on average


def next_item(url: str, seconds: float = 30.0) -> np.ndarray:
    """Milliseconds (n,) from the request for the next item to its arrival, over all raters."""
    store = Store(url)
    scene = Scene(store, People(store, hasher=PasswordHasher(1, 8, 1)))
    number = scene.study(items=ITEMS)
    tokens = []
    for person in scene.raters(number, RATERS):
        tokens.append(token := uuid.uuid4().hex)
        values = {"token_sha256": hashlib.sha256(token.encode()).hexdigest(), "account_id": person.id, "created": time.time()}
        with store.write() as connection:
            connection.execute(schema.web_session.insert().values(values | {"expires": time.time() + 3600}))
    worker = Worker()
    api = StudyApi(worker, no_model, Remote(Audit()), url)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(Starlette(routes=api.routes), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        base, taken = f"http://127.0.0.1:{listener.getsockname()[1]}{PREFIX}/work/{number}", []
        ends = time.monotonic() + seconds

        def work(token: str, index: int) -> None:
            rng = random.Random(index)
            time.sleep(rng.random() * THINKING)
            with httpx.Client(headers={HEADER: "1"}, cookies={COOKIE: token}, timeout=60) as client:
                while time.monotonic() < ends:
                    begun = time.perf_counter()
                    task = client.post(f"{base}/next", json={}).json()["task"]
                    taken.append(1000 * (time.perf_counter() - begun))
                    verdicts = {key: rng.choice(("a", "tie", "b")) for key in KEYS}
                    body = {"assignment": task["assignment"], "verdicts": verdicts, "seconds": 9.0, "key": uuid.uuid4().hex}
                    client.post(f"{base}/judge", json=body).raise_for_status()
                    time.sleep(THINKING * (0.5 + rng.random()))

        threads = [threading.Thread(target=work, args=(token, i)) for i, token in enumerate(tokens)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        server.should_exit = True
        thread.join(15)
    api.close()
    worker.close()
    store.close()
    return np.array(taken)


def agreement_seconds() -> float:
    """Seconds for every statistic with its intervals, of each criterion and of each two raters."""
    rng = np.random.default_rng(0)
    units, criteria = JUDGMENTS // 2, len(KEYS)
    matrices = []
    for _ in range(criteria):
        matrix = np.full((units, RATERS), MISSING, dtype=np.int64)
        who = np.array([rng.choice(RATERS, 2, replace=False) for _ in range(units)])
        truth = rng.integers(0, 3, units)
        for place in range(2):
            matrix[np.arange(units), who[:, place]] = np.where(rng.random(units) < 0.7, truth, rng.integers(0, 3, units))
        matrices.append(matrix)
    begun = time.perf_counter()
    for matrix in matrices:
        found = agreement(matrix, 3, 2, pair_samples=400)
        assert len(found.pairs) == RATERS * (RATERS - 1) // 2
    return time.perf_counter() - begun


def measure(url: str | None = None) -> tuple[np.ndarray, float]:
    """Milliseconds to the next item, and seconds of the agreement."""
    with tempfile.TemporaryDirectory() as folder:
        taken = next_item(url or f"sqlite:///{Path(folder) / 'studies.sqlite3'}")
    return taken, min(agreement_seconds() for _ in range(3))


if __name__ == "__main__":
    taken, seconds = measure(sys.argv[1] if len(sys.argv) > 1 else None)
    middle, high = np.percentile(taken, [50, 95])
    print(f"next item, {RATERS} raters, {ITEMS:,} items: p50 {middle:.0f} ms, p95 {high:.0f} ms, n {len(taken)}")
    print(f"agreement over {JUDGMENTS:,} judgments of {len(KEYS)} criteria: {seconds:.2f} s")
