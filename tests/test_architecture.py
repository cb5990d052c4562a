"""The house's rules that an import or a path could break."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
# Room -> what it must not import, anywhere, also lazily inside a function.
FORBIDDEN = {
    "multimood_core": {"gradio", "app", "train"},
    "app": {"train"},
    "train": {"app", "gradio"},
}


def _tracked() -> list[Path]:
    """The files that are, or would be, in a commit."""
    command = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip(f"no git checkout to list: {listed.stderr.strip()}")
    return [path for name in listed.stdout.split("\0") if name and (path := REPOSITORY / name).is_file()]


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full module name of every import in a file, relative ones resolved."""
    package = path.relative_to(REPOSITORY).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *filter(None, [node.module])])
            yield node.lineno, module
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("import_module", "__import__"):
                yield node.lineno, str(node.args[0].value)


@pytest.mark.parametrize("room", FORBIDDEN)
def test_rooms_import_only_what_they_may(room: str) -> None:
    files = sorted((REPOSITORY / room).rglob("*.py"))
    assert files, f"{room} has no modules"
    broken = [
        f"{path.relative_to(REPOSITORY)}:{line} imports {module}"
        for path in files
        for line, module in imported(path)
        if module.split(".")[0] in FORBIDDEN[room]
    ]
    assert not broken, "\n".join(broken)


def test_the_walk_sees_lazy_relative_and_dynamic_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "REPOSITORY", tmp_path)
    path = tmp_path / "train" / "a.py"
    path.parent.mkdir()
    path.write_text(
        "def f():\n    from app import live\n    from .. import app\n    from . import b\n"
        "    import importlib\n    importlib.import_module('gradio.themes')\n"
    )
    assert {module for _, module in imported(path)} >= {"app", "app.live", "train.b", "gradio.themes"}


# Folders of one machine or another; a relative path or a documented variable stands in their place.
_MACHINE_PATH = re.compile(r"(?<![\w.~}/-])/(?:" + "|".join(["work", "root", "home", "Users", "mnt"]) + r")/[\w.-]+")


def test_no_file_names_a_path_of_one_machine() -> None:
    found = []
    for path in _tracked():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:80]}"
            for number, line in enumerate(lines, 1)
            if _MACHINE_PATH.search(line)
        ]
    assert not found, "\n".join(found)


def test_a_machine_path_would_be_found() -> None:
    assert _MACHINE_PATH.search("open('/" + "work/data/x.csv')")
    assert not _MACHINE_PATH.search("https://example.org/work/x and ../work/x")
