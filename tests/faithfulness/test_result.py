"""Verdicts from repeats and test images, and which retrainings a measurement takes."""

import inspect
import math
from dataclasses import fields

import pytest
from scipy import stats

from veridical.faithfulness.diffroar import diffroar
from veridical.faithfulness.diffroar_plan import Design, Retraining
from veridical.faithfulness.result import _repeats_interval, judge
from veridical.faithfulness.retraining import OVERRIDES
from veridical.faithfulness.unmasking import Kept
from veridical.runtime.errors import UsageError
from veridical.runtime.options import SubjectChoice
from veridical.studies.diffroar import DiffRoarOptions


def test_the_interval_joins_repeats_and_test_images() -> None:
    top, bottom, examples = [0.71, 0.74, 0.72], [0.60, 0.66, 0.63], 500
    result = judge(top, bottom, examples)
    differences = [one - other for one, other in zip(top, bottom, strict=True)]
    low, high = stats.t.interval(0.95, 2, loc=stats.tmean(differences), scale=stats.sem(differences))
    one, other = sum(top) / 3, sum(bottom) / 3
    images = stats.norm.ppf(0.975) * math.sqrt((one * (1 - one) + other * (1 - other)) / examples)
    half = math.hypot((high - low) / 2, images)
    assert result["value"] == pytest.approx(one - other)
    assert result["low"] == pytest.approx(one - other - half)
    assert result["high"] == pytest.approx(one - other + half)


@pytest.mark.parametrize(
    ("top", "bottom", "verdict"),
    [
        ([0.9, 0.91, 0.9], [0.5, 0.52, 0.51], "satisfied"),
        ([0.5, 0.52, 0.51], [0.9, 0.91, 0.9], "violated"),
        ([0.8, 0.82, 0.78], [0.79, 0.83, 0.8], "undecided"),
        ([0.9], [0.5], "undecided"),
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], "undecided"),
    ],
)
def test_verdicts(top: list[float], bottom: list[float], verdict: str) -> None:
    assert judge(top, bottom, 1000)["verdict"] == verdict


def test_seeds_that_agree_do_not_make_few_images_many() -> None:
    # The repeats differ by one image in a thousand, always the same way; the images alone vary by 2.5%.
    top, bottom = [0.801, 0.802, 0.801, 0.802], [0.79, 0.791, 0.79, 0.791]
    assert _repeats_interval([one - other for one, other in zip(top, bottom, strict=True)])["low"] > 0
    assert judge(top, bottom, 1000)["verdict"] == "undecided"
    assert judge(top, bottom, 100_000)["verdict"] == "satisfied"


@pytest.mark.parametrize(("top", "bottom"), [([], []), ([0.5], [0.5, 0.6])])
def test_repeats_come_in_pairs(top: list[float], bottom: list[float]) -> None:
    with pytest.raises(UsageError, match="repeats"):
        judge(top, bottom, 100)


TOP, BOTTOM = [0.888, 0.889, 0.887], [0.70, 0.71, 0.69]
RANDOM = ([0.80, 0.80, 0.80], [0.80, 0.80, 0.80])


@pytest.mark.parametrize(
    ("masks", "baselines", "as_good"),
    [
        # Nothing else tells anything.
        (([0.1], [0.1]), {"random": RANDOM}, []),
        # The masks of the top are as good as its values, whatever those of the bottom are.
        (([0.891], [0.60]), {}, ["masks"]),
        (([0.885, 0.886, 0.884], [0.1, 0.1, 0.1]), {}, ["masks"]),
        # The values add to the top, and the ends still differ by no more than their masks do.
        (([0.80], [0.60]), {}, ["masks"]),
        # Both ends' masks tell equally much, and the values add more at the top.
        (([0.65], [0.65]), {}, []),
        # One order for all images does better, as well within the interval, or clearly worse.
        (None, {"random": RANDOM, "input-agnostic": ([0.9, 0.9, 0.9], [0.6, 0.6, 0.6])}, ["input-agnostic"]),
        (None, {"input-agnostic": ([0.88, 0.89, 0.87], [0.70, 0.69, 0.71])}, ["input-agnostic"]),
        (None, {"input-agnostic": ([0.85, 0.85, 0.85], [0.80, 0.80, 0.80])}, []),
        (([0.888], [0.60]), {"edges": ([0.95, 0.95, 0.95], [0.1, 0.1, 0.1])}, ["masks", "edges"]),
    ],
)
def test_what_explains_a_difference_as_well_leaves_it_undecided(
    masks: tuple[list[float], list[float]] | None,
    baselines: dict[str, tuple[list[float], list[float]]],
    as_good: list[str],
) -> None:
    result = judge(TOP, BOTTOM, 10_000, masks, baselines)
    assert result["as_good"] == as_good
    assert result["verdict"] == ("undecided" if as_good else "satisfied")
    # The bottom ahead: its own masks count, and a baseline that is as bad does not make it right.
    swapped = None if masks is None else (masks[1], masks[0])
    behind = judge(BOTTOM, TOP, 10_000, swapped, {name: (b, a) for name, (a, b) in baselines.items()})
    assert behind["as_good"] == [name for name in as_good if name == "masks"]
    assert behind["verdict"] == ("undecided" if "masks" in as_good else "violated")


