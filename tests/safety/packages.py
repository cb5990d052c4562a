"""What is installed at run time: licences and known vulnerabilities. ``make audit``, or ``python -m tests.safety.packages``.

Exit status 0 where nothing is wrong, 1 where a package has a known vulnerability or a licence that is not accepted, and 3
where the vulnerability data could not be had: then nothing is known, and it says so.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[2]
RUN_TIME = ("requirements.txt", "requirements-weights.txt")
LOCK = "requirements.lock"
UNKNOWN = 3

# Copyleft in any form; what is under one of these has to be among ACCEPTED, which says why it may be.
COPYLEFT = re.compile(
    r"\bA?GPL|\bLGPL|Lesser|General Public|Affero|\bMPL|Mozilla|\bEUPL|\bSSPL|\bCDDL|\bEPL|Eclipse", re.IGNORECASE
)
ACCEPTED = {
    "certifi": "MPL covers its own files, which are used as they are",
    "tqdm": "MPL covers its own files, which are used as they are",
    "orjson": "MPL covers its own files, which are used as they are; Gradio asks for it",
    "psycopg": "LGPL; imported as it is, and only where a PostgreSQL server is configured",
    "psycopg-binary": "LGPL; imported as it is, and only where a PostgreSQL server is configured",
}

# Libraries under the GPL that wheels are known to carry, whatever licence their metadata states, and where they may be.
GPL_LIBRARIES = re.compile(r"lib(x26[45]|xvidcore|postproc|vidstab|rubberband|fftw3\w*|gsl|readline|bluray)\b")
ACCEPTED_LIBRARIES = {"av": {"x264", "x265"}}  # no release comes without; nothing here encodes with them (see SAFETY.md)


def requirements(name: str) -> Iterator[Requirement]:
    """The requirements of one of the repository's files."""
    for line in (REPOSITORY / name).read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text and not text.startswith("-"):
            yield Requirement(text)


def installed(wanted: Iterator[Requirement], whole: bool = True) -> dict[str, importlib.metadata.Distribution]:
    """What is installed for ``wanted``, by canonical name; with ``whole``, all that they ask for in turn."""
    found: dict[str, importlib.metadata.Distribution] = {}
    seen: set[tuple[str, str]] = set()
    todo = [(requirement, "") for requirement in wanted]
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        found[name] = importlib.metadata.distribution(requirement.name)
        for asked in ("", *sorted(requirement.extras)):
            if whole and (name, asked) not in seen:
                seen.add((name, asked))
                todo += [(Requirement(text), asked) for text in found[name].requires or []]
    return found


def run_time() -> dict[str, importlib.metadata.Distribution]:
    """Everything that is installed for running: with dependencies, but for the packages that only hold weights."""
    return installed(requirements(RUN_TIME[0])) | installed(requirements(RUN_TIME[1]), whole=False)


def licence(distribution: importlib.metadata.Distribution) -> str:
    """A distribution's licence as its metadata states it: the expression, else the classifiers, else the first line."""
    about = distribution.metadata
    classified = [c.rpartition("::")[2].strip() for c in about.get_all("Classifier") or [] if c.startswith("License ::")]
    stated = (about.get("License") or "").strip().partition("\n")[0]
    return about.get("License-Expression") or "; ".join(classified) or stated


def carried() -> dict[str, set[str]]:
    """The libraries under the GPL that lie in the wheels of what runs, by package."""
    found = {}
    for name, distribution in run_time().items():
        libraries = {m.group(1) for file in distribution.files or [] if (m := GPL_LIBRARIES.match(file.name))}
        if libraries:
            found[name] = libraries
    return found


def unaccepted() -> dict[str, str]:
    """Packages whose licence is copyleft and not accepted above, or is not stated."""
    licences = {name: licence(distribution) for name, distribution in run_time().items()}
    wrong = {name: text or "not stated" for name, text in licences.items() if not text or COPYLEFT.search(text)}
    return {name: text for name, text in wrong.items() if name not in ACCEPTED}


def vulnerabilities() -> tuple[dict[str, list[str]], list[str], str]:
    """Known vulnerabilities by package, the packages of which nothing is known, and pip-audit's own words."""
    lock = REPOSITORY / LOCK
    command = [sys.executable, "-m", "pip_audit", "-r", str(lock), "--disable-pip", "--no-deps", "--format", "json",
               "--progress-spinner", "off"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return {}, [r.name for r in locked()], (done.stderr.strip().splitlines() or ["no answer"])[-1]
    found = {entry["name"]: [v["id"] for v in entry["vulns"]] for entry in report if entry.get("vulns")}
    return found, [entry["name"] for entry in report if "skip_reason" in entry], "no data about them"


def locked() -> Iterator[Requirement]:
    """The packages of the lock file."""
    text = re.sub(r"\\\n", " ", (REPOSITORY / LOCK).read_text(encoding="utf-8"))
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            yield Requirement(line.partition("--hash")[0].strip())


def main() -> int:
    status = 0
    found = run_time()
    for name in sorted(found):
        print(f"{name:28} {found[name].version:18} {licence(found[name])}")
    for name, text in unaccepted().items():
        print(f"NOT ACCEPTED: {name} is under {text}; replace it, or say in {Path(__file__).name} why it may stay")
        status = 1
    for name, libraries in carried().items():
        accepted = libraries <= ACCEPTED_LIBRARIES.get(name, set())
        print(f"{'CARRIED' if accepted else 'NOT ACCEPTED'}: {name} brings {', '.join(sorted(libraries))}, under the GPL")
        status = status if accepted else 1
    vulnerable, unknown, why = vulnerabilities()
    total = len(list(locked()))
    for name, names in vulnerable.items():
        print(f"VULNERABLE: {name}: {', '.join(names)}")
        status = 1
    if unknown:
        print(f"NOT CHECKED: {len(unknown)} of {total} packages could not be looked up in the vulnerability data ({why}).")
        status = status or UNKNOWN
    print(f"{total - len(unknown)} of {total} packages were checked for known vulnerabilities; {len(vulnerable)} have some.")
    return status


if __name__ == "__main__":
    sys.exit(main())
