"""Writes studies until the disk is full, makes room, and goes on: run by ``test_faults.py`` in a process of its own.

A limit on the size of files stands for the full disk: past it a write fails, as there.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from pathlib import Path

from starlette.applications import Starlette
from starlette.testclient import TestClient

from app.audit import Audit
from app.remote import Remote
from app.studies.api import StudyApi
from app.studies.requests import PREFIX
from app.web import HEADER
from app.worker import Worker


def main(folder: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # what is past the limit is an OSError then
    worker = Worker()
    remote = Remote(Audit(folder / "audit.jsonl"))
    api = StudyApi(worker, lambda name: sys.exit(name), remote, f"sqlite:///{folder / 'studies.sqlite3'}")
    client = TestClient(Starlette(routes=api.routes), base_url="http://127.0.0.1", headers={HEADER: "1"})
    secret = {"name": "admin", "password": "a long pass phrase"}
    assert client.post(f"{PREFIX}/first", json=secret).status_code == 200
    token = client.post(f"{PREFIX}/invite", json={"role": "researcher"}).json()["token"]
    answer = client.post(f"{PREFIX}/accept", json={"token": token, "name": "rita", "password": "a long pass phrase"})
    assert answer.status_code == 200, answer.text
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(path.stat().st_size for path in folder.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 65_536, hard))
    kept: list[int] = []
    for number in range(2000):
        answer = client.post(f"{PREFIX}/create", json={"name": f"study {number} {'x' * 100}"})
        if answer.status_code != 200:
            break
        kept.append(answer.json()["study"])
    refusal = [answer.status_code, answer.json()["error"]]
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    after = client.post(f"{PREFIX}/create", json={"name": "after it"})
    listed = sorted(entry["id"] for entry in client.get(f"{PREFIX}/list").json())
    print(json.dumps({"kept": kept, "refusal": refusal, "after": after.status_code, "listed": listed, "new": after.json()}))
    api.close()
    worker.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
