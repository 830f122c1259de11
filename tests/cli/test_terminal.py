"""Tables in a terminal: names that leave no room for numbers stand below."""

import ast
from pathlib import Path

import pytest

import veridical.cli
from veridical.cli.main import main
from veridical.cli.terminal import print_table, say, stage_jobs
from veridical.jobs import Progress
from veridical.report import Table

COLUMNS = ["training", "accuracy", "null share"]
NAMES = ["Adversarial training (linf 0.1), BlockMNIST-Top", "Natural [training], BlockMNIST"]
ROWS = [[NAMES[0], "95.1% (94.0 to 96.2)", "0.1%"], [NAMES[1], "93.0%", "17.6% (13.2 to 22.1)"]]


def printed(capsys: pytest.CaptureFixture[str], width: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(Table(COLUMNS, ROWS), "input-gradient")
    return [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_a_wide_terminal_has_names_and_numbers_in_one_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = printed(capsys, 120, monkeypatch)
    assert lines[-2].split() == [*NAMES[0].split(), *ROWS[0][1].split(), "0.1%"]
    assert lines[-1].split() == [*NAMES[1].split(), "93.0%", *ROWS[1][2].split()]


def test_intervals_stand_below_where_they_do_not_fit_and_go_where_that_does_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = printed(capsys, 84, monkeypatch)
    assert lines[-4].split() == [*NAMES[0].split(), "95.1%", "0.1%"]
    assert lines[-3].split() == ["(94.0", "to", "96.2)"]
    assert lines[-1].split() == ["(13.2", "to", "22.1)"]
    monkeypatch.setenv("COLUMNS", "17")
    print_table(Table(["t", "a", "b"], [["x", "1% (100 to 200)", "2% (100 to 200)"]]))
    words = capsys.readouterr().out.split()
    assert words[-5:] == ["x", "1%", "2%", "(100", "to"] or words[-5:] == ["1%", "2%", "(100", "to", "200)"]
    assert words.count("200)") == 1


def test_a_narrow_one_has_the_names_below(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = printed(capsys, 60, monkeypatch)
    assert ["1", "95.1%", "0.1%"] in [line.split() for line in lines]
    assert ["2", "93.0%", "17.6%"] in [line.split() for line in lines]
    assert lines[-3:] == ["training:", f"1  {NAMES[0]}", f"2  {NAMES[1]}"]


FOREIGN = "\x1b[31m[bold]:smile:\x9b\u202e"
"""A name that would colour a terminal by escapes and by markup."""


def test_names_of_others_reach_the_terminal_as_they_are_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    say(FOREIGN)
    print_table(Table([FOREIGN, "x"], [[FOREIGN, FOREIGN]]), FOREIGN)
    with stage_jobs(shown=True) as tell:
        tell(FOREIGN, Progress(done=1, total=1, failed=0, reused=0, waiting=0, seconds_left=None))
    assert main([FOREIGN]) == 2
    shown = "".join(capsys.readouterr())
    assert not any(raw in shown for raw in ("\x1b[31m", "\x9b", "\u202e"))
    assert shown.count("\\x1b[31m[bold]:smile:") >= 6


def test_commands_write_to_the_terminal_through_what_escapes_alone() -> None:
    for path in Path(next(iter(veridical.cli.__path__))).glob("*.py"):
        if path.name not in ("terminal.py", "main.py"):
            called = [
                node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
            ]
            assert not {"print", "Console"} & {f.id for f in called if isinstance(f, ast.Name)}, path.name
