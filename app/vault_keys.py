"""Keys of the vault, and where they come from: the environment, a file, or the system's keyring; never the vault's folder.

A source holds one key, or, while a rotation is under way, the new one and then the old one. A key is 32 random bytes, in
base64 where it is written.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from multimood_core.errors import DataError

VARIABLE: Final = "MULTIMOOD_VAULT_KEY"  # the key itself; during a rotation NEW,OLD
FILE_VARIABLE: Final = "MULTIMOOD_VAULT_KEY_FILE"
DEFAULT_FILE: Final = Path("~/.config/multimood/vault.key")
SERVICE: Final = "multimood"  # in the keyring
ENTRY: Final = "vault"
Source = Literal["file", "keyring", "environment"]
SOURCES: Final = ("file", "keyring", "environment")
_BYTES: Final = 32


class VaultError(DataError):
    """The vault or its key cannot be used."""


class NoKeyError(VaultError):
    """There is no key yet."""


@dataclass(frozen=True, slots=True)
class Key:
    """32 bytes; ``id`` names them without telling anything of them."""

    value: bytes

    @property
    def id(self) -> str:
        return hmac.new(self.value, b"multimood vault key id", hashlib.sha256).hexdigest()[:16]

    @property
    def text(self) -> str:
        return base64.b64encode(self.value).decode()

    def __repr__(self) -> str:
        return f"Key({self.id})"


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a source, the current one first."""

    all: tuple[Key, ...]
    source: Source

    @property
    def current(self) -> Key:
        return self.all[0]

    @property
    def by_id(self) -> Mapping[str, Key]:
        return {key.id: key for key in self.all}

    def with_new(self, key: Key) -> Keys:
        """Stores ``key`` as the current one before the others.

        Raises:
            VaultError: the source cannot be written.
        """
        return self._stored((key, *self.all))

    def keep_current(self) -> None:
        """Forgets the older keys; those of the environment are its owner's to take out."""
        if self.source != "environment":
            self._stored((self.current,))

    def _stored(self, keys: tuple[Key, ...]) -> Keys:
        text = "\n".join(key.text for key in keys)
        if self.source == "file":
            _write_file(key_file(), text)
        elif self.source == "keyring":
            _write_keyring(text)
        else:
            raise VaultError(
                f"The key is in {VARIABLE}, which MultiMood cannot change. Set it to NEW,OLD and run this again; NEW is "
                f"made by `python -m app.vault make --to environment`. When it is done, take OLD out."
            )
        return Keys(keys, self.source)


def new_key() -> Key:
    return Key(secrets.token_bytes(_BYTES))


def key_file() -> Path:
    """The file of keys, whether or not it is there."""
    return Path(os.environ.get(FILE_VARIABLE) or DEFAULT_FILE).expanduser().resolve()


def require_outside(folder: Path) -> None:
    """Refuses a key beside what it opens: who copies the folder would have both.

    Raises:
        VaultError: the file of keys lies in ``folder``.
    """
    if key_file().is_relative_to(folder.resolve()):
        raise VaultError(
            f"Expected the key outside of the folder that it opens, got {key_file()} in {folder}; set {FILE_VARIABLE} to "
            "another place, best on another disk."
        )


def find_keys(folder: Path) -> Keys:
    """The keys of the first source that has any: environment, file, keyring.

    Args:
        folder: of the vault; the key may not lie in it.

    Raises:
        NoKeyError: there is none.
        VaultError: what is there is no key, or it lies beside what it opens, or others may read it.
    """
    if text := os.environ.get(VARIABLE, "").strip():
        return Keys(_keys(text.replace(",", "\n"), VARIABLE), "environment")
    require_outside(folder)
    path = key_file()
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeDecodeError) as cause:
        raise VaultError(f"Expected keys in {path}: {type(cause).__name__}; check the file.") from cause
    if text:
        if os.name == "posix" and mode & 0o077:
            raise VaultError(f"Expected {path} readable by its owner alone, got mode {mode & 0o777:o}; run chmod 600 on it.")
        return Keys(_keys(text, str(path)), "file")
    if text := _read_keyring():
        return Keys(_keys(text, "the keyring"), "keyring")
    raise NoKeyError(
        "There is no key yet, so nothing can be kept. Make one with `python -m app.vault make` and keep a copy of it apart "
        "from this computer: without it, what was kept is lost."
    )


def make_key(source: Source, folder: Path) -> tuple[Key, str]:
    """Makes a key and puts it where it is asked for.

    Returns:
        The key, and what to tell its owner.

    Raises:
        VaultError: there is one already, or the place cannot be written.
    """
    key = new_key()
    if source == "environment":  # printed, not stored: also the first step of a rotation
        return key, f"{VARIABLE}={key.text}"
    try:
        there = find_keys(folder)
    except NoKeyError:
        pass
    else:
        raise VaultError(f"There is a key already, {there.current.id} in {there.source}; another one is made by rotate.")
    Keys((key,), source)._stored((key,))
    where = str(key_file()) if source == "file" else "the keyring"
    return key, f"The key {key.id} is in {where}. Keep a copy of it apart from this computer: without it, what was kept is lost."


def _keys(text: str, where: str) -> tuple[Key, ...]:
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        try:
            value = base64.b64decode(line, validate=True)
        except (binascii.Error, ValueError):
            value = b""
        if len(value) != _BYTES:
            raise VaultError(f"Expected keys of {_BYTES} bytes in base64, one a line, in {where}; one line there is none.")
        found.append(Key(value))
    if not found or len(set(found)) != len(found):
        raise VaultError(f"Expected one key in {where}, or a new and an old one; got {len(found)}.")
    return tuple(found)


def _write_file(path: Path, text: str) -> None:
    """The file whole, or as it was."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        number, name = tempfile.mkstemp(dir=path.parent, prefix=".vault-")  # of mode 0600
        with os.fdopen(number, "w", encoding="ascii") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError as cause:
        raise VaultError(f"Expected to write the key to {path}: {cause}. Set {FILE_VARIABLE} to another place.") from cause


def _read_keyring() -> str:
    import keyring
    from keyring.errors import KeyringError

    try:
        return keyring.get_password(SERVICE, ENTRY) or ""
    except (KeyringError, RuntimeError):  # no keyring on this computer, or it stays locked
        return ""


def _write_keyring(text: str) -> None:
    import keyring
    from keyring.errors import KeyringError

    try:
        keyring.set_password(SERVICE, ENTRY, text)
    except (KeyringError, RuntimeError) as cause:
        raise VaultError(f"This computer's keyring does not take a key: {type(cause).__name__}; use --to file.") from cause
