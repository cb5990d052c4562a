"""How long a turn takes, against a bar for each figure; prints a Markdown table.

    python -m tests.benchmarks.speed [--checkpoint NAME_OR_FOLDER] [--repeats 5]

The turn lasts 8 s (64 pictures of 640 x 480, speech) and comes after 40 earlier turns. Figures are medians over the
repeats, after one run that is not counted, with the smallest and the largest in brackets.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from app.glance import Glance, Glancer
from app.sessions import Sessions
from app.turn_buffer import TurnBuffer, decode_picture
from app.worker import Worker
from multimood_core.decoding import Sampling
from multimood_core.engine import Engine, Finished, Labelled, ReplyPart, TurnFeatures
from multimood_core.evaluation import predict_labels
from multimood_core.face_detector import FaceDetector, cut
from multimood_core.history_memory import HistoryMemory
from multimood_core.model import AUDIO_MODES, VIDEO_MODES
from multimood_core.prompts import AUDIO_TOKEN, HISTORY_TOKEN, VIDEO_TOKEN, Piece
from multimood_core.records import HistoryTurn, Turn, Waveform
from multimood_core.registry import DEFAULT
from multimood_core.weights import weights_path
from tests.benchmarks import scene, whole_session

REPLY: Final = 40  # tokens
VOICE: Final = 2  # seconds of sound that the read-out hears
LABEL_LINES: Final = (
    "Client's emotion: neutral\nTherapist's emotion: neutral\nTherapist's strategy: open question\nTherapist's response:"
)


@dataclass(frozen=True, slots=True)
class Row:
    """A figure with its bar: ``limit`` is the most that it may be, or, with ``least``, the least."""

    what: str
    values: tuple[float, ...]
    unit: str
    limit: float | None = None
    least: bool = False

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        if self.limit is None:
            return None
        return self.median >= self.limit if self.least else self.median <= self.limit

    def line(self) -> str:
        figure = f"{self.median:.2f}"
        if len(self.values) > 1:
            figure += f" ({min(self.values):.2f} to {max(self.values):.2f})"
        bar = "" if self.limit is None else f"{'at least' if self.least else 'at most'} {self.limit:g}"
        return f"| {self.what} | {figure} | {self.unit} | {bar} | {({True: 'yes', False: 'no', None: ''})[self.met]} |"


def _timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@dataclass(frozen=True, slots=True)
class Timed:
    """One answered turn: seconds from its end to its labels, its first and its last reply token, and of the ASR."""

    labels: float
    first: float
    last: float
    asr: float
    words: str
    tokens: int


@contextlib.contextmanager
def glancing(engine: Engine) -> Iterator[Glancer]:
    """The live read-out, with nobody's session to look at by itself."""
    worker = Worker()
    glancer = Glancer(engine, Sessions(engine, worker))
    try:
        yield glancer
    finally:
        glancer.close()
        worker.close()


def answer(
    engine: Engine, buffer: TurnBuffer, memory: HistoryMemory, history: Sequence[HistoryTurn], words: str | None
) -> Timed:
    """Answers the turn with ``REPLY`` reply tokens; ``words`` given by hand leave the ASR out."""
    engine.prepare(history, scene.CONTEXT, memory)  # as the app does when a turn is begun, while the client speaks
    began, labels, first, before = time.perf_counter(), 0.0, 0.0, 0
    turn = replace(buffer.turn(), text=words)
    run = engine.begin(turn, history, scene.CONTEXT, memory)
    for event in run.events(Sampling(min_tokens=REPLY, max_tokens=REPLY)):
        now = time.perf_counter() - began
        if isinstance(event, Labelled):
            labels = now
        elif isinstance(event, ReplyPart):
            if not first:  # the first token is drawn and not yet read
                first, before = now, run.decoder.cache.get_seq_length()
        elif isinstance(event, Finished):
            prediction = event.prediction
    last = time.perf_counter() - began
    tokens = run.decoder.cache.get_seq_length() - before
    assert (prediction.modalities.video, prediction.modalities.audio) == ("used", "used")
    return Timed(labels, first, last, prediction.seconds.asr, prediction.transcript, tokens)


