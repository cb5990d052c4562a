"""A session to look at without a camera: drawn faces, a synthetic voice and typed words, all made by this project.

The sound files in ``assets/demo`` were spoken by eSpeak NG (``espeak-ng -v en-gb -s 150``) from the words below and
encoded as Opus; the faces are drawn here. Nobody is shown or heard in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from multimood_core.media import read_turn
from multimood_core.records import NUM_FRAMES, Context, Frames, Turn

ASSETS: Final = Path(__file__).resolve().parent.parent / "assets" / "demo"
CONTEXT: Final = Context("work", "Lost a job two months ago, sleeps badly, lives with a brother.")
SIZE: Final = 480  # pixels a side of the drawing
_WALL: Final = (178, 186, 184)
ROOM: Final = (360, 480)  # height and width of the frame that it stands in
FIGURE: Final = 0.4  # of the drawing's size: the face detector takes a large drawing for what it is


@dataclass(frozen=True, slots=True)
class DemoTurn:
    """Words, the file that speaks them (None: typed), and the mood of the drawn face (None: no camera)."""

    words: str
    sound: str | None
    mouth: float | None
    brows: float = 0.0


TURNS: Final = (
    DemoTurn("I have not been sleeping much since I lost my job. I lie awake and go over it.", "sleep.ogg", -0.8, 0.5),
    DemoTurn("My brother says I should just pull myself together. It makes me so angry.", "brother.ogg", -0.5, -0.9),
    DemoTurn("I rang my old colleague yesterday, and we laughed a lot. That was good.", None, None),
    DemoTurn("She asked me to come by on Friday. I am looking forward to it.", "friday.ogg", 0.9, 0.2),
)


def demo_turn(step: int) -> Turn:
    """The media of demo turn ``step``, counted from 0."""
    chosen = TURNS[step % len(TURNS)]
    if chosen.sound is None:
        return Turn(text=chosen.words)
    spoken = read_turn(ASSETS / chosen.sound)
    frames = None
    if chosen.mouth is not None:
        times = (np.arange(NUM_FRAMES) + 0.5) * spoken.seconds / NUM_FRAMES
        frames = Frames(np.stack([draw_face(chosen.mouth, chosen.brows, float(t)) for t in times]), times)
    return Turn(frames=frames, waveform=spoken.waveform, seconds=spoken.seconds)


def draw_face(mouth: float, brows: float, seconds: float) -> np.ndarray:
    """A shaded face in a room's corner of a picture, (*ROOM, 3) uint8.

    Args:
        mouth: corners from -1 (down) to 1 (up).
        brows: inner ends from -1 (down) to 1 (up).
        seconds: moment of the animation: the head sways, the mouth speaks, the eyes blink.
    """
    image = Image.new("RGB", (SIZE, SIZE), _WALL)
    draw = ImageDraw.Draw(image)
    x = SIZE / 2 + 6 * np.sin(2 * np.pi * 0.3 * seconds)
    y = SIZE / 2 + 4 * np.sin(2 * np.pi * 0.5 * seconds)

    def oval(cx: float, cy: float, rx: float, ry: float, fill: tuple[int, int, int]) -> None:
        draw.ellipse((x + cx - rx, y + cy - ry, x + cx + rx, y + cy + ry), fill=fill)

    oval(0, 230, 150, 90, (70, 90, 110))  # shoulders
    draw.rectangle((x - 38, y + 90, x + 38, y + 170), fill=(196, 150, 125))
    oval(0, -28, 108, 132, (62, 44, 36))  # hair
    for shade in range(12):  # the light comes from above and the left
        oval(-2 * shade / 3, 8 - shade, 94 - 4 * shade, 120 - 5 * shade, (206 + 3 * shade, 160 + 3 * shade, 134 + 3 * shade))
    draw.pieslice((x - 98, y - 135, x + 98, y + 20), 180, 360, fill=(62, 44, 36))
    oval(-95, 10, 10, 22, (200, 152, 128))
    oval(95, 10, 10, 22, (200, 152, 128))
    blink = seconds % 3.1 < 0.15
    for side in (-1, 1):
        cx = side * 38
        oval(cx, -6, 19, 3 if blink else 11, (244, 242, 238))
        if not blink:
            oval(cx, -6, 9, 10, (74, 58, 46))
            oval(cx, -6, 4, 5, (16, 12, 10))
        inner, outer = (x + side * 18, y - 34 - 12 * brows), (x + side * 60, y - 34 + 5 * brows)
        draw.line([inner, ((inner[0] + outer[0]) / 2, min(inner[1], outer[1]) - 3), outer], fill=(52, 36, 30), width=8)
    draw.polygon([(x - 5, y), (x - 15, y + 36), (x, y + 42), (x + 15, y + 36), (x + 5, y)], fill=(196, 146, 120))
    oval(-8, 37, 4, 3, (120, 74, 62))
    oval(8, 37, 4, 3, (120, 74, 62))
    opening = 4 + 9 * abs(np.sin(2 * np.pi * 2.1 * seconds))
    across = np.linspace(-1, 1, 15)
    curve = -14 * mouth * (across**2 - 0.4)
    upper = [(x + 36 * a, y + 70 + c - 3 * (1 - a * a)) for a, c in zip(across, curve, strict=True)]
    lower = [(x + 36 * a, y + 70 + c + opening * (1 - a * a)) for a, c in zip(across, curve, strict=True)]
    draw.polygon([*upper, *lower[::-1]], fill=(110, 40, 44))
    draw.line(upper, fill=(164, 84, 82), width=6)
    draw.line(lower, fill=(176, 94, 90), width=7)
    side = round(SIZE * FIGURE)
    frame = Image.new("RGB", ROOM[::-1], _WALL)
    frame.paste(image.filter(ImageFilter.GaussianBlur(1.6)).resize((side, side)), ((ROOM[1] - side) // 2, ROOM[0] - side))
    return np.asarray(frame)
