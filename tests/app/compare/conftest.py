"""Two checkpoints on the same frozen weights, and the tab's requests on them, without a page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.applications import Starlette
from starlette.testclient import TestClient

from app.audit import Audit
from app.compare import places
from app.compare.api import PREFIX, CompareApi
from app.compare.engines import Engines
from app.remote import Remote
from app.sessions import Sessions
from multimood_core import registry
from multimood_core.dialogues import Dialogue, DialogueTurn, write_dialogues
from multimood_core.engine import Engine
from multimood_core.records import Context
from multimood_core.rewards import PartedScore, ReplySituation, RewardFunction
from tests.multimood_core.tiny import CALIBRATION, tiny_model

OTHER = "tiny-other"
Ask = Callable[..., Any]


class SharedWords:
    """A stand-in for the reward's models, computed from the words themselves: it takes no weights and no time."""

    name = "r_sim"

    def __call__(self, situations: Any, replies: Any) -> list[float | None]:
        return [score.value for score in self.parted(situations, replies)]

    def parted(self, situations: list[ReplySituation], replies: list[str]) -> list[PartedScore]:
        found = []
        for situation, reply in zip(situations, replies, strict=True):
            there, said = set((situation.reference or "").split()), set(reply.split())
            found.append(PartedScore(len(there & said) / len(there | said) if there else None))
        return found


class Length(SharedWords):
    name = "r_trust"

    def parted(self, situations: list[ReplySituation], replies: list[str]) -> list[PartedScore]:
        values = [min(1.0, len(reply) / 100) for reply in replies]
        return [PartedScore(value, {"empathy": value}) for value in values]


def cheap_rewards() -> RewardFunction:
    return RewardFunction([(Length(), 1.0), (SharedWords(), 1.0)])


@pytest.fixture(scope="session")
def checkpoints(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of checkpoints with one whose projectors, and so whose answers, are other than those of the app's own."""
    folder = tmp_path_factory.mktemp("checkpoints")
    model, _ = tiny_model(seed=0)
    model.model.video_mode.weight.data += torch.randn(model.model.video_mode.weight.shape) * 3
    (folder / OTHER).mkdir()
    registry.save(folder / OTHER, model, CALIBRATION, {}, dtype=torch.float32)
    return folder


@pytest.fixture
def kept(tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for votes and batches, and a data set of two dialogues beside its training split."""
    monkeypatch.setattr(registry, "CHECKPOINTS", checkpoints)
    monkeypatch.setenv(places.KEPT, str(tmp_path / "kept"))
    monkeypatch.setenv(places.DATA, str(tmp_path / "data"))
    for name in ("MODEL", "URL", "KEY"):
        monkeypatch.delenv(f"MULTIMOOD_COMPARE_{name}", raising=False)
    (tmp_path / "data" / "made").mkdir(parents=True)
    write_dialogues(tmp_path / "data" / "made" / "test.jsonl", made_dialogues(2))
    write_dialogues(tmp_path / "data" / "made" / "train.jsonl", made_dialogues(6, "train"))
    return tmp_path / "kept"


def made_dialogues(count: int, split: str = "test") -> list[Dialogue]:
    """Dialogues of two items each."""
    turns = (
        DialogueTurn("client", "The house is so quiet now.", "sadness"),
        DialogueTurn("therapist", "It was full of voices before.", "neutral", "restatement"),
        DialogueTurn("client", "I leave the radio on all night.", "fear"),
        DialogueTurn("therapist", "What do you hear in it?", "joy", "open question"),
    )
    return [Dialogue(f"{split}-{i}", split, turns, Context("grief", f"Case {i}.")) for i in range(count)]


@pytest.fixture
def api(kept: Path, sessions: Sessions) -> Iterator[CompareApi]:
    made = CompareApi(sessions, Engines(sessions.engine), Remote(Audit()), cheap_rewards)
    yield made
    made.close()


@pytest.fixture
def client(api: CompareApi) -> TestClient:
    return TestClient(Starlette(routes=api.routes), base_url="http://127.0.0.1", headers={"X-MultiMood": "1"})


@pytest.fixture
def ask(client: TestClient) -> Ask:
    """``ask(path)`` or ``ask(path, body)`` gives the answer's values; ``status`` is what it must have."""

    def call(path: str, body: Any = None, status: int = 200) -> Any:
        url = f"{PREFIX}/{path}"
        sent: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}
        answer = client.get(url) if body is None else client.post(url, **sent)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.headers["content-type"] == "application/json" else answer.text

    return call


TINY = [{"kind": "checkpoint", "name": "tiny"}, {"kind": "checkpoint", "name": OTHER}]


def body(**more: Any) -> dict[str, Any]:
    """A comparison of the two checkpoints on typed words, with short replies."""
    words = {"kind": "words", "words": "Nobody calls any more.", "problem": "loneliness"}
    return {"systems": TINY, "source": words, "sampling": {"max_tokens": 12}} | more


def ended(ask: Ask, identifier: str, what: str = "comparison", seconds: float = 60) -> dict[str, Any]:
    """Waits until it does not run any more."""
    until = time.monotonic() + seconds
    while (found := ask(f"{what}/{identifier}"))["running"]:
        assert time.monotonic() < until, found
        time.sleep(0.02)
    return dict(found)


def text_of(column: dict[str, Any]) -> str:
    return "".join(part for part, _ in column["reply"])


