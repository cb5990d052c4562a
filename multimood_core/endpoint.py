"""Calls to an OpenAI-compatible endpoint: retried, run side by side, kept on disk, counted, and stopped when too many fail.

Nothing here runs unless a model was configured: see ``EndpointSettings.from_environment``.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from multimood_core.errors import ModelError

Message = Mapping[str, str]  # role and content
_ENOUGH: Final = 20  # calls after which the failure rate means something
_FOR_GOOD: Final = (401, 403, 404)  # wrong key, no right, no such model: the next call would fail as well


JUDGE: Final = "MULTIMOOD_JUDGE"  # what the environment's names of the judge's endpoint begin with
OPENAI: Final = "https://api.openai.com/v1"  # where the client goes when no address is set


def key_of_environment(names: str = JUDGE) -> str:
    """The endpoint's key: ``MULTIMOOD_JUDGE_KEY``, else ``OPENAI_API_KEY``; empty where neither is set."""
    return os.environ.get(f"{names}_KEY") or os.environ.get("OPENAI_API_KEY", "")


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """Which model is called where, and how.

    ``price_in`` and ``price_out`` are money per million tokens, in whatever currency; without them no cost is stated.
    """

    model: str
    base_url: str | None = None  # ``OPENAI_BASE_URL``, else OpenAI's own, when None
    api_key: str = field(default="", repr=False)
    temperature: float = 0.0
    max_tokens: int = 1024
    timeout: float = 60.0  # seconds
    retries: int = 6  # with exponential back-off, or as long as the server asks
    concurrency: int = 8
    max_failure_rate: float = 0.2
    cache: Path | None = None
    price_in: float | None = None
    price_out: float | None = None

    @classmethod
    def from_environment(cls, names: str = JUDGE) -> EndpointSettings | None:
        """The endpoint that the environment names; None where ``MULTIMOOD_JUDGE_MODEL`` is not set.

        ``MULTIMOOD_JUDGE_URL`` (OpenAI's by default), ``MULTIMOOD_JUDGE_KEY`` (else ``OPENAI_API_KEY``) and
        ``MULTIMOOD_JUDGE_CACHE``, a file, go with it.

        Args:
            names: what the variables begin with, where it is another endpoint than the judge's.
        """
        environment = os.environ
        if not environment.get(f"{names}_MODEL"):
            return None
        cache = environment.get(f"{names}_CACHE")
        return cls(
            environment[f"{names}_MODEL"],
            environment.get(f"{names}_URL") or None,
            key_of_environment(names),
            cache=Path(cache) if cache else None,
        )

    @property
    def address(self) -> str:
        """Where it is asked."""
        return self.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI


@dataclass(frozen=True, slots=True)
class Usage:
    """What was asked so far. ``calls`` went to the endpoint, ``cached`` answers came from the disk."""

    calls: int = 0
    failed: int = 0
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = None


