"""The live read-out while a client speaks: what the latest picture and the last seconds of sound show by themselves.

It runs beside the worker on a thread and a face detector of its own, so that it never waits for a reply, and it only
ever looks at the newest: a slow machine shows fewer read-outs, not older ones.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch

from app.sessions import Sessions
from app.turn_buffer import TurnBuffer, decode_picture
from multimood_core.engine import Engine, TurnFeatures
from multimood_core.errors import MultiMoodError
from multimood_core.face_detector import FaceDetector, cut
from multimood_core.records import SAMPLE_RATE, Turn, Waveform
from multimood_core.speech import EndOfTurn, level_dbfs
from multimood_core.weights import weights_path

VOICE_SECONDS: Final = 2.0  # sound that the voice's read-out hears
VOICE_EVERY: Final = 0.25  # seconds of new sound between two of its read-outs
SMOOTHING: Final = 0.6  # seconds in which a change reaches 63 %: single frames flicker
PAUSE: Final = 0.02  # seconds between looks for something new
QUIET_SECONDS: Final = 4.0
QUIET_DBFS: Final = -40.0  # RMS of the loudest tenth of a second; speech at arm's length reaches -30 to -15
STALE: Final = 30.0  # seconds without data after which an open turn counts as abandoned

log = logging.getLogger("multimood.app")


@dataclass(slots=True)
class Glance:
    """The state of one open turn's read-out."""

    face: Mapping[str, float] | None = None
    voice: Mapping[str, float] | None = None
    people: int = 0
    speaking: bool = False
    spoke: bool = False
    ended: bool = False
    loudest: float = float("-inf")
    looks: int = 0
    _picture: int = 0
    _heard: int = 0
    _voiced: int = 0
    _looked: float = field(default_factory=time.monotonic)
    _ends: EndOfTurn | None = None

    @property
    def quiet(self) -> bool:
        """Whether seconds of sound have come without speech, and all too weak for it."""
        return not self.spoke and self._heard > QUIET_SECONDS * SAMPLE_RATE and self.loudest < QUIET_DBFS


class Glancer:
    """Looks at every open turn, again and again.

    Args:
        engine: its towers and expression heads are used.
        sessions: the turns to look at.
        silence: seconds without speech that end a turn.
    """

    def __init__(self, engine: Engine, sessions: Sessions, silence: float = 1.2) -> None:
        self._engine, self._sessions, self._silence = engine, sessions, silence
        self._detector = FaceDetector(weights_path("face-detector"))
        self._glances: dict[TurnBuffer, Glance] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="multimood-glance", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join(timeout=10)

    def of(self, buffer: TurnBuffer | None) -> Glance:
        """The newest read-out of a turn."""
        return self._glances.get(buffer, Glance()) if buffer is not None else Glance()

    def _work(self) -> None:
        while not self._closed.wait(PAUSE):
            open_now = {s.buffer: s for s in self._sessions.listening() if s.buffer is not None}
            self._glances = {b: self._glances.get(b) or Glance() for b in open_now}
            for buffer, session in open_now.items():
                if buffer.age > STALE:
                    session.cancel_capture()
                    continue
                try:
                    self.look(buffer, self._glances[buffer])
                except MultiMoodError as error:
                    log.warning("live read-out: %s", error)
                except Exception:
                    log.exception("live read-out")

    def look(self, buffer: TurnBuffer, glance: Glance) -> None:
        """Brings ``glance`` up to the newest picture and sound of ``buffer``."""
        self._listen(buffer, glance)
        latest = buffer.latest_picture()
        if latest is None or latest.number == glance._picture:
            return
        glance._picture = latest.number
        now = time.monotonic()
        keep = float(np.exp((glance._looked - now) / SMOOTHING))
        glance._looked = now
        image = decode_picture(latest.data)
        latest.faces = faces = self._detector.detect(image)
        glance.people = len(faces)
        glance.looks += 1
        if not faces:
            glance.face = None
            return
        crops = np.stack([cut(image, max(faces, key=lambda face: face.area))] * 2)  # the connector takes pairs
        pixels = torch.from_numpy(crops).float()[None, :, None] / 127.5 - 1
        with torch.inference_mode():
            video = self._engine.model.model.vision_tower(pixels)[0]
        glance.face = _smooth(glance.face, self._engine.expressions(TurnFeatures(video, "used", None, "missing"))["face"], keep)

    def _listen(self, buffer: TurnBuffer, glance: Glance) -> None:
        new = buffer.sound_since(glance._heard)
        if not len(new):
            return
        glance._heard += len(new)
        glance._ends = glance._ends or EndOfTurn(silence=self._silence)
        for event in glance._ends.push(new):
            glance.ended = glance.ended or event.kind == "turn_ended"
        glance.speaking = glance._ends.speaking
        glance.spoke = glance.spoke or glance.speaking
        glance.loudest = max(glance.loudest, level_dbfs(new))
        if glance.speaking and glance._heard - glance._voiced >= VOICE_EVERY * SAMPLE_RATE:
            glance._voiced = glance._heard
            features = self._engine.encode(Turn(waveform=Waveform(buffer.latest_sound(VOICE_SECONDS))))
            found = self._engine.expressions(features).get("voice")
            if found is not None:
                glance.voice = _smooth(glance.voice, found, float(np.exp(-VOICE_EVERY / SMOOTHING)))


def _smooth(old: Mapping[str, float] | None, new: Mapping[str, float], keep: float) -> Mapping[str, float]:
    return new if old is None else {name: keep * old[name] + (1 - keep) * new[name] for name in new}
