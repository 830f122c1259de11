"""How much of the maps of runs lies inside known regions, into a folder: result.json and examples.npz."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from veridical.attribution.classifier import parameter_like
from veridical.attribution.maps import batch_maps
from veridical.attribution.registry import create_attribution
from veridical.jobs import Job
from veridical.metrics.intervals import SHARE, mean_interval
from veridical.metrics.localisation import area_share, mass_share
from veridical.metrics.maps import saliency
from veridical.runtime.devices import resolve_device
from veridical.runtime.files import Arrays
from veridical.runtime.record import record
from veridical.runtime.study_config import AlignmentOptions
from veridical.studies.alignment_job import ARRAYS
from veridical.studies.alignment_plan import AlignmentPlan, Member, planned
from veridical.studies.frame import ProgressCallback, Study, begun
from veridical.studies.maps import first_of_each_class, joined, measures_over_seeds, regions_of
from veridical.studies.over_seeds import paired_difference, two_intervals
from veridical.training.run import load

KIND = "alignment"


def alignment_run(options: AlignmentOptions, progress: ProgressCallback | None = None) -> dict[str, Any]:
    """Measure as `options` say, write result.json and examples.npz into their `out`, return the former.

    Stretches of images are kept as they come: interrupted at any moment, the same options continue. Raises
    UsageError for runs and data that do not fit together, RunError where a measurement failed.
    """
    plan = planned(options)
    jobs = {
        (title, number, name): plan.jobs(member, name)
        for title, members in plan.models.items()
        for number, member in enumerate(members)
        for name in options.attribution
    }
    runs = {title: [str(one.folder) for one in members] for title, members in plan.models.items()}
    with begun(options, KIND, plan.describe(), progress) as study:
        study.run("explaining", [job for stretches in jobs.values() for job in stretches])
    measured = {key: _Maps.read(study, stretches) for key, stretches in jobs.items()}
    return study.finish(_assembled(plan, measured), _pictures(plan), surroundings={"runs": runs})


@record
class _Maps:
    """The measures of one run by one attribution: arrays (N, ...) by name, and the run's mean map (H, W)."""

    arrays: Arrays
    average: NDArray[np.float64]

    @classmethod
    def read(cls, study: Study, stretches: Sequence[Job]) -> _Maps:
        """Of all stretches of images together."""
        parts = [study.arrays(job, ARRAYS) for job in stretches]
        averages = [part.pop("average") for part in parts]
        return cls(joined(parts), np.sum(averages, axis=0))


def _assembled(plan: AlignmentPlan, measured: Mapping[tuple[str, int, str], _Maps]) -> dict[str, Any]:
    """The results from the measures by (model, number of the run, attribution)."""
    regions = regions_of(plan.data)[: plan.examples]
    names = plan.options.attribution
    models: dict[str, Any] = {}
    inside: dict[tuple[str, str], dict[int, NDArray[np.float64]]] = {}
    for title, members in plan.models.items():
        maps: dict[str, Any] = {}
        for name in names:
            runs = [measured[title, number, name] for number in range(len(members))]
            maps[name] = _measures(runs, regions)
            inside[title, name] = {
                one.settings.seed: run.arrays["mass"] for one, run in zip(members, runs, strict=True)
            }
        right = [measured[title, number, names[0]].arrays["correct"] for number in range(len(members))]
        models[title] = {
            "seeds": [one.settings.seed for one in members],
            "accuracy": two_intervals(right, SHARE),
            "maps": maps,
        }
    first, *others = plan.models
    return {
        "examples": plan.examples,
        "area": mean_interval(area_share(regions), bounds=SHARE),
        "models": models,
        "reference": first,
        "differences": {
            title: {name: paired_difference(inside[title, name], inside[first, name]) for name in names}
            for title in others
        },
    }


def _measures(runs: Sequence[_Maps], regions: torch.Tensor) -> dict[str, Any]:
    """Every measure of one model's maps, with its two intervals; `topk` has one for each level."""
    found = measures_over_seeds([run.arrays for run in runs])
    # A map that only knows where signs and garments usually are: what one map for all images would reach.
    usual = [_inside(run.average, regions) for run in runs]
    masses = [run.arrays["mass"] for run in runs]
    right = [run.arrays["correct"] for run in runs]
    found["one_map"] = two_intervals(usual)
    found["beyond_one_map"] = two_intervals([mass - one for mass, one in zip(masses, usual, strict=True)])
    found["mass_where_correct"] = two_intervals(
        [np.where(hit, mass, np.nan) for mass, hit in zip(masses, right, strict=True)]
    )
    return found


def _inside(one_map: NDArray[np.float64], regions: torch.Tensor) -> NDArray[np.float64]:
    """The share of one map's mass in each of the regions, (N,)."""
    every = torch.from_numpy(one_map).expand(regions.shape)
    return mass_share(every, regions).numpy()


def _pictures(plan: AlignmentPlan) -> Arrays:
    """What the gallery shows: the first images of each class and the maps of each model's first run.

    index and label (n,), image uint8 (n, C, H, W), region bool (n, H, W), saliency float32 (models,
    attributions, n, H, W), and the names of models, attributions and classes.
    """
    split, options = plan.data.test, plan.options
    index = first_of_each_class(split.labels[: plan.examples], options.gallery)
    regions = regions_of(plan.data)[index]
    rows = [_saliencies(members[0], plan, index) for members in plan.models.values()]
    return {
        "index": np.asarray(index, dtype=np.int64),
        "label": split.labels[index].numpy(),
        "image": split.images[index].numpy(),
        "region": regions.numpy(),
        "saliency": np.stack(rows),
        "models": np.asarray(list(plan.models), dtype=np.str_),
        "attributions": np.asarray(options.attribution, dtype=np.str_),
        "classes": np.asarray(plan.data.classes, dtype=np.str_),
    }


def _saliencies(member: Member, plan: AlignmentPlan, index: Sequence[int]) -> NDArray[np.float32]:
    """One run's maps of some test images by every attribution, float32 (attributions, n, H, W)."""
    device = resolve_device(plan.options.device)
    model = load(member.folder, device=device).model
    inputs, _ = plan.data.test.batch(index, parameter_like(model).dtype, device)
    found = []
    for name in plan.options.attribution:
        method = create_attribution(name, seed=plan.options.seed, trust_code=plan.options.trust_code)
        found.append(saliency(batch_maps(method, model, inputs, None, index, plan.options.seed)))
    return torch.stack(found).cpu().float().numpy()
