"""Fuzzing by Atheris: ``make fuzz``, or ``python -m tests.safety.fuzz --seconds 60 media history``.

Each target runs in a process of its own, for its seconds, with the memory and the time of one input limited. An input that
raises anything but a ``MultiMoodError``, takes more than ``SLOW`` seconds or more than ``MEGABYTES`` is written into
``tests/safety/corpus/TARGET``, where the test suite replays it from then on. FFmpeg itself is not instrumented: inside it
the search is blind, and what it finds there it finds by mutation of whole small files.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CORPUS = Path(__file__).resolve().parent / "corpus"
SLOW = 20  # seconds for one input; a machine that does other work beside it is slow
MEGABYTES = 3072
LARGEST = 65_536  # bytes of an input


def _run_target(name: str, seconds: int, folder: Path) -> None:
    """Fuzzes one target in this process, until its time is up or something is found; does not return."""
    import atheris

    with atheris.instrument_imports(include=["multimood_core", "app"]):
        from tests.safety.targets import tried  # isort: skip - what seeds import is instrumented by now
        from tests.safety.seeds import seeds

        tried(name, seeds(name)[0])  # what a first input imports is no input's time, and is instrumented too

    inputs = folder / "inputs"
    inputs.mkdir()
    for data in seeds(name):
        (inputs / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    limits = [f"-max_total_time={seconds}", f"-timeout={SLOW}", f"-rss_limit_mb={MEGABYTES}", f"-max_len={LARGEST}"]
    atheris.Setup([sys.argv[0], str(inputs), f"-artifact_prefix={folder}/", "-print_final_stats=1", *limits],
                  lambda data: tried(name, data))  # fmt: skip
    atheris.Fuzz()


def main() -> int:
    """Runs the targets one after the other; returns 1 where one of them found something."""
    from tests.safety.targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; all where none is named")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (%(default)s)")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = sorted(set(options.targets) - set(TARGETS))
    if unknown:
        parser.error(f"expected targets of {', '.join(TARGETS)}, got {', '.join(unknown)}")
    if options.inside is not None:
        _run_target(options.targets[0], options.seconds, options.inside)
    failed = False
    print(f"{'target':<10} {'seconds':>7} {'inputs':>8} {'MB':>6}  found")
    for name in options.targets or TARGETS:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "tests.safety.fuzz", name, "--seconds", str(options.seconds), "--inside", folder]
            begun = time.monotonic()
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, env=os.environ)
            stats = dict(re.findall(r"stat::(\w+):\s+(\d+)", done.stderr))
            kept = []
            for artifact in sorted(Path(folder).glob("*-*")):
                target = CORPUS / name / artifact.name.partition("-")[2][:16]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(artifact.read_bytes())
                kept.append(f"{artifact.name.partition('-')[0]} {target.relative_to(CORPUS.parent)}")
            found = "; ".join(kept) or ("nothing" if not done.returncode else f"exit status {done.returncode}")
            runs, memory = stats.get("number_of_executed_units", "-"), stats.get("peak_rss_mb", "-")
            print(f"{name:<10} {time.monotonic() - begun:>7.0f} {runs:>8} {memory:>6}  {found}", flush=True)
            if done.returncode:
                failed = True
                print("\n".join(done.stderr.splitlines()[-40:]), file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