def free_labels(
    engine: Engine, turn: Turn, history: Sequence[HistoryTurn], towers: TurnFeatures | None = None
) -> tuple[int, int]:
    """The same model without the compressor and the label decoder: all history as text, the label lines generated.

    As many tokens are generated as the three label lines have: weights that have not seen so long a text may stop early
    or run on, and that is not what is timed.

    Returns:
        Tokens of the prompt and tokens generated.
    """
    features = towers or engine.encode(turn)
    assert features.video is not None
    assert features.audio is not None
    config, processor = engine.model.config, engine.processor
    counts = {VIDEO_TOKEN: config.video_tokens(len(features.video)), AUDIO_TOKEN: len(features.audio), HISTORY_TOKEN: 1}
    prompt = processor.encode_prompt(turn.text or "", history, scene.CONTEXT, recent_turns=len(history))
    ids = torch.tensor([processor.expand(prompt, counts)])
    lines = len(processor.encode_pieces([Piece(LABEL_LINES)]))
    with torch.inference_mode():
        out = engine.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            video_features=features.video[None],
            video_modes=torch.tensor([VIDEO_MODES.index("used")]),
            audio_features=features.audio[None],
            audio_modes=torch.tensor([AUDIO_MODES.index("used")]),
            min_new_tokens=lines,
            max_new_tokens=lines,
            do_sample=False,
            bad_words_ids=[[token] for token in processor.media_token_ids],
        )
    return ids.shape[1], out.shape[1] - ids.shape[1]


def turn_rows(engine: Engine, glancer: Glancer, repeats: int) -> Iterator[Row]:
    """Labels, ASR, reply, and the ratio against free generation, all of the same turn, taken by turns."""
    history, memory = scene.dialogue(40), engine.memory()
    given: list[Timed] = []
    heard: list[Timed] = []
    free: list[float] = []
    bare: list[float] = []
    bare_free: list[float] = []
    turn = replace(scene.captured(glancer).turn(), text=scene.WORDS)
    towers = engine.encode(turn)
    prompt, generated = free_labels(engine, turn, history, towers)

    def labels_alone() -> None:
        ids, media = engine.prompt(scene.WORDS, towers, history, scene.CONTEXT, memory)
        predict_labels(engine, ids, media)

    for repeat in range(repeats + 1):
        given_now = answer(engine, scene.captured(glancer), memory, history, scene.WORDS)
        heard_now = answer(engine, scene.captured(glancer), memory, history, None)
        buffer = scene.captured(glancer)
        free_now = _timed(lambda buffer=buffer: free_labels(engine, replace(buffer.turn(), text=scene.WORDS), history))
        memory.rows(history[:-2])
        bare_now = _timed(labels_alone)
        bare_free_now = _timed(lambda: free_labels(engine, turn, history, towers))
        if repeat:  # the first run warms the caches
            given.append(given_now)
            heard.append(heard_now)
            free.append(free_now)
            bare.append(bare_now)
            bare_free.append(bare_free_now)
    assert {t.tokens for t in given + heard} == {REPLY}, "every reply has to have the tokens that its time is given for"
    assert all(t.words for t in heard), "the recogniser has to hear the words"
    labels = tuple(t.labels for t in given)
    yield Row("end of the turn to the three labels, words given", labels, "s", 1.5)
    yield Row("speech recognition of the 8 s", tuple(t.asr for t in heard), "s")
    yield Row("end of the turn to the labels, speech recognised", tuple(t.labels for t in heard), "s")
    yield Row("end of the turn to the first reply token, words given", tuple(t.first for t in given), "s", 2.0)
    yield Row("end of the turn to the first reply token, speech recognised", tuple(t.first for t in heard), "s", 2.0)
    yield Row(f"end of the turn to {REPLY} reply tokens, words given", tuple(t.last for t in given), "s", 5.0)
    yield Row(f"end of the turn to {REPLY} reply tokens, speech recognised", tuple(t.last for t in heard), "s", 5.0)
    how = f"history as text ({prompt} prompt tokens), labels generated freely ({generated} tokens)"
    yield Row(how, tuple(free), "s")
    ratio = tuple(f / o for f, o in zip(free, labels, strict=True))
    yield Row("that against the first row, towers in both", ratio, "times", 5.0, least=True)
    ratio = tuple(f / o for f, o in zip(bare_free, bare, strict=True))
    yield Row("the same without the towers in either", ratio, "times", 5.0, least=True)


