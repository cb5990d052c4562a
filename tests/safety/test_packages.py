"""What runs is under no copyleft licence that was not looked at, and every package of the lock has its hashes."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys

import pytest
from packaging.utils import canonicalize_name

from tests.safety import packages
from tests.safety.packages import ACCEPTED, COPYLEFT, LOCK, REPOSITORY, RUN_TIME, UNKNOWN


def test_no_copyleft_licence_runs_that_was_not_accepted_for_a_reason() -> None:
    found = packages.run_time()
    assert len(found) > 80
    assert packages.unaccepted() == {}
    assert all(COPYLEFT.search(packages.licence(found[name])) for name in ACCEPTED if name in found), "an exception too many"
    assert not any(re.search(r"(?<!L)GPL", packages.licence(found[name])) for name in ACCEPTED if name in found)


def test_wheels_carry_no_library_under_the_gpl_but_encoders_that_nothing_uses() -> None:
    assert packages.carried() == packages.ACCEPTED_LIBRARIES, "also one that is no longer carried is to be taken out"
    named = []
    for folder in ("app", "multimood_core", "train"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            named += re.findall(r"\.add_stream\(\s*([^,)]+)", text)
            assert "VideoWriter" not in text, f"{file}: OpenCV's writer chooses an encoder by itself"
    assert set(named) == {'"libvpx"'}


@pytest.mark.parametrize(
    ("text", "copyleft"),
    [
        ("GPL-3.0-or-later", True), ("GNU General Public License v3 (GPLv3)", True), ("LGPL-3.0-only", True),
        ("AGPL-3.0", True), ("MPL-2.0 AND MIT", True), ("Apache-2.0", False), ("BSD-3-Clause", False),
        ("MIT License", False), ("ISC License (ISCL)", False),
    ],
)  # fmt: skip
def test_copyleft_is_recognised(text: str, copyleft: bool) -> None:
    assert bool(COPYLEFT.search(text)) == copyleft


def test_the_lock_pins_what_the_requirements_pin() -> None:
    pinned = {canonicalize_name(r.name): r.specifier for r in packages.locked()}
    for file in RUN_TIME:
        for requirement in packages.requirements(file):
            version = str(pinned[canonicalize_name(requirement.name)]).removeprefix("==")
            assert requirement.specifier.contains(version), f"{requirement} of {file}, but {version} in {LOCK}: run `make lock`"


def test_each_package_of_the_lock_has_its_hashes_and_its_dependencies() -> None:
    text = (REPOSITORY / LOCK).read_text(encoding="utf-8")
    entries = re.findall(r"^([\w.-]+)==\S+ \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE)
    assert len(entries) == len(list(packages.locked())) > 100
    assert "://" not in text
    if sys.platform == "linux" and platform.machine() == "x86_64" and sys.version_info[:2] == (3, 11):
        names = {canonicalize_name(name) for name, _ in entries}
        assert set(packages.run_time()) <= names | {"setuptools"}, "run `make lock`"


def test_an_audit_without_data_is_not_a_clean_one() -> None:
    """Behind a proxy that does not answer nothing can be known: that is what it has to say."""
    command = [sys.executable, "-m", "tests.safety.packages"]
    nowhere = dict.fromkeys(("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"), "http://127.0.0.1:9")
    nowhere |= {"no_proxy": "", "NO_PROXY": ""}
    done = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, **nowhere}, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == UNKNOWN, done.stdout[-2000:] + done.stderr[-2000:]
    assert re.search(r"NOT CHECKED: (\d+) of \1 packages", done.stdout)
    assert "\n0 of " in done.stdout
