"""Options of commands that have not been made studies of one file yet; free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from veridical.runtime.checking import (
    Count,
    FilePath,
    Level,
    Limit,
    Repeats,
    Share,
    Width,
    needs,
)
from veridical.runtime.options import (
    BaselineName,
    DataChoice,
    Gallery,
    Machine,
    ModelOption,
    ModeName,
    OptimiserOptions,
    OrderName,
    PerName,
    Placement,
    RetrainObjectiveName,
    StackedName,
    TargetName,
    TiesName,
)

Shown = Annotated[int, Limit(1, 1000)]


@dataclass(frozen=True, kw_only=True)
class DiffRoarOptions(OptimiserOptions, Gallery, DataChoice, Placement):
    """Measure whether an attribution ranks the coordinates that carry the information, by retraining.

    Options of the retraining that are None are those of the run (of the recipe "fast" without a run).

    Args:
        run: Folder of the run whose attributions are judged.
        store: Folder of finished retrainings, which several commands may share; None is one inside `out`.
        attribution: By name {attributions}, captum:CLASS, module:callable, or an .npz file of
            attribution_train and attribution_test.
        target: Class that is explained, the predicted one or the label (masks then know the label).
        levels: Shares of the coordinates that are kept (or removed).
        repeats: Retrainings, with seeds of their own, for every level and end.
        mode: Whether the coordinates of an end are kept (DiffROAR, KAR) or removed (ROAR).
        roar: Also retrain with the top coordinates removed at every level.
        fill: What stands for what is not shown; the training mean per channel, black, a number, linear
            (noisy linear imputation), or module:callable.
        order: Ranking by the absolute, the signed or the squared attribution.
        per: Rank single values, or pixels over their channels.
        ties: Order of equal values, random by seed or by their place.
        baselines: Orders that are measured beside the attribution.
        control: Train on the masks alone, which tells how much their shape says about the class.
        control_repeats: Retrainings of the control for every level and end.
        retrain_model: Architecture to retrain, by name, run folder or module:callable; None is the run's.
        retrain_model_options: Options of an architecture by name, for example {"width": 8}.
        retrain_objective: Objective of the retraining, natural or the run's own.
        train_examples: Use only so many training images; None uses as many as the run.
        bf16: Retrain with bfloat16 products and convolutions, on CPUs that have them.
        stacked: Train several retrainings in one program, never, or (auto) where that can be done: natural
            ones of an mlp with a constant fill.
        batch: Images whose attributions are computed at a time.
        dry_run: Only predict how many retrainings there are and how long they take.
        trust_code: Allow module:callable, which runs foreign code.
        seed: Seed of ties, random orders and retrainings.
    """

    run: FilePath
    attribution: FilePath = "input-gradient"
    target: TargetName = "predicted"
    levels: list[Level] = field(default_factory=lambda: [0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
    repeats: Repeats = 5
    mode: ModeName = "keep"
    roar: bool = False
    fill: Share | str = "mean"
    order: OrderName = "absolute"
    per: PerName = "value"
    ties: TiesName = "random"
    baselines: list[BaselineName] = field(default_factory=lambda: ["random", "input-agnostic"])
    control: bool = True
    control_repeats: Repeats = field(default=1, metadata=needs("control"))
    retrain_model: FilePath | None = None
    retrain_model_options: dict[str, ModelOption] = field(
        default_factory=dict, metadata=needs("retrain_model")
    )
    retrain_objective: RetrainObjectiveName = "natural"
    train_examples: Count | None = None
    bf16: bool = False
    stacked: StackedName = "never"
    batch: Width = 200
    gallery: Shown = 6
    dry_run: bool = False
    trust_code: bool = False


@dataclass(frozen=True, kw_only=True)
class DemoOptions(DataChoice, Machine):
    """Train a natural and a robust model, attack the explanations of both, and show them side by side.

    Args:
        out: Folder of everything; None is runs/demo, or runs/demo-short. The same command continues in it.
        data: Name of a data set, an .npz file or a folder of class folders.
        short: Less training, fewer images and steps, for a quick look.
        seed: Seed of weights, batches and noise.
        progress: Show progress bars.
    """

    out: FilePath | None = None
    data: FilePath = "mnist-5k"
    short: bool = False
