"""Stage configurations: a frozen dataclass, a YAML file on top, ``--key=value`` on top of that."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import yaml

from multimood_core.errors import DataError, MultiMoodError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
# YAML 1.1 reads 1e-3 as a word, which is why a float takes one.
_TAKES: Final = {bool: (bool,), int: (int,), float: (int, float, str), str: (str,), Path: (str, Path)}


def run_command(main: Callable[[], None]) -> None:
    """Run a command's ``main``; an error made for people is one line on stderr and exit status 2, no traceback.

    Exit status 130 says that a person or a scheduler stopped it.
    """
    try:
        main()
    except MultiMoodError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def load_config(cls: type[T], argv: Sequence[str] | None = None, description: str = "") -> tuple[T, argparse.Namespace]:
    """Resolve a stage's configuration from the command line.

    Args:
        cls: a frozen dataclass whose fields carry ``metadata={"help": ...}``.
        argv: ``--config FILE.yaml [--key=value ...] [--resume]``; the process's own when None.
        description: shown by ``--help``.

    Returns:
        The configuration, and the arguments that every stage shares (``resume``, ``dry_run``, ``strategy``, ``device``).

    Raises:
        DataError: an unknown key, a value of the wrong type, or a file that is no YAML; says what is known.
    """
    keys = "\n".join(f"  --{f.name}={_default(f)}  {f.metadata.get('help', '')}" for f in dataclasses.fields(cls))
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"keys:\n{keys}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # a key such as --conf=1 is no short --config
    )
    parser.add_argument("--config", type=Path, help="YAML file with keys of this stage")
    parser.add_argument("--resume", action="store_true", help="go on from the last saved step")
    parser.add_argument("--dry-run", action="store_true", help="print what would run and what it would take, and stop")
    parser.add_argument("--strategy", type=Path, help="accelerate configuration to plan for, with --dry-run")
    parser.add_argument("--device", choices=("cpu", "h100", "h200"), help="to plan for, with --dry-run")
    args, rest = parser.parse_known_args(argv)
    values: dict[str, Any] = {}
    if args.config:
        values |= _read_yaml(args.config)
    types = typing.get_type_hints(cls)
    for word in rest:
        key, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not equals:
            raise DataError(f"Expected --key=value, got {word!r}.")
        values[key] = _typed_in(types.get(key), value)
    return from_dict(cls, values), args


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as cause:
        raise DataError(f"Expected a YAML file with the stage's keys at {path}: {cause}") from cause
    if not isinstance(values or {}, dict):
        raise DataError(f"{path}: expected keys and values (key: value), got {values!r}.")
    return values or {}


def _typed_in(kind: Any, text: str) -> Any:
    """A value of the command line: YAML, but a field of text takes it as it stands (``--precision=no`` is no false)."""
    if kind in (str, Path):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as cause:
        raise DataError(f"Expected a value in YAML, got {text!r}.") from cause


def from_dict(cls: type[T], values: dict[str, Any]) -> T:
    """Build ``cls`` from plain values.

    Raises:
        DataError: an unknown key, an absent one, or a value of another type than the field's.
    """
    types = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(types))
    if unknown:
        raise DataError(f"Unknown key {', '.join(unknown)}. Known are {', '.join(types)}.")
    converted = {}
    for key, value in values.items():
        try:
            converted[key] = _convert(types[key], value)
        except (TypeError, ValueError) as cause:
            kind = getattr(types[key], "__name__", None) if isinstance(types[key], type) else types[key]
            raise DataError(f"{key}: expected {kind}, got {value!r}.") from cause
    try:
        return cls(**converted)
    except TypeError as cause:
        raise DataError(f"{cls.__name__}: {cause}") from cause


def _convert(kind: Any, value: Any) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (tuple, dict) and not isinstance(value, dict if origin is dict else (list, tuple)):
        raise TypeError
    if origin is tuple:
        return tuple(_convert(args[0], v) for v in value)
    if origin is dict:
        return {_convert(args[0], k): _convert(args[1], v) for k, v in value.items()}
    if args and type(None) in args:
        return None if value is None else _convert(next(a for a in args if a is not type(None)), value)
    if not isinstance(value, _TAKES[kind]) or (isinstance(value, bool) and kind is not bool):
        raise TypeError
    return kind(value)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return "" if field.default is dataclasses.MISSING else field.default


def plain_config(config: Any) -> dict[str, Any]:
    """The resolved configuration in values that YAML knows and gives back as they were."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def plain_defaults(config: Any) -> dict[str, Any]:
    """The same of the defaults of a configuration's class, for the keys that have one."""
    found = {field.name: _default(field) for field in dataclasses.fields(config)}
    return {name: _plain(value) for name, value in found.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def dump_config(config: Any, path: Path) -> None:
    """Write the resolved configuration beside what it made."""
    path.write_text(yaml.safe_dump(plain_config(config), sort_keys=False))
