"""The command line itself, with a table of small commands in place of the real ones."""

import dataclasses
import inspect
import json
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
from dataclasses import dataclass

from veridical.runtime.checking import Checked
from veridical.runtime.errors import RunError, UsageError


@dataclass(frozen=True)
class FryOptions(Checked):
    """How to fry.

    Args:
        out: Where the egg goes.
    """

    out: str
    max_heat: float = 0.5
    minutes: tuple[float, ...] = (3.0,)
    spices: tuple[str, ...] = ()
    short: bool = False


def fry(options: FryOptions) -> int:
    """Fry an egg.

    examples:
        veridical fry --out plate
    """
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
    return {
        "fry": Command("fry_command:fry", "fry an egg"),
        "boil": Command("boil_command:boil", "boil an egg"),
    }


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
    expected = "FryOptions(out='plate', max_heat=0.5, minutes=(3.0,), spices=(), short=False)"
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
    assert "    veridical fry --out plate" in out  # the function's docstring, line by line
    assert "Where the egg goes." in out
    assert "--max-heat" in out
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


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "run"])
def test_every_command_loads_with_options_and_a_description(name: str) -> None:
    command = COMMANDS[name]
    assert dataclasses.is_dataclass(command.options())
    assert inspect.getdoc(command.load())
    # The table repeats what a study says of itself, so that --help need not import it.
    assert getattr(command.load(), "summary", command.summary) == command.summary


OWN_STUDY = """
from dataclasses import dataclass

import numpy as np

from veridical.report.table import Column
from veridical.runtime.options import Placement
from veridical.studies.study import Case, Study


@dataclass(frozen=True, kw_only=True)
class EggOptions(Placement):
    yolks: int = 2


class Eggs(Study[EggOptions]):
    '''How many yolks do eggs have? Counted by hand.'''

    name, title = "eggs", "How many yolks?"
    columns = (Column("yolks", "yolks", meaning="yolks of an egg"),)
    Options = EggOptions

    def cases(self):
        return [Case({"yolks": self.options.yolks}, group="brown eggs")]

    @staticmethod
    def measure(values, context):
        return {"yolks": np.full(5, float(values["yolks"]))}
"""


def test_a_study_of_ones_own_runs_with_its_own_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_eggs.py").write_text(OWN_STUDY)
    monkeypatch.syspath_prepend(tmp_path)
    line = ["run", "own_eggs:Eggs", "--yolks", "3", "--workers", "1", "--out", str(tmp_path / "out")]
    assert main(line) == 2
    assert "--trust-code" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*line, "--no-progress", "--trust-code"]) == 0
    assert "brown eggs" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "result.json").read_text())["config"] == {"seed": 0, "yolks": 3}
    assert main(["run", "own_eggs:Eggs", "--trust-code", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "usage: veridical run own_eggs:Eggs --out OUT" in printed
    assert "--yolks" in printed


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ([], "veridical run module:Study --trust-code [options]"),
        (["--trust-code"], "veridical run module:Study --trust-code [options]"),
        (["json:JSONDecoder", "--trust-code"], "json:JSONDecoder"),
        (["no_such_module_here:Study", "--trust-code"], "cannot be imported here"),
        (["leakage", "--trust-code"], "module:"),
    ],
)
def test_what_is_no_study_is_bad_usage(
    line: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *line]) == 2
    assert told in capsys.readouterr().err
