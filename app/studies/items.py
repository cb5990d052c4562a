"""What is judged: items read from dialogues or from an upload, drawn at random by strategy and emotion."""

from __future__ import annotations

import json
import random
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from app.studies.errors import InputError
from app.studies.records import Criterion, expect, storable, text_of, verdicts_of
from multimood_core.dialogues import Item, items_of, read_dialogues
from multimood_core.errors import DataError
from multimood_core.labels import EMOTIONS, SPEAKERS, STRATEGIES

Kind = Literal["official", "gate", "practice"]
MAX_ITEMS: Final = 20_000
MAX_TURNS: Final = 400
MAX_WORDS: Final = 8_000  # characters of one turn or response
KNOWN: Final = ("id", "problem", "situation", "turns", "emotion", "strategy", "responses", "gold", "note", "practice")


@dataclass(frozen=True, slots=True)
class Drawing:
    """How items are drawn from dialogues: how many and what for.

    ``stratified`` keeps the shares of strategies and emotions; ``with_person`` makes the therapist's turn a response.
    """

    count: int
    kind: Kind
    stratified: bool = True
    with_person: bool = False


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item before it is stored. ``responses`` maps a system's name to its text; ``gold`` is of the first response.

    Without turns it brings further responses to an item that the study has.
    """

    key: str
    kind: Kind
    problem: str
    situation: str
    turns: tuple[Mapping[str, str | None], ...]
    emotion: str | None
    strategy: str | None
    responses: Mapping[str, str]
    gold: Mapping[str, str] | None = None
    note: str = ""


def read_upload(data: bytes, criteria: tuple[Criterion, ...]) -> list[NewItem]:
    """Items with responses, one JSON object a line; those with ``gold`` are for the entrance test, or for practice.

    Raises:
        InputError: says which line and what was expected; nothing of a broken file is taken.
    """
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as cause:
        raise InputError(f"Expected a text file in UTF-8, one JSON object a line: {cause}.") from cause
    found: dict[str, NewItem] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            item = _read_line(line, criteria)
        except InputError as cause:
            raise InputError(f"Line {number}: {cause}") from cause
        expect(item.key not in found, f"a different id in each line, also in line {number}", item.key)
        found[item.key] = item
        expect(len(found) <= MAX_ITEMS, f"at most {MAX_ITEMS:,} items", len(found))
    expect(bool(found), "one JSON object a line", "an empty file")
    return list(found.values())


def _read_line(line: str, criteria: tuple[Criterion, ...]) -> NewItem:
    try:
        raw = json.loads(line)
        json.dumps(raw, ensure_ascii=False).encode()  # half a character, as "\ud800" gives it, can be stored nowhere
    except (ValueError, RecursionError) as cause:
        raise InputError(f"expected one JSON object, got {line[:60]!r} ({cause}).") from cause
    expect(isinstance(raw, dict), "one JSON object", line[:60])
    unknown = sorted(set(raw) - set(KNOWN))
    expect(not unknown, f"keys of {', '.join(KNOWN)}", unknown)
    responses = raw.get("responses")
    good = isinstance(responses, dict) and responses and all(isinstance(v, str) and v.strip() for v in responses.values())
    expect(bool(good), 'responses as {"system": "text"}, none empty', responses)
    expect(all(isinstance(k, str) and 0 < len(k.strip()) <= 120 for k in responses), "names of 1 to 120 characters", responses)
    expect(all(len(v) <= MAX_WORDS for v in responses.values()), f"responses of at most {MAX_WORDS:,} characters", "a longer one")
    gold = None
    if raw.get("gold") is not None:
        expect(len(responses) == 2, "two responses where there is gold, the gold being of the first", list(responses))
        gold = verdicts_of(raw["gold"], criteria)
    kind: Kind = "official" if gold is None else "practice" if raw.get("practice") else "gate"
    emotion, strategy = _label(raw, "emotion", EMOTIONS), _label(raw, "strategy", STRATEGIES)
    turns = () if set(raw) == {"id", "responses"} else _turns(raw.get("turns"))
    texts = {storable(name).strip(): text.strip() for name, text in responses.items()}
    return NewItem(
        text_of(raw, "id", 200, 1), kind, text_of(raw, "problem"), text_of(raw, "situation"), turns, emotion, strategy,
        texts, gold, text_of(raw, "note"),
    )  # fmt: skip


def _turns(raw: object) -> tuple[Mapping[str, str | None], ...]:
    expect(isinstance(raw, list) and 1 <= len(raw) <= MAX_TURNS, f"1 to {MAX_TURNS} turns", raw if not raw else "more or none")
    turns = []
    for turn in raw:  # type: ignore[attr-defined]
        good = isinstance(turn, dict) and turn.get("speaker") in SPEAKERS and isinstance(turn.get("text"), str)
        expect(good and len(turn["text"]) <= MAX_WORDS, 'turns as {"speaker": "client"|"therapist", "text": "..."}', turn)
        labels = {"emotion": _label(turn, "emotion", EMOTIONS), "strategy": _label(turn, "strategy", STRATEGIES)}
        turns.append({"speaker": turn["speaker"], "text": turn["text"], **labels})
    expect(turns[-1]["speaker"] == "client", "the client's turn as the last one", turns[-1]["speaker"])
    return tuple(turns)


def _label(raw: Mapping[str, Any], name: str, allowed: Sequence[str]) -> str | None:
    value = raw.get(name)
    expect(value is None or value in allowed, f"{name} of {', '.join(allowed)}", value)
    return value


def read_dialogue_upload(data: bytes) -> list[Item]:
    """Items of dialogues in the project's turn format.

    Raises:
        InputError: the file is no such file; says which line.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dialogues"
        path.write_bytes(data)
        return read_dialogue_file(path)


