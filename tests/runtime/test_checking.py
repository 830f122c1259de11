"""Every field of every class of options: what its annotation and limits allow is taken, all else refused."""

import contextlib
import dataclasses
import math
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import numpy as np
import pytest

from veridical import (
    L2,
    GradientTimesInput,
    InputGradient,
    IntegratedGradients,
    Linf,
    RandomAttribution,
    SmoothGrad,
)
from veridical.attacks.directions import TargetRegion, TopK
from veridical.attacks.protocols import EvaluationSettings, Protocol, Restart
from veridical.cli.commands import COMMANDS
from veridical.cli.main import main
from veridical.cli.options import parse_options
from veridical.faithfulness.diffroar_plan import Design
from veridical.runtime.checking import Checked, Limit, option_hints
from veridical.runtime.errors import UsageError
from veridical.runtime.options import BlockOptions, ShortcutOptions, TrainOptions
from veridical.studies.attack import AttackOptions
from veridical.training.objectives import Inner
from veridical.training.recipes import OptimiserSettings, RobustSettings, Settings

OF_COMMANDS = {name: command.options() for name, command in COMMANDS.items() if name != "run"}
OTHERS: list[Any] = [
    BlockOptions,
    ShortcutOptions,
    Design,
    OptimiserSettings,
    RobustSettings,
    Settings,
    Linf,
    L2,
]
OTHERS += [InputGradient, GradientTimesInput, SmoothGrad, IntegratedGradients, RandomAttribution]
OTHERS += [TopK, TargetRegion, Restart, Protocol, EvaluationSettings, Inner]
CLASSES: dict[str, Any] = OF_COMMANDS | {kind.__name__: kind for kind in OTHERS}


class Stranger:
    """A value that no option takes."""


def bare(hint: Any) -> Any:
    """The first alternative of an annotation, without its limits."""
    one = get_args(hint)[0] if get_origin(hint) in (Union, types.UnionType) else hint
    return get_args(one)[0] if get_origin(one) is Annotated else one


def limit_of(hint: Any) -> Limit | None:
    """The limits of the numbers that an annotation takes."""
    own = [one for one in getattr(hint, "__metadata__", ()) if isinstance(one, Limit)]
    return next(iter([*own, *filter(None, map(limit_of, get_args(hint)))]), None)


def example_of(hint: Any) -> Any:
    """A value that a field of this annotation takes."""
    one = bare(hint)
    if dataclasses.is_dataclass(one):
        return build(one)
    if is_typeddict(one):
        return {name: example_of(inner) for name, inner in get_type_hints(one).items()}
    if get_origin(one) is Literal:
        return get_args(one)[0]
    if get_origin(one) is not None:
        return [example_of(get_args(one)[0])] if get_origin(one) is list else {}
    return {str: "name", bool: False, float: 0.5}.get(one, 1)


def build(kind: Any, **given: Any) -> Any:
    """Options with what must be given, and `given`."""
    return kind(**{field: example_of(option_hints(kind)[field]) for field in required(kind)} | given)


def required(kind: Any) -> list[str]:
    missing = dataclasses.MISSING
    return [f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is missing]


FIELDS = [
    pytest.param(kind, field, hint, id=f"{name}.{field}")
    for name, kind in CLASSES.items()
    for field, hint in option_hints(kind).items()
]


def is_list(hint: Any) -> bool:
    return any(word in str(hint) for word in ("list[", "tuple["))


def is_number(hint: Any) -> bool:
    if hint in (int, float):
        return True
    return get_origin(hint) is not dict and any(is_number(one) for one in get_args(hint) if one != hint)


@pytest.mark.parametrize(("kind", "field", "hint"), FIELDS)
def test_a_value_of_the_wrong_type_is_refused_by_name(kind: Any, field: str, hint: Any) -> None:
    build(kind)
    wrong: list[Any] = [Stranger(), Stranger, b"x", 1j, {1: 2}]
    wrong += [] if "Callable" in str(hint) else [print]
    wrong += [] if "str" in str(hint) else ["no such value"]
    wrong += [] if is_list(hint) else [[1], (None,)]
    wrong += [True] if is_number(hint) else [3.5] if "float" not in str(hint) else []
    wrong += [2.5] if is_number(hint) and "float" not in str(hint) else []
    for value in wrong:
        with pytest.raises(UsageError, match=field):
            build(kind, **{field: value})
    assert limit_of(hint) is not None or not is_number(hint), "a number without limits"


