"""Where the app keeps what it keeps: one folder of this user alone, outside everything that is served."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

VARIABLE: Final = "MULTIMOOD_RECORDS"
DEFAULT: Final = Path(__file__).resolve().parents[1] / "data" / "records"


def records() -> Path:
    """The folder of saved sessions and the audit log, made where it is absent; ``MULTIMOOD_RECORDS`` names another."""
    folder = Path(os.environ.get(VARIABLE) or DEFAULT).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder
