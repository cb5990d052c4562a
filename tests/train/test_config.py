"""A stage's configuration: YAML, --key=value on top, and an error for whatever is not understood."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from multimood_core.errors import DataError
from train.config import dump_config, from_dict, load_config, plain_config
from train.mixture import SftConfig


@dataclass(frozen=True)
class Settings:
    lr: float = field(default=0.1, metadata={"help": "peak"})
    steps: int = 3
    precision: str = "bf16"
    quiet: bool = False
    out: Path = Path("runs")
    start: Path | None = None
    names: tuple[str, ...] = ("a",)
    weights: dict[str, float] = field(default_factory=dict)


def test_the_command_line_stands_above_the_file_above_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "stage.yaml"
    file.write_text("lr: 1e-3\nsteps: 7\nnames: [x, y]\nweights: {a: 1}\n")
    config, args = load_config(Settings, ["--config", str(file), "--steps=9", "--out=123", "--resume"])
    assert config == Settings(lr=0.001, steps=9, out=Path("123"), names=("x", "y"), weights={"a": 1.0})
    assert (args.resume, args.dry_run) == (True, False)


def test_a_field_of_text_takes_the_words_as_they_stand() -> None:
    config, _ = load_config(Settings, ["--precision=no", "--start=runs/a=b", "--quiet=true"])
    assert (config.precision, config.start, config.quiet) == ("no", Path("runs/a=b"), True)
    assert load_config(Settings, ["--start=null"])[0].start is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--rate=1"], "Unknown key rate. Known are lr, steps"),
        (["--conf=x.yaml"], "Unknown key conf"),
        (["--steps"], "Expected --key=value"),
        (["steps=4"], "Expected --key=value"),
        (["--steps=2.5"], "steps: expected int, got 2.5"),
        (["--steps=true"], "steps: expected int, got True"),
        (["--lr=fast"], "lr: expected float, got 'fast'"),
        (["--quiet=1"], "quiet: expected bool, got 1"),
        (["--names=abc"], "names: expected tuple.*got 'abc'"),
        (["--weights=[1]"], "weights: expected dict"),
        (["--lr=[1"], "in YAML"),
    ],
)
def test_what_is_not_understood_is_named(words: list[str], says: str) -> None:
    with pytest.raises(DataError, match=says):
        load_config(Settings, words)


@pytest.mark.parametrize("text", ["just words", "[1, 2]", "a: [", "precision: no"])
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "stage.yaml"
    file.write_text(text)
    with pytest.raises(DataError):
        load_config(Settings, ["--config", str(file)])
    with pytest.raises(DataError, match="absent"):
        load_config(Settings, ["--config", str(tmp_path / "absent.yaml")])


def test_a_resolved_configuration_comes_back(tmp_path: Path) -> None:
    config = Settings(lr=0.3, start=Path("x"), names=("p", "q"), weights={"a": 2.0})
    dump_config(config, tmp_path / "config.yaml")
    assert load_config(Settings, ["--config", str(tmp_path / "config.yaml")])[0] == config
    assert plain_config(config) == yaml.safe_load((tmp_path / "config.yaml").read_text())


def test_help_lists_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_config(Settings, ["--help"])
    assert "--lr=0.1  peak" in capsys.readouterr().out


def test_the_stages_own_files_are_understood() -> None:
    folder = Path(__file__).resolve().parents[2] / "train" / "configs"
    config, _ = load_config(SftConfig, ["--config", str(folder / "sft_mini.yaml")])
    assert config.schedule in ("linear", "cosine", "constant")


def test_an_absent_key_is_named() -> None:
    @dataclass(frozen=True)
    class Needs:
        out: str

    values: dict[str, Any] = {}
    with pytest.raises(DataError, match=r"Needs.*'out'"):
        from_dict(Needs, values)
