"""The documents are true: what they name exists (places, files, commands, options, tests), and every figure is there."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest

from multimood_core.records import TurnPrediction
from tests import paper_lines

REPOSITORY = Path(__file__).resolve().parent.parent
OWN = ("README.md", "PAPER.md", "CONTRIBUTING.md", "BENCHMARKS.md", "SAFETY.md")
UNMEASURED = "TO-MEASURE"
_TEST = re.compile(r"`(?P<file>tests/[\w/]+\.py)::(?P<name>\w+)`")
_PATH = re.compile(r"`(?P<path>(?:app|assets|multimood_core|tests|train)/[\w./-]*\w|[\w.-]+\.(?:py|toml|txt))`")
_MODULE = re.compile(r"python -m (?P<module>[a-z_][\w.]*)(?P<arguments>[^\n`]*)")
_LINK = re.compile(r"\]\((?P<target>[^)#\s]+)\)|<img[^>]* src=\"(?P<source>[^\"]+)\"")
_TARGET = re.compile(r"\bmake (?P<target>[a-z-]+)")


def tracked_documents() -> list[Path]:
    """Every Markdown file that is, or would be, in a commit."""
    command = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip(f"no git checkout to list: {listed.stderr.strip()}")
    return [path for name in listed.stdout.split("\0") if name and (path := REPOSITORY / name).is_file()]


def read(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def code_of(text: str) -> str:
    """Command lines and code of a document: prose may use words such as "make" as it likes."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))])


def test_every_figure_is_measured() -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}"
        for path in tracked_documents()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if UNMEASURED in line
    ]
    assert not found, "figures still to be measured: " + ", ".join(found)


def test_the_places_of_the_paper_are_where_it_says() -> None:
    named = list(paper_lines.places(read("PAPER.md")))
    assert len(named) > 40, "the document has lost its places, or their form"
    wrong = [
        f"{place.file}:{place.line} {place.symbol} (now {now})"
        for place in named
        if (now := paper_lines.line_of(REPOSITORY / place.file, place.symbol)) != place.line
    ]
    assert not wrong, "run `python -m tests.paper_lines`: " + "; ".join(wrong)


def test_a_place_that_moved_or_went_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import os\n\n\nclass A:\n    x: int = 1\n\n    @property\n    def f(self): ...\n")
    (tmp_path / "b.yaml").write_text("# lr: of the header\nlr: 1\n")
    text = "`a.py:1 A` `a.py:1 A.f` `a.py:1 A.x` `b.yaml:1 lr`"
    assert paper_lines.refreshed(text, tmp_path) == "`a.py:4 A` `a.py:8 A.f` `a.py:5 A.x` `b.yaml:2 lr`"
    with pytest.raises(LookupError, match="A.g"):
        paper_lines.refreshed("`a.py:1 A.g`", tmp_path)


@pytest.mark.parametrize("name", OWN)
def test_files_that_a_document_names_exist(name: str) -> None:
    text = read(name)
    paths = {match["path"] for match in _PATH.finditer(text) if "NAME" not in match["path"]}
    targets = {match["target"] or match["source"] for match in _LINK.finditer(text)}
    local = {target for target in targets if not target.startswith(("http://", "https://", "mailto:"))}
    absent = sorted(path for path in paths | local if not (REPOSITORY / path).exists())
    assert not absent, f"{name} names what is not there: {', '.join(absent)}"


@pytest.mark.parametrize("name", OWN)
def test_commands_of_a_document_exist(name: str) -> None:
    code = code_of(read(name))
    modules = {match["module"] for match in _MODULE.finditer(code)} - {"pytest", "venv", "pip"}
    absent = sorted(module for module in modules if importlib.util.find_spec(module) is None)
    assert not absent, f"{name} names modules that are not there: {', '.join(absent)}"
    known = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    unknown = sorted({match["target"] for match in _TARGET.finditer(code)} - known)
    assert not unknown, f"{name} names targets that the Makefile has not: {', '.join(unknown)}"


def _sources(start: Path) -> list[str]:
    """The source of a command: its module, a package's ``__main__``, and what of ``train`` it imports its settings from."""
    waiting, read = [start, start.with_name("__main__.py")], dict[Path, str]()
    while waiting:
        path = waiting.pop()
        if path.is_file() and path not in read:
            read[path] = path.read_text(encoding="utf-8")
            imported = re.findall(r"^from train\.(\w+) import", read[path], re.MULTILINE)
            waiting += [REPOSITORY / "train" / f"{module}.py" for module in imported]
    return list(read.values())


@pytest.mark.parametrize("name", OWN)
def test_options_of_a_documents_commands_are_known(name: str) -> None:
    """An option stands in the source of the module that it is given to, or is a key of a stage's configuration."""
    wrong = []
    for match in _MODULE.finditer(code_of(read(name)).replace("\\\n", " ")):
        spec = importlib.util.find_spec(match["module"])
        if match["module"] in ("pytest", "venv", "pip") or spec is None or spec.origin is None:
            continue
        source = "\n".join(_sources(Path(spec.origin)))
        for option, equals in re.findall(r"--([a-z][\w-]*)(=?)", match["arguments"]):
            known = re.search(rf"^    {option}: ", source, re.MULTILINE) if equals else f'"--{option}"' in source
            if not known:
                wrong.append(f"{match['module']} --{option}{equals}")
    assert not wrong, f"{name}: {', '.join(wrong)}"


def test_the_tests_that_safety_rests_on_exist() -> None:
    named = list(_TEST.finditer(read("SAFETY.md")))
    assert len(named) > 8, "the document has lost its tests, or their form"
    absent = [m[0] for m in named if not re.search(rf"^ *(?:async )?def {m['name']}\(", read(m["file"]), re.MULTILINE)]
    assert not absent, ", ".join(absent)


def _keys(record: type, prefix: str = "") -> set[str]:
    keys: set[str] = set()
    hints = get_type_hints(record)
    for field in fields(record):
        kind, key = hints[field.name], f"{prefix}{field.name}"
        keys |= _keys(kind, f"{key}.") if is_dataclass(kind) and isinstance(kind, type) else {key}
    return keys


def test_the_readme_documents_every_key_of_predict() -> None:
    section = read("README.md").split("### Keys of the JSON", 1)[1].split("\n#", 1)[0]
    documented: set[str] = set()
    for cell in re.findall(r"^\| (.+?) \|", section, re.MULTILINE)[1:]:
        documented |= set(re.findall(r"`([\w.]+)`", cell))
    # Left out of the command's answer (``as_json``): what one modality shows alone belongs to the live view.
    assert documented == _keys(TurnPrediction) - {"expressions"}
