"""A process of its own for every test, and a stage of rewards at toy size, for more than one file of tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.train.fresh_process import forget_process
from tests.train.policies import share_of_letter, toy_policy


@pytest.fixture(autouse=True)
def own_process() -> Iterator[None]:
    """No test meets the devices and the precision that an earlier one chose; toy models are fastest on one thread."""
    forget_process()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def toy_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mixture's settings, and toy parts in place of the embedded model, its data and its reward."""
    policy, situations = toy_policy()
    monkeypatch.setattr("train.rounds.load_policy", lambda parent, mixture: policy)
    monkeypatch.setattr("train.rounds.build_task", lambda mixture, model, processor: situations.task)
    monkeypatch.setattr("train.rounds.rewarder_of", lambda reward, mixture, window: share_of_letter)
    monkeypatch.setattr("train.rounds.data_hash", lambda corpora, split, folder: f"{corpora} {split} {folder}")
    mixture = tmp_path / "sft.yaml"
    mixture.write_text("data: here\n")
    return mixture
