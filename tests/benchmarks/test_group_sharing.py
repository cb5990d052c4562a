"""Sharing what a group shares saves at least a third of a step, on a toy model and on the default."""

from __future__ import annotations

import pytest
import torch

from multimood_core.registry import DEFAULT, available
from tests.benchmarks import group_sharing
from tests.train.policies import toy_policy


def test_both_ways_write_as_many_tokens_and_find_the_same_likelihoods() -> None:
    policy, _ = toy_policy()
    prompts = group_sharing.make_prompts(policy, 2)
    ways = [group_sharing.Step(policy, prompts, 3, 5, shared) for shared in (True, False)]
    for way in ways:
        way.write()
        assert [len(c) for group in way.groups for c in group.completions] == [5] * 6
    together, apart = ways
    apart.groups = [
        group_sharing.Group(group.prompt, group.prefix, (completion,), ("",))
        for group in together.groups
        for completion in group.completions
    ]
    first, second = (torch.cat([way._likelihoods(group) for group in way.groups]) for way in ways)
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


def test_the_table_says_how_many_times() -> None:
    found = {"the step": [[1.0, 3.0], [2.0, 3.0], [1.0, 2.0]]}
    assert group_sharing.table(found, 4, 2).splitlines()[-1] == "| the step | 1.00 s | 3.00 s | 2.00 (1.50 to 3.00) |"


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
def test_a_step_is_at_least_one_and_a_half_times_faster(capsys: pytest.CaptureFixture[str]) -> None:
    if DEFAULT not in available():
        pytest.skip(f"no checkpoint {DEFAULT} in assets/checkpoints to time")
    found = group_sharing.measure(group_sharing.prepared(DEFAULT), group=4, prompts=4, tokens=20, repeats=3)
    with capsys.disabled():
        print("", group_sharing.table(found, 4, 4), sep="\n\n")
    shared, apart = (min(column) for column in zip(*found["the step"], strict=True))
    assert apart > 1.5 * shared


