"""Starts MultiMood's app: ``python app.py``, then open the address that it prints."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.places import is_loopback

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported, which reads it then


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    from multimood_core.registry import DEFAULT

    parser = argparse.ArgumentParser(prog="app.py", description="MultiMood: live emotional support, beside a professional.")
    parser.add_argument(
        "--host", default="127.0.0.1",
        help="address to serve on (%(default)s); another than this computer's own needs --tls-cert, --tls-key and accounts",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=7860, help="(%(default)s)")
    parser.add_argument("--tls-cert", type=Path, help="the certificate (PEM) with which the connection is encrypted")
    parser.add_argument("--tls-key", type=Path, help="its key (PEM)")
    parser.add_argument(
        "--name", action="append", default=[], help="a name under which others reach the app, with accounts; may be repeated"
    )
    parser.add_argument("--accounts", action="store_true", help="everybody signs in, on this computer too")
    parser.add_argument("--share", action="store_true", help="refused: nothing is handed to a host elsewhere")
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


def refused(options: argparse.Namespace) -> str:
    """Why these options cannot be served with; empty where they can."""
    if options.share:
        return "MultiMood is not shared through a host elsewhere: expected no --share; use --host with TLS and accounts."
    if (options.tls_cert is None) != (options.tls_key is None):
        return "Expected --tls-cert and --tls-key together, got one of them."
    for path in filter(None, (options.tls_cert, options.tls_key)):
        if not path.is_file():
            return f"Expected the file of --tls-cert or --tls-key at {path}, got none there."
    if not is_loopback(options.host) and options.tls_cert is None:
        return (
            "Others are served over an encrypted connection and with accounts only: expected --tls-cert and --tls-key with a "
            f"host that is not this computer's own, got {options.host}; or reach 127.0.0.1 through an SSH tunnel."
        )
    return ""


def everybody_signs_in(options: argparse.Namespace) -> bool:
    """Whether accounts are asked for: always where others can reach the app, by its address or by a name."""
    return bool(options.accounts or options.name or not is_loopback(options.host))


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until interrupted; returns the exit status."""
    options = arguments(argv)
    if refusal := refused(options):
        print(refusal, file=sys.stderr)
        return 2
    for ending in (signal.SIGINT, signal.SIGTERM):  # a service's stop tidies up as Ctrl+C does, in the background too
        signal.signal(ending, signal.default_int_handler)
    try:
        return serve(options)
    except KeyboardInterrupt:
        print("\nClosed.")
    return 0


def serve(options: argparse.Namespace) -> int:
    """Loads the model and serves until interrupted; returns the exit status of what went wrong."""
    from app.build import serving
    from app.safety import Safety
    from multimood_core.engine import Engine
    from multimood_core.errors import MultiMoodError

    try:
        safety = Safety.load(options.country)
        print(f"Loading {options.checkpoint}.", flush=True)
        engine = Engine(options.checkpoint, language=options.language)
        engine.transcriber.load()
        tls = (options.tls_cert, options.tls_key) if options.tls_cert else None
        guarded: dict[str, Any] = {"tls": tls, "names": options.name, "accounts": everybody_signs_in(options)}
        with serving(engine, options.host, options.port, options.capture, safety, **guarded) as served:
            print(f"MultiMood is at {served.url} (Ctrl+C ends it).", flush=True)
            threading.Event().wait()
    except MultiMoodError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(f"{error}; choose another with --port.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
