"""Errors whose text a person reads: what was expected, what came, how to mend it."""

from __future__ import annotations


class MultiMoodError(Exception):
    """Base of every error that the software raises on purpose. Its text is shown as it is, never a traceback."""


class MediaError(MultiMoodError):
    """A clip, picture, sound or capture device cannot be used."""


class ModelError(MultiMoodError):
    """A model, checkpoint, weight file or model input cannot be used."""


class DataError(MultiMoodError):
    """A data set, history file or label table cannot be used."""
