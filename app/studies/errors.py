"""Why a request was not done, each with its HTTP status; the text is shown to the person as it stands."""

from __future__ import annotations

from multimood_core.errors import MultiMoodError


class StudyError(MultiMoodError):
    """What was asked cannot be done as things are (409)."""

    status = 409


class InputError(StudyError):
    """What was sent is not what was expected (400)."""

    status = 400


class SignInError(StudyError):
    """Nobody is signed in, or name and password do not belong together (401)."""

    status = 401


class RefusedError(StudyError):
    """The account's role, or its place in the study, does not allow it (403)."""

    status = 403


class AbsentError(StudyError):
    """It is not there, or not for this account to know of (404)."""

    status = 404


class TooLargeError(StudyError):
    """More was sent than is read (413)."""

    status = 413


class TooManyError(StudyError):
    """Too many attempts (429)."""

    status = 429
