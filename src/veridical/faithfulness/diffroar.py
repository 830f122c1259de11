"""`diffroar`: whether an attribution ranks first what carries the information, by retraining."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import fields
from typing import Any

from veridical.attribution.method import Attribution
from veridical.data import Dataset
from veridical.faithfulness.design import BASELINES, LEVELS, Design
from veridical.faithfulness.measurement import Judged, Measurement, prepare
from veridical.faithfulness.measuring import ProgressCallback, measure
from veridical.faithfulness.recipe import OVERRIDES
from veridical.faithfulness.result import DiffRoarResult
from veridical.runtime.checking import FilePath, Level, Repeats, Seed, Share, Width, as_path, checked
from veridical.runtime.options import (
    BaselineName,
    FillName,
    ModeName,
    OrderName,
    PerName,
    RetrainObjectiveName,
    StackedName,
    TargetName,
    TiesName,
)
from veridical.runtime.study_config import DiffRoarOptions
from veridical.training.run import Run


@checked("attribution")
def diffroar(
    run_or_model: Judged,
    data: Dataset | str | None = None,
    *,
    out: str | os.PathLike[str],
    attribution: str | os.PathLike[str] | Attribution = "input-gradient",
    levels: Sequence[Level] = LEVELS,
    repeats: Repeats = 5,
    mode: ModeName = "keep",
    roar: bool = False,
    fill: FillName | Share = "mean",
    order: OrderName = "absolute",
    per: PerName = "value",
    ties: TiesName = "random",
    target: TargetName = "predicted",
    baselines: Sequence[BaselineName] = BASELINES,
    control: bool = True,
    control_repeats: Repeats = 1,
    retrain_model: FilePath | Run | None = None,
    retrain_model_options: Mapping[str, Any] | None = None,
    retrain_objective: RetrainObjectiveName = "natural",
    store: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    data_root: str | os.PathLike[str] | None = None,
    trust_code: bool = False,
    device: str = "auto",
    batch: Width = 200,
    stacked: StackedName = "never",
    seed: Seed = 0,
    progress: ProgressCallback | None = None,
    **overrides: Any,
) -> DiffRoarResult:
    """Measure DiffROAR, and ROAR and KAR beside it, with baselines and a control; see `DiffRoarResult`.

    Parameters
    ----------
    run_or_model
        What explains: a Run, its folder, or a module from images in [0, 1] to logits.
    data
        A Dataset or its name; None is the run's.
    out, store
        Folder of rankings and finished retrainings; the same call continues in it. Several measurements may
        share a `store`, and retrain what they have in common, such as the baselines, once.
    attribution
        A name (see `attribution.registry`), an .npz file of maps, or a method.
    retrain_model
        What is retrained where it is not the run's own architecture: a name, "module:callable", or a run,
        whose recipe is then taken too.
    executor
        Where retrainings run: any of `veridical.jobs`; None is `measuring.default_executor`.
    batch
        Images whose attributions are computed at a time.
    progress
        See `measuring.ProgressCallback`.
    overrides
        Options of the retraining in place of the recipe's: epochs, steps, learning_rate, batch_size and the
        others of `OptimiserOptions`, train_examples, bf16.

    The other parameters are fields of `veridical.runtime.study_config.DiffRoarOptions` and explained there.
    Raises UsageError for what does not fit together or an `out` of another measurement, and RunError, after
    all others were tried, if retrainings failed; what is finished stays.
    Source: Shah, Jain, Netrapalli, "Do input gradients highlight discriminative features?", NeurIPS 2021.
    """
    design = Design(
        levels=tuple(levels),
        repeats=repeats,
        mode=mode,
        roar=roar,
        fill=fill,
        order=order,
        per=per,
        ties=ties,
        target=target,
        baselines=tuple(baselines),
        control=control,
        control_repeats=control_repeats,
        seed=seed,
    )
    measurement = prepare(
        run_or_model,
        data,
        attribution=attribution,
        design=design,
        overrides=overrides,
        retrain_model=retrain_model,
        retrain_model_options=retrain_model_options,
        retrain_objective=retrain_objective,
        data_root=data_root,
        trust_code=trust_code,
        device=device,
    )
    return measure(
        measurement,
        as_path(out, "out"),
        store=store,
        executor=executor,
        batch=batch,
        stacked=stacked,
        progress=progress,
    )


def measurement_of(options: DiffRoarOptions) -> Measurement:
    """What the options of `veridical diffroar` come to, for `measure` or `forecast`."""
    named = {field.name: getattr(options, field.name) for field in fields(Design)}
    design = Design(**named | {"levels": tuple(options.levels), "baselines": tuple(options.baselines)})
    return prepare(
        options.run,
        options.data,
        attribution=options.attribution,
        design=design,
        # A flag that was not given does not turn off what the run had.
        overrides={name: getattr(options, name) for name in OVERRIDES} | {"bf16": options.bf16 or None},
        retrain_model=options.retrain_model,
        retrain_model_options=options.retrain_model_options,
        retrain_objective=options.retrain_objective,
        data_root=options.data_root,
        trust_code=options.trust_code,
        device=options.device,
    )
