"""The files that a study's leader takes out, as answers with the headers that keep them files."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from app.studies import export, report
from app.studies.errors import AbsentError
from app.studies.lookup import led_study
from app.studies.requests import Call
from app.studies.store import Store

KINDS: Final = {
    "judgments.csv": "text/csv", "judgments.jsonl": "application/jsonl", "preferences.jsonl": "application/jsonl",
    "bundle.zip": "application/zip", "report.html": "text/html",
}  # fmt: skip


def answer(store: Store, call: Call) -> Response:
    """The file that the request names, of one state of the database.

    Raises:
        AbsentError: no such file, or not this person's study.
    """
    name = call.path["name"]
    if name not in KINDS:
        raise AbsentError(f"Expected one of {', '.join(KINDS)}, got {name!r}.")
    with store.read() as connection:
        row = led_study(connection, call.person, call.study)
        match name:
            case "judgments.csv":
                body: str | bytes = export.as_csv(connection, call.study)
            case "judgments.jsonl":
                body = export.as_jsonl(connection, call.study)
            case "preferences.jsonl":
                body = export.preference_pairs(connection, call.study, call.query.get("criterion", "overall"))
            case "bundle.zip":
                body = export.bundle(connection, call.study, report.page(connection, call.study))
            case _:
                body = report.page(connection, call.study)
    headers = {"Referrer-Policy": "no-referrer"}
    if name == "report.html":  # holds what people wrote: no script of whatever origin may run in it
        headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'"
    else:
        headers["Content-Disposition"] = f'attachment; filename="multimood-study-{row.id}-{name}"'
    return Response(body, headers=headers, media_type=KINDS[name])
