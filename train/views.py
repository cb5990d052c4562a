"""What a microphone and a camera do to a voice and a face: views of a clip that the stages learn from beside the clip."""

from __future__ import annotations

import random
from typing import Final

import cv2
import numpy as np
from scipy.signal import butter, fftconvolve, lfilter, sosfilt

from multimood_core.face_tower import CROP_SIZE
from multimood_core.records import SAMPLE_RATE

VOICE_VIEWS: Final = ("clean", "slow", "fast", "noise", "room")
FACE_VIEWS: Final = ("clean", "warp0", "warp1", "warp2", "warp3")


def speed_changed(samples: np.ndarray, factor: float) -> np.ndarray:
    """The sound played ``factor`` times as fast, pitch included (Ko et al. 2015, speed perturbation)."""
    positions = np.arange(0, len(samples) - 1, factor)
    return np.interp(positions, np.arange(len(samples)), samples).astype(np.float32)


def noisy(samples: np.ndarray, decibels: float, rng: np.random.Generator) -> np.ndarray:
    """The sound with pink noise that lies ``decibels`` below it."""
    noise = lfilter([1.0], [1.0, -0.95], rng.standard_normal(len(samples)))
    power = np.mean(np.square(samples)) / 10 ** (decibels / 10)
    return (samples + noise * np.sqrt(power / np.mean(np.square(noise)))).astype(np.float32)


def in_a_room(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The sound with a room's echo (RT60 of 0.15 to 0.5 s) through a microphone of narrow band."""
    times = np.arange(int(0.3 * SAMPLE_RATE)) / SAMPLE_RATE
    echo = 0.15 * rng.standard_normal(len(times)) * np.exp(-6.9 * times / rng.uniform(0.15, 0.5))  # -60 dB at RT60
    echo[0] = 1.0
    band = butter(2, [rng.uniform(60, 200), rng.uniform(3500, 7500)], "band", fs=SAMPLE_RATE, output="sos")
    return sosfilt(band, fftconvolve(samples, echo)[: len(samples)]).astype(np.float32)


def sound_views(samples: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A sound as it is, slower, faster, in noise, and in a room: what microphones do to a voice."""
    return {
        "clean": samples,
        "slow": speed_changed(samples, 0.9),
        "fast": speed_changed(samples, 1.1),
        "noise": noisy(samples, 20.0, rng),
        "room": in_a_room(samples, rng),
    }


def face_views(image: np.ndarray, rng: random.Random, warps: int = 4) -> dict[str, np.ndarray]:
    """A face crop (h, w) uint8 as it is and slightly warped, each (64, 64)."""
    plain = cv2.resize(image, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_LINEAR)
    return {"clean": plain} | {f"warp{i}": warped_face(image, rng) for i in range(warps)}


def warped_face(image: np.ndarray, rng: random.Random) -> np.ndarray:
    """A face crop slightly turned, shifted, scaled and re-lit: (h, w) uint8 -> (64, 64) uint8."""
    height, width = image.shape
    scale = CROP_SIZE / max(height, width) * float(np.exp(rng.uniform(-0.1, 0.1)))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-12, 12), scale)
    shift = [CROP_SIZE / 2 + rng.uniform(-4, 4) - width / 2, CROP_SIZE / 2 + rng.uniform(-4, 4) - height / 2]
    matrix[:, 2] += shift
    warped = cv2.warpAffine(image, matrix, (CROP_SIZE, CROP_SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    lit = 255 * (warped / 255.0) ** float(np.exp(rng.uniform(-0.3, 0.3)))
    return np.clip(lit, 0, 255).astype(np.uint8)
