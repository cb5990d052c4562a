"""The rule of who is wanted next, by hand and by every sequence of votes."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.studies.adjudication import EXTRA, MAX_OVERLAP, Queue, settled_labels, standing
from multimood_core.preference import VERDICTS

C = ("fluency", "overall")


def votes(*rows: str) -> list[dict[str, str]]:
    """``"wt"`` is a win for the first criterion and a tie for the second."""
    words = {"w": "win", "t": "tie", "l": "loss"}
    return [dict(zip(C, (words[letter] for letter in row), strict=True)) for row in rows]


@pytest.mark.parametrize(
    ("rows", "state", "queue", "labels"),
    [
        ([], "open", Queue.NEW, {}),
        (["ww"], "open", Queue.BEGUN, {}),
        (["wt", "wt"], "settled", None, {"fluency": "win", "overall": "tie"}),
        (["wt", "wl"], "open", Queue.THIRD, {"fluency": "win"}),
        (["wt", "wl", "lt"], "settled", None, {"fluency": "win", "overall": "tie"}),
        (["wt", "wl", "lw"], "open", Queue.FOURTH, {"fluency": "win"}),
        (["wt", "wl", "lw", "ll"], "settled", None, {"fluency": "win", "overall": "loss"}),
    ],
)
def test_two_raters_then_a_third_then_a_fourth(
    rows: list[str], state: str, queue: Queue | None, labels: dict[str, str]
) -> None:
    found = standing(votes(*rows), 0, 0, 2, C)
    assert (found.state, found.queue, dict(found.labels)) == (state, queue, labels)


def test_who_has_the_pair_open_is_not_replaced() -> None:
    assert standing([], 2, 0, 2, C).queue is None
    assert standing(votes("ww"), 1, 0, 2, C).queue is None
    assert standing(votes("ww", "tt"), 1, 0, 2, C).queue is None
    assert standing([], 1, 0, 2, C).queue is Queue.BEGUN


def test_a_pair_that_raters_cannot_judge_is_set_aside() -> None:
    assert standing(votes("ww"), 0, 1, 2, C).queue is Queue.BEGUN
    assert standing(votes("ww"), 0, 2, 2, C).state == "aside"
    assert standing(votes("ww", "ww"), 0, 2, 2, C).state == "settled", "what is agreed stays agreed"


@pytest.mark.parametrize("overlap", range(1, MAX_OVERLAP + 1))
def test_every_sequence_of_votes_is_settled_by_the_last_extra_rater(overlap: int) -> None:
    for row in product(VERDICTS, repeat=overlap + EXTRA):
        cast = [{"overall": verdict} for verdict in row]
        labels = settled_labels(cast, overlap, ("overall",))
        assert labels, row
        count = next(n for n in range(overlap, len(row) + 1) if settled_labels(cast[:n], overlap, ("overall",)))
        assert standing(cast[:count], 0, 0, overlap, ("overall",)).state == "settled"
        if count > overlap:
            assert standing(cast[: count - 1], 0, 0, overlap, ("overall",)).queue in (Queue.THIRD, Queue.FOURTH)


@given(st.lists(st.sampled_from(VERDICTS), min_size=2, max_size=4), st.sampled_from(VERDICTS))
def test_a_later_vote_never_changes_a_settled_criterion(row: list[str], later: str) -> None:
    cast = [{"overall": verdict} for verdict in row]
    before = settled_labels(cast, 2, ("overall",))
    after = settled_labels([*cast, {"overall": later}], 2, ("overall",))
    assert before.items() <= after.items()
