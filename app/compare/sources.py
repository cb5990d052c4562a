"""Where the turn of a comparison comes from: the live session, a clip, typed words, or an item of a data set."""

from __future__ import annotations

import secrets
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any, Final

from app.compare import places
from app.compare.systems import Moment
from app.compare.values import text_of
from app.session import MAX_TEXT
from app.sessions import Sessions
from multimood_core.dialogues import Item, items_of
from multimood_core.errors import DataError
from multimood_core.evaluation import truth_of
from multimood_core.media import read_turn
from multimood_core.records import Context, Turn
from multimood_core.reward_scores import situation_of

CLIPS: Final = 4  # clips that are kept in memory; a turn's pictures take some tens of megabytes
KINDS: Final = ("live", "clip", "words", "item")


class Sources:
    """Finds the turns.

    Args:
        sessions: of the Live tab.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._clips: OrderedDict[str, Turn] = OrderedDict()
        self._lock = threading.Lock()

    def keep_clip(self, data: bytes, name: str) -> str:
        """Reads an uploaded clip and keeps its turn in memory; nothing of it stays on the disk.

        Raises:
            MediaError: it is no picture or sound that can be read.
        """
        suffix = PurePath(name).suffix[:8] if name else ""
        with tempfile.TemporaryDirectory(prefix="multimood-clip-") as folder:
            path = Path(folder) / f"clip{suffix if suffix[1:].isalnum() else ''}"
            path.write_bytes(data)
            turn = read_turn(path)
        key = secrets.token_urlsafe(12)
        with self._lock:
            self._clips[key] = turn
            while len(self._clips) > CLIPS:
                self._clips.popitem(last=False)
        return key

    def moment(self, source: Mapping[str, Any]) -> Moment:
        """The turn that a page names.

        Raises:
            DataError: there is none, or not any more.
        """
        words = text_of(source, "words", MAX_TEXT)
        context = Context(text_of(source, "problem", MAX_TEXT), text_of(source, "situation", MAX_TEXT))
        match source.get("kind"):
            case "live":
                return self._live(text_of(source, "session", 200))
            case "clip":
                with self._lock:
                    turn = self._clips.get(text_of(source, "clip", 200))
                if turn is None:
                    raise DataError("This clip is not in memory any more; choose it again.")
                return Moment(replace(turn, text=words or None), context=context, source="clip")
            case "words":
                if not words:
                    raise DataError("Expected the client's words; type them, or choose a clip or an item.")
                return Moment(Turn(text=words), context=context, source="words")
            case "item":
                number = source.get("number")
                if not isinstance(number, int) or isinstance(number, bool):
                    raise DataError(f"Expected the number of an item, got {number!r}.")
                return self.item(text_of(source, "data", 64), number)[0]
            case other:
                raise DataError(f"Expected a turn from {', '.join(KINDS)}, got {other!r}.")

    def _live(self, token: str) -> Moment:
        session = self._sessions.find(token)
        if session is None:
            raise DataError("The live session of this page is gone; reload the page for a new one.")
        found = session.last_turn()
        if found is None:
            raise DataError("There is no turn in the live session yet; take one in the Live tab, or type words here.")
        turn, history, context = found
        return Moment(turn, tuple(history), context, source="live")

    def item(self, data: str, number: int) -> tuple[Moment, dict[str, Any]]:
        """An item of a data set by its number from 1, and what a page shows of it before the comparison.

        Raises:
            DataError: there is no such item.
        """
        one = places.find(data)
        items = list(items_of(places.dialogues(one)))
        if not 1 <= number <= len(items):
            raise DataError(f"Expected an item from 1 to {len(items)} of {one.name}, got {number}.")
        item = items[number - 1]
        moment = moment_of(item)
        return moment, {"n": len(items), "id": item.id, "client": item.client.text, "turns": len(moment.history)}


def moment_of(item: Item) -> Moment:
    """An item as a turn: words alone, gold labels in the history, and what the therapist really said as the reference."""
    situation = situation_of(item)
    return Moment(
        Turn(text=item.client.text),
        situation.history,
        situation.context,
        "item",
        item.id,
        situation.reference,
        situation.next_client,
        truth_of(item),
    )
