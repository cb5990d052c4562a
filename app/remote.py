"""The one way by which text may leave this computer: off by default, shown before it is turned on, and written down.

A tab that asks a model elsewhere takes its endpoint from ``Remote.endpoint``, or, where it shows the host and asks by itself,
a ``LoggedEndpoint``; a test walks the imports and lets no other module of the app make one. Sound and pictures cannot pass.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlsplit

from app.audit import HERE, Audit
from multimood_core.endpoint import Endpoint, EndpointSettings, Message
from multimood_core.errors import DataError

OPENAI: Final = "https://api.openai.com/v1"  # where the client goes when no address is set
FIELDS: Final = ("client-words", "therapist-words", "labels", "problem", "situation")


class RemoteOffError(DataError):
    """No text may leave this computer now."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What would be asked, and what it would be told."""

    host: str
    model: str
    fields: tuple[str, ...] = FIELDS


class Remote:
    """The gate of one running app.

    Args:
        audit: hears of everything that passes.
        settings: reads which endpoint is configured.
    """

    def __init__(
        self, audit: Audit, settings: Callable[[], EndpointSettings | None] = EndpointSettings.from_environment
    ) -> None:
        self._audit, self._settings = audit, settings
        self._lock = threading.Lock()
        self._on: Offer | None = None

    @property
    def offer(self) -> Offer | None:
        """The configured endpoint; None where there is none, which is the default."""
        found = self._settings()
        if found is None:
            return None
        return Offer(host_of(found), found.model)

    @property
    def is_on(self) -> bool:
        """Whether text may leave: it was turned on in this run, for the endpoint that is still configured."""
        with self._lock:
            return self._on is not None and self._on == self.offer

    def turn_on(self, host: str, who: str) -> None:
        """Lets text pass to ``host``, which has been shown to who turns it on.

        Raises:
            DataError: nothing is configured, or another host than was shown.
            AuditError: it cannot be written down; then nothing passes.
        """
        offer = self.offer
        if offer is None:
            raise DataError("No model elsewhere is configured (MULTIMOOD_JUDGE_MODEL), so there is none to turn on.")
        if host != offer.host:
            raise DataError(f"Expected the host that would be asked, {offer.host}, got another; reload the page and look again.")
        with self._lock:
            self._audit.write("remote.on", who, host=_word(offer.host), model=_word(offer.model), fields=",".join(offer.fields))
            self._on = offer

    def turn_off(self, who: str) -> None:
        """Lets nothing pass any more; calls that are under way end at their next prompt."""
        with self._lock:
            was, self._on = self._on, None
        if was is not None:
            self._audit.write("remote.off", who, host=_word(was.host))

    def endpoint(self, purpose: str, who: str) -> GatedEndpoint:
        """The endpoint, for ``purpose`` (a word, such as ``compare``).

        Its answers are not kept in a cache on the disk: they speak of what clients said.

        Raises:
            RemoteOffError: it is off.
        """
        found = self._settings()
        if found is None or not self.is_on:
            raise RemoteOffError("Models elsewhere are off: no text leaves this computer. The Privacy tab turns them on.")
        return GatedEndpoint(replace(found, cache=None), self, purpose, who, self._audit)

    def require_on(self) -> None:
        """Raises where it was turned off meanwhile.

        Raises:
            RemoteOffError: it was.
        """
        if not self.is_on:
            raise RemoteOffError("Models elsewhere were turned off meanwhile; nothing more was sent.")


class LoggedEndpoint(Endpoint):
    """An endpoint that takes text alone, and writes each call down without its words, before it is made.

    Args:
        settings: of the model; the host has been shown to, and agreed to by, who asks.
        purpose: a word, such as ``compare``.
        who: asks.
        audit: the log; this MultiMood's own where None.
    """

    def __init__(self, settings: EndpointSettings, purpose: str, who: str = HERE, audit: Audit | None = None) -> None:
        super().__init__(settings)
        self._purpose, self._who, self._audit = purpose, who, audit or Audit()

    def ask(self, prompts: Sequence[Sequence[Message]], accept: Sequence[Callable[[str], bool]]) -> list[str | None]:
        """As ``Endpoint.ask``.

        Raises:
            DataError: a message is not text, or the call cannot be written down.
        """
        for message in (message for prompt in prompts for message in prompt):
            if set(message) != {"role", "content"} or not all(isinstance(value, str) for value in message.values()):
                raise DataError("Expected messages of text alone for a model elsewhere; sound and pictures stay here.")
        characters = sum(len(message["content"]) for prompt in prompts for message in prompt)
        told: dict[str, Any] = {"prompts": len(prompts), "characters": characters, "purpose": self._purpose}
        self._audit.write("remote.asked", self._who, host=_word(host_of(self.settings)), model=_word(self.settings.model), **told)
        return super().ask(prompts, accept)


class GatedEndpoint(LoggedEndpoint):
    """A logged endpoint that asks the gate before each call."""

    def __init__(self, settings: EndpointSettings, gate: Remote, purpose: str, who: str, audit: Audit) -> None:
        super().__init__(settings, purpose, who, audit)
        self._gate = gate

    def ask(self, prompts: Sequence[Sequence[Message]], accept: Sequence[Callable[[str], bool]]) -> list[str | None]:
        """As ``LoggedEndpoint.ask``.

        Raises:
            RemoteOffError: models elsewhere are off.
        """
        self._gate.require_on()
        return super().ask(prompts, accept)


def host_of(settings: EndpointSettings) -> str:
    """The host that would be asked."""
    return urlsplit(settings.base_url or OPENAI).netloc.rpartition("@")[2]


def _word(text: str) -> str:
    """As the audit log takes it: the characters of names, at most 200 of them."""
    return "".join(c if c.isalnum() or c in "._:@/+=,[]-" else "_" for c in text)[:200]
