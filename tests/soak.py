"""Twenty sessions at once against the served app: ``make soak``, or ``python -m tests.soak --minutes 10``.

The app runs in a process of its own, as ``make app`` starts it, with its default checkpoint. Each session speaks to it as a
browser's page does: it reads the page's configuration, joins Gradio's queue over HTTP, and listens to the one stream of
updates that stays open. A session types a turn, waits until the reply can be decided on, accepts or edits or rejects it, adds
a note now and then, and types the next after a pause. One in ten gives a piece of a microphone's sound instead of words.

Printed are the turns, the waits as a person at the page has them, the deepest place in the queue that a page showed, the
refusals with their sentences, and the server's memory. At the end each session's export is read: every decision and note
that the page was told of has to be in it, and no word of any other session. Exit status 1 where that is not so, where an
error came that is no sentence, or where memory grew by more than ``GROWTH``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
GROWTH = 300  # MB between the end of the first fifth of the time and the end
PATIENCE = 600.0  # seconds for one turn; a machine that does other work beside it is slow
SENTENCES = (
    "I have not slept well since Monday.", "My sister called again and I did not pick up.", "Nothing much happened this week.",
    "I was angry at the bus driver for no reason.", "The new pills make me tired.", "We laughed a lot on Sunday.",
)  # fmt: skip


@dataclass
class Tally:
    """What happened, over all sessions."""

    waits: list[float] = field(default_factory=list)
    decisions: int = 0
    notes: int = 0
    depth: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)


class Page:
    """One browser page, without its browser.

    Args:
        client: speaks to the app.
        config: what the app's page is made of.
        number: of the session, which all its words carry.
        tally: where it is counted.
    """

    def __init__(self, client: httpx.AsyncClient, config: dict[str, Any], number: int, tally: Tally) -> None:
        self._client, self._tally, self.mark = client, tally, f"visitor{number:03d}x"
        names = {c["id"]: c["props"].get("elem_id") for c in config["components"]}
        self._events = {
            (names.get(target[0]), target[1]): event for event in config["dependencies"] for target in event["targets"]
        }
        self._load = next(e for e in config["dependencies"] if len(e["inputs"]) == 2 and ("load" in str(e["targets"])))
        self._hash = secrets.token_hex(6)
        self._heard: dict[str, dict[str, Any]] = {}
        self._hearing = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None
        self._said: dict[str, list[str]] = {}
        self._deciding = asyncio.Event()
        self._failed = False
        self.token = ""
        self.kept: list[str] = []

    async def open(self) -> None:
        """Loads the page, acknowledges the notice and begins to listen."""
        (await self._client.get("/")).raise_for_status()
        values = await self._do(self._load, ["", ""])
        self.token = values[0]
        await self._press("mm-acknowledge")
        event = self._events["mm-follow", "click"]
        await self._join(event, [self.token])
        self._listening = asyncio.create_task(self._listen())

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            with contextlib.suppress(asyncio.CancelledError, httpx.HTTPError):
                await self._listening

    # -- Gradio's queue --------------------------------------------------------------------------------------------

    async def _join(self, event: dict[str, Any], data: list[Any]) -> str:
        body = {"data": data, "fn_index": event["id"], "session_hash": self._hash, "event_data": None, "trigger_id": None}
        answer = await self._client.post("/gradio_api/queue/join", json=body)
        answer.raise_for_status()
        return str(answer.json()["event_id"])

    async def _messages(self) -> AsyncIterator[dict[str, Any]]:
        address = "/gradio_api/queue/data"
        async with self._client.stream("GET", address, params={"session_hash": self._hash}) as stream:
            async for line in stream.aiter_lines():
                if line.startswith("data:"):
                    yield json.loads(line[5:])

    async def _do(self, event: dict[str, Any], data: list[Any]) -> list[Any]:
        """One event whose answer is waited for, before the page listens all the time."""
        number = await self._join(event, data)
        async with contextlib.aclosing(self._messages()) as messages:
            async for message in messages:
                if message.get("event_id") == number and message["msg"] == "process_completed":
                    if not message["success"]:
                        raise RuntimeError(str(message["output"]))
                    return list(message["output"]["data"])
        raise RuntimeError("the stream of updates ended before the answer came")

    async def _listen(self) -> None:
        async for message in self._messages():
            kind, number = message["msg"], message.get("event_id", "")
            if kind == "log":
                self._said.setdefault(number, []).append(message["log"])
            elif kind == "process_generating":
                self._see(message["output"].get("data") or [])
            elif kind == "process_completed":
                self._heard[number] = message
                self._hearing.set()

    def _see(self, shown: list[Any]) -> None:
        """What an update of the page says: whether a reply can be decided on, and the turn's place in the queue."""
        if len(shown) > 5:
            accept = json.dumps(shown[5])
            if "true" in accept:
                self._deciding.set()
            elif "false" in accept:
                self._deciding.clear()
        if 'class="mm-problem"' in str(shown[:1]):
            self._failed = True
            self._deciding.set()
        place = re.search(r"in the queue, (\d+) before", json.dumps(shown[:1]))
        if place:
            self._tally.depth = max(self._tally.depth, int(place[1]))

    async def _press(self, element: str, *values: Any, event: str = "click") -> str | None:
        """Presses a button or sends a field. Returns the sentence with which it was refused, or None."""
        found, data = self._events[element, event], [self.token, *values]
        if self._listening is None:
            await self._do(found, data)
            return None
        number = await self._join(found, data)
        while number not in self._heard:  # the answer may be faster than the number of what was asked
            self._hearing.clear()
            await asyncio.wait_for(self._hearing.wait(), PATIENCE)
        message = self._heard.pop(number)
        if not message["success"]:
            self._tally.errors[str(message["output"].get("error"))] += 1
        said = self._said.pop(number, [])
        return said[0] if said else None

    # -- what a person does ----------------------------------------------------------------------------------------

    async def turn(self, chance: random.Random) -> None:
        """Types or speaks a turn, waits for its reply, and decides."""
        words = f"{chance.choice(SENTENCES)} {self.mark}{len(self.kept)}"
        begun = time.monotonic()
        self._deciding.clear()
        speaks = chance.random() < 0.1
        while (refused := await (self._speak() if speaks else self._press("mm-typed", words, event="submit"))) is not None:
            self._tally.refusals[re.sub(r"\d+", "N", refused)] += 1
            if time.monotonic() - begun > PATIENCE:
                raise TimeoutError("a turn was refused for too long")
            await asyncio.sleep(2 + chance.random())  # who is refused tries again, and the wait goes on
        await asyncio.wait_for(self._deciding.wait(), PATIENCE)
        if self._failed:
            self._failed = False
            self._tally.errors["a turn was not answered"] += 1
            return
        self._tally.waits.append(time.monotonic() - begun)
        said = f"I hear you. {self.mark}said{len(self.kept)}"
        number = await self._last()
        refused = await self._press("mm-save", number, said)
        if refused is None:
            self.kept.append(said)
            self._tally.decisions += 1
        else:
            self._tally.refusals[re.sub(r"\d+", "N", refused)] += 1
        if chance.random() < 0.3:
            note = f"note {self.mark}note{len(self.kept)}"
            if await self._press("mm-note", note, event="submit") is None:
                self.kept.append(note)
                self._tally.notes += 1

    async def _speak(self) -> str | None:
        """A turn of the capture stream: a second of a tone, then its end."""
        address = f"/multimood/turn/{self.token}"
        sound = (8000 * np.sin(np.arange(48_000) / 20)).astype("<i2").tobytes()
        begun = await self._client.post(address, content=json.dumps({"do": "begin"}).encode() + b"\n")
        if begun.status_code != 200:
            return str(begun.json()["error"])
        head = {"do": "data", "rate": 48_000, "offset": 0}
        (await self._client.post(address, content=json.dumps(head).encode() + b"\n" + sound)).raise_for_status()
        await self._client.post(address, content=json.dumps({"do": "cancel"}).encode() + b"\n")
        return await self._press("mm-typed", f"After a sound. {self.mark}", event="submit")

    async def export(self) -> dict[str, Any]:
        answer = await self._client.get(f"/multimood/session/{self.token}/session.json")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    async def _last(self) -> int:
        return int((await self.export())["turns"][-1]["number"])

    async def check(self) -> None:
        """Whether all that was acknowledged is there, and nothing of another session."""
        text = json.dumps(await self.export())
        self._tally.lost += [f"{self.mark}: {kept!r} is gone" for kept in self.kept if kept not in text]
        others = set(re.findall(r"visitor\d{3}x", text)) - {self.mark}
        self._tally.lost += [f"{self.mark} holds words of {other}" for other in others]


