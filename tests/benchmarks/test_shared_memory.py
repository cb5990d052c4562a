"""Three checkpoints take little more memory than one, and answer as each would alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from multimood_core import registry
from tests.benchmarks.shared_memory import perturbed

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]


def rows(*folders: Path) -> list[dict[str, Any]]:
    """In a process of its own, whose memory holds nothing of another's."""
    command = [sys.executable, "-m", "tests.benchmarks.shared_memory", "--json", "--checkpoint", *map(str, folders)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, env={**os.environ})
    return json.loads(done.stdout.splitlines()[-1])


def test_three_checkpoints_within_1_3_times_the_memory_of_one(tmp_path: Path) -> None:
    if registry.DEFAULT not in registry.available():
        pytest.skip(f"no checkpoint {registry.DEFAULT}")
    copies = [perturbed(registry.DEFAULT, tmp_path, seed) for seed in (1, 2)]
    found = rows(registry.resolve(registry.DEFAULT), *copies)
    for figure in ("tensors", "resident"):
        assert found[2][figure] <= 1.3 * found[0][figure], figure
    assert found[0]["answer"] != found[1]["answer"], "the copies do not differ, so that sharing too much would not be seen"
    alone = rows(copies[1], copies[0])[0]
    assert found[2]["answer"] == alone["answer"]
