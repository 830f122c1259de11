"""From dataclasses to flags and files, and back."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest

from veridical.attacks.directions import DIRECTIONS
from veridical.attribution.registry import ATTRIBUTIONS
from veridical.cli.options import parse_options
from veridical.runtime.checking import POSITIONAL, Checked
from veridical.runtime.errors import UsageError
from veridical.training.penalties import OBJECTIVES


@dataclass(frozen=True)
class Options(Checked):
    """Options of every kind that commands use.

    Args:
        out: The folder of the results.
    """

    out: str
    data_root: str | None = None
    recipe: Literal["fast", "paper"] = "fast"
    radius: tuple[float, ...] = (0.3,)
    some_names: tuple[str, ...] = ()
    layers: tuple[int, ...] | None = None
    epochs: int = 3
    dry_run: bool = False
    average: bool = True
    model_options: dict[str, int | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs < 0:
            raise UsageError("epochs: expected a number of at least 0")


DEFAULT = Options(out="o")


def parse(*argv: str) -> Options:
    return parse_options(Options, ["--out", "o", *argv], prog="veridical test")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], DEFAULT),
        (["--data-root", "/d"], replace(DEFAULT, data_root="/d")),
        (["--data_root=/d"], replace(DEFAULT, data_root="/d")),
        (["--data-root=/a_b/--c"], replace(DEFAULT, data_root="/a_b/--c")),  # only the flag is respelt
        (["--recipe", "paper", "--recipe", "fast"], DEFAULT),
        (["--radius", "0.1"], replace(DEFAULT, radius=(0.1,))),
        (["--radius", "0.1", "1e-3", "--epochs", "1"], replace(DEFAULT, radius=(0.1, 0.001), epochs=1)),
        (["--radius=0.1,0.2"], replace(DEFAULT, radius=(0.1, 0.2))),
        (["--radius", "[0.1, 0.2]"], replace(DEFAULT, radius=(0.1, 0.2))),
        (["--radius", "-1", "2"], replace(DEFAULT, radius=(-1.0, 2.0))),
        (["--some-names", "1", "it's", "null"], replace(DEFAULT, some_names=("1", "it's", "null"))),
        (["--layers", "2", "4"], replace(DEFAULT, layers=(2, 4))),
        (["--layers", "null"], DEFAULT),
        (["--dry-run"], replace(DEFAULT, dry_run=True)),
        (["--dry_run", "--average=false"], replace(DEFAULT, dry_run=True, average=False)),
        (["--dry-run", "false"], DEFAULT),
        (["--no-average", "--dry-run", "--no-dry_run"], replace(DEFAULT, average=False)),
        (["--model-options.width", "8"], replace(DEFAULT, model_options={"width": 8})),
        (["--model_options.my_key=x"], replace(DEFAULT, model_options={"my_key": "x"})),  # the key's own
        (["--model-options", '{"norm": "none"}'], replace(DEFAULT, model_options={"norm": "none"})),
    ],
)
def test_a_command_line_becomes_the_dataclass(argv: list[str], expected: Options) -> None:
    parsed = parse(*argv)
    assert parsed == expected
    assert type(parsed.radius) is tuple


@pytest.mark.parametrize("spelling", ["--print_config", "--print-config"])
def test_what_print_config_writes_is_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spelling: str
) -> None:
    argv = ["--radius", "0.1", "1e-5", "--dry-run", "--some-names", "yes", "1"]
    argv += ["--data-root", "/d: #", "--layers", "3"]
    with pytest.raises(SystemExit) as stop:
        parse(*argv, spelling)
    assert stop.value.code == 0
    path = tmp_path / "options.yaml"
    path.write_text(capsys.readouterr().out)
    assert parse_options(Options, ["--config", str(path)], prog="x") == parse(*argv)
    # Flags overrule the file, whose other values stay.
    overruled = parse_options(Options, ["--config", str(path), "--radius", "1"], prog="x")
    assert overruled == replace(parse(*argv), radius=(1.0,))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("epoch: 3\n", "epoch"),
        ("epochs: many\n", "epochs"),
        ("[1, 2", r"options\.yaml: "),
        ("", "config"),
        ("some words", "config"),
        ("epochs: 3\x00", r"options\.yaml: "),
        (b"\xff\xfe\x00", "config"),
        ("epochs: 3\nepochs: 4", "epochs stands there 2 times"),
        ("recpie: fast", "Did you mean recipe"),
        ("layers: " + 20_000 * "[" + 20_000 * "]", "levels deep"),
        ("layers: &a [1, 1]\nradius: [*a, *a]", "no anchors"),
        ("data_root: " + 200_000 * "x", "bytes"),
        ("epochs: !!python/object/apply:os.abort []", "constructor"),
    ],
)
def test_a_wrong_file_is_bad_usage(tmp_path: Path, text: str | bytes, told: str) -> None:
    path = tmp_path / "options.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=told) as caught:
        parse("--config", str(path))
    assert len(str(caught.value)) < 500
    with pytest.raises(UsageError, match="config"):
        parse("--config", str(tmp_path))


def test_a_list_with_a_control_character_is_told_without_the_parsers_words() -> None:
    with pytest.raises(UsageError, match="--some-names: expected values") as caught:
        parse("--some-names", "a", "\x1b[31mb")
    assert "Union" not in str(caught.value)


@pytest.mark.parametrize("value", ["[" * 5000, "- " * 5000, "{a: " * 500, "{a: &a [1], b: *a}"])
@pytest.mark.parametrize("flag", ["--model-options", "--layers", "--epochs"])
def test_a_value_of_boundless_structure_is_bad_usage(flag: str, value: str) -> None:
    with pytest.raises(UsageError):
        parse(f"{flag}={value}")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--recipe", "slow"], "--recipe: expected one of fast, paper, but got 'slow'"),
        (["--epochs", "1.5"], "--epochs"),
        (["--radius", "x"], "--radius"),
        (["--dry-run", "perhaps"], "--dry-run"),
        (["--no-epochs"], "unrecognized arguments: --no-epochs"),
        (["--no-average=true"], "unrecognized arguments: --no-average"),
        (["--epochs", "-1"], "epochs: expected a number of at least 0"),  # the dataclass's own check
    ],
)
def test_a_value_of_the_wrong_kind_names_its_flag(argv: list[str], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(*argv)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@dataclass(frozen=True, kw_only=True)
class Group(Checked):
    """What commands share.

    Args:
        speed: How fast.
        colour: Which colour.
    """

    speed: int = 1
    colour: str = "red"


@dataclass(frozen=True, kw_only=True)
class Grouped(Group):
    """A command's own options.

    Args:
        out: The folder of the results.
        colour: One of {attributions}.
        attack: One of {directions}.
    """

    out: str
    colour: str = "blue"
    attack: str = "topk"


def test_help_says_what_docstrings_and_registries_do_and_what_is_inherited(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_options(Grouped, ["--help"], prog="veridical test", description="One of:\n  {objectives}")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "usage: veridical test --out OUT [options]" in shown
    assert "The folder of the results. (required, type: str)" in shown
    own, shared = shown.split("What commands share:")
    assert "How fast. (type: int, default: 1)" in shared
    assert "--colour" not in shared
    text = "".join(own.split())  # lines break within names
    assert f"Oneof{','.join(ATTRIBUTIONS)}.(type:str,default:blue)" in text
    assert f"Oneof{','.join(DIRECTIONS)}." in text
    assert all(f"\n  {name} " in own for name in OBJECTIVES)
    given = ["--speed", "3", "--out", "o"]
    assert parse_options(Grouped, given, prog="veridical test") == Grouped(speed=3, out="o")


@dataclass(frozen=True)
class Folders(Checked):
    """Options of a command that takes values without a flag."""

    folders: list[str] = field(metadata=POSITIONAL)
    out: str
    titles: list[str] | None = None
    loud: bool = False
    depth: int = 0


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["a", "b", "--out", "o"], Folders(["a", "b"], "o")),
        (["--out", "o", "a", "b"], Folders(["a", "b"], "o")),
        (["a", "--out=o", "b"], Folders(["a", "b"], "o")),
        (["--folders", "a", "b", "--out", "o"], Folders(["a", "b"], "o")),
        (["a", "--titles", "x", "y", "--out", "o"], Folders(["a"], "o", ["x", "y"])),
        (["--loud", "a", "--depth", "-1", "b", "--out", "o"], Folders(["a", "b"], "o", None, True, -1)),
        (["--loud", "false", "a", "--out", "o"], Folders(["a"], "o")),
        (["it's, 1", "--out", "o"], Folders(["it's, 1"], "o")),
    ],
)
def test_values_without_a_flag_go_to_the_field_that_takes_them(argv: list[str], expected: Folders) -> None:
    assert parse_options(Folders, argv, prog="veridical test") == expected


def test_values_without_a_flag_may_be_required(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, told in ((["--out", "o"], "folders"), (["a", "--depht", "1", "--out", "o"], "--depht")):
        with pytest.raises(UsageError, match=told):
            parse_options(Folders, argv, prog="veridical test")
    with pytest.raises(SystemExit):
        parse_options(Folders, ["--help"], prog="veridical test")
    assert "usage: veridical test FOLDERS ... --out OUT [options]" in capsys.readouterr().out


@dataclass(frozen=True)
class Named(Checked):
    """Options of a command that takes one value without a flag."""

    name: str | None = field(default=None, metadata=POSITIONAL)
    out: str = "."


def test_one_value_may_stand_without_a_flag_where_a_field_holds_one() -> None:
    assert parse_options(Named, ["rar-mnist", "--out", "a"], prog="p") == Named("rar-mnist", "a")
    assert parse_options(Named, ["--out", "a"], prog="p") == Named(None, "a")
    with pytest.raises(UsageError, match="name: expected one value without a flag, but got"):
        parse_options(Named, ["one", "two"], prog="p")
