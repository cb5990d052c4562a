"""One loaded checkpoint that answers turns: capture record in, events out, in the order in which they are ready.

The engine knows no session and no screen. Whoever keeps a session passes its history with each turn, and a
``HistoryMemory`` so that earlier turns are not compressed again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from multimood_core.decoding import LABELS, AnswerDecoder, Sampling, read_start
from multimood_core.errors import MediaError, ModelError
from multimood_core.face_detector import FaceDetector, crop_faces
from multimood_core.history_memory import HistoryMemory
from multimood_core.labels import MEDIA_EMOTIONS
from multimood_core.model import AUDIO_MODES, VIDEO_MODES
from multimood_core.prompts import AUDIO_TOKEN, HISTORY_TOKEN, VIDEO_TOKEN, whole_text
from multimood_core.records import (
    AudioMode,
    Context,
    Frames,
    HistoryTurn,
    LabelPrediction,
    Modalities,
    Seconds,
    TextMode,
    TokenCounts,
    Turn,
    TurnPrediction,
    VideoMode,
    Waveform,
)
from multimood_core.registry import DEFAULT, Checkpoint, load
from multimood_core.speech import Transcriber, is_silent
from multimood_core.weights import weights_path


@dataclass(frozen=True, slots=True)
class Transcribed:
    """The client's words are known."""

    text: str
    mode: TextMode


@dataclass(frozen=True, slots=True)
class Perceived:
    """Which modalities reach the model, and what voice and face show by themselves."""

    modalities: Modalities
    expressions: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Labelled:
    """One of the three labels (``client_emotion``, ``therapist_emotion``, ``strategy``)."""

    task: str
    prediction: LabelPrediction


