"""How far models rely on a planted shortcut, into a folder: result.json and examples.npz."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veridical.metrics.intervals import SHARE
from veridical.runtime.files import Arrays
from veridical.runtime.study_config import ShortcutStudyOptions
from veridical.studies.map_measures import SINGLE, measures_over_seeds
from veridical.studies.over_seeds import over_runs, paired_difference, two_intervals
from veridical.studies.shortcut_job import ARRAYS, VARIANTS
from veridical.studies.shortcut_plan import Condition, ShortcutPlan, planned
from veridical.studies.study import ProgressCallback, begun

KIND = "shortcut"

LOST = ("moved", "gone")
"""Variants in which a model that relies on the patch loses accuracy."""

Measured = Mapping[int, Arrays]
"""What the trainings of one arm measured, by seed."""


def shortcut_run(options: ShortcutStudyOptions, progress: ProgressCallback | None = None) -> dict[str, Any]:
    """Train and measure as `options` say, write result.json and examples.npz into `out`, return the former.

    Trainings are kept as they come: interrupted at any moment, the same options continue. Raises UsageError
    for options that do not fit, and RunError, when all others are finished, where a training failed.
    """
    plan = planned(options)
    jobs = {title: {seed: plan.job(arm, seed) for seed in plan.seeds} for title, arm in plan.arms.items()}
    with begun(options, KIND, plan.describe(), progress) as study:
        study.run("training", [job for trainings in jobs.values() for job in trainings.values()])
    measured = {
        title: {seed: study.arrays(job, ARRAYS) for seed, job in trainings.items()}
        for title, trainings in jobs.items()
    }
    attacked = {
        title: [study.result(job)["adversarial_accuracy"] for job in trainings.values()]
        for title, trainings in jobs.items()
    }
    return study.finish(_assembled(plan, measured, attacked), _pictures(plan, measured))


def _assembled(
    plan: ShortcutPlan,
    measured: Mapping[str, Measured],
    attacked: Mapping[str, Sequence[Any]],
) -> dict[str, Any]:
    """The results: every arm's own numbers, and its differences to the arm it is compared with."""
    arms = {title: _arm(plan, arm, measured[title], attacked[title]) for title, arm in plan.arms.items()}
    references = {title: _reference(plan, arm) for title, arm in plan.arms.items()}
    differences = {
        title: {
            "reference": reference,
            **{f"lost_{to}": _compared(measured[title], measured[reference], to) for to in LOST},
            "mass": {
                name: paired_difference(
                    *(
                        {seed: arrays[f"maps/{name}/agreeing/mass"] for seed, arrays in measured[one].items()}
                        for one in (title, reference)
                    )
                )
                for name in plan.options.attribution
            },
        }
        for title, reference in references.items()
        if reference != title
    }
    images = len(next(iter(measured[next(iter(measured))].values()))["label"])
    return {"examples": images, "explained": plan.explained, "arms": arms, "differences": differences}


def _reference(plan: ShortcutPlan, arm: Condition) -> str:
    """The arm on the same images that comes first."""
    return next(title for title, other in plan.arms.items() if other.shortcut == arm.shortcut)


def _arm(
    plan: ShortcutPlan, arm: Condition, measured: Measured, attacked: Sequence[Mapping[str, Any] | None]
) -> dict[str, Any]:
    """One arm's accuracies, what it loses without the patch's help, and where its maps lie."""
    robust = arm.settings.robust
    known = [one for one in attacked if one is not None]
    return {
        "objective": arm.settings.objective,
        "norm": None if robust is None else robust.norm,
        "radius": None if robust is None else robust.radius,
        "rate": arm.shortcut["rate"],
        "control": arm.control,
        "seeds": list(measured),
        "accuracy": {
            variant: two_intervals([arrays[f"correct/{variant}"] for arrays in measured.values()], SHARE)
            for variant in VARIANTS
        },
        "adversarial_accuracy": _attacked(known),
        "lost": {to: two_intervals([_lost(arrays, to) for arrays in measured.values()]) for to in LOST},
        "follows": two_intervals([arrays["follows"] for arrays in measured.values()], SHARE),
        "maps": {
            name: {
                variant: measures_over_seeds(
                    [_measures(arrays, name, variant) for arrays in measured.values()]
                )
                for variant in VARIANTS
            }
            for name in plan.options.attribution
        },
    }


def _attacked(found: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Accuracy under attack with the patch gone, as `over_runs`; None for models that have no ball."""
    return over_runs(found, SHARE) if found else None


def _lost(arrays: Arrays, to: str) -> NDArray[np.float64]:
    """1 where an image is right with the patch as in training and wrong without, -1 the reverse, else 0."""
    lost: NDArray[np.float64] = arrays["correct/agreeing"].astype(np.float64) - arrays[f"correct/{to}"]
    return lost


def _compared(measured: Measured, reference: Measured, to: str) -> dict[str, Any]:
    return dict(
        paired_difference(
            *({seed: _lost(arrays, to) for seed, arrays in one.items()} for one in (measured, reference))
        )
    )


def _measures(arrays: Arrays, name: str, variant: str) -> Arrays:
    return {measure: arrays[f"maps/{name}/{variant}/{measure}"] for measure in (*SINGLE, "topk")}


def _pictures(plan: ShortcutPlan, measured: Mapping[str, Measured]) -> Arrays:
    """What the gallery shows: images and regions of every rate, and the maps of each arm's first training."""
    found: Arrays = {
        "arms": np.asarray(list(plan.arms), dtype=np.str_),
        "classes": np.asarray(plan.classes, dtype=np.str_),
    }
    for number, training in enumerate(measured.values()):
        arrays = training[next(iter(training))]
        for name, values in arrays.items():
            if name == "index" or name.startswith(("image/", "region/", "saliency/")):
                found[f"{number}/{name}"] = values[: plan.options.gallery]
        index = arrays["index"][: plan.options.gallery]
        found[f"{number}/label"] = arrays["label"][index]
        for variant in VARIANTS:
            found[f"{number}/predicted/{variant}"] = arrays[f"predicted/{variant}"][index]
    return found