def compressor_rows(engine: Engine, repeats: int) -> Iterator[Row]:
    """What turn 1,000 costs against turn 10, of the same words: the fold, and all that a session calls for it."""
    whole: dict[int, list[float]] = {10: [], 1000: []}
    fold: dict[int, list[float]] = {10: [], 1000: []}
    memories = {number: engine.memory() for number in whole}
    histories = {number: scene.dialogue(number) for number in whole}
    states = {}
    for number, memory in memories.items():
        memory.rows(histories[number][:-1])
        states[number] = memory._states[number - 1]
    compress = engine.model.model.compress
    for _ in range(10 * repeats):
        for number, history in histories.items():
            memory, state = memories[number], states[number]
            memory.rows(history[:-1])
            whole[number].append(_timed(lambda memory=memory, history=history: memory.rows(history)))
            unit = torch.tensor([engine.processor.encode_history_turn(history[-1])])
            with torch.inference_mode():
                fold[number].append(_timed(lambda unit=unit, state=state: compress(unit, state=state)))
    for what, times in (("folding the new turn", fold), ("the session's whole call for its history", whole)):
        low, high = statistics.median(times[10]), statistics.median(times[1000])
        shown = f"{what} at turn 1,000 ({1000 * high:.1f} ms) against turn 10 ({1000 * low:.1f} ms)"
        yield Row(shown, (high / low,), "times", 1.1)


def readout_rows(engine: Engine, glancer: Glancer, repeats: int) -> Iterator[Row]:
    """The live read-out on pictures of 640 x 480: as the app does it, and with the voice heard again at every picture."""
    count, rates = len(scene.pictures()), []
    for repeat in range(repeats + 1):
        buffer, glance, spent = TurnBuffer(), Glance(), 0.0
        for number in range(count):
            scene.fill(buffer, number)
            spent += _timed(lambda buffer=buffer, glance=glance: glancer.look(buffer, glance))
        assert glance.looks == count
        assert glance.face is not None
        assert glance.voice is not None
        if repeat:
            rates.append(count / spent)
    yield Row("live read-out as the app does it (voice every quarter of a second)", tuple(rates), "pictures/s", 10, least=True)
    detector, every = FaceDetector(weights_path("face-detector")), []
    sound = Waveform(scene.speech()[: VOICE * 16_000])

    def look(data: bytes) -> None:
        image = decode_picture(data)
        faces = detector.detect(image)
        crops = np.stack([cut(image, max(faces, key=lambda face: face.area))] * 2)
        pixels = torch.from_numpy(crops).float()[None, :, None] / 127.5 - 1
        with torch.inference_mode():
            video = engine.model.model.vision_tower(pixels)[0]
        audio = engine.encode(Turn(waveform=sound)).audio
        found = engine.expressions(TurnFeatures(video, "used", audio, "used"))
        assert set(found) == {"face", "voice"}

    look(scene.pictures()[0])
    for _ in range(repeats):
        every.append(count / _timed(lambda: [look(data) for data in scene.pictures()]))
    yield Row(f"live read-out with {VOICE} s of voice heard at every picture", tuple(every), "pictures/s", 10, least=True)


def memory_row(checkpoint: str) -> Row:
    """Peak resident memory of a process that serves the app and runs a whole session."""
    command = [sys.executable, "-m", "tests.benchmarks.whole_session", checkpoint]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the session's process failed: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    turns = len(found["turns"])
    what = f"peak resident memory of a served session ({whole_session.HISTORY} turns of history, {turns} turns answered)"
    return Row(what, (found["peak_bytes"] / 1e9,), "GB", 4.0)


def machine(engine: Engine) -> str:
    """What the figures were taken on, in a line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        model = next((x.split(":", 1)[1].strip() for x in cpuinfo.read_text().splitlines() if x.startswith("model name")), model)
    cores = len(os.sched_getaffinity(0))
    dtype = str(engine.model.get_input_embeddings().weight.dtype).removeprefix("torch.")
    return (
        f"{model}, {cores} core(s) for this process of {os.cpu_count()}, load {os.getloadavg()[0]:.1f} before; "
        f"torch {torch.__version__} with {torch.get_num_threads()} thread(s), language model in {dtype}; "
        f"Python {platform.python_version()}; checkpoint {engine.checkpoint.id.name} ({engine.checkpoint.id.sha256[:12]})"
    )


def measure(checkpoint: str = DEFAULT, repeats: int = 5) -> tuple[str, list[Row]]:
    """All figures, and the line about the machine."""
    memory = memory_row(checkpoint)
    engine = Engine(checkpoint)
    engine.transcriber.load()
    about = machine(engine)
    with glancing(engine) as glancer:
        rows = [
            *turn_rows(engine, glancer, repeats),
            *compressor_rows(engine, repeats),
            *readout_rows(engine, glancer, repeats),
            memory,
        ]
    return about, rows


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    return "\n".join(["| what | median (range) | unit | bar | met |", "|---|---|---|---|---|", *(row.line() for row in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=DEFAULT, help="a name in assets/checkpoints, or a folder")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    about, rows = measure(args.checkpoint, args.repeats)
    print(about, table(rows), sep="\n\n")


if __name__ == "__main__":
    main()
