"""Win, tie and loss, Bradley-Terry against an independent fit, position bias; what has no estimate says so."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm

from multimood_core.preference import bradley_terry, majority, position_bias, swapped, win_tie_loss


def round_robin(strengths: dict[str, float], n: int, seed: int = 0) -> list[tuple[str, str, str]]:
    """``n`` comparisons of each pair, a fifth of them ties, won by the strengths' odds."""
    rng, names, found = np.random.default_rng(seed), sorted(strengths), []
    for i, left in enumerate(names):
        for right in names[i + 1 :]:
            p = 1 / (1 + np.exp(strengths[right] - strengths[left]))
            for _ in range(n):
                verdict = "tie" if rng.random() < 0.2 else "win" if rng.random() < p else "loss"
                found.append((left, right, verdict))
    return found


def independent_fit(comparisons: list[tuple[str, str, str]], names: list[str]) -> np.ndarray:
    """The same model as a binomial regression of statsmodels, each tie as half a success."""
    design = np.zeros((len(comparisons), len(names)))
    for row, (left, right, _) in zip(design, comparisons, strict=True):
        row[names.index(left)], row[names.index(right)] = 1, -1
    share = np.array([{"win": 1.0, "tie": 0.5, "loss": 0.0}[verdict] for *_, verdict in comparisons])
    fitted = sm.GLM(share, design[:, 1:], family=sm.families.Binomial()).fit(tol=1e-12)
    beta = np.append(0, fitted.params)
    return beta - beta.mean()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(3))
def test_strengths_equal_a_logistic_regression(seed: int) -> None:
    comparisons = round_robin({"a": 0.8, "b": 0.0, "c": -0.3, "d": -0.5}, 40, seed)
    found = {s.system: s.value for s in bradley_terry(comparisons, samples=2).strengths}
    assert [found[name] for name in "abcd"] == pytest.approx(list(independent_fit(comparisons, list("abcd"))), abs=1e-6)


def test_two_systems_worked_out_by_hand() -> None:
    # 6 wins, 2 ties, 2 losses: 7 points of 10 against 3, so the log odds are ln(7/3), half of it on either side of 0.
    comparisons = [("x", "y", "win")] * 6 + [("x", "y", "tie")] * 2 + [("x", "y", "loss")] * 2
    found = bradley_terry(comparisons)
    assert [s.system for s in found.strengths] == ["x", "y"]
    assert found.strengths[0].value == pytest.approx(np.log(7 / 3) / 2)
    low, high = found.strengths[0].low, found.strengths[0].high
    assert low is not None
    assert high is not None
    assert low < found.strengths[0].value < high


def test_comparisons_that_went_alike_or_come_of_one_vote_give_no_interval() -> None:
    for comparisons, groups in (([("a", "b", "tie")] * 3, None), ([("a", "b", "win"), ("b", "a", "win")], ["one", "one"])):
        found = bradley_terry(comparisons, groups=groups)
        assert [(s.value, s.low, s.high) for s in found.strengths] == [(0, None, None)] * 2


def test_whole_votes_are_resampled() -> None:
    comparisons = round_robin({"a": 0.4, "b": 0.0}, 30)
    once = bradley_terry(comparisons).strengths[0]
    # The same votes told four times over are no more votes: the value and the interval stay as they were.
    groups = [str(i) for i in range(30)] * 4
    told = bradley_terry(comparisons * 4, groups=groups).strengths[0]
    alone = bradley_terry(comparisons * 4).strengths[0]
    assert told.value == pytest.approx(once.value)
    widths = [strength.high - strength.low for strength in (once, told, alone)]  # type: ignore[operator]
    assert widths[1] == pytest.approx(widths[0], rel=0.15)
    assert widths[2] == pytest.approx(widths[0] / 2, rel=0.15)


def test_the_side_on_which_a_system_stands_changes_nothing() -> None:
    comparisons = round_robin({"a": 0.5, "b": 0.0, "c": -0.5}, 20)
    turned = [(right, left, swapped(verdict)) for left, right, verdict in comparisons]  # type: ignore[arg-type]
    for one, other in zip(bradley_terry(comparisons, 2).strengths, bradley_terry(turned, 2).strengths, strict=True):
        assert (one.system, one.value) == (other.system, pytest.approx(other.value))


@pytest.mark.parametrize(
    ("comparisons", "why"),
    [
        ([], "no comparisons"),
        ([("a", "b", "win")] * 5, "b never won or tied; a never lost or tied"),
        ([("a", "b", "tie"), ("c", "d", "tie")], "never compared"),
        ([("a", "b", "tie"), ("c", "d", "tie"), ("a", "c", "win")], "one group"),
    ],
)
def test_strengths_without_a_finite_estimate_say_why(comparisons: list[tuple[str, str, str]], why: str) -> None:
    found = bradley_terry(comparisons)
    assert found.strengths == ()
    assert why in found.why


def test_counts_shares_and_the_sign_test() -> None:
    table = win_tie_loss(["win"] * 8 + ["tie"] * 5 + ["loss"] * 2)
    assert (table.wins, table.ties, table.losses, table.n) == (8, 5, 2, 15)
    assert table.share("tie") == pytest.approx(1 / 3)
    # Two-sided: 2 (C(10,0) + C(10,1) + C(10,2)) / 2^10
    assert table.p == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert win_tie_loss(["tie"]).p is None
    assert win_tie_loss([]).share("win") is None


def test_position_bias_is_tested_against_one_half() -> None:
    bias = position_bias(9, 1)
    assert bias.share == 0.9
    assert bias.p == pytest.approx(2 * (1 + 10) / 1024)
    assert position_bias(0, 0).share is None


def test_the_majority_is_strict() -> None:
    assert majority(["win", "win", "tie"]) == "win"
    assert majority(["win", "tie"]) is None
    assert majority([]) is None


def test_unknown_verdicts_and_self_comparisons_are_refused() -> None:
    with pytest.raises(ValueError, match="better"):
        win_tie_loss(["better"])
    with pytest.raises(ValueError, match="better"):
        bradley_terry([("a", "b", "better")])
    with pytest.raises(ValueError, match="itself"):
        bradley_terry([("a", "a", "win")])
