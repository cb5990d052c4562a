"""What can be compared, and how each answers one client turn: checkpoints, the base language model, a remote endpoint."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from app.compare.engines import Engines
from app.ports import EngineLike
from app.remote import Remote, RemoteOffError
from multimood_core.base_model import NAME as BASE_NAME
from multimood_core.base_model import BaseTextModel
from multimood_core.decoding import LABELS, Sampling
from multimood_core.engine import Engine, Event, Labelled, ReplyPart
from multimood_core.errors import DataError, ModelError
from multimood_core.evaluation import Answer, Question
from multimood_core.prompts import parse_output
from multimood_core.records import Context, HistoryTurn, Turn
from multimood_core.systems import LINE_TOKENS, read_answer, zero_shot_prompt
from multimood_core.text_models import EndpointTextModel

Kind = Literal["checkpoint", "base", "remote"]
RETRIES: Final = 2  # of a remote system: somebody waits for its column


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


class Catalogue:
    """The systems of a running app.

    Args:
        engines: checkpoints by name.
        remote: the gate before a model elsewhere.
    """

    def __init__(self, engines: Engines, remote: Remote) -> None:
        self.engines, self.remote = engines, remote
        self._base: BaseTextModel | None = None
        self._lock = threading.Lock()

    def names(self) -> list[Choice]:
        """All that can be chosen."""
        found = [Choice("checkpoint", name) for name in self.engines.names()]
        if isinstance(self.engines.first, Engine):
            found.append(Choice("base", BASE_NAME))
        if (offer := self.remote.offer("compare")) is not None:
            found.append(Choice("remote", offer.model))
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

    def text_model(self, choice: Choice, sampling: Sampling, who: str) -> EndpointTextModel:
        """A remote system with a comparison's temperature and length; it knows neither our seed nor our top-p.

        Args:
            choice: the system.
            sampling: of the replies.
            who: asks.

        Raises:
            RemoteOffError: nobody has turned it on, or it is not the one that is configured.
        """
        offer = self.remote.offer("compare")
        if offer is None or offer.model != choice.name:
            raise RemoteOffError(f"The remote model {choice.name} is not configured any more.")
        most = sampling.max_tokens + LINE_TOKENS
        asked = self.remote.endpoint(
            "compare", who, temperature=sampling.temperature, max_tokens=most, retries=RETRIES
        )
        return EndpointTextModel(asked)

    def ask_remote(self, choice: Choice, moment: Moment, sampling: Sampling, who: str) -> Answer:
        """A remote system's answer; waits for the network.

        Raises:
            RemoteOffError: nobody has turned it on.
            ModelError: the endpoint cannot be asked.
        """
        prompt = zero_shot_prompt(moment.question())
        text = self.text_model(choice, sampling, who).complete(prompt, sampling.max_tokens + LINE_TOKENS)
        if text is None:
            raise ModelError(f"{choice.name} gave no answer that could be used; try again.")
        return read_answer(text)

    def require_on(self, choices: Iterable[Choice]) -> None:
        """Refuses a remote system as long as nobody has turned it on.

        Raises:
            RemoteOffError: nobody has.
        """
        offer = self.remote.offer("compare")
        if offer is not None and any(choice.kind == "remote" for choice in choices):
            self.remote.require_on(offer.host)


def chosen(catalogue: Catalogue, values: Mapping[str, Any]) -> list[Choice]:
    """The systems of a request.

    Raises:
        DataError: no such system, or a remote one that nobody has turned on.
    """
    raw = values.get("systems")
    if not isinstance(raw, list) or not all(isinstance(one, dict) for one in raw):
        raise DataError("Expected the systems to compare.")
    found = [catalogue.find(one.get("kind"), one.get("name")) for one in raw]
    catalogue.require_on(found)
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
