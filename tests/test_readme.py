"""What the README tells a newcomer to type."""

import re
from pathlib import Path

import pytest

from veridical.cli.commands import COMMANDS, Command
from veridical.cli.main import main

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts),
]


def snippets(path: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def test_the_readme_is_a_screen_and_shows_three_commands() -> None:
    lines = "".join(snippets(ROOT / "README.md", "bash")).splitlines()
    shown = [line.split("#")[0].strip() for line in lines if line.startswith(("make", "veridical"))]
    assert [" ".join(line.split()[:2]) for line in shown] == ["make demo", "make test", "veridical audit"]
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 70


def test_the_commands_that_the_readme_names_are_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "`veridical " in line]
    named = {name for row in rows for name in re.findall(r"`(?:veridical )?([a-z-]+)", row.split("|")[2])}
    assert {"audit", "attack", "train", "reproduce"} <= named <= set(COMMANDS)


def test_every_shown_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    shown = {
        target
        for path in DOCUMENTS
        for target in re.findall(r"\bmake ([a-z][a-z-]*)(?=[`\s])", path.read_text(encoding="utf-8"))
        if f"`make {target}" in path.read_text(encoding="utf-8") or f"\nmake {target}\n" in path.read_text()
    }
    assert {"demo", "test"} <= shown
    assert shown <= targets


def test_the_example_command_of_contributing_is_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = next(
        text for text in snippets(ROOT / "CONTRIBUTING.md", "python") if "class GreetOptions" in text
    )
    (tmp_path / "greet_of_contributing.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    commands = {"greet": Command("greet_of_contributing:greet", "greet somebody")}
    assert main(["greet", "--name", "Ada", "--times", "2"], commands) == 0
    assert capsys.readouterr().out.count("Hello, Ada.") == 2
    assert main(["greet", "--help"], commands) == 0
    help_text = capsys.readouterr().out
    assert "Whom to greet." in help_text
    assert "the head of its --help" in help_text


def test_links_between_documents_lead_somewhere() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
