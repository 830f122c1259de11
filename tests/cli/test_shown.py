"""Tables in a terminal: names that leave no room for numbers stand below."""

import pytest

from veridical.cli.shown import plain_table

COLUMNS = ["training", "accuracy", "null share"]
NAMES = ["Adversarial training (linf 0.1), BlockMNIST-Top", "Natural [training], BlockMNIST"]
ROWS = [[NAMES[0], "95.1% (94.0 to 96.2)", "0.1%"], [NAMES[1], "93.0%", "17.6% (13.2 to 22.1)"]]


def printed(capsys: pytest.CaptureFixture[str], width: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    plain_table("input-gradient", COLUMNS, ROWS)
    return [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_a_wide_terminal_has_names_and_numbers_in_one_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = printed(capsys, 120, monkeypatch)
    assert lines[-2].split() == [*NAMES[0].split(), "95.1%", "0.1%"]
    assert lines[-1].split() == [*NAMES[1].split(), "93.0%", "17.6%"]


def test_a_narrow_one_has_the_names_below(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = printed(capsys, 60, monkeypatch)
    assert ["1", "95.1%", "0.1%"] in [line.split() for line in lines]
    assert ["2", "93.0%", "17.6%"] in [line.split() for line in lines]
    assert lines[-3:] == ["training:", f"1  {NAMES[0]}", f"2  {NAMES[1]}"]
