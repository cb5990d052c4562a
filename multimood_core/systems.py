"""Systems that can be evaluated beside each other: our checkpoints, and language models asked with the same prompt.

A language model (``multimood_core.text_models``) gets the same slots, label sets and output format, zero-shot; what has no
place in text is said to be not given. Its answer is read leniently, and what cannot be read is wrong.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from multimood_core.decoding import LABELS, MAX_REPLY_TOKENS, AnswerDecoder, Sampling
from multimood_core.engine import Engine, TurnFeatures
from multimood_core.evaluation import Answer, Question, System
from multimood_core.history_memory import HistoryMemory
from multimood_core.labels import EMOTIONS, STRATEGIES
from multimood_core.media import read_turn
from multimood_core.prompts import (
    AUDIO_TOKEN,
    HISTORY_TOKEN,
    VIDEO_TOKEN,
    ParsedOutput,
    Piece,
    parse_output,
    prompt_pieces,
)
from multimood_core.records import LabelPrediction
from multimood_core.text_models import EndpointTextModel, Template, TextModel

_WORDS_ALONE: Final = TurnFeatures(None, "missing", None, "missing")
LINE_TOKENS: Final = 160  # of a language model's answer beside its reply: three lines, and some words around them


class Perception:
    """What the towers make of a question's clip.

    Args:
        engine: with the towers.
        root: where clips lie.
        video: use the picture.
        audio: use the sound.
    """

    def __init__(self, engine: Engine, root: Path, video: bool = True, audio: bool = True) -> None:
        self.engine, self.root, self.video, self.audio = engine, root, video, audio

    def __call__(self, question: Question) -> TurnFeatures:
        """Features of what is used of the clip; where there is none, both modalities are missing."""
        if question.media is None or not (self.video or self.audio):
            return _WORDS_ALONE
        turn = read_turn(self.root / question.media)
        turn = turn if self.video else replace(turn, frames=None)
        return self.engine.encode(turn if self.audio else replace(turn, waveform=None))


class CheckpointSystem:
    """One of our checkpoints: labels by likelihood, never unparsed.

    Args:
        engine: the loaded checkpoint.
        recent_turns: turns as text beside ``<history>``; the checkpoint's own setting when None.
        perceive: the clips' features; words alone when None.
        responses: how the reply is drawn; no reply is written when None.
    """

    def __init__(
        self,
        engine: Engine,
        recent_turns: int | None = None,
        perceive: Perception | None = None,
        responses: Sampling | None = None,
    ) -> None:
        self.engine, self.recent_turns, self.perceive, self.responses = engine, recent_turns, perceive, responses
        self._memory: tuple[str, HistoryMemory] | None = None

    @property
    def name(self) -> str:
        return self.engine.checkpoint.id.name

    def answer(self, question: Question) -> Answer:
        if self._memory is None or self._memory[0] != question.dialogue:
            self._memory = question.dialogue, self.engine.memory()
        memory, engine = self._memory[1], self.engine
        features = self.perceive(question) if self.perceive else _WORDS_ALONE
        ids, media = engine.prompt(
            question.client,
            features,
            question.history,
            question.context,
            memory,
            self.recent_turns,
            question.description,
        )
        decoder = AnswerDecoder(engine.model, engine.processor, engine.checkpoint.calibration, ids, media)
        labels = {task: decoder.label(task) for task in LABELS}
        reply = "".join(decoder.reply(self.responses)) if self.responses else None
        shown = engine.processor.recent_turns if self.recent_turns is None else self.recent_turns
        as_text = engine.processor.history_text_tokens(question.history[-shown:]) if shown else 0
        return Answer(labels, reply, history_tokens=memory.text_tokens, kept_tokens=len(question.history) + as_text)


class ZeroShotSystem:
    """A language model that answers in four lines, asked with the paper's prompt (figure 4) and all of the history as text.

    Args:
        model: the language model.
        perceive: probabilities that face and voice show by themselves; only the data set's descriptions when None.
        reply_tokens: that a reply may have, as one of our checkpoints'.
    """

    def __init__(
        self,
        model: TextModel,
        perceive: Callable[[Question], Mapping[str, Mapping[str, float]]] | None = None,
        reply_tokens: int = MAX_REPLY_TOKENS,
    ) -> None:
        self.model, self.perceive, self.reply_tokens = model, perceive, reply_tokens

    @property
    def name(self) -> str:
        return f"{self.model.name}, zero-shot"

    def answer(self, question: Question) -> Answer:
        told = described(question, self.perceive(question) if self.perceive else {})
        text = self.model.complete(zero_shot_prompt(question, told), self.reply_tokens + LINE_TOKENS)
        return Answer({}, missing=True) if text is None else read_answer(text)


def zero_shot_prompt(question: Question, told: str = "") -> Callable[[Template], list[Piece]]:
    """The paper's prompt for a model without media; ``told`` is what is seen and heard in words."""

    def prompt(template: Template) -> list[Piece]:
        pieces = prompt_pieces("ecot", template, question.client, question.history, question.context, told)
        return as_text(pieces, bool(question.history))

    return prompt


