"""Small whole files of every kind that comes in, from which damaged and hostile ones are made."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import wave
import zipfile
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from app.studies.export import FORMAT, TABLES
from tests import synthetic


def jpeg(width: int = 64, height: int = 48, **options: object) -> bytes:
    """A JPEG of a gradient."""
    image = np.tile(np.linspace(0, 255, width, dtype=np.uint8)[None, :, None], (height, 1, 3))
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", **options)
    return out.getvalue()


def body(head: dict[str, object], rest: bytes = b"") -> bytes:
    """A request of the capture stream."""
    return json.dumps(head).encode() + b"\n" + rest


def zipped(method: int) -> bytes:
    """A study bundle whose files are empty."""
    names = ["study.json", *[f"{table.name}.jsonl" for table in TABLES], "results.json", "report.html"]
    hashes = dict.fromkeys(names, hashlib.sha256(b"").hexdigest())
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("manifest.json", json.dumps({"format": FORMAT, "files": hashes}))
        for name in names:
            archive.writestr(name, "")
    return out.getvalue()


@cache
def clips() -> dict[str, bytes]:
    """Clips, pictures and sounds of a tenth of a second to a second, by their suffix."""
    images, sound = synthetic.moving_pattern(4, width=32, height=24), synthetic.tone(0.2)
    written = {
        "mp4": {"images": images, "sound": sound},
        "webm": {"images": images, "sound": sound, "video": "libvpx", "audio": "libopus"},
        "mkv": {"images": images, "times": [0.0, 0.3, 0.35, 0.9]},
        "avi": {"images": images, "video": "mjpeg"},
        "png": {"images": images[:1], "video": "png"},
        "flac": {"sound": sound, "audio": "flac"},
        "ogg": {"sound": sound, "audio": "libopus"},
        "mp3": {"sound": sound, "audio": "libmp3lame"},
    }
    found: dict[str, bytes] = {}
    with TemporaryDirectory() as folder:
        for suffix, options in written.items():
            path = Path(folder) / f"seed.{suffix}"
            found[suffix] = synthetic.write_clip(path, **options).read_bytes()  # type: ignore[arg-type]
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(30)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(30 * 2 * 800))
    found["wav"] = out.getvalue()
    pictures = [Image.fromarray(image) for image in images]
    for kind in ("GIF", "BMP", "TIFF", "WEBP"):
        out = io.BytesIO()
        pictures[0].save(out, kind, **({"save_all": True, "append_images": pictures[1:]} if kind == "GIF" else {}))
        found[kind.lower()] = out.getvalue()
    return found


@cache
def seeds(target: str) -> tuple[bytes, ...]:
    """What a target takes as it is."""
    turn = {"speaker": "client", "text": "I cannot sleep\u2028at all.", "emotion": "fear", "strategy": None}
    answer = {"speaker": "therapist", "text": "Since when?", "emotion": "neutral", "strategy": "open question"}
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in (turn, answer)).encode()
    dialogue = {"id": "7", "split": "test", "turns": [turn, answer], "context": {"problem": "sleep", "situation": ""}}
    item = {
        "id": "7/1", "problem": "sleep", "situation": "", "turns": [turn], "emotion": "fear", "strategy": "open question",
        "responses": {"a": "Since when?", "b": "Oh."},
    }  # fmt: skip
    picture = jpeg()
    return {
        "media": lambda: tuple(clips().values()),
        "picture": lambda: (picture,),
        "sound": lambda: (struct.pack("<IBB", 48_000, 1, 0) + bytes(range(256)) * 8,),
        "history": lambda: (lines,),
        "dialogues": lambda: (json.dumps(dialogue).encode(),),
        "items": lambda: (json.dumps(item).encode(),),
        "bundle": lambda: (zipped(zipfile.ZIP_STORED), zipped(zipfile.ZIP_DEFLATED), zipped(zipfile.ZIP_LZMA)),
        "capture": lambda: (
            body({"do": "begin"}),
            body({"do": "data", "pictures": [[len(picture), 40]], "first": 0, "rate": 48_000, "offset": 0}, picture + bytes(960)),
        ),
    }[target]()
