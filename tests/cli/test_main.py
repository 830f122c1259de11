"""The command line itself, with a table of small commands in place of the real ones."""

import dataclasses
import inspect
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
    errors = {
        "bad-usage": UsageError("out: expected a plate, but got 'bad-usage'. Name a plate."),
        "failure": RunError("the egg fell down"),
        "full-disk": OSError(28, "No space left on device"),
        "interrupted": KeyboardInterrupt(),
        "defect": ZeroDivisionError("a defect of the program"),
    }
    if options.out in errors:
        raise errors[options.out]
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


def test_only_the_command_that_runs_is_imported_and_its_exit_code_returned(
    kitchen: Mapping[str, Command], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fry", "--out", "seven"], kitchen) == 7
    expected = "FryOptions(out='seven', max_heat=0.5, minutes=(3.0,), spices=(), short=False)"
    assert expected in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"veridical {veridical.__version__}\n"


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
    printed, told = capsys.readouterr()
    assert (printed, told.startswith("Traceback")) == ("", debug)
    assert told.endswith(line + "\n")
    assert debug or told == line + "\n"
    with pytest.raises(ZeroDivisionError):  # a defect keeps its traceback
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


def test_a_study_of_ones_own_has_its_own_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That such a study runs, and what it leaves, is in tests/studies/test_own_study.py."""
    line = ["run", "own_eggs:Eggs", "--workers", "1", "--out", str(tmp_path / "out")]
    text = "from veridical.studies.block_margin import BlockMargin\nclass Eggs(BlockMargin): 'Eggs.'\n"
    (tmp_path / "own_eggs.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(line) == 2
    assert "--trust-code" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["run", "own_eggs:Eggs", "--trust-code", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "usage: veridical run own_eggs:Eggs --out OUT" in printed
    assert "--sweep-width" in printed


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
