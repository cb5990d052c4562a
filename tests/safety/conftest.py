"""A real engine on a tiny model, and the prompt of the real language model's own tokenizer."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from multimood_core.decoding import Sampling
from multimood_core.engine import TurnRun
from multimood_core.processor import MultiMoodProcessor
from multimood_core.weights import weights_path
from tests.app.conftest import *  # noqa: F403 - the engine on a tiny model, and what stands on it


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies of two tokens: what is tested here does not depend on their length."""
    events = TurnRun.events
    monkeypatch.setattr(TurnRun, "events", lambda run, sampling=None: events(run, sampling or Sampling(max_tokens=2)))


@pytest.fixture(scope="session", params=["brief", "ecot"])
def processor(request: pytest.FixtureRequest) -> MultiMoodProcessor:
    """The embedded language model's tokenizer with each of the two prompts."""
    return MultiMoodProcessor(AutoTokenizer.from_pretrained(weights_path("smollm2")), prompt=request.param)
