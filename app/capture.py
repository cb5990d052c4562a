"""This computer's own camera and microphone (``--capture local``), for where the page and the devices share a machine."""

from __future__ import annotations

import base64
import threading
import time
from typing import Any, Final

import numpy as np

from app.session import Phase, Session
from app.turn_buffer import TurnBuffer
from multimood_core.errors import MediaError

FRAMES_A_SECOND: Final = 8
SIDE: Final = 640  # pixels kept of the longer side
PREVIEW_SIDE: Final = 320


class LocalCapture:
    """Fills one session's turn at a time from OpenCV's camera and PortAudio's default microphone.

    Args:
        camera: OpenCV's number of the camera.
    """

    def __init__(self, camera: int = 0) -> None:
        self._camera = camera
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._picture: bytes | None = None

    def start(self, session: Session) -> None:
        """Opens the devices for the session's open turn; they close when the turn does.

        Raises:
            MediaError: another session uses them, or there is neither a camera nor a microphone.
        """
        buffer = session.buffer
        if buffer is None:
            raise MediaError("expected an open turn to record; start a turn first")
        with self._lock:
            if self._session is not None and self._session is not session:
                raise MediaError("This computer's camera and microphone are in use by another session; end its turn first.")
            microphone, no_sound = _open_microphone(buffer)
            camera, no_picture = _open_camera(self._camera)
            if microphone is None and camera is None:
                raise MediaError(f"{no_picture} {no_sound} Type the client's words, or choose a clip.")
            self._session = session
        threading.Thread(target=self._record, args=(session, buffer, camera, microphone), daemon=True).start()

    def preview(self, session: Session) -> str | None:
        """The last picture as a data address, for the page."""
        with self._lock:
            if self._session is not session or self._picture is None:
                return None
            return "data:image/jpeg;base64," + base64.b64encode(self._picture).decode()

    def _record(self, session: Session, buffer: TurnBuffer, camera: Any, microphone: Any) -> None:
        begun = time.monotonic()
        try:
            while session.phase is Phase.LISTENING and session.buffer is buffer:
                if camera is not None:
                    self._photograph(buffer, camera, time.monotonic() - begun)
                time.sleep(max(0.0, 1 / FRAMES_A_SECOND - (time.monotonic() - begun) % (1 / FRAMES_A_SECOND)))
        finally:
            if camera is not None:
                camera.release()
            if microphone is not None:
                microphone.stop()
                microphone.close()
            with self._lock:
                self._session = self._picture = None

    def _photograph(self, buffer: TurnBuffer, camera: Any, seconds: float) -> None:
        import cv2

        ok, image = camera.read()
        if not ok:
            return
        good, jpeg = cv2.imencode(".jpg", _shrunk(image, SIDE), [cv2.IMWRITE_JPEG_QUALITY, 85])
        small, preview = cv2.imencode(".jpg", _shrunk(image, PREVIEW_SIDE))
        if good and small:
            buffer.add_picture(jpeg.tobytes(), seconds)
            with self._lock:
                self._picture = preview.tobytes()


def _shrunk(image: np.ndarray, side: int) -> np.ndarray:
    import cv2

    scale = side / max(image.shape[:2])
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image


def _open_camera(number: int) -> tuple[Any, str]:
    import cv2

    camera = cv2.VideoCapture(number)
    if camera.isOpened():
        return camera, ""
    camera.release()
    return None, f"No camera {number} answers on this computer."


def _open_microphone(buffer: TurnBuffer) -> tuple[Any, str]:
    try:
        import sounddevice
    except OSError as error:  # its library PortAudio is not installed
        return None, f"No microphone: {error}; install PortAudio (libportaudio2)."
    try:
        device = sounddevice.query_devices(kind="input")
        rate = int(device["default_samplerate"])

        def heard(samples: np.ndarray, frames: int, moment: Any, status: Any) -> None:
            buffer.add_sound(samples[:, 0].copy(), rate)

        stream = sounddevice.InputStream(samplerate=rate, channels=1, dtype="float32", callback=heard)
        stream.start()
    except (sounddevice.PortAudioError, ValueError) as error:
        return None, f"No microphone answers on this computer ({error})."
    return stream, ""
