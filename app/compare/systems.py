"""What can be compared, and how each answers one client turn: checkpoints, the base language model, a remote endpoint."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from app.compare.engines import Engines
from app.ports import EngineLike
from app.remote import LoggedEndpoint
from multimood_core.base_model import NAME as BASE_NAME
from multimood_core.base_model import BaseTextModel
from multimood_core.decoding import LABELS, Sampling
from multimood_core.endpoint import EndpointSettings
from multimood_core.engine import Engine, Event, Labelled, ReplyPart
from multimood_core.errors import DataError, ModelError
from multimood_core.evaluation import Answer, Question
from multimood_core.prompts import parse_output
from multimood_core.records import Context, HistoryTurn, Turn
from multimood_core.systems import ANSWER_TOKENS, EndpointTextModel, read_answer, zero_shot_prompt

Kind = Literal["checkpoint", "base", "remote"]
MODEL: Final = "MULTIMOOD_COMPARE_MODEL"
URL: Final = "MULTIMOOD_COMPARE_URL"
KEY: Final = "MULTIMOOD_COMPARE_KEY"
OPENAI: Final = "api.openai.com"
LINE_TOKENS: Final = ANSWER_TOKENS - Sampling().max_tokens  # what the three label lines may take beside the reply
SENT: Final = (
    "the client's words",
    "the words and labels of the turns before",
    "problem and situation",
    "the prompt's fixed instructions",
    "model, temperature and most tokens",
)


@dataclass(frozen=True, slots=True)
class Choice:
    """A system by its kind and name; ``sha256`` says which weights, where they lie here."""

    kind: Kind
    name: str
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Moment:
    """A client turn with all that stands around it. ``reference`` and ``after`` are what was really said next, if known."""

    turn: Turn
    history: tuple[HistoryTurn, ...] = ()
    context: Context = field(default_factory=Context)
    source: str = "words"
    item: str = ""
    reference: str | None = None
    after: str | None = None
    truth: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> str:
        return self.turn.text or ""

    def question(self) -> Question:
        return Question(self.item or "turn", self.item or "turn", self.words, self.history, self.context)


@dataclass(frozen=True, slots=True)
class Remote:
    """The endpoint that the environment names. It is asked only where a person has agreed to its host."""

    settings: EndpointSettings

    @classmethod
    def from_environment(cls) -> Remote | None:
        """None where ``MULTIMOOD_COMPARE_MODEL`` is not set."""
        model = os.environ.get(MODEL)
        if not model:
            return None
        key = os.environ.get(KEY) or os.environ.get("OPENAI_API_KEY", "")
        return cls(EndpointSettings(model, os.environ.get(URL) or None, key, retries=2))

    @property
    def host(self) -> str:
        return urlsplit(self.settings.base_url).netloc if self.settings.base_url else OPENAI

    def text_model(self, sampling: Sampling) -> EndpointTextModel:
        """The endpoint with a comparison's temperature and length; it knows neither our seed nor our top-p."""
        most = sampling.max_tokens + LINE_TOKENS
        settings = replace(self.settings, temperature=sampling.temperature, max_tokens=most)
        return EndpointTextModel(LoggedEndpoint(settings, "compare"))


class Catalogue:
    """The systems of a running app.

    Args:
        engines: checkpoints by name.
    """

    def __init__(self, engines: Engines) -> None:
        self.engines = engines
        self._base: BaseTextModel | None = None
        self._lock = threading.Lock()

    def names(self) -> list[Choice]:
        """All that can be chosen."""
        found = [Choice("checkpoint", name) for name in self.engines.names()]
        if isinstance(self.engines.first, Engine):
            found.append(Choice("base", BASE_NAME))
        if (remote := Remote.from_environment()) is not None:
            found.append(Choice("remote", remote.settings.model))
        return found

    def find(self, kind: object, name: object) -> Choice:
        """The choice that a page named.

        Raises:
            DataError: there is no such system.
        """
        for choice in self.names():
            if (choice.kind, choice.name) == (kind, name):
                return choice
        raise DataError(f"Expected a system of {', '.join(choice.name for choice in self.names())}, got {name!r}.")

    def engine(self, choice: Choice) -> EngineLike:
        return self.engines.get(choice.name)

    def base(self) -> BaseTextModel:
        """The language model without adapter, on the weights of the app's own checkpoint."""
        first = self.engines.first
        if not isinstance(first, Engine):
            raise ModelError("Expected a checkpoint under which a language model lies.")
        with self._lock:
            if self._base is None:
                self._base = BaseTextModel(first.checkpoint)
            return self._base

    def loaded(self, choice: Choice) -> Choice:
        """The choice with the hash of its weights; loads them where they are not loaded yet."""
        if choice.kind == "checkpoint":
            return replace(choice, sha256=self.engine(choice).checkpoint.id.sha256)
        if choice.kind == "base":
            self.base()
        return choice

    def events(self, choice: Choice, moment: Moment, sampling: Sampling) -> Iterator[Event]:
        """A local system's answer, event by event; for the thread on which models answer."""
        if choice.kind == "base":
            return _lenient(self.base(), moment, sampling)
        engine = self.engine(choice)
        run = engine.begin(moment.turn, moment.history, moment.context, engine.memory(), 0.0)
        return run.events(sampling)

    def ask_remote(self, moment: Moment, sampling: Sampling) -> Answer:
        """The endpoint's answer; waits for the network.

        Raises:
            ModelError: the endpoint cannot be asked.
        """
        remote = Remote.from_environment()
        if remote is None:
            raise ModelError(f"Expected the name of a remote model in {MODEL}, but it is not set.")
        prompt = zero_shot_prompt(moment.question())
        text = remote.text_model(sampling).complete(prompt, sampling.max_tokens + LINE_TOKENS)
        if text is None:
            raise ModelError(f"{remote.host} gave no answer that could be used; try again.")
        return read_answer(text)


def chosen(catalogue: Catalogue, values: Mapping[str, Any]) -> list[Choice]:
    """The systems of a request; a remote one only where the page has agreed to its very host.

    Raises:
        DataError: no such system, or nobody has agreed.
    """
    raw = values.get("systems")
    if not isinstance(raw, list) or not all(isinstance(one, dict) for one in raw):
        raise DataError("Expected the systems to compare.")
    found = [catalogue.find(one.get("kind"), one.get("name")) for one in raw]
    remote = Remote.from_environment()
    if remote and any(one.kind == "remote" for one in found) and values.get("remote") != remote.host:
        raise DataError(f"Text would be sent to {remote.host}: agree to this first.")
    return found


def _lenient(model: BaseTextModel, moment: Moment, sampling: Sampling) -> Iterator[Event]:
    """Labels and reply of a model that writes free text, each as soon as its line stands."""
    text, reply, told = "", "", set[str]()
    for part in model.stream(zero_shot_prompt(moment.question()), sampling, sampling.max_tokens + LINE_TOKENS):
        text += part
        whole = read_answer(text[: text.rfind("\n") + 1]).labels
        for task in LABELS:
            if task in whole and task not in told:
                told.add(task)
                yield Labelled(task, whole[task])
        said = parse_output(text).response or ""
        if said.startswith(reply) and len(said) > len(reply):
            yield ReplyPart(said[len(reply) :])
            reply = said
        elif not reply:
            yield ReplyPart("")  # the others' turn comes, whatever is being written here
    found = read_answer(text)
    for task in LABELS:
        if task in found.labels and task not in told:
            yield Labelled(task, found.labels[task])
    if found.response is None and text.strip():
        yield ReplyPart(text.strip())  # no line of the form was found: what was said stands as it is