@dataclass(frozen=True, slots=True)
class ReplyPart:
    """The next piece of the reply's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """Everything of the turn."""

    prediction: TurnPrediction


Event = Transcribed | Perceived | Labelled | ReplyPart | Finished


@dataclass(frozen=True, slots=True)
class TurnFeatures:
    """A turn after the towers: video (T, P, D) and audio (S, D) features where the mode is ``used``."""

    video: Tensor | None
    video_mode: VideoMode
    audio: Tensor | None
    audio_mode: AudioMode


class TurnRun:
    """One turn being answered: ``events`` runs it once, and its ``decoder`` can go back to a label or write another reply."""

    def __init__(
        self, engine: Engine, turn: Turn, history: Sequence[HistoryTurn], context: Context | None, memory: HistoryMemory,
        media_seconds: float,
    ) -> None:
        self._engine, self._turn, self._history, self._context = engine, turn, history, context
        self._memory, self._media_seconds = memory, media_seconds
        self._decoder: AnswerDecoder | None = None
        self._perceived: tuple[str, Modalities] | None = None

    @property
    def decoder(self) -> AnswerDecoder:
        """What the labels and replies of this turn come from.

        Raises:
            ModelError: the turn has not been perceived yet.
        """
        if self._decoder is None:
            raise ModelError("The turn has not been read yet: go through events() first.")
        return self._decoder

    def events(self, sampling: Sampling | None = None) -> Iterator[Event]:
        """Words, what is seen and heard, labels, reply and the whole prediction, each as soon as it is there.

        Raises:
            MediaError: there is nothing in the turn: no words, no speech, no picture.
        """
        started = time.monotonic()
        transcript = self._engine.hear(self._turn)
        heard = time.monotonic()
        yield transcript
        features = self._engine.encode(self._turn)
        if (features.video, features.audio) == (None, None) and transcript.mode == "missing":
            raise MediaError(
                "Expected words, speech or a face in the turn, but there is nothing to go by "
                f"(video: {features.video_mode.replace('_', ' ')}, audio: {features.audio_mode}). "
                "Speak, look at the camera, or type."
            )
        modalities = Modalities(features.video_mode, features.audio_mode, transcript.mode)
        self._perceived = transcript.text, modalities
        expressions = self._engine.expressions(features)
        encoded = time.monotonic()
        yield Perceived(modalities, expressions)
        engine = self._engine
        ids, media = engine.prompt(transcript.text, features, self._history, self._context, self._memory)
        text_tokens = self._memory.text_tokens
        start = self._memory.take(self._history, ids[0].tolist())
        self._decoder = AnswerDecoder(engine.model, engine.processor, engine.checkpoint.calibration, ids, media, start)
        found: dict[str, LabelPrediction] = {}
        for task in LABELS:
            found[task] = self._decoder.label(task)
            yield Labelled(task, found[task])
        labelled, first, reply = time.monotonic(), 0.0, ""
        for part in self._decoder.reply(sampling):
            first = first or time.monotonic() - started
            reply += part
            yield ReplyPart(part)
        total = time.monotonic() - started
        response_tokens = len(engine.processor.encode_value(reply)) if reply else 0
        yield Finished(
            TurnPrediction(
                client_emotion=found["client_emotion"],
                therapist_emotion=found["therapist_emotion"],
                strategy=found["strategy"],
                response=reply,
                transcript=transcript.text,
                modalities=modalities,
                tokens=TokenCounts(text_tokens, len(self._history), ids.shape[1], response_tokens),
                seconds=Seconds(
                    self._media_seconds, heard - started, encoded - heard, labelled - started, first or total, total
                ),
                checkpoint=engine.checkpoint.id,
                expressions=expressions,
            )
        )

    def words_alone(self) -> LabelPrediction | None:
        """What the client's words show without face and voice; None where the turn has no words, or nothing but words.

        It costs a forward pass of its own, so that it is asked for when the reply is there.
        """
        perceived = self._perceived
        if perceived is None or perceived[1].text == "missing" or "used" not in (perceived[1].video, perceived[1].audio):
            return None
        return self._engine.words_alone(perceived[0], self._history, self._context, self._memory)


class Engine:
    """A checkpoint with everything that a turn needs: detector, towers, speech recogniser, decoder.

    Args:
        checkpoint: a name of the registry, a folder, or a loaded checkpoint.
        language: the spoken language (ISO 639-1); None lets the recogniser find out.
        beside: another engine, whose detector and speech recogniser this one uses too.
    """

    def __init__(
        self, checkpoint: str | Path | Checkpoint = DEFAULT, language: str | None = None, beside: Engine | None = None
    ) -> None:
        self.checkpoint = checkpoint if isinstance(checkpoint, Checkpoint) else load(checkpoint)
        self.model, self.processor = self.checkpoint.model, self.checkpoint.processor
        self.detector: FaceDetector = beside.detector if beside else FaceDetector(weights_path("face-detector"))
        self.transcriber: Transcriber = beside.transcriber if beside else Transcriber(language=language)

    def memory(self) -> HistoryMemory:
        """A new session's compressed history."""
        return HistoryMemory(self.model, self.processor)

    # -- perception ------------------------------------------------------------------------------------------------

    def encode(self, turn: Turn) -> TurnFeatures:
        """Run the towers on what there is of a turn."""
        video, video_mode = self._encode_video(turn.frames)
        audio, audio_mode = self._encode_audio(turn.waveform)
        return TurnFeatures(video, video_mode, audio, audio_mode)

    def _encode_video(self, frames: Frames | None) -> tuple[Tensor | None, VideoMode]:
        if frames is None or len(frames) == 0:
            return None, "missing"
        crops = crop_faces(frames, self.detector).crops
        if len(crops) == 0:
            return None, "no_face"
        if len(crops) == 1:  # the connector convolves over pairs of frames
            crops = np.repeat(crops, 2, axis=0)
        pixels = torch.from_numpy(crops).float()[None, :, None] / 127.5 - 1
        with torch.inference_mode():
            return self.model.model.vision_tower(pixels)[0], "used"

    def _encode_audio(self, waveform: Waveform | None) -> tuple[Tensor | None, AudioMode]:
        if waveform is None or len(waveform.samples) == 0:
            return None, "missing"
        if is_silent(waveform):
            return None, "silent"
        samples = torch.from_numpy(np.ascontiguousarray(waveform.samples))[None]
        with torch.inference_mode():
            features, mask = self.model.model.encode_audio(samples, torch.tensor([samples.shape[1]]))
        return features[0][mask[0]], "used"

    def expressions(self, features: TurnFeatures) -> dict[str, dict[str, float]]:
        """Probabilities that voice and face show by themselves, over ``MEDIA_EMOTIONS``."""
        base, found = self.model.model, {}
        with torch.inference_mode():
            if features.audio is not None:
                tokens = base.audio_projector(features.audio)
                found["voice"] = base.expression("voice", tokens)
            if features.video is not None:
                tokens = base.project_video(features.video[None], torch.tensor([len(features.video)]))[0]
                found["face"] = base.expression("face", tokens)
        return {name: dict(zip(MEDIA_EMOTIONS, p.tolist(), strict=True)) for name, p in found.items()}

    def words_alone(
        self,
        text: str,
        history: Sequence[HistoryTurn] = (),
        context: Context | None = None,
        memory: HistoryMemory | None = None,
    ) -> LabelPrediction:
        """The client's expression that words show by themselves, in their dialogue: the turn read without media."""
        nothing = TurnFeatures(None, "missing", None, "missing")
        ids, media = self.prompt(text, nothing, history, context, memory or self.memory())
        return AnswerDecoder(self.model, self.processor, self.checkpoint.calibration, ids, media).label("client_emotion")

    # -- turns -----------------------------------------------------------------------------------------------------

    def prepare(self, history: Sequence[HistoryTurn], context: Context | None, memory: HistoryMemory) -> None:
        """Read the next prompt as far as it is known before the client has spoken: up to ``<video>``.

        The turn that follows reads only the rest. When history or context change before it, it reads all.
        """
        prompt = self.processor.encode_prompt("", history, context)
        video, _, placeholder, _ = self.model.config.media_token_ids
        ids = self.processor.expand(prompt[: prompt.index(video)], {HISTORY_TOKEN: max(1, len(history))})
        if memory.holds(history, ids):
            return
        rows = memory.rows(history)
        memory.keep(history, read_start(self.model, ids, {"history_memory": rows[None]} if placeholder in ids else {}))

    def begin(
        self,
        turn: Turn,
        history: Sequence[HistoryTurn] = (),
        context: Context | None = None,
        memory: HistoryMemory | None = None,
        media_seconds: float = 0.0,
    ) -> TurnRun:
        """A run that answers ``turn`` when its events are asked for.

        Args:
            turn: the client's turn; words in ``text`` are taken as given, else the sound is transcribed.
            history: the turns before.
            context: problem and situation.
            memory: the session's compressed history; a new one when None.
            media_seconds: what reading the clip took, to be reported.
        """
        return TurnRun(self, turn, history, context, memory or self.memory(), media_seconds)

    def predict(
        self,
        turn: Turn,
        history: Sequence[HistoryTurn] = (),
        context: Context | None = None,
        memory: HistoryMemory | None = None,
        sampling: Sampling | None = None,
        media_seconds: float = 0.0,
    ) -> Iterator[Event]:
        """``begin`` and all its events."""
        return self.begin(turn, history, context, memory, media_seconds).events(sampling)

    def hear(self, turn: Turn) -> Transcribed:
        """The turn's words: those given, or those spoken."""
        if turn.text is not None and turn.text.strip():
            return Transcribed(whole_text(turn.text).strip(), "given")
        if turn.waveform is None or len(turn.waveform.samples) == 0 or is_silent(turn.waveform):
            return Transcribed("", "missing")
        text = self.transcriber.transcribe(turn.waveform).text.strip()
        return Transcribed(text, "transcribed" if text else "missing")

    def prompt(
        self,
        text: str,
        features: TurnFeatures,
        history: Sequence[HistoryTurn],
        context: Context | None,
        memory: HistoryMemory,
        recent_turns: int | None = None,
        descriptions: str = "",
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Prompt ids (1, L) with expanded placeholders and the model's media arguments."""
        counts = {VIDEO_TOKEN: 1, AUDIO_TOKEN: 1, HISTORY_TOKEN: max(1, len(history))}
        media: dict[str, Tensor] = {
            "video_modes": torch.tensor([VIDEO_MODES.index(features.video_mode)]),
            "audio_modes": torch.tensor([AUDIO_MODES.index(features.audio_mode)]),
            "history_memory": memory.rows(history)[None],
        }
        if features.video is not None:
            counts[VIDEO_TOKEN] = self.model.config.video_tokens(len(features.video))
            media["video_features"] = features.video[None]
        if features.audio is not None:
            counts[AUDIO_TOKEN] = len(features.audio)
            media["audio_features"] = features.audio[None]
        ids = self.processor.encode_prompt(text, history, context, descriptions, recent_turns)
        return torch.tensor([self.processor.expand(ids, counts)]), media
