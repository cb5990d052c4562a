"""A document's table is replaced between its own marks, and nothing else of the document is."""

from __future__ import annotations

from pathlib import Path

import pytest

from multimood_core.errors import DataError
from train.marks import put_between_marks


def test_lines_are_put_between_their_marks_or_nowhere(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    other = "<!-- results: how -->\nkept\n<!-- /results -->"
    readme.write_text(f"{other}\nbefore\n<!-- rewards: how -->\nold\n<!-- /rewards -->\nafter\n")
    put_between_marks(readme, "rewards", "a \\1 b\n")
    assert readme.read_text() == f"{other}\nbefore\n<!-- rewards: how -->\na \\1 b\n<!-- /rewards -->\nafter\n"
    readme.write_text("none")
    with pytest.raises(DataError, match="marks <!-- rewards"):
        put_between_marks(readme, "rewards", "new")
    assert readme.read_text() == "none"
