"""Starts MultiMood's app: ``python app.py``, then open the address that it prints."""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
import threading
from collections.abc import Sequence

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported, which reads it then


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    from multimood_core.registry import DEFAULT

    parser = argparse.ArgumentParser(prog="app.py", description="MultiMood: live emotional support, beside a professional.")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on; this computer's own only (%(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="(%(default)s)")
    parser.add_argument("--checkpoint", default=DEFAULT, help="name in assets/checkpoints, or a folder (%(default)s)")
    parser.add_argument(
        "--capture", choices=("browser", "local"), default="browser",
        help="whose camera and microphone: the page's, or this computer's by OpenCV and PortAudio (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--country", default="INT",
        help="whose help lines an alert shows: a code of assets/risk/resources.yaml (%(default)s: no country)",
    )  # fmt: skip
    parser.add_argument("--language", help="spoken language, e.g. en or de; found out for each turn where not given")
    return parser.parse_args(argv)


def is_loopback(host: str) -> bool:
    """Whether only this computer can reach what is served on ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until interrupted; returns the exit status."""
    options = arguments(argv)
    if not is_loopback(options.host):
        print(
            "MultiMood's Live tab has no accounts and shows clients' words to whoever opens it, so it serves on this computer "
            f"only: expected --host 127.0.0.1, got {options.host}; reach it from elsewhere through an SSH tunnel.",
            file=sys.stderr,
        )
        return 2
    from app.build import serving
    from app.safety import Safety
    from multimood_core.engine import Engine
    from multimood_core.errors import MultiMoodError

    try:
        safety = Safety.load(options.country)
        print(f"Loading {options.checkpoint}.", flush=True)
        engine = Engine(options.checkpoint, language=options.language)
        engine.transcriber.load()
    except MultiMoodError as error:
        print(error, file=sys.stderr)
        return 1
    try:
        with serving(engine, options.host, options.port, options.capture, safety) as served:
            print(f"MultiMood is at {served.url} (Ctrl+C ends it).", flush=True)
            threading.Event().wait()
    except OSError as error:
        print(f"{error}; choose another with --port.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nClosed.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
