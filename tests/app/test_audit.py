"""The audit log: every kind of change is found, nothing that somebody said fits in, and a crash costs one piece of a line."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from app.audit import EVENTS, TORN, Audit, AuditError, main, verify

SAID = "I have not slept since the letter came"


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    """A log of six lines."""
    log = Audit(tmp_path / "audit.jsonl")
    for days in range(1, 7):
        log.write("retention.set", "anna", days=days)
    return log


def lines_of(audit: Audit) -> list[bytes]:
    return audit.path.read_bytes().splitlines(keepends=True)


def test_a_whole_log_is_whole(audit: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(audit.path) == []
    assert [entry.about["days"] for entry in audit.entries()] == [1, 2, 3, 4, 5, 6]
    assert main(["verify", "--log", str(audit.path)]) == 0
    assert audit.head() in capsys.readouterr().out


@pytest.mark.parametrize("place", range(6))
def test_a_changed_line_is_found(audit: Audit, place: int) -> None:
    lines = lines_of(audit)
    lines[place] = lines[place].replace(b'"who":"anna"', b'"who":"otto"')
    audit.path.write_bytes(b"".join(lines))
    assert any(f"Line {place + 1} was changed" in problem for problem in verify(audit.path))
    assert main(["verify", "--log", str(audit.path)]) == 1


@pytest.mark.parametrize("place", range(5))
def test_a_removed_line_is_found(audit: Audit, place: int) -> None:
    lines = lines_of(audit)
    del lines[place]
    audit.path.write_bytes(b"".join(lines))
    assert any("removed" in problem for problem in verify(audit.path))


@pytest.mark.parametrize(("one", "other"), [(0, 1), (1, 4), (4, 5)])
def test_reordered_lines_are_found(audit: Audit, one: int, other: int) -> None:
    lines = lines_of(audit)
    lines[one], lines[other] = lines[other], lines[one]
    audit.path.write_bytes(b"".join(lines))
    assert any("reordered" in problem for problem in verify(audit.path))


@pytest.mark.parametrize("place", range(6))
def test_a_line_that_was_cut_off_in_the_middle_is_found(audit: Audit, place: int) -> None:
    lines = lines_of(audit)
    lines[place] = lines[place][: len(lines[place]) // 2] + (b"\n" if place < 5 else b"")
    audit.path.write_bytes(b"".join(lines))
    assert any("cut off" in problem for problem in verify(audit.path))


def test_a_line_with_a_hash_of_its_own_does_not_fit_its_neighbours(audit: Audit) -> None:
    entry = audit.entries()[2]
    forged = type(entry)(entry.n, entry.at, "otto", entry.what, entry.about, entry.before)
    lines = lines_of(audit)
    lines[2] = type(entry)(entry.n, entry.at, "otto", entry.what, entry.about, entry.before, forged.digest()).line()
    audit.path.write_bytes(b"".join(lines))
    assert verify(audit.path) == ["Line 4 does not follow the line before it: one of the two was changed or exchanged."]


def test_any_changed_byte_is_found(audit: Audit) -> None:
    whole, rng = audit.path.read_bytes(), random.Random(1)
    for _ in range(150):
        place = rng.randrange(len(whole))
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.randrange(7)
        audit.path.write_bytes(changed)
        assert verify(audit.path), f"byte {place}: {whole[place:place + 1]!r} became {changed[place:place + 1]!r}"


def test_a_cut_end_and_a_log_written_anew_need_an_anchor(audit: Audit, tmp_path: Path) -> None:
    anchor = tmp_path / "heads"
    anchor.write_text(audit.head() + "\n")
    assert main(["verify", "--log", str(audit.path), "--anchors", str(anchor)]) == 0
    whole = lines_of(audit)
    audit.path.write_bytes(b"".join(whole[:-1]))
    assert verify(audit.path) == [], "a chain alone cannot know that it went on"
    assert main(["verify", "--log", str(audit.path), "--anchors", str(anchor)]) == 1
    audit.path.unlink()
    for days in range(1, 7):
        audit.write("retention.set", "otto", days=days)
    assert verify(audit.path) == []
    assert "written anew" in verify(audit.path, anchor.read_text().splitlines())[0]


def test_a_torn_write_is_told_and_kept(audit: Audit) -> None:
    with audit.path.open("ab") as file:
        file.write(b'{"n":7,"at":"20')
    assert "cut off" in verify(audit.path)[0]
    audit.write("app.closed")
    assert verify(audit.path) == []
    assert [entry.what for entry in audit.entries()][-2:] == [TORN, "app.closed"]
    audit.path.write_bytes(audit.path.read_bytes().replace(b'{"n":7,"at":"20\n', b'{"n":7,"at":"21\n'))
    assert verify(audit.path), "what was torn cannot be exchanged either"


@pytest.mark.parametrize("value", [SAID, "two words", "a\nb", "x" * 201, 1.5, None, ["a"], b"x"])
def test_a_sentence_does_not_fit(audit: Audit, value: object) -> None:
    before = audit.path.read_bytes()
    with pytest.raises(AuditError) as refused:
        audit.write("session.kept", session=value)  # type: ignore[arg-type]
    with pytest.raises(AuditError):
        audit.write("session.kept", who=value)  # type: ignore[arg-type]
    assert audit.path.read_bytes() == before
    assert SAID not in str(refused.value)


def test_only_known_events_with_their_fields_are_written(audit: Audit) -> None:
    for what, about in (("client.said", {}), ("app.closed", {"words": "no"}), ("session.kept", {"text": "no"})):
        with pytest.raises(AuditError):
            audit.write(what, **about)  # type: ignore[arg-type]
    assert not {"words", "text", "said", "message", "note"} & frozenset().union(*EVENTS.values())


def test_writers_of_several_threads_and_processes_make_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    code = "import sys; from pathlib import Path; from app.audit import Audit\n"
    code += "for d in range(20): Audit(Path(sys.argv[1])).write('retention.set', days=d)"
    others = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(2)]
    log = Audit(path)
    threads = [threading.Thread(target=lambda: [log.write("app.closed") for _ in range(20)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [other.wait(60) for other in others] == [0, 0]
    assert verify(path) == []
    assert len(path.read_bytes().splitlines()) == 100
    assert json.loads(path.read_bytes().splitlines()[-1])["n"] == 100


def test_a_log_that_cannot_be_written_stops_what_it_should_tell(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditError, match="Nothing was done"):
        Audit(tmp_path / "file" / "audit.jsonl").write("app.closed")
