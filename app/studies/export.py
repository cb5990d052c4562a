"""A study as files: judgments as CSV and JSON lines, preference pairs, and a frozen bundle that can be read back.

The bundle is a zip of the study's tables as JSON lines, without accounts (raters are R1, R2, ...), with the results at that
moment and the SHA-256 of every file. Reading it back checks the hashes, computes the results anew and compares.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Table, insert, select
from sqlalchemy.exc import SQLAlchemyError

from app.studies.errors import InputError, StudyError
from app.studies.lookup import added, criteria_in, led_study, study_row
from app.studies.people import Person
from app.studies.records import expect, settings_of, text_of, verdicts_of
from app.studies.results import results
from app.studies.schema import (
    assignment,
    gate,
    guideline,
    item,
    judge_verdict,
    judgment,
    pair,
    rater,
    response,
    study,
    system,
)
from app.studies.store import Store, now

FORMAT: Final = "multimood-study/1"
MAX_BUNDLE: Final = 512 * 2**20  # bytes unpacked
# In the order in which they refer to each other; each with the column and table that lead to the study.
TABLES: Final = (guideline, system, item, response, pair, rater, gate, assignment, judgment, judge_verdict)
# Of a judgment in CSV and JSON lines; in CSV the verdicts stand in columns of their own.
COLUMNS: Final = (
    "item", "left_system", "right_system", "rater", "kind", "stage", "round", "assignment", "version", "current", "verdicts",
    "reason", "comment", "seconds", "shown_first", "guideline_version", "left_sha256", "right_sha256", "created",
)  # fmt: skip
_VIA: Final[Mapping[str, tuple[str, Table]]] = {
    "response": ("item_id", item),
    "gate": ("rater_id", rater),
    "assignment": ("pair_id", pair),
    "judge_verdict": ("pair_id", pair),
}


def judgment_rows(connection: Connection, number: int) -> list[dict[str, Any]]:
    """Every version of every judgment, oldest first, with systems by name and verdicts of the left system."""
    left, right, of_left, of_right = system.alias(), system.alias(), response.alias(), response.alias()
    query = (
        select(
            judgment, item.c.key.label("item"), left.c.name.label("left_system"), right.c.name.label("right_system"),
            rater.c.code.label("rater"), assignment.c.kind, assignment.c.stage, assignment.c.round,
        )
        .join(assignment, assignment.c.id == judgment.c.assignment_id)
        .join(rater, rater.c.id == assignment.c.rater_id)
        .join(pair, pair.c.id == assignment.c.pair_id)
        .join(item, item.c.id == pair.c.item_id)
        .join(of_left, of_left.c.id == pair.c.left_id)
        .join(of_right, of_right.c.id == pair.c.right_id)
        .outerjoin(left, left.c.id == of_left.c.system_id)
        .outerjoin(right, right.c.id == of_right.c.system_id)
        .where(pair.c.study_id == number)
        .order_by(judgment.c.id)
    )  # fmt: skip
    rows = connection.execute(query).all()
    newest = {row.assignment_id: row.version for row in rows}
    values = (
        (
            r.item, r.left_system, r.right_system, r.rater, r.kind, r.stage, r.round, r.assignment_id, r.version,
            newest[r.assignment_id] == r.version, r.verdicts, r.reason, r.comment, r.seconds, "left" if r.left_first else "right",
            r.guideline_version, r.left_sha256, r.right_sha256, r.created,
        )
        for r in rows
    )  # fmt: skip
    return [dict(zip(COLUMNS, one, strict=True)) for one in values]


def as_csv(connection: Connection, number: int) -> str:
    """``judgment_rows`` as CSV, one column for each criterion."""
    _, criteria = criteria_in(connection, number)
    file = io.StringIO()
    writer = csv.DictWriter(file, [*(name for name in COLUMNS if name != "verdicts"), *(c.key for c in criteria)])
    writer.writeheader()
    for row in judgment_rows(connection, number):
        verdicts = row.pop("verdicts")
        writer.writerow({k: _cell(v) for k, v in row.items()} | {c.key: verdicts.get(c.key, "") for c in criteria})
    return file.getvalue()


def _cell(value: Any) -> Any:
    """A spreadsheet would run text that begins like a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def as_jsonl(connection: Connection, number: int) -> str:
    """``judgment_rows``, one object a line."""
    return _lines(judgment_rows(connection, number))


