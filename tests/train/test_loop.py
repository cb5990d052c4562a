"""A killed run goes on as if nothing had happened; what cannot be trained or written says so and spoils nothing."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multimood_core.errors import ModelError
from tests.train.killed_run import make_loop
from train.files import write_whole
from train.loop import PRECISIONS, precision_on, token_batches

REPOSITORY = Path(__file__).resolve().parents[2]


def curve(out: Path) -> list[tuple[int, float, float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["lr"]) for row in rows]


def start(out: Path, *more: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "tests.train.killed_run", str(out), *more]
    return subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_killed_run_resumes_into_the_curve_of_one_that_was_not_killed(tmp_path: Path) -> None:
    whole, killed = make_loop(tmp_path / "whole"), tmp_path / "killed"
    whole.run()
    process = start(killed, "0.03")
    log, limit = killed / "metrics.jsonl", time.monotonic() + 120
    while time.monotonic() < limit and not (log.is_file() and log.read_text().count("\n") >= 8):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(curve(killed)) < whole.total_steps
    with log.open("a") as file:  # what a kill in the middle of a line leaves
        file.write('{"step": 9')
    resumed = make_loop(killed)
    resumed.run(resume=True)
    assert [step for step, _, _ in curve(killed)] == list(range(1, whole.total_steps + 1))
    torch.testing.assert_close(torch.tensor(curve(killed)), torch.tensor(curve(tmp_path / "whole")))
    torch.testing.assert_close(resumed.trained_state(), whole.trained_state())


@pytest.mark.parametrize(("in_hardware", "expected"), [(True, "bf16"), (False, "no")])
def test_half_precision_is_taken_only_where_it_is_not_emulated(
    monkeypatch: pytest.MonkeyPatch, in_hardware: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: in_hardware)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert precision_on("cpu", "auto") == expected
    assert precision_on("h100", "auto") == "bf16"


def test_a_precision_that_was_named_is_taken_or_refused() -> None:
    assert [precision_on("cpu", name) for name in ("bf16", "no")] == ["bf16", "no"]
    assert precision_on("cuda", "fp16") == "fp16"
    with pytest.raises(ModelError, match="needs a GPU"):
        precision_on("cpu", "fp16")
    with pytest.raises(ModelError, match=", ".join(PRECISIONS)):
        precision_on("cpu", "half")


def test_the_order_and_the_rate_follow_from_the_configuration(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_loop(tmp_path / name, epochs=1.5).run()
    a = curve(tmp_path / "a")
    assert a == curve(tmp_path / "b")
    assert max(rate for _, _, rate in a) == pytest.approx(0.05)
    assert a[0][2] < a[1][2]
    assert a[-1][2] == pytest.approx(0, abs=1e-9)


def test_a_loss_that_is_no_number_stops_and_leaves_the_last_state(tmp_path: Path) -> None:
    loop = make_loop(tmp_path / "run")
    loop.run()
    before = (tmp_path / "run/state/trained.safetensors").read_bytes()
    again = make_loop(tmp_path / "run")
    again.total_steps += 1
    again.loss = lambda batch, rng: {"loss": torch.tensor(float("nan"), requires_grad=True)}
    with pytest.raises(ModelError, match=rf"The loss is nan at step {loop.total_steps}\. Lower lr"):
        again.run(resume=True)
    assert (tmp_path / "run/state/trained.safetensors").read_bytes() == before


def test_a_full_disk_says_so_and_leaves_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = make_loop(tmp_path / "run")
    loop.run()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("train.state.save_file", full)
    with pytest.raises(ModelError, match=r"Could not write .*state: .*No space left.*make room"):
        loop._save()
    monkeypatch.undo()
    assert not list((tmp_path / "run").glob("*.partial"))
    resumed = make_loop(tmp_path / "run")
    resumed._load()
    assert resumed.step == loop.total_steps


@pytest.mark.parametrize("writer", ["safetensors", "torch"])
def test_a_file_that_may_not_grow_is_an_error_of_the_same_kind(tmp_path: Path, writer: str) -> None:
    """safetensors and torch.save raise errors of their own when the system refuses to write."""
    from safetensors.torch import save_file

    tensor = torch.zeros(500_000)

    def fill(folder: Path) -> None:
        if writer == "torch":
            torch.save(tensor, folder / "x.pt")
        else:
            save_file({"x": tensor}, folder / "x.safetensors")

    write_whole(tmp_path / "state", lambda folder: (folder / "good").touch())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ModelError, match="Could not write"):
            write_whole(tmp_path / "state", fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["state"]
    assert os.listdir(tmp_path / "state") == ["good"]


def test_a_half_written_folder_is_never_loaded(tmp_path: Path) -> None:
    loop = make_loop(tmp_path / "run")
    half = tmp_path / "run/state.partial"
    half.mkdir(parents=True)
    (half / "trained.safetensors").write_bytes(b"half")
    with pytest.raises(ModelError, match=r"--resume needs .*state, which is not there"):
        loop.run(resume=True)
    loop.run()  # and it is in nobody's way
    assert not half.exists()


def test_a_death_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    loop = make_loop(tmp_path / "run")
    loop.run()
    (tmp_path / "run/state").rename(tmp_path / "run/state.old")
    resumed = make_loop(tmp_path / "run")
    resumed._load()
    assert resumed.step == loop.total_steps
    torch.testing.assert_close(resumed.trained_state(), loop.trained_state())


def test_a_state_of_other_parameters_is_refused(tmp_path: Path) -> None:
    make_loop(tmp_path / "run").run()
    other = make_loop(tmp_path / "run")
    other.model.bias.requires_grad_(False)
    with pytest.raises(ModelError, match="other parameters"):
        other.run(resume=True)


def test_a_run_is_not_resumed_under_another_configuration(tmp_path: Path) -> None:
    make_loop(tmp_path / "run", epochs=1.0).run()
    longer = make_loop(tmp_path / "run", epochs=2.0)
    with pytest.raises(ModelError, match=r"epochs: 1\.0 then, 2\.0 now.*--out=FOLDER"):
        longer.run(resume=True)


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=80),
    st.integers(1, 600),
    st.integers(0, 2**32),
)
def test_batches_hold_every_sample_once_and_keep_the_budget(lengths: list[int], budget: int, seed: int) -> None:
    batches = token_batches(lengths, budget, random.Random(seed))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:  # one sample that is longer than the budget stands alone
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
