"""The one way by which text may leave this computer: off by default, shown before it is turned on, and written down.

Whoever in the app asks a model elsewhere takes its endpoint from ``Remote.endpoint``; a test walks the imports and lets no
other module make one. Sound and pictures cannot pass.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from app.audit import Audit
from multimood_core.endpoint import JUDGE, Endpoint, EndpointSettings, Message
from multimood_core.errors import DataError

Purpose = Literal["compare", "study"]
COMPARE: Final = "MULTIMOOD_COMPARE"
NAMES: Final[Mapping[Purpose, str]] = {"compare": COMPARE, "study": JUDGE}  # of the environment's variables
# What a prompt holds beside fixed instructions: ``systems.zero_shot_prompt`` and ``endpoint_judge.judge_messages``.
FIELDS: Final[Mapping[Purpose, tuple[str, ...]]] = {
    "compare": ("client-words", "earlier-turns", "earlier-labels", "problem", "situation"),
    "study": ("client-words", "earlier-turns", "responses", "problem", "situation"),
}


class RemoteOffError(DataError):
    """No text may leave this computer now."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A model that is configured: for what it is asked, where it is, and what it would be told."""

    purpose: Purpose
    host: str
    model: str
    fields: tuple[str, ...]


def configured(purpose: Purpose) -> EndpointSettings | None:
    """The endpoint that the environment names for a purpose."""
    return EndpointSettings.from_environment(NAMES[purpose])


class Remote:
    """The gate of one running app: each host is off until somebody who saw what it would be told turns it on.

    Args:
        audit: hears of everything that passes.
        settings: reads which endpoint is configured for a purpose.
    """

    def __init__(self, audit: Audit, settings: Callable[[Purpose], EndpointSettings | None] = configured) -> None:
        self._audit, self._settings = audit, settings
        self._lock = threading.Lock()
        self._on: set[str] = set()

    def offer(self, purpose: Purpose) -> Offer | None:
        """The model that is configured for a purpose; None where there is none, which is the default."""
        found = self._settings(purpose)
        return None if found is None else Offer(purpose, host_of(found), found.model, FIELDS[purpose])

    @property
    def offers(self) -> list[Offer]:
        """All models that are configured."""
        return [offer for purpose in FIELDS if (offer := self.offer(purpose)) is not None]

    def is_on(self, host: str) -> bool:
        """Whether text may pass to that host."""
        with self._lock:
            return host in self._on

    def shown(self) -> list[dict[str, Any]]:
        """For a page: each host, whether it is on, and all that it is, or would be, told."""
        offers = self.offers
        hosts = dict.fromkeys(offer.host for offer in offers)
        return [{"host": h, "on": self.is_on(h), "uses": [asdict(o) for o in offers if o.host == h]} for h in hosts]

    def turn_on(self, host: str, who: str) -> None:
        """Lets text pass to ``host``, which has been shown to who turns it on.

        Raises:
            DataError: no model of that host is configured.
            AuditError: it cannot be written down; then nothing passes.
        """
        offers = self.offers
        mine = [offer for offer in offers if offer.host == host]
        if not offers:
            raise DataError(f"No model elsewhere is configured ({COMPARE}_MODEL, {JUDGE}_MODEL), so there is none to turn on.")
        if not mine:
            hosts = ", ".join(sorted({offer.host for offer in offers}))
            raise DataError(f"Expected a host that would be asked, {hosts}, got another; reload the page and look again.")
        fields = [field for offer in mine for field in offer.fields]
        models, purposes = [offer.model for offer in mine], [str(offer.purpose) for offer in mine]
        about = {"model": models, "purpose": purposes, "fields": fields}
        told = {name: _word(",".join(dict.fromkeys(words))) for name, words in about.items()}
        with self._lock:
            self._audit.write("remote.on", who, host=_word(host), **told)
            self._on.add(host)

    def turn_off(self, who: str) -> None:
        """Lets nothing pass any more, to no host; calls that are under way end before their next request."""
        with self._lock:
            hosts, self._on = sorted(self._on), set()
        for host in hosts:
            self._audit.write("remote.off", who, host=_word(host))

    def endpoint(self, purpose: Purpose, who: str, about: str = "", **settings: Any) -> GatedEndpoint:
        """The endpoint that is configured for a purpose.

        Its answers are not kept in a cache on the disk: they speak of what clients said.

        Args:
            purpose: that it is asked for.
            who: asks.
            about: a word for the log, such as a study's number.
            settings: in place of the configured ones, such as the temperature.

        Raises:
            RemoteOffError: it is off, or none is configured.
        """
        found = self._settings(purpose)
        if found is None:
            raise RemoteOffError(f"No model elsewhere is configured any more ({NAMES[purpose]}_MODEL).")
        self.require_on(host_of(found))
        told = f"{purpose}/{about}" if about else purpose
        return GatedEndpoint(replace(found, cache=None, **settings), self, self._audit, told, who)

    def require_on(self, host: str) -> None:
        """Lets text pass to ``host``, or raises.

        Raises:
            RemoteOffError: nobody has turned it on, or somebody has turned it off.
        """
        if not self.is_on(host):
            raise RemoteOffError(
                f"{host} is off, so no text goes there. The Privacy tab shows what it would be told, and turns it on."
            )


class GatedEndpoint(Endpoint):
    """An endpoint that takes text alone, writes each call down without its words, and asks the gate before each request.

    Args:
        settings: of the model.
        gate: that is asked.
        audit: the log.
        purpose: a word for the log.
        who: asks.
    """

    def __init__(self, settings: EndpointSettings, gate: Remote, audit: Audit, purpose: str, who: str) -> None:
        self._host = host_of(settings)
        super().__init__(settings, lambda: gate.require_on(self._host))
        self._gate, self._audit, self._purpose, self._who = gate, audit, purpose, who

    def ask(self, prompts: Sequence[Sequence[Message]], accept: Sequence[Callable[[str], bool]]) -> list[str | None]:
        """As ``Endpoint.ask``.

        Raises:
            RemoteOffError: models elsewhere are off.
            DataError: a message is not text, or the call cannot be written down.
        """
        self._gate.require_on(self._host)
        for message in (message for prompt in prompts for message in prompt):
            if set(message) != {"role", "content"} or not all(isinstance(value, str) for value in message.values()):
                raise DataError("Expected messages of text alone for a model elsewhere; sound and pictures stay here.")
        characters = sum(len(message["content"]) for prompt in prompts for message in prompt)
        told: dict[str, Any] = {"prompts": len(prompts), "characters": characters, "purpose": self._purpose}
        self._audit.write("remote.asked", self._who, host=_word(self._host), model=_word(self.settings.model), **told)
        return super().ask(prompts, accept)


def host_of(settings: EndpointSettings) -> str:
    """The host that would be asked; the whole address where it names none, so that nothing passes for nobody."""
    return urlsplit(settings.address).netloc.rpartition("@")[2] or settings.address


def _word(text: str) -> str:
    """As the audit log takes it: the characters of names, at most 200 of them."""
    return "".join(c if c.isalnum() or c in "._:@/+=,[]-" else "_" for c in text)[:200]
