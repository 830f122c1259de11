"""The command line itself, with a table of small commands in place of the real ones."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import veridical
from veridical.cli.commands import COMMANDS, Command
from veridical.cli.main import main

FRY = '''
"""Fry an egg.

    veridical fry --out plate
"""

from dataclasses import dataclass, field

from veridical.runtime.errors import RunError, UsageError


@dataclass(frozen=True)
class Pan:
    """What the egg lies in."""

    width: float = 20.0
    """Diameter in cm."""
    lid_size: int | None = None


@dataclass(frozen=True)
class Options:
    """How to fry."""

    out: str
    """Where the egg goes."""
    max_heat: float = 0.5
    minutes: tuple[float, ...] = (3.0,)
    spices: tuple[str, ...] = ()
    short: bool = False
    pan: Pan = field(default_factory=Pan)


def run(options):
    if options.out == "bad-usage":
        raise UsageError("out: expected a plate, but got 'bad-usage'. Name a plate.")
    if options.out == "failure":
        raise RunError("the egg fell down")
    if options.out == "full-disk":
        raise OSError(28, "No space left on device")
    if options.out == "interrupted":
        raise KeyboardInterrupt
    if options.out == "defect":
        raise ZeroDivisionError("a defect of the program")
    print(options)
    return 7 if options.out == "seven" else 0
'''


@pytest.fixture
def kitchen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Command]:
    """A table with one command that works and one that must never be imported."""
    (tmp_path / "fry_command.py").write_text(FRY.lstrip())
    (tmp_path / "boil_command.py").write_text("raise AssertionError('boil was imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "fry_command", raising=False)
    return {"fry": Command("fry_command", "fry an egg"), "boil": Command("boil_command", "boil an egg")}


def test_help_lists_every_command_and_imports_none(
    kitchen: Mapping[str, Command], capsys: pytest.CaptureFixture[str]
) -> None:
    for argv in ([], ["--help"], ["-h"]):
        assert main(argv, kitchen) == 0
        out = capsys.readouterr().out
        assert "fry   fry an egg" in out
        assert "boil  boil an egg" in out
    assert "fry_command" not in sys.modules


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"veridical {veridical.__version__}\n"


def test_only_the_command_that_runs_is_imported(
    kitchen: Mapping[str, Command], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fry", "--out", "plate"], kitchen) == 0
    expected = "Options(out='plate', max_heat=0.5, minutes=(3.0,), spices=(), short=False, pan=Pan(width=20.0"
    assert expected in capsys.readouterr().out


def test_the_commands_own_exit_code_is_returned(kitchen: Mapping[str, Command]) -> None:
    assert main(["fry", "--out", "seven"], kitchen) == 7


@pytest.mark.parametrize(
    ("out", "code", "line"),
    [
        ("bad-usage", 2, "veridical fry: out: expected a plate, but got 'bad-usage'. Name a plate."),
        ("failure", 1, "veridical fry: the egg fell down"),
        ("full-disk", 1, "veridical fry: [Errno 28] No space left on device"),
        ("interrupted", 130, "veridical fry: interrupted"),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_an_expected_error_is_one_line_and_a_traceback_only_on_request(
    kitchen: Mapping[str, Command],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    out: str,
    code: int,
    line: str,
    debug: bool,
) -> None:
    monkeypatch.setenv("VERIDICAL_DEBUG", "1" if debug else "0")
    assert main(["fry", "--out", out], kitchen) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    if debug:
        assert captured.err.startswith("Traceback")
        assert captured.err.endswith(line + "\n")
    else:
        assert captured.err == line + "\n"


def test_a_defect_keeps_its_traceback(kitchen: Mapping[str, Command]) -> None:
    with pytest.raises(ZeroDivisionError):
        main(["fry", "--out", "defect"], kitchen)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["frey", "--out", "x"], "Did you mean fry?"),
        (["--verbose"], "See `veridical --help`."),
        (["fry"], "required: out"),
        (["fry", "--out", "x", "--max-haet", "1"], "did you mean --max-heat?"),
        (["fry", "--out", "x", "--max", "1"], "unrecognized arguments: --max"),  # no abbreviations
        (["fry", "--out", "x", "--max_heat", "hot"], "--max-heat: expected a number, but got 'hot'"),
        (["fry", "--out", "x", "--minutes", "1", "hot"], "--minutes"),
        (["fry", "--out", "x", "stray"], "unrecognized arguments: stray"),
        (["fry", "--out"], "argument --out: expected one argument"),
        (["fry", "--config", "absent.yaml"], "absent.yaml"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    kitchen: Mapping[str, Command], capsys: pytest.CaptureFixture[str], argv: list[str], told: str
) -> None:
    assert main(argv, kitchen) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert told in captured.err


def test_a_commands_help_shows_flags_and_explanations(
    kitchen: Mapping[str, Command], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fry", "--help"], kitchen) == 0
    out = capsys.readouterr().out
    assert "usage: veridical fry" in out
    assert "    veridical fry --out plate" in out  # the module's docstring, line by line
    assert "Where the egg goes." in out
    assert "Diameter in cm." in out
    assert "--max-heat" in out
    assert "--pan.lid-size" in out
    assert "--max_heat" not in out


def test_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    # The reader closes before anything is written, as `| head -0` does.
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "veridical", "--help"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(veridical.__file__).parents[1])},
        cwd=tmp_path,
    )
    os.close(write)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.returncode == 1


def test_every_command_of_the_table_has_a_module_beside_main() -> None:
    folder = Path(veridical.__file__).parent / "cli"
    for name, command in COMMANDS.items():
        module = name.replace("-", "_")
        assert command.module == f"veridical.cli.{module}"
        assert (folder / f"{module}.py").is_file()
    not_commands = {"__init__", "main", "commands", "options", "shown"}
    assert {path.stem for path in folder.glob("*.py")} - not_commands == {
        name.replace("-", "_") for name in COMMANDS
    }