def preference_pairs(connection: Connection, number: int, criterion: str = "overall") -> str:
    """Chosen and rejected replies by settled labels, one object a line; a tie prefers nothing and is left out.

    Raises:
        InputError: the study does not ask this criterion.
    """
    _, criteria = criteria_in(connection, number)
    if criterion not in [c.key for c in criteria]:
        raise InputError(f"Expected a criterion of {', '.join(c.key for c in criteria)}, got {criterion!r}.")
    left, right, one, two = response.alias(), response.alias(), system.alias(), system.alias()
    query = (
        select(item, pair.c.labels, left.c.text.label("left"), right.c.text.label("right"), one.c.name.label("left_system"),
               two.c.name.label("right_system"))
        .join(pair, pair.c.item_id == item.c.id)
        .join(left, left.c.id == pair.c.left_id)
        .join(right, right.c.id == pair.c.right_id)
        .join(one, one.c.id == left.c.system_id)
        .join(two, two.c.id == right.c.system_id)
        .where(pair.c.study_id == number, pair.c.kind == "official")
        .order_by(pair.c.id)
    )  # fmt: skip
    rows = []
    for r in connection.execute(query):
        verdict = r.labels.get(criterion)
        if verdict not in ("win", "loss"):
            continue
        better, worse = ("left", "right") if verdict == "win" else ("right", "left")
        rows.append(
            {
                "item": r.key, "context": {"problem": r.problem, "situation": r.situation}, "history": r.turns[:-1],
                "client": r.turns[-1], "chosen": getattr(r, better), "rejected": getattr(r, worse),
                "chosen_system": getattr(r, f"{better}_system"), "rejected_system": getattr(r, f"{worse}_system"),
                "criterion": criterion,
            }
        )
    return _lines(rows)


# -- the bundle ------------------------------------------------------------------------------------------------------


def bundle(connection: Connection, number: int, report: str) -> bytes:
    """The whole study as a zip.

    Args:
        connection: that sees one state of the database.
        number: of the study.
        report: the printable page, to lie beside the data.
    """
    row = study_row(connection, number)
    files = {"study.json": _json({"name": row.name, "state": row.state, "settings": row.settings, "created": row.created})}
    for table in TABLES:
        files[f"{table.name}.jsonl"] = _lines(_rows(connection, table, number))
    files["results.json"] = _json(results(connection, number))
    files["report.html"] = report
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    manifest = _json({"format": FORMAT, "exported": now(), "files": hashes})
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in {"manifest.json": manifest, **files}.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def read_bundle(store: Store, by: Person, data: bytes) -> int:
    """Stores a bundle as a closed study of its own; returns its number.

    Raises:
        InputError: it is no bundle, a file was changed, or its results are not those of its judgments.
    """
    files = _unpack(data)
    with store.write() as connection:
        try:
            about, found = json.loads(files["study.json"]), json.loads(files["results.json"])
            settings_of(about["settings"])
            values = {
                "name": f"{about['name'][:108]} (imported)", "state": "closed", "settings": about["settings"],
                "created": about["created"], "created_by": by.id, "origin_sha256": hashlib.sha256(data).hexdigest(),
            }  # fmt: skip
            number = added(connection, study, values)
            _fill(connection, number, files)
            again = json.loads(_json(results(connection, number)))
        except (KeyError, TypeError, ValueError, AttributeError, SQLAlchemyError) as cause:
            raise InputError(f"Expected the tables of a study in the bundle, but they cannot be read: {cause!r}.") from cause
        if again != found:
            raise InputError("The results in the bundle are not those that its judgments give; it is damaged or was changed.")
    return number


def _fill(connection: Connection, number: int, files: Mapping[str, str]) -> None:
    numbers: dict[str, dict[int, int]] = {}
    for table in TABLES:
        mine = numbers[table.name] = {}
        for line in files[f"{table.name}.jsonl"].split("\n"):
            if not line:
                continue
            raw = json.loads(line)
            old = raw.pop("id")
            for column in table.c:
                for key in column.foreign_keys:
                    target = key.column.table.name
                    if raw.get(column.name) is not None:
                        raw[column.name] = number if target == "study" else numbers[target][raw[column.name]]
            if table is judgment:  # keys are the database's, and the same study may be in it
                raw["key"] = hashlib.sha256(f"{number}/{raw['key']}".encode()).hexdigest()
            mine[old] = added(connection, table, raw)