def read_dialogue_file(path: Path) -> list[Item]:
    """As ``read_dialogue_upload``, of a file."""
    try:
        return list(items_of(read_dialogues(path)))
    except DataError as cause:
        raise InputError(str(cause).replace(f"{path}, line", "Line").replace(str(path), "the file")) from cause


def draw(items: Sequence[Item], count: int, seed: int, stratified: bool = True) -> list[Item]:
    """``count`` items at random, seeded; from each strategy and emotion in proportion (largest remainders) if stratified.

    Raises:
        InputError: there are fewer.
    """
    expect(1 <= count <= len(items), f"1 to {len(items)} items to draw", count)
    rng = random.Random(f"items/{seed}")
    strata: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in sorted(items, key=lambda i: i.id):
        labels = (item.therapist.strategy or "", item.client.emotion or "")
        strata[labels if stratified else ("", "")].append(item)
    exact = {key: count * len(members) / len(items) for key, members in strata.items()}
    share = Counter({key: int(value) for key, value in exact.items()})
    # Ties between remainders fall at random, not by the alphabet.
    by_remainder = sorted(exact, key=lambda key: (exact[key] - int(exact[key]), rng.random()), reverse=True)
    for key in by_remainder[: count - share.total()]:
        share[key] += 1
    chosen = [item for key in sorted(strata) for item in rng.sample(strata[key], share[key])]
    rng.shuffle(chosen)
    return chosen


def from_dialogue(item: Item, kind: Kind, person: str | None) -> NewItem:
    """An item of a dialogue; where ``person`` is given, the therapist's own turn is a response under that name."""
    turns = tuple(
        {"speaker": t.speaker, "text": t.text, "emotion": t.emotion, "strategy": t.strategy}
        for t in item.dialogue.turns[: item.index + 1]
    )
    context = item.dialogue.context
    responses = {person: item.therapist.text} if person else {}
    return NewItem(
        item.id, kind, context.problem, context.situation, turns, item.client.emotion, item.therapist.strategy, responses
    )
