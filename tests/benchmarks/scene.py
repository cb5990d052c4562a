"""The turn and the dialogue that the benchmarks use: drawn pictures, synthetic speech and sentences of this project."""

from __future__ import annotations

import io
from functools import cache
from itertools import cycle, islice
from typing import Final

import numpy as np
from PIL import Image

from app.demo import ASSETS, TURNS, draw_face
from app.glance import Glance, Glancer
from app.turn_buffer import TurnBuffer
from multimood_core.media import read_turn
from multimood_core.records import SAMPLE_RATE, Context, HistoryTurn

SECONDS: Final = 8.0
FRAMES_A_SECOND: Final = 8  # what the page sends
SIZE: Final = (640, 480)  # width and height of a camera's picture
CONTEXT: Final = Context("work", "Lost a job two months ago, sleeps badly, lives with a brother.")
WORDS: Final = "I have not been sleeping much since I lost my job. I lie awake and go over it. She asked me to come by on Friday."

# Ten turns, so that turn 10 and turn 1,000 of a dialogue made of them have the same words.
_TURNS: Final = (
    HistoryTurn("client", "I keep checking my phone in case the agency has called, and then I feel stupid about it.", "sadness"),
    HistoryTurn("therapist", "Waiting like that wears anybody out. What goes through your mind just before you look?",
                "neutral", "open question"),
    HistoryTurn("client", "That they have found somebody younger. I know that I cannot know this, but it feels certain.", "fear"),
    HistoryTurn("therapist", "So it is less a thought than a certainty that comes over you.", "neutral", "restatement"),
    HistoryTurn("client", "Yes. And then my brother walks in and asks why I am still sitting there.", "anger"),
    HistoryTurn("therapist", "It sounds as if his question says to you that you are not trying.", "neutral", "interpretation"),
    HistoryTurn("client", "He does not mean it badly. He leaves the house at six and comes home tired as well.", "neutral"),
    HistoryTurn("therapist", "It is generous of you to see that while you are hurt by it.", "joy", "approval"),
    HistoryTurn("client", "I suppose so. Some days it is easier to be angry with him than to be afraid.", "sadness"),
    HistoryTurn("therapist", "Let us stay with that for a moment before we look at the week ahead.", "neutral",
                "guiding the pace and depth of the conversation"),
)  # fmt: skip


def dialogue(turns: int) -> list[HistoryTurn]:
    """A dialogue of ``turns`` turns, client and therapist by turns, the client first."""
    return list(islice(cycle(_TURNS), turns))


@cache
def speech() -> np.ndarray:
    """Eight seconds of synthetic speech (N,) float32 at 16 kHz: the demo's first turn and the beginning of its last."""
    spoken = [read_turn(ASSETS / TURNS[i].sound).waveform for i in (0, 3) if TURNS[i].sound]
    samples = np.concatenate([waveform.samples for waveform in spoken if waveform is not None])
    return samples[: int(SECONDS * SAMPLE_RATE)]


@cache
def pictures() -> tuple[bytes, ...]:
    """The camera's JPEGs of the turn: a drawn face that moves."""
    encoded = []
    for number in range(int(SECONDS * FRAMES_A_SECOND)):
        file = io.BytesIO()
        Image.fromarray(draw_face(-0.8, 0.5, number / FRAMES_A_SECOND)).resize(SIZE).save(file, "JPEG", quality=85)
        encoded.append(file.getvalue())
    return tuple(encoded)


def fill(buffer: TurnBuffer, number: int) -> None:
    """Gives ``buffer`` picture ``number`` of the turn and the sound that belongs to it."""
    step = SAMPLE_RATE // FRAMES_A_SECOND
    buffer.add_picture(pictures()[number], number / FRAMES_A_SECOND)
    buffer.add_sound(speech()[number * step : (number + 1) * step], SAMPLE_RATE)


def captured(glancer: Glancer) -> TurnBuffer:
    """The whole turn as capture has it when the turn ends: the live read-out has looked at every picture."""
    buffer, glance = TurnBuffer(), Glance()
    for number in range(len(pictures())):
        fill(buffer, number)
        glancer.look(buffer, glance)
    return buffer