@pytest.mark.parametrize(("kind", "field", "hint"), [one for one in FIELDS if is_number(one.values[2])])
def test_a_number_just_outside_its_limits_is_refused(kind: Any, field: str, hint: Any) -> None:
    limit = limit_of(hint)
    assert limit is not None
    whole = "float" not in str(hint)
    step: Any = (lambda x, way: int(x) + way) if whole else (lambda x, way: math.nextafter(x, way * math.inf))
    outside = [limit.low if limit.above else step(limit.low, -1)]
    outside += [limit.high if limit.below else step(limit.high, 1)]
    outside += [] if whole else [math.nan, math.inf, -math.inf]
    for value in [*outside, 2**70, -(2**70), 10**400]:
        with pytest.raises(UsageError, match=field):
            build(kind, **{field: [value] if is_list(hint) else value})


def numbers_of(command: str, out: Path) -> Iterator[tuple[str, Any, Limit, list[str]]]:
    """Every flag of a command that takes a number, with its type and limits, and a line to put it behind."""
    kind = OF_COMMANDS[command]
    needed = [f"--{field}={out if field == 'out' else 'one-layer'}" for field in required(kind)]
    for field, hint in option_hints(kind).items():
        limit = limit_of(hint)
        if limit is not None and is_number(hint):
            yield field.replace("_", "-"), hint, limit, [command, *needed]


@pytest.mark.parametrize("command", OF_COMMANDS)
def test_limits_hold_for_a_command_line_and_make_no_folder(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for flag, hint, limit, line in numbers_of(command, out):
        high = int(limit.high) + 1 if "float" not in str(hint) else 2 * limit.high
        for value in (high, "abc") if "str" not in str(hint) else (high,):  # a text may be a name
            assert main([*line, f"--{flag}={value}"]) == 2, (flag, value)
            printed = capsys.readouterr().err
            assert flag in printed.replace("_", "-")
            assert printed.count("\n") == 1
            assert not any(internal in printed for internal in ("<class", "Union", "validate"))
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", OF_COMMANDS)
def test_extreme_numbers_are_options_or_bad_usage(command: str, tmp_path: Path) -> None:
    for flag, _, _, (name, *line) in numbers_of(command, tmp_path / "out"):
        for value in ("nan", ".nan", "-.inf", "-1", "0", "1e39", "1e400", 2**31, 2**70, "abc", "", "null"):
            argv = [*line, f"--{flag}={value}"]
            with contextlib.suppress(UsageError):
                assert parse_options(OF_COMMANDS[name], argv, prog=name)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "given", "words"),
    [
        ("diffroar", {"insecure": True}, "only with scheduler"),
        ("diffroar", {"control": False, "control_repeats": 2}, "only with control"),
        ("diffroar", {"retrain_model_options": {"width": 8}}, "only with retrain_model"),
        ("attack", {"region": [0, 1, 0, 1]}, "only with attack target"),
        ("make-block-mnist", {"tile": 2}, "only with null scramble"),
    ],
)
def test_an_option_without_effect_is_refused(command: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(OF_COMMANDS[command], **given)


@pytest.mark.parametrize("kind", CLASSES.values())
def test_every_class_of_options_is_checked_and_an_option_needs_one_of_its_own_class(kind: Any) -> None:
    assert issubclass(kind, Checked)
    for field in dataclasses.fields(kind):
        assert field.metadata.get("needs", (field.name,))[0] in option_hints(kind)


def test_what_can_be_taken_is_taken() -> None:
    taken = TrainOptions(out=Path("a"), steps=np.int64(3), weight=np.float32(0.5), radius=1)  # type: ignore[arg-type]
    assert (taken.out, taken.steps, taken.weight, taken.radius) == ("a", 3, 0.5, 1)
    assert [type(v) for v in (taken.out, taken.steps, taken.weight, taken.radius)] == [str, int, float, int]
    attack = AttackOptions(run="r", out="~/x", radius=(0.1, 0.2))  # type: ignore[arg-type]
    assert attack.radius == [0.1, 0.2]
    assert attack.out == str(Path.home() / "x")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"out": ""}, "out: expected a text"),
        ({"out": "a\0b"}, "out: expected a text"),
        ({"out": "a\udcffb"}, "out: expected a text"),
        ({"out": "~nobody-of-this-name/x"}, "out: expected ~ or ~USER"),
        ({"radius": 1.5}, "radius: 1.5 in linf is wider"),
        ({"schedule": "onecycle"}, "Did you mean one-cycle"),
        ({"model_options": {"width": None}}, "model_options.width"),
    ],
)
def test_texts_radii_and_names(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(TrainOptions, **given)
    build(TrainOptions, radius=1.5, norm="l2")