def _rows(connection: Connection, table: Table, number: int) -> Iterable[dict[str, Any]]:
    mine: ColumnElement[bool]
    if table is judgment:
        mine = judgment.c.assignment_id.in_(
            select(assignment.c.id).join(pair, pair.c.id == assignment.c.pair_id).where(pair.c.study_id == number)
        )
    elif table.name in _VIA:
        column, via = _VIA[table.name]
        mine = table.c[column].in_(select(via.c.id).where(via.c.study_id == number))
    else:
        mine = table.c.study_id == number
    for row in connection.execute(select(table).where(mine).order_by(table.c.id)).mappings():
        yield {key: None if key == "account_id" else value for key, value in row.items()}


def _unpack(data: bytes) -> dict[str, str]:
    expected = ["study.json", *[f"{table.name}.jsonl" for table in TABLES], "results.json", "report.html"]
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in archive.infolist()):
                raise InputError("Expected a bundle compressed as MultiMood does it (deflate).")  # others state their memory
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BUNDLE:
                raise InputError(f"Expected a bundle of at most {MAX_BUNDLE:,} bytes.")
            manifest = json.loads(archive.read("manifest.json"))
            if manifest.get("format") != FORMAT:
                raise InputError(f"Expected a bundle of the format {FORMAT}, got {manifest.get('format')!r}.")
            files = {name: archive.read(name).decode() for name in expected}
            for name, text in files.items():
                if hashlib.sha256(text.encode()).hexdigest() != manifest["files"][name]:
                    raise InputError(f"{name} in the bundle was changed after the export: its SHA-256 is another.")
    except (zipfile.BadZipFile, zlib.error, OSError, LookupError, ValueError, AttributeError, TypeError,
            RuntimeError, EOFError) as cause:  # fmt: skip
        raise InputError(f"Expected a study bundle (zip) as MultiMood exports it: {cause!r}.") from cause
    return files


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# -- what others made ------------------------------------------------------------------------------------------------


def add_judge(store: Store, by: Person, number: int, data: bytes) -> int:
    """Verdicts of an automatic judge: ``{"judge", "item", "left", "right", "verdicts"}`` a line, of the left system.

    Raises:
        InputError: says which line and what was expected; nothing of a broken file is taken.
    """
    count = 0
    with store.write(number) as connection:
        if led_study(connection, by, number).origin_sha256 is not None:
            raise StudyError("An imported study is a record and is not judged any further.")
        _, criteria = criteria_in(connection, number)
        one, two, left, right = response.alias(), response.alias(), system.alias(), system.alias()
        query = (
            select(pair.c.id, item.c.key, left.c.name.label("left_name"), right.c.name.label("right_name"))
            .join(item, item.c.id == pair.c.item_id)
            .join(one, one.c.id == pair.c.left_id)
            .join(two, two.c.id == pair.c.right_id)
            .join(left, left.c.id == one.c.system_id)
            .join(right, right.c.id == two.c.system_id)
            .where(pair.c.study_id == number, pair.c.kind == "official")
        )
        there = {(r.key, r.left_name, r.right_name): r.id for r in connection.execute(query)}
        known = {(r.pair_id, r.judge) for r in connection.execute(select(judge_verdict))}
        turned = {"win": "loss", "loss": "win", "tie": "tie"}
        for place, text in enumerate(data.decode("utf-8-sig", "replace").split("\n"), start=1):
            if not text.strip():
                continue
            try:
                raw = json.loads(text)
                expect(isinstance(raw, dict), "one JSON object", text[:60])
                names = (text_of(raw, "item", 200, 1), text_of(raw, "left", 120, 1), text_of(raw, "right", 120, 1))
                judge, verdicts = text_of(raw, "judge", 120, 1), verdicts_of(raw.get("verdicts"), criteria)
                pair_id = there.get(names)
                if pair_id is None:
                    pair_id = there.get((names[0], names[2], names[1]))
                    verdicts = {key: turned[verdict] for key, verdict in verdicts.items()}
                expect(pair_id is not None, "an item and two systems of this study", names)
                expect((pair_id, judge) not in known, "each pair once for a judge", names)
            except (InputError, ValueError) as cause:
                raise InputError(f"Line {place}: {cause}") from cause
            known.add((pair_id, judge))
            rows = [{"pair_id": pair_id, "judge": judge, "criterion": k, "verdict": v} for k, v in verdicts.items()]
            connection.execute(insert(judge_verdict), rows)
            count += 1
        expect(count > 0, "one JSON object a line", "an empty file")
    return count