def read_answer(text: str) -> Answer:
    """What can be read from a language model's four lines."""
    found = parse_output(text)
    return Answer(_labels(found), found.response, text)


# -- SMES (Chu et al. 2024): cues as text, then one step after another --------------------------------------------------

SMES_STEPS: Final = ("client_emotion", "strategy", "therapist_emotion", "response")
_SMES_SYSTEM: Final = (
    "You are a counsellor who works in small steps. You answer each question in the form that it asks for."
)
_SMES_TASKS: Final = {
    "client_emotion": f"Which emotion does the client feel now? Answer with one of: {', '.join(EMOTIONS)}.",
    "strategy": f"Which strategy should the therapist take next? Answer with one of: {', '.join(STRATEGIES)}.",
    "therapist_emotion": f"With which emotion should the therapist answer? Answer with one of: {', '.join(EMOTIONS)}.",
    "response": "Write the therapist's reply to the client, in keeping with what was found, and nothing else.",
}
_SMES_NAMES: Final = {
    "client_emotion": "Client's emotion",
    "strategy": "Therapist's strategy",
    "therapist_emotion": "Therapist's emotion",
}
_LABEL_TOKENS: Final = 24


@dataclass(frozen=True, slots=True)
class SmesParts:
    """What an ablation of SMES leaves out: cues of the picture or the voice, or steps that later ones build on.

    A step that is left out is still asked, for its own score, but what it found is not shown to later steps.
    """

    visual: bool = True
    vocal: bool = True
    steps: tuple[str, ...] = SMES_STEPS


