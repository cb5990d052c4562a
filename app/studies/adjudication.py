"""When a pair of responses is settled and who is wanted next: a pure function of the votes, without clock or database.

``overlap`` raters judge first. A criterion on which one verdict leads is settled there and then; where none leads another
rater judges the pair without seeing a vote (a third, then a fourth, for the paper's two first raters). Every rater judges all
criteria, so that the form does not tell which of them the others disagreed on; a vote on a settled criterion changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal

from multimood_core.preference import majority

MAX_OVERLAP: Final = 3  # with three categories, more first raters could leave a tie that two more cannot break
EXTRA: Final = 2  # raters after the first ones: the third and the fourth of the paper
DECLINES: Final = 2  # this many raters who could not judge a pair set it aside for the researcher

State = Literal["open", "settled", "aside"]


class Queue(IntEnum):
    """How urgently a pair wants another rater; the smaller comes first."""

    FOURTH = 0
    THIRD = 1
    BEGUN = 2
    NEW = 3


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a pair stands: its settled labels, and in which queue it waits (None: it wants nobody now)."""

    state: State
    labels: Mapping[str, str]
    queue: Queue | None


def settled_labels(votes: Sequence[Mapping[str, str]], overlap: int, criteria: Sequence[str]) -> dict[str, str]:
    """The criteria on which one verdict leads, each as of the first vote from which it did.

    Args:
        votes: criterion -> verdict of each rater, in the order in which the raters were assigned.
        overlap: raters who judge before anything is settled.
        criteria: that the study asks.
    """
    labels: dict[str, str] = {}
    for count in range(overlap, len(votes) + 1):
        for criterion in criteria:
            if criterion not in labels:
                leading = majority([vote[criterion] for vote in votes[:count]])
                if leading is not None:
                    labels[criterion] = leading
    return labels


def standing(
    votes: Sequence[Mapping[str, str]], waiting: int, declined: int, overlap: int, criteria: Sequence[str]
) -> Standing:
    """Where a pair stands after these votes.

    Args:
        votes: as in ``settled_labels``.
        waiting: raters who have the pair before them and have not judged it.
        declined: raters who could not judge it.
        overlap: raters who judge first.
        criteria: that the study asks.
    """
    labels = settled_labels(votes, overlap, criteria)
    if len(votes) >= overlap and len(labels) == len(criteria):
        return Standing("settled", labels, None)
    if declined >= DECLINES or len(votes) >= overlap + EXTRA:
        return Standing("aside", labels, None)
    if len(votes) < overlap:
        if len(votes) + waiting >= overlap:
            return Standing("open", labels, None)
        return Standing("open", labels, Queue.BEGUN if votes or waiting else Queue.NEW)
    if waiting:
        return Standing("open", labels, None)
    return Standing("open", labels, Queue.THIRD if len(votes) == overlap else Queue.FOURTH)
