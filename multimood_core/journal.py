"""Results of a run that may be stopped at any moment: one line each, so that nothing that is done is done again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multimood_core.errors import DataError
from multimood_core.evaluation import ItemResult


class Journal:
    """A file with a first line of settings and a line for each result.

    Args:
        path: the file; made when it is not there.
        settings: what decides the results. A file that was made with others is not gone on with.

    Raises:
        DataError: the file was made with other settings, or is something else.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.known = path, dict[str, ItemResult]()
        head = json.dumps(dict(settings), sort_keys=True)
        if path.is_file() and (text := path.read_bytes()):
            whole = text[: text.rfind(b"\n") + 1]  # the last line may have been cut off
            first, *rest = whole.decode("utf-8", errors="replace").split("\n")
            if first != head:
                raise DataError(
                    f"{path} holds results of another run ({first[:200] or 'unreadable'}). Delete it, or name another --out."
                )
            try:
                results = [ItemResult.from_plain(json.loads(line)) for line in rest if line]
            except (ValueError, TypeError, KeyError) as cause:
                raise DataError(f"{path} cannot be read ({cause!r}). Delete it to begin anew.") from cause
            # An answer that did not come is asked for again.
            self.known = {result.id: result for result in results if not result.missing}
            if len(whole) < len(text):
                path.write_bytes(whole)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(head + "\n", encoding="utf-8")

    def add(self, result: ItemResult) -> None:
        """Write one result; it is there when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result.plain(), ensure_ascii=False) + "\n")

    def close(self) -> None:
        """The run is complete and stands elsewhere: the file goes."""
        self.path.unlink(missing_ok=True)
