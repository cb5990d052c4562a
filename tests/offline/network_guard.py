"""Refuses every connection that would leave this machine, and writes down who tried.

``tests/conftest.py`` calls ``block()`` in the test process. Python children of the tests load it through
``sitecustomize`` beside it, since the folder is put on their ``PYTHONPATH``.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable
from typing import Any

LOG = "MULTIMOOD_NETWORK_LOG"  # environment: the file that refused attempts are appended to


class NetworkBlockedError(PermissionError):
    """A test tried to reach another machine."""


def is_local(host: object) -> bool:
    """Whether a host, as the socket functions take it, is this machine."""
    if isinstance(host, bytes):
        host = host.decode()
    if host in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(str(host).split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _refuse(what: str, target: object) -> None:
    if path := os.environ.get(LOG):
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{what} {target}\n")
    raise NetworkBlockedError(f"tests do not leave this machine: {what} {target} was refused")


def block() -> None:
    """Puts the guard before the socket functions of this process, once."""
    if getattr(socket, "_multimood_guard", False):
        return
    socket._multimood_guard = True  # type: ignore[attr-defined]

    def guard_method(name: str) -> None:
        original = getattr(socket.socket, name)

        def guarded(self: socket.socket, *arguments: Any) -> Any:
            address = arguments[-1]  # connect(address), sendto(data, [flags,] address)
            internet = self.family in (socket.AF_INET, socket.AF_INET6)
            if internet and isinstance(address, tuple) and not is_local(address[0]):
                _refuse(name, address)
            return original(self, *arguments)

        setattr(socket.socket, name, guarded)

    def guard_lookup(name: str) -> None:
        original: Callable[..., Any] = getattr(socket, name)

        def guarded(host: Any, *arguments: Any, **options: Any) -> Any:
            if not is_local(host):
                _refuse(name, host)
            return original(host, *arguments, **options)

        setattr(socket, name, guarded)

    for method in ("connect", "connect_ex", "sendto"):
        guard_method(method)
    for lookup in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        guard_lookup(lookup)