class Endpoint:
    """An endpoint with its cache and counters. It is asked where its settings say, and follows no redirection elsewhere.

    Args:
        settings: which model, where and how.
        before: called before each try to send, retries included; what it raises ends the call.
    """

    def __init__(self, settings: EndpointSettings, before: Callable[[], None] = lambda: None) -> None:
        from openai import OpenAI  # takes a second, and most runs have no endpoint

        class Client(OpenAI):
            def _prepare_options(self, options: Any) -> Any:
                before()
                options.follow_redirects = False
                return options

        self.settings, self.usage = settings, Usage()
        self._lock = threading.Lock()
        self._cache = AnswerCache(settings.cache) if settings.cache else None
        self._client = Client(
            base_url=settings.address,
            api_key=settings.api_key or "none",  # local servers ask for none, the client for some
            timeout=settings.timeout,
            max_retries=settings.retries,
        )

    def ask(self, prompts: Sequence[Sequence[Message]], accept: Sequence[Callable[[str], bool]]) -> list[str | None]:
        """The answer to each prompt; None where the call failed or the answer was not accepted.

        Args:
            prompts: chat messages each.
            accept: for each prompt, whether an answer can be used; others count as failed and are not kept.

        Raises:
            ModelError: the endpoint refuses every call (key, rights, name), or more calls failed than the settings allow.
        """
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            waiting = [pool.submit(self._ask, *pair) for pair in zip(prompts, accept, strict=True)]
            try:
                for call in as_completed(waiting):
                    call.result()  # the first error ends it, whichever call had it
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [call.result() for call in waiting]

    def _ask(self, messages: Sequence[Message], accept: Callable[[str], bool]) -> str | None:
        from openai import APIError, APIStatusError

        key = self._key(messages)
        if self._cache and (kept := self._cache.get(key)) is not None and accept(kept):
            self._count(cached=1)
            return kept
        try:
            answer = self._client.chat.completions.create(
                model=self.settings.model,
                messages=[dict(message) for message in messages],  # type: ignore[misc]
                temperature=self.settings.temperature,
                max_tokens=self.settings.max_tokens,
            )
        except APIStatusError as cause:
            if cause.status_code in _FOR_GOOD:
                raise ModelError(
                    f"The judge's endpoint refused {self.settings.model!r}: {cause}. Correct the key, the address or the name."
                ) from cause
            self._failed(str(cause))
            return None
        except (APIError, ValueError) as cause:  # time-outs, broken connections, answers that are no JSON
            self._failed(str(cause))
            return None
        try:
            text, usage = answer.choices[0].message.content or "", answer.usage
        except (AttributeError, IndexError, TypeError):  # JSON of another shape, or a page of a proxy
            self._failed(f"it answered {str(answer)[:80]!r}")
            return None
        if usage:
            self._count(tokens_in=usage.prompt_tokens, tokens_out=usage.completion_tokens)
        if not accept(text):
            self._failed(f"its answer could not be read: {text[:80]!r}")
            return None
        self._count(calls=1)
        if self._cache:
            self._cache.put(key, text)
        return text

    def _key(self, messages: Sequence[Message]) -> str:
        asked = [self.settings.base_url, self.settings.model, self.settings.temperature, self.settings.max_tokens]
        return hashlib.sha256(json.dumps([*asked, [dict(m) for m in messages]], sort_keys=True).encode()).hexdigest()

    def _failed(self, why: str) -> None:
        usage = self._count(calls=1, failed=1)
        if usage.calls >= _ENOUGH and usage.failed > self.settings.max_failure_rate * usage.calls:
            raise ModelError(
                f"{usage.failed} of {usage.calls} calls to {self.settings.model!r} failed, more than "
                f"{self.settings.max_failure_rate:.0%}; the last one: {why}. Answers so far are kept; mend the endpoint "
                "and start again, or lower its concurrency."
            )

    def _count(self, **more: int) -> Usage:
        with self._lock:
            counts = {name: getattr(self.usage, name) + count for name, count in more.items()}
            usage = replace(self.usage, **counts)
            low, high = self.settings.price_in, self.settings.price_out
            if low is not None and high is not None:
                usage = replace(usage, cost=(low * usage.tokens_in + high * usage.tokens_out) / 1e6)
            self.usage = usage
            return usage

    def report(self) -> dict[str, Any]:
        """The counters in plain values."""
        return {"model": self.settings.model, **asdict(self.usage)}


class AnswerCache:
    """Answers on disk, in one SQLite file that several processes may share; each is there whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors():
            self._database = sqlite3.connect(path, timeout=30, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, text TEXT NOT NULL)")
            self._database.commit()

    def get(self, key: str) -> str | None:
        with self._lock, self._errors():
            row = self._database.execute("SELECT text FROM answers WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def put(self, key: str, text: str) -> None:
        with self._lock, self._errors(), self._database:
            self._database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, text))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as cause:
            raise ModelError(f"Expected a cache of answers at {self.path}: {cause}. Delete the file or name another.") from cause
