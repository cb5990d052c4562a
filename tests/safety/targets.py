"""The places where bytes from outside come in, each as a function that may raise a ``MultiMoodError`` and nothing else."""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from multimood_core.dialogues import read_dialogues, read_history
from multimood_core.errors import MediaError, MultiMoodError
from multimood_core.media import read_turn
from multimood_core.sound import LiveResampler

_FOLDER = tempfile.TemporaryDirectory(prefix="multimood-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)


def _file(data: bytes, name: str) -> Path:
    path = Path(_FOLDER.name) / f"{os.getpid()}-{name}"
    path.write_bytes(data)
    return path


def media(data: bytes) -> None:
    """An uploaded clip, picture or sound."""
    turn = read_turn(_file(data, "clip"), max_seconds=20.0)
    assert turn.frames is not None or turn.waveform is not None
    if turn.frames is not None:
        assert turn.frames.images.dtype == np.uint8
        assert max(turn.frames.images.shape[1:3]) <= 1280
    if turn.waveform is not None:
        assert np.isfinite(turn.waveform.samples).all()
        assert np.abs(turn.waveform.samples).max() <= 1


def picture(data: bytes) -> None:
    """A camera's picture from the page."""
    from app.turn_buffer import decode_picture

    assert decode_picture(data).shape[2] == 3


def sound(data: bytes) -> None:
    """A microphone's pieces: rate, channels and kind from the first bytes."""
    if len(data) < 7:
        return
    rate, channels, kind = struct.unpack_from("<IBB", data)
    samples = np.frombuffer(data[7 : len(data) - (len(data) - 7) % 4], ["<i2", "<f4", "u1", "<i4"][kind % 4])
    live = LiveResampler(rate, channels)
    out = np.concatenate([live.push(samples[: len(samples) // 2]), live.push(samples[len(samples) // 2 :]), live.finish()])
    assert np.isfinite(out).all()


def history(data: bytes) -> None:
    """An uploaded history of turns."""
    for turn in read_history(_file(data, "history.jsonl")):
        turn.text.encode()


def dialogues(data: bytes) -> None:
    """A data set's file."""
    for dialogue in read_dialogues(_file(data, "dialogues.jsonl")):
        for turn in dialogue.turns:
            turn.text.encode()


def items(data: bytes) -> None:
    """A researcher's upload of items and responses."""
    from app.studies.guidelines import CRITERIA
    from app.studies.items import read_upload

    for item in read_upload(data, CRITERIA):
        str(item).encode()


def bundle(data: bytes) -> None:
    """A study that was exported elsewhere: a zip, whose files carry their hashes."""
    from app.studies.export import _unpack

    _unpack(data)


def capture(data: bytes) -> None:
    """A body of the page's capture stream, for a session whose turn is open."""
    stream, session = _stream()
    session.cancel_capture()
    session.begin_capture()
    stream.take(session, data)
    with contextlib.suppress(MediaError):
        if session.buffer is not None:
            session.buffer.turn()


class _Still:
    """A worker that is given nothing to do: no model is needed to receive a turn."""

    def offer(self, run: Callable[[], None]) -> bool:
        return False


class _NoEngine:
    """The part of an engine that a session asks for before its first turn is answered."""

    class checkpoint:
        id = None

    def memory(self) -> None:
        return None


_made: list[Any] = []


def _stream() -> Any:
    if not _made:
        from app.glance import Glance
        from app.sessions import Sessions
        from app.stream import Stream

        class Blind:
            def of(self, buffer: Any) -> Glance:
                return Glance()

        sessions = Sessions(_NoEngine(), _Still())  # type: ignore[arg-type]
        session = sessions.open()
        session.acknowledge()
        _made.extend((Stream(sessions, Blind()), session))  # type: ignore[arg-type]
    return _made


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (media, picture, sound, history, dialogues, items, bundle, capture)
}


def tried(name: str, data: bytes) -> str | None:
    """Runs a target: the sentence with which it refused ``data``, or None where it took it.

    Raises:
        Exception: whatever is no ``MultiMoodError``: what is looked for.
    """
    try:
        TARGETS[name](data)
    except MultiMoodError as refusal:
        sentence = str(refusal)
        assert sentence, "a refusal without a word"
        return sentence
    return None
