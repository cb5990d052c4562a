"""The places A and B on a rater's page, and verdicts of the left response, which are what is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from app.studies.records import REASONS, Criterion, Submission, expect
from multimood_core.preference import VERDICTS, swapped

PLACES: Final = ("a", "tie", "b")  # what a rater chooses, as shown: A better, tie, B better
MOST_SECONDS: Final = 86400.0


def shown(verdicts: Mapping[str, str], left_first: bool) -> dict[str, str]:
    """Verdicts of the left response as places on the rater's page."""
    places = PLACES if left_first else PLACES[::-1]
    return {criterion: places[VERDICTS.index(verdict)] for criterion, verdict in verdicts.items()}  # type: ignore[arg-type]


def of_left(sent: Submission, criteria: Sequence[Criterion], left_first: bool) -> dict[str, str]:
    """Places on the page as verdicts of the left response.

    Raises:
        InputError: a criterion is absent or unknown, a place is none of ``PLACES``, or a reason goes with verdicts.
    """
    expect(0 <= sent.seconds <= MOST_SECONDS, f"0 to {MOST_SECONDS:,.0f} seconds", sent.seconds)
    if sent.reason:
        expect(sent.reason in REASONS, f"a reason of {', '.join(REASONS)}", sent.reason)
        expect(not sent.verdicts, "no verdicts where an item cannot be judged", dict(sent.verdicts))
        return {}
    keys = [criterion.key for criterion in criteria]
    good = set(sent.verdicts) == set(keys) and set(sent.verdicts.values()) <= set(PLACES)
    expect(good, f"{', '.join(PLACES)} for each of {', '.join(keys)}", dict(sent.verdicts))
    of_first = {key: VERDICTS[PLACES.index(sent.verdicts[key])] for key in keys}
    return dict(of_first) if left_first else {key: swapped(verdict) for key, verdict in of_first.items()}
