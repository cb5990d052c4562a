"""Why a comparison ended early."""

from __future__ import annotations

from multimood_core.errors import MultiMoodError


class StoppedError(MultiMoodError):
    """A person has stopped it, or the app closes."""
