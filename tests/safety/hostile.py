"""Damaged and hostile files against every entrance, in one process whose memory is limited.

``python -m tests.safety.hostile`` prints for each target how many inputs were taken and refused, the processor seconds of the
slowest, and the most memory that the process held. Whatever is no sentence of ours ends it with the input's name.
"""

from __future__ import annotations

import io
import json
import random
import resource
import struct
import sys
import time
import wave
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.safety.seeds import body, clips, jpeg, seeds
from tests.safety.targets import TARGETS, tried

CORPUS = Path(__file__).resolve().parent / "corpus"
ADDRESS_SPACE = 6 * 2**30  # bytes of address space, of which libraries and threads map a good part without using it
SECONDS = 20.0  # processor time of one input
DAMAGED = 12  # of each seed
DEEP = 200_000  # brackets


@dataclass(frozen=True, slots=True)
class Case:
    """An input; ``refused`` says whether it must be, None where either will do."""

    target: str
    name: str
    data: bytes
    refused: bool | None = None


def _damaged(target: str) -> Iterator[Case]:
    """Cut short, overwritten, doubled, and with the head of one kind on the body of another; always the same ones."""
    random_ = random.Random(f"damage/{target}")
    whole = seeds(target)
    for number, data in enumerate(whole):
        for kept in (0, 1, len(data) // 3, len(data) - 1):
            yield Case(target, f"seed {number} cut to {kept}", data[:kept])
        for turn in range(DAMAGED):
            broken = bytearray(data)
            for _ in range(1 + turn):
                broken[random_.randrange(len(broken))] = random_.choice((0, 1, 0x7F, 0x80, 0xFF, random_.randrange(256)))
            yield Case(target, f"seed {number} damaged {turn}", bytes(broken))
        other = whole[(number + 1) % len(whole)]
        yield Case(target, f"seed {number} with another's body", data[:64] + other[64:])
        yield Case(target, f"seed {number} twice", data + data)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A grey PNG that states ``width`` and ``height``, whatever its rows hold."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows, 9)) + _chunk(b"IEND", b"")


def wav(rate: int, channels: int, frames: int) -> bytes:
    """Digital silence."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(1)
        file.setframerate(rate)
        file.writeframes(bytes(channels * frames))
    return out.getvalue()


def passes(count: int) -> bytes:
    """A progressive JPEG of 1280 x 1280 pixels in which one pass is repeated ``count`` times: little data, endless work."""
    data = jpeg(1280, 1280, progressive=True)
    first = data.index(b"\xff\xda")
    second = data.index(b"\xff\xda", first + 2)
    return data[:second] + data[first:second] * count + data[second:]


def _media() -> Iterator[Case]:
    bomb = b"".join(b"\0" * 8001 for _ in range(8000))
    yield Case("media", "0 x 0 PNG", png(0, 0), refused=True)
    yield Case("media", "0 x 1 PNG", png(0, 1), refused=True)
    yield Case("media", "PNG of 64 million pixels in some kilobytes", png(8000, 8000, bomb), refused=False)
    yield Case("media", "PNG of 4 billion pixels", png(65535, 65535), refused=True)
    yield Case("media", "PNG of 2^62 pixels", png(2**31 - 1, 2**31 - 1), refused=True)
    yield Case("media", "0 x 0 GIF", clips()["gif"][:6] + bytes(4) + clips()["gif"][10:])
    yield Case("media", "GIF of 65535 x 65535", clips()["gif"][:6] + b"\xff" * 4 + clips()["gif"][10:])
    yield Case("media", "0 x 0 BMP", clips()["bmp"][:18] + bytes(8) + clips()["bmp"][26:], refused=True)
    yield Case("media", "0 x 0 YUV4MPEG", b"YUV4MPEG2 W0 H0 F25:1\nFRAME\n", refused=True)
    huge = b"YUV4MPEG2 W1073741824 H1073741824 F25:1\nFRAME\n"
    yield Case("media", "YUV4MPEG of 2^30 a side", huge, refused=True)
    yield Case("media", "YUV4MPEG of 9,000 frames", b"YUV4MPEG2 W2 H2 F1000:1\n" + b"FRAME\n123456" * 9000)
    yield Case("media", "8K YUV4MPEG", b"YUV4MPEG2 W7680 H4320 F25:1\nFRAME\n" + bytes(7680 * 4320 * 3 // 2), refused=False)
    yield Case("media", "30 channels", wav(16_000, 30, 800), refused=False)
    yield Case("media", "512 channels", wav(16_000, 512, 800), refused=True)
    yield Case("media", "1 sample a second", wav(1, 30, 19), refused=True)
    yield Case("media", "0 samples a second", wav(1, 1, 9)[:24] + bytes(8) + wav(1, 1, 9)[32:], refused=True)
    yield Case("media", "4 billion samples a second", wav(1, 1, 9)[:24] + b"\xff" * 8 + wav(1, 1, 9)[32:], refused=True)
    yield Case("media", "a progressive JPEG of 40 passes", passes(40), refused=False)
    yield Case("media", "a progressive JPEG of 2,000 passes", passes(2000), refused=True)
    for suffix in ("mp4", "webm", "flac"):
        yield Case("media", f"{suffix} behind a megabyte of zeros", bytes(2**20) + clips()[suffix])
    yield Case("media", "a playlist of files", b"#EXTM3U\n#EXTINF:5,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", refused=True)
    yield Case("media", "a list of files", b"ffconcat version 1.0\nfile /etc/passwd\n", refused=True)
    away = b"#EXTM3U\n#EXTINF:5,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"
    yield Case("media", "a playlist of addresses", away, refused=True)
    yield Case("media", "an SVG with a link", b'<svg xmlns="x"><image href="file:///etc/passwd"/></svg>', refused=True)
    yield Case("media", "a zip", seeds("bundle")[0], refused=True)


def _pictures() -> Iterator[Case]:
    # Height and width stand behind the frame's marker, its length and the bits of a sample.
    whole = jpeg()
    at = whole.index(b"\xff\xc0") + 5
    for side in (0, 1281, 20_000, 65_535):
        data = whole[:at] + struct.pack(">HH", side, side) + whole[at + 4 :]
        yield Case("picture", f"{side} pixels a side", data, refused=True)
    yield Case("picture", "a progressive JPEG of 2,000 passes", passes(2000), refused=True)
    yield Case("picture", "a PNG", clips()["png"], refused=True)
    yield Case("picture", "1280 x 1280", jpeg(1280, 1280), refused=False)


def _texts() -> Iterator[Case]:
    turn = {"speaker": "client", "text": "x"}
    for target in ("history", "dialogues", "items"):
        for name, data in {
            "deep lists": b"[" * DEEP, "deep objects": b'{"a":' * DEEP, "a number of 100,000 digits": b"9" * 100_000,
            "infinity": b"1e999", "not a number": b"NaN", "null": b"null", "a text": b'"x"',
            "UTF-16": '{"a": 1}'.encode("utf-16"),
            "half a character": b'{"speaker": "client", "text": "\\ud800"', "a nul": b"\x00", "latin": b"\xe9\xff",
            "a key twice": b'{"speaker": "client", "speaker": {}, "text": []}', "a text of 200,000": b"x" * 200_000,
        }.items():  # fmt: skip
            yield Case(target, name, data, refused=True)
    for text, refused in (("y" * 100_000, False), ("y" * 100_001, True)):
        yield Case("history", f"a turn of {len(text):,} characters", json.dumps({**turn, "text": text}).encode(), refused)
        dialogue = {"id": "1", "split": "test", "turns": [{**turn, "text": text}]}
        yield Case("dialogues", f"a turn of {len(text):,} characters", json.dumps(dialogue).encode(), refused)
    for count, refused in ((4096, False), (10_000, True)):
        yield Case("history", f"{count:,} turns", b"\n".join([json.dumps(turn).encode()] * count), refused)
    yield Case("history", "half a character", b'{"speaker": "client", "text": "\\ud800 \\udc00"}', refused=False)


def _bodies() -> Iterator[Case]:
    for name, data in {
        "deep lists": b"[" * DEEP, "deep objects": b'{"do":' * DEEP, "no line": b"",
        "a long number": b'{"do": ' + b"9" * 50_000 + b"}",
        "a size of 2^63": body({"do": "data", "pictures": [[2**63, 0]]}),
        "a size of -1": body({"do": "data", "pictures": [[-1, 0]]}),
        "true as a size": body({"do": "data", "pictures": [[True, True]]}),
        "no number": body({"do": "data", "rate": float("nan")}),
        "an endless rate": body({"do": "data", "rate": float("inf")}),
        "half a sample": body({"do": "data", "rate": 48_000}, b"x"),
        "an offset of 2^80": body({"do": "data", "rate": 48_000, "offset": 2**80}), "do a list": body({"do": ["begin"]}),
        "pictures of nothing": body({"do": "data", "pictures": [[0, 0]] * 16}),
        "a text as a head": b'"begin"\n', "a half": b'{"do": "\\ud800"}\n',
    }.items():  # fmt: skip
        yield Case("capture", name, data, refused=True)
    yield Case("capture", "a gap of ten years", body({"do": "data", "rate": 48_000, "offset": 2**40}, bytes(96)))


def _bundles() -> Iterator[Case]:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b" " * 300 * 2**20)
    yield Case("bundle", "300 MB of spaces", out.getvalue(), refused=True)
    for method in (1, 9, 97, 99):
        data = bytearray(seeds("bundle")[1])
        for mark, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
            at = data.index(mark)
            data[at + place] = method
        yield Case("bundle", f"compressed by method {method}", bytes(data), refused=True)
    data = bytearray(seeds("bundle")[1])
    start = data.index(b"manifest.json") + len(b"manifest.json")
    data[start : start + 20] = b"\xff" * 20
    yield Case("bundle", "a stream that does not inflate", bytes(data), refused=True)


def cases() -> Iterator[Case]:
    """All of them: made, damaged, and found by fuzzing."""
    for family in (_media, _pictures, _texts, _bodies, _bundles):
        yield from family()
    for target in TARGETS:
        yield from _damaged(target)
        for path in sorted((CORPUS / target).glob("*")):
            yield Case(target, f"found: {path.name}", path.read_bytes())


def main() -> int:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    print(f"{'target':<10} {'taken':>6} {'refused':>8} {'slowest, s':>11}  which")
    status = 0
    counts: dict[str, list[float]] = {}
    slowest: dict[str, str] = {}
    for case in cases():
        cell = counts.setdefault(case.target, [0, 0, 0.0])
        begun = time.process_time()
        try:
            sentence = tried(case.target, case.data)
        except Exception as error:
            print(f"FAILED: {case.target}, {case.name}: {error!r}", flush=True)
            status = 1
            continue
        seconds = time.process_time() - begun
        if case.refused is not None and case.refused != (sentence is not None):
            print(f"FAILED: {case.target}, {case.name}: {sentence or 'was taken'}")
            status = 1
        if seconds > SECONDS:
            print(f"FAILED: {case.target}, {case.name} took {seconds:.0f} s of the processor")
            status = 1
        cell[sentence is not None] += 1
        if seconds >= cell[2]:
            cell[2], slowest[case.target] = seconds, case.name
    for target, (taken, refused, seconds) in counts.items():
        print(f"{target:<10} {taken:>6.0f} {refused:>8.0f} {seconds:>11.2f}  {slowest.get(target, '')}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    return status


if __name__ == "__main__":
    sys.exit(main())