async def _visit(page: Page, until: float, seed: int) -> None:
    chance = random.Random(seed)
    await asyncio.sleep(min(5.0, (until - time.monotonic()) / 4) * chance.random())  # nobody begins at the same moment
    while time.monotonic() < until:
        try:
            await page.turn(chance)
        except (httpx.HTTPError, TimeoutError, RuntimeError, KeyError) as error:
            page._tally.errors[f"{type(error).__name__}: {error}"[:120]] += 1
            await asyncio.sleep(2)
        await asyncio.sleep(1 + 2 * chance.random())


async def soak(url: str, process: psutil.Process, sessions: int, seconds: float) -> int:
    """Runs the load and prints the table; returns the exit status."""
    tally = Tally()
    limits = httpx.Limits(max_connections=4 * sessions, max_keepalive_connections=4 * sessions)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits, trust_env=False) as client:
        config = (await client.get("/config")).json()
        pages = [Page(client, config, number, tally) for number in range(sessions)]
        for page in pages:
            await page.open()
        begun = time.monotonic()
        visits = [asyncio.create_task(_visit(page, begun + seconds, seed)) for seed, page in enumerate(pages)]
        rows: list[tuple[float, int, float, float]] = []
        widths = {"minute": 6, "turns": 6, "p50 s": 7, "p95 s": 7, "queue": 6, "refused": 8, "errors": 7, "RSS MB": 7, "CPU %": 6}
        print(" ".join(f"{name:>{width}}" for name, width in widths.items()))
        process.cpu_percent()
        seen, step = 0, seconds / 10
        while not all(visit.done() for visit in visits):
            await asyncio.wait(visits, timeout=max(0.1, begun + (len(rows) + 1) * step - time.monotonic()))
            waits = tally.waits[seen:] or [float("nan")]
            seen, tally.depth, deepest = len(tally.waits), 0, tally.depth
            memory = process.memory_info().rss / 2**20
            rows.append((time.monotonic() - begun, deepest, memory, float(np.median(waits))))
            print(
                f"{rows[-1][0] / 60:>6.1f} {seen:>6} {np.median(waits):>7.1f} {np.quantile(waits, 0.95):>7.1f} {deepest:>6} "
                f"{tally.refusals.total():>8} {tally.errors.total():>7} {memory:>7.0f} {process.cpu_percent():>6.0f}",
                flush=True,
            )
        for page in pages:
            await page.check()
            await page.close()
    whole = tally.waits or [float("nan")]
    fifth = rows[len(rows) // 5][2]
    print(
        f"\n{sessions} sessions, {seconds / 60:g} minutes: {len(tally.waits)} turns answered, {tally.decisions} decisions and "
        f"{tally.notes} notes acknowledged; wait p50 {np.median(whole):.1f} s, p95 {np.quantile(whole, 0.95):.1f} s, longest "
        f"{np.max(whole):.1f} s; memory {fifth:.0f} MB after a fifth of the time, {rows[-1][2]:.0f} MB at the end"
    )
    for sentence, count in tally.refusals.most_common():
        print(f"refused {count} times: {sentence}")
    for sentence, count in tally.errors.most_common():
        print(f"ERROR {count} times: {sentence}")
    for sentence in tally.lost:
        print(f"LOST: {sentence}")
    grown = rows[-1][2] - fifth
    if grown > GROWTH:
        print(f"MEMORY grew by {grown:.0f} MB, at most {GROWTH} may be")
    return int(bool(tally.errors or tally.lost or not tally.waits or grown > GROWTH))


def _apart(folder: Path) -> dict[str, str]:
    """The environment of an app whose log, studies and votes are its own: a load test is no part of anybody's records."""
    own = {"MULTIMOOD_RECORDS": folder / "records", "MULTIMOOD_COMPARE": folder / "compare",
           "MULTIMOOD_DATABASE_URL": f"sqlite:///{folder / 'studies.sqlite3'}"}  # fmt: skip
    return {**os.environ, **{name: str(value) for name, value in own.items()}}


@contextmanager
def _app(checkpoint: str | None) -> Iterator[tuple[str, psutil.Process]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "app.py", "--port", str(port), "--language", "en"]
    command += ["--checkpoint", checkpoint] if checkpoint else []
    with (
        tempfile.TemporaryDirectory(prefix="multimood-soak-") as folder,
        subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, env=_apart(Path(folder))) as server,
    ):
        try:
            assert server.stdout is not None
            for line in server.stdout:
                if " is at http" in line:
                    break
            else:
                raise SystemExit("the app did not start; its messages are above")
            yield f"http://127.0.0.1:{port}", psutil.Process(server.pid)
        finally:
            server.terminate()
            server.communicate(timeout=60)  # it says that it closes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--checkpoint", help="the app's default one when absent")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the app that it started ends with it
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} processors; load average before the run {load:.1f}")
    with _app(options.checkpoint) as (url, process):
        return asyncio.run(soak(url, process, options.sessions, 60 * options.minutes))


if __name__ == "__main__":
    sys.exit(main())