def test_intervals_end_where_accuracies_and_their_differences_do() -> None:
    assert _repeats_interval([0.4, 0.9]) == {"repeats": [0.4, 0.9], "value": 0.65, "low": 0.0, "high": 1.0}
    assert _repeats_interval([-0.4, 0.9], -1.0)["low"] == -1.0
    assert _repeats_interval([0.7]) == {"repeats": [0.7], "value": 0.7, "low": None, "high": None}
    assert judge([0.9], [0.5], 1000)["low"] is None
    result = judge([0.4, 0.9], [0.3, 0.1], 10)
    assert (result["low"], result["high"]) == (-1.0, 1.0)


@pytest.mark.parametrize(("examples", "reasons"), [(50, ["one order"]), (50_000, [])])
def test_few_test_images_cannot_tell_a_ranking_from_a_baseline(examples: int, reasons: list[str]) -> None:
    result = judge((0.8,) * 3, (0.4,) * 3, examples, None, {"one order": ((0.78,) * 3, (0.43,) * 3)})
    assert result["as_good"] == reasons


def test_every_curve_level_end_and_repeat_is_trained_once() -> None:
    design = Design(levels=[0.5, 0.1], repeats=3, control_repeats=2, seed=4)
    result = design.retrainings(64)
    assert len(result) == len(set(result)) == 3 * (2 * 2 * 3) + 2 * 2 * 2
    assert design.levels == [0.1, 0.5]
    assert Retraining("judged", "images", Kept("top", 6), 4002) in result
    assert Retraining("random", "images", Kept("bottom", 32), 4000) in result
    assert Retraining("judged", "masks", Kept("bottom", 6), 4001) in result
    assert not any(one.shown == "masks" and one.seed == 4002 for one in result)
    # Those of the next seed are others; with ROAR the bottom half is trained on already.
    assert not {one.seed for one in result} & {one.seed for one in Design(seed=5).retrainings(64)}
    roar = Design(levels=[0.1, 0.5], repeats=2, baselines=[], control=False, roar=True).retrainings(64)
    assert len(roar) == 2 * 2 * 2 + 2
    assert {one.kept for one in roar} >= {Kept("bottom", 58)}


@pytest.mark.parametrize("levels", [[], [0.1, 0.101], [0.5, 0.999]])
def test_levels_must_differ_in_coordinates(levels: list[float]) -> None:
    with pytest.raises(UsageError, match=r"levels.*(shares of|out of 64, fewer than all)"):
        Design(levels=levels).check(64)


def test_options_and_function_have_the_same_fields_and_defaults() -> None:
    options, parameters = DiffRoarOptions(run="r", out="o"), inspect.signature(diffroar).parameters
    # These are something else in Python: a mapping or None, and a function.
    for name in {field.name for field in fields(options)} - {"retrain_model_options", "progress"}:
        default = parameters[name].default if name in parameters else inspect.Parameter.empty
        if default is not inspect.Parameter.empty:
            option = getattr(options, name)
            assert option == (list(default) if isinstance(default, tuple) else default), name
    # What remains is the recipe's, or the command's own.
    left = {field.name for field in fields(DiffRoarOptions)} - set(parameters) - set(OVERRIDES)
    subject = {field.name for field in fields(SubjectChoice)} - {"data", "trust_code"} - set(parameters)
    assert left == {*subject, "scheduler", "workers", "insecure", "dry_run", "threads", "gallery"}
