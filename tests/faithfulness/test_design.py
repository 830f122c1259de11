"""Which retrainings there are, and that options, design and function agree."""

import inspect
from dataclasses import fields

import pytest

from veridical.faithfulness.diffroar import diffroar
from veridical.faithfulness.diffroar_plan import Design, Retraining
from veridical.faithfulness.retraining import OVERRIDES
from veridical.faithfulness.unmasking import Kept
from veridical.runtime.errors import UsageError
from veridical.runtime.study_config import DiffRoarOptions


def test_every_curve_level_end_and_repeat_is_trained_once() -> None:
    design = Design(levels=(0.5, 0.1), repeats=3, control_repeats=2, seed=4)
    result = design.retrainings(64)
    assert len(result) == len(set(result)) == 3 * (2 * 2 * 3) + 2 * 2 * 2
    assert design.levels == (0.1, 0.5)
    assert Retraining("judged", "images", Kept("top", 6), 4002) in result
    assert Retraining("random", "images", Kept("bottom", 32), 4000) in result
    assert Retraining("judged", "masks", Kept("bottom", 6), 4001) in result
    assert not any(one.shown == "masks" and one.seed == 4002 for one in result)


def test_removing_is_keeping_the_rest_so_both_modes_share_retrainings() -> None:
    plain = {"levels": (0.25, 0.75), "repeats": 2, "baselines": (), "control": False}
    kept, removed = (
        set(Design(**plain, mode=mode).retrainings(64))  # type: ignore[arg-type]
        for mode in ("keep", "remove")
    )
    assert kept == removed
    roar = Design(levels=(0.1, 0.5), repeats=2, baselines=(), control=False, roar=True).retrainings(64)
    # At 0.5 the bottom half is trained on already.
    assert len(roar) == 2 * 2 * 2 + 2
    assert {one.kept for one in roar} >= {Kept("bottom", 58)}


def test_seeds_of_different_measurements_differ() -> None:
    one, other = (Design(seed=seed, repeats=5).retrainings(784) for seed in (0, 1))
    assert not {r.seed for r in one} & {r.seed for r in other}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": ()}, "levels"),
        ({"levels": (0.5, 1.0)}, "levels"),
        ({"repeats": 0}, "repeats"),
        ({"mode": "drop"}, "mode"),
        ({"order": "size"}, "order"),
        ({"baselines": ("nothing",)}, "baselines"),
        ({"target": "other"}, "target"),
    ],
)
def test_designs_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Design(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("levels", [(0.1, 0.101), (0.5, 0.999)])
def test_levels_must_differ_in_coordinates(levels: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="out of 64, fewer than all"):
        Design(levels=levels).check(64)


def test_options_design_and_function_have_the_same_fields_and_defaults() -> None:
    options = DiffRoarOptions(run="r", out="o")
    for field in fields(Design):
        default, option = getattr(Design(), field.name), getattr(options, field.name)
        assert option == (list(default) if isinstance(default, tuple) else default), field.name
    parameters = inspect.signature(diffroar).parameters
    # These are something else in Python: a mapping or None, and a function.
    for name in {field.name for field in fields(options)} - {"retrain_model_options", "progress"}:
        default = parameters[name].default if name in parameters else inspect.Parameter.empty
        if default is not inspect.Parameter.empty:
            option = getattr(options, name)
            assert option == (list(default) if isinstance(default, tuple) else default), name
    # What remains is the recipe's, or the command's own.
    left = {field.name for field in fields(DiffRoarOptions)} - set(parameters) - set(OVERRIDES)
    assert left == {"run", "scheduler", "workers", "insecure", "dry_run", "threads", "gallery"}