class SmesSystem:
    """Sequential support: client emotion, then strategy, then therapist emotion, then the reply, each on the ones before.

    Args:
        model: the language model that is asked four times.
        perceive: probabilities that face and voice show by themselves; only the data set's descriptions when None.
        parts: what is used.
        reply_tokens: that a reply may have.
    """

    def __init__(
        self,
        model: TextModel,
        perceive: Callable[[Question], Mapping[str, Mapping[str, float]]] | None = None,
        parts: SmesParts | None = None,
        reply_tokens: int = MAX_REPLY_TOKENS,
    ) -> None:
        self.model, self.perceive, self.parts, self.reply_tokens = model, perceive, parts or SmesParts(), reply_tokens

    @property
    def name(self) -> str:
        return f"{self.model.name}, SMES"

    def answer(self, question: Question) -> Answer:
        shown = self.perceive(question) if self.perceive else {}
        wanted = {"face": self.parts.visual, "voice": self.parts.vocal}
        shown = {name: row for name, row in shown.items() if wanted[name]}
        told = described(replace(question, description=question.description if self.parts.visual else ""), shown)
        labels: dict[str, LabelPrediction] = {}
        known: dict[str, str] = {}
        said: list[str] = []
        for step in SMES_STEPS:
            limit = self.reply_tokens if step == "response" else _LABEL_TOKENS
            text = self.model.complete(self._prompt(question, told, known, step), limit)
            if text is None:
                return Answer(labels, text="\n".join(said), missing=True)
            said.append(f"{step}: {text.strip()}")
            if step == "response":
                return Answer(labels, _reply_in(text), "\n".join(said))
            if (label := label_in(text, step)) is not None:
                labels[step] = LabelPrediction(label, {})
                if step in self.parts.steps:
                    known[step] = label
        raise AssertionError("the last step is the reply")

    def _prompt(
        self, question: Question, told: str, known: Mapping[str, str], step: str
    ) -> Callable[[Template], list[Piece]]:
        def prompt(template: Template) -> list[Piece]:
            found = "".join(f"{_SMES_NAMES[name]}: {label}\n" for name, label in known.items())

            def stepwise(messages: list[dict[str, str]]) -> str:
                context = messages[1]["content"].split("\n[TASK]\n")[0]
                task = f"{context}\n[FOUND SO FAR]\n{found or 'nothing'}\n[TASK]\n{_SMES_TASKS[step]}"
                return template([{"role": "system", "content": _SMES_SYSTEM}, {"role": "user", "content": task}])

            pieces = prompt_pieces("ecot", stepwise, question.client, question.history, question.context, told)
            return as_text(pieces, bool(question.history))

        return prompt


def label_in(text: str, task: str) -> str | None:
    """The label of ``task`` that free text names first, read as leniently as a whole answer."""
    line, _ = LABELS[task]
    first = next((part for part in text.splitlines() if part.strip()), "")
    return _labels_of(parse_output(f"{line} {first.split(':', 1)[-1]}"))[task]


def _reply_in(text: str) -> str | None:
    """The reply, without a line's name before it or quotation marks around it."""
    return (parse_output(text).response or text.strip().strip('"“”').strip()) or None


def described(question: Question, shown: Mapping[str, Mapping[str, float]]) -> str:
    """What is seen and heard in words: the data set's description, and what face and voice show by themselves."""
    parts = [question.description] if question.description else []
    for name, row in shown.items():
        ranked = sorted(row.items(), key=lambda pair: -pair[1])[:2]
        parts.append(f"The {name} shows {' or '.join(f'{emotion} ({share:.0%})' for emotion, share in ranked)}.")
    return " ".join(parts)


class Expressions:
    """What face and voice of a clip show by themselves, by a checkpoint's expression heads: SMES's cues."""

    def __init__(self, perceive: Perception) -> None:
        self._perceive, self._lock = perceive, threading.Lock()

    def __call__(self, question: Question) -> Mapping[str, Mapping[str, float]]:
        with self._lock:  # several dialogues may ask at a time; the towers answer one
            return self._perceive.engine.expressions(self._perceive(question))


def as_text(pieces: Sequence[Piece], history: bool) -> list[Piece]:
    """A prompt for a model without media: their placeholders say so in words."""
    words = {VIDEO_TOKEN: "not given", AUDIO_TOKEN: "not given", HISTORY_TOKEN: "" if history else "none"}

    def put(text: str) -> str:
        for token, word in words.items():
            text = text.replace(token, word)
        return text

    return [piece if piece.typed else Piece(put(piece.text)) for piece in pieces]


def _labels_of(found: ParsedOutput) -> dict[str, str | None]:
    return {task: getattr(found, task) for task in LABELS}


def _labels(found: ParsedOutput) -> dict[str, LabelPrediction]:
    return {task: LabelPrediction(label, {}) for task, label in _labels_of(found).items() if label is not None}


def calls_of(system: System) -> dict[str, Any] | None:
    """Calls, tokens and cost so far, where a system asks an endpoint."""
    model = getattr(system, "model", None)
    return model.endpoint.report() if isinstance(model, EndpointTextModel) else None
