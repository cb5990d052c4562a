"""Where the app keeps what it keeps, and whether an address is this computer's own; light, as the command reads it first."""

from __future__ import annotations

import ipaddress
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


def is_loopback(host: str) -> bool:
    """Whether only this computer can reach what is served on ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
