"""Options of training and attack as plain values; free of torch, so that `--help` and parsing are quick.

A field that is None takes the recipe's (or the run's) value for the data set; results record what was used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from veridical.runtime.checking import Checked, limited

RecipeName = Literal["fast", "paper"]
NormName = Literal["linf", "l2"]
StartName = Literal["random", "origin", "gradient", "warm"]
ScoreName = Literal["size", "loss"]
AugmentName = Literal["none", "shift-rotate", "shift-rotate-flip", "warp"]
BalanceName = Literal["none", "classes"]
OptimiserName = Literal["adam", "sgd"]
ScheduleName = Literal["one-cycle", "steps", "constant"]
ModelOption = int | float | str | list[float]
RuleName = Literal["right", "left", "midpoint", "trapezoid", "gauss-legendre"]
ProtocolName = Literal["paper", "paper-fast", "strong"]
AttributionName = Literal["integrated-gradients", "input-gradient"]
OrderName = Literal["absolute", "signed", "squared"]
PerName = Literal["value", "pixel"]
TiesName = Literal["random", "stable"]
StackedName = Literal["auto", "never"]
ModeName = Literal["keep", "remove"]
FillName = Literal["mean", "black", "linear"]
BaselineName = Literal["random", "input-agnostic"]
TargetName = Literal["predicted", "label"]
RetrainObjectiveName = Literal["natural", "same"]


@dataclass(frozen=True, kw_only=True)
class SubjectOptions(Checked):
    """What is trained, on what, and where it goes.

    Args:
        out: Folder of the run; the same command continues a run that was interrupted.
        data: Name of a data set, an .npz file or a folder of class folders.
        model: Architecture by name.
        objective: What is minimised, by name or as module:callable (with trust_code).
        recipe: "fast" (Veridical's settings) or "paper" (the RAR authors').
    """

    out: str
    data: str = "mnist-5k"
    model: str = "cnn"
    objective: str = "ig-sum-norm"
    recipe: RecipeName = "fast"


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions(Checked):
    """The objective l(x) + weight * max over x' of size(IG(x, x')) and how its inner maximum is sought.

    Args:
        weight: lambda, the weight of the attribution's size; for input-gradient the penalty's own weight.
        beta: Coefficient of the L1 norm in ig-sum-norm.
        norm: Norm of the ball around each input.
        radius: Radius of the ball, in input units (images are in [0, 1]); the run is evaluated at it.
        training_radius: Radius of the ball in training, where it differs.
        radius_warm_up: Share of the training in which that ball grows from nothing to its radius.
        inner_steps: Steps of the inner ascent.
        inner_step_size: Length of an inner step, in input units.
        inner_start: Where the inner ascent starts; "warm" is where it ended for the image an epoch before.
        inner_score: What the inner ascent climbs; "size" is the objective itself, "loss" the loss alone.
        inner_nodes: Quadrature nodes of the attribution inside the ascent.
        nodes: Quadrature nodes of the attribution in the outer step.
        rule: Quadrature rule of both.
        beta_from: Share of the training after which the L1 term of ig-sum-norm is switched on.
    """

    weight: float | None = None
    beta: float | None = None
    norm: NormName = "linf"
    radius: float | None = None
    training_radius: float | None = None
    radius_warm_up: float | None = None
    inner_steps: int | None = None
    inner_step_size: float | None = None
    inner_start: StartName | None = None
    inner_score: ScoreName | None = None
    inner_nodes: int | None = None
    nodes: int | None = None
    rule: RuleName | None = None
    beta_from: float | None = None


@dataclass(frozen=True, kw_only=True)
class OptimiserOptions(Checked):
    """How the weights move.

    Args:
        optimiser: Adam (decoupled weight decay) or SGD with momentum 0.9; None takes the recipe's.
        schedule: One cycle (linear warm-up, cosine to zero), the paper's steps, or constant; None takes the
            recipe's.
        learning_rate: Greatest learning rate; None takes the recipe's.
        weight_decay: Decoupled for adam, L2 for sgd; None takes the recipe's.
        batch_size: Examples per step; None takes the recipe's.
        epochs: Passes through the training images; a fraction is allowed. None takes the recipe's.
        steps: Steps in total, instead of epochs.
        averaging: Decay of the exponential average of the weights; 0 keeps the last weights, None takes the
            recipe's.
        warm_up: Share of the steps in which the one-cycle rate rises; None takes the recipe's.
    """

    optimiser: OptimiserName | None = None
    schedule: ScheduleName | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    batch_size: int | None = None
    epochs: float | None = None
    steps: int | None = None
    averaging: float | None = None
    warm_up: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrainOptions(OptimiserOptions, ObjectiveOptions, SubjectOptions):
    """Train one classifier and keep it in a run folder.

    Args:
        model_options: Options of the architecture, for example {"width": 8}.
        equalise: Equalise the histogram of every channel (GTSRB in the paper).
        augment: Change training images at random in every step, by shifts, rotations and brightness
            ("shift-rotate"), mirroring too where the class allows it, or as the RAR authors ("warp").
        balance: Take every class equally often in an epoch.
        initial_run: Folder of a finished run whose weights this training begins with, instead of fresh ones.
        validation: Training images held out for validation; 0 holds none out.
        train_examples: Use only so many of the remaining training images; None uses all.
        data_root: Folder of the data; else VERIDICAL_DATA, else ~/.cache/veridical.
        download: Let torchvision download the data into the root.
        seed: Seed of weights, batches, noise and split.
        device: auto, cpu or cuda[:n].
        threads: Torch threads; None leaves torch's choice.
        bf16: Train with bfloat16 products and convolutions, on CPUs that have them; metrics stay float32.
        checkpoint_seconds: Least seconds between checkpoints inside an epoch; each epoch ends with one.
        trust_code: Allow module:callable, which runs foreign code.
        tensorboard: Also write TensorBoard events (extra "tensorboard").
        progress: Show a progress bar.
    """

    model_options: dict[str, ModelOption] = field(default_factory=dict)
    equalise: bool = False
    augment: AugmentName | None = None
    balance: BalanceName | None = None
    initial_run: str | None = None
    validation: int | None = None
    train_examples: int | None = None
    data_root: str | None = None
    download: bool = False
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    bf16: bool = False
    checkpoint_seconds: float = 60.0
    trust_code: bool = False
    tensorboard: bool = False
    progress: bool = True


@dataclass(frozen=True)
class AttackOptions(Checked):
    """Attack the predictions and the explanations of a trained run and measure what holds.

    Args:
        run: Folder of a run that `veridical train` made.
        out: Folder of the results.
        data: Name of the data set; None takes the run's.
        protocol: "paper" (the RAR authors' evaluation), "paper-fast" or "strong".
        attribution: Explanation that is attacked.
        attack: Direction of the attribution attack.
        examples: The first so many test images; None takes all.
        radius: Radii of the ball, in input units; None takes the run's (or the paper's for the data set).
        norm: Norm of the ball.
        k: Pixels attacked and compared; None takes the paper's for the data set.
        steps: Iterations of the attribution attack; None takes the paper's for the data set.
        step_size: Length of an iteration, in input units; None takes the paper's for the data set.
        region: Rows and columns (top, bottom, left, right) of the region for the "target" attack.
        pgd_steps: Steps of the attack on predictions; None takes the paper's for the data set.
        pgd_step_size: Step length of the attack on predictions; None takes the paper's for the data set.
        gallery: Examples shown in the report.
        split: Images that are attacked: the test set, or the run's validation images (for choosing settings).
        data_root: Folder of the data; else VERIDICAL_DATA, else ~/.cache/veridical.
        seed: Seed of random starts.
        device: auto, cpu or cuda[:n].
        threads: Torch threads of each process; None is one for several, and leaves torch's choice to one.
        workers: Processes; None is one for each core, fewer for few images, and one on CUDA.
        progress: Show a progress bar.
    """

    run: str
    out: str
    data: str | None = None
    protocol: ProtocolName = "paper-fast"
    attribution: AttributionName = "integrated-gradients"
    attack: Literal["topk", "mass-centre", "target", "random"] = "topk"
    examples: int | None = 1000
    radius: list[float] | None = None
    norm: NormName = "linf"
    k: int | None = None
    steps: int | None = field(default=None, metadata=limited(1, 10**5))
    step_size: float | None = None
    region: list[int] | None = None
    pgd_steps: int | None = None
    pgd_step_size: float | None = None
    gallery: int = 8
    split: Literal["test", "validation"] = "test"
    data_root: str | None = None
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    workers: int | None = None
    progress: bool = True


@dataclass(frozen=True, kw_only=True)
class DiffRoarOptions(OptimiserOptions):
    """Measure whether an attribution ranks the coordinates that carry the information, by retraining.

    Options of the retraining that are None are those of the run (of the recipe "fast" without a run).

    Args:
        run: Folder of the run whose attributions are judged.
        out: Folder of the results; the same command continues in it.
        store: Folder of finished retrainings, which several commands may share; None is one inside `out`.
        data: Name of the data set; None takes the run's.
        attribution: input-gradient, input-gradient-loss, gradient-x-input, integrated-gradients, smoothgrad,
            random, captum:CLASS, module:callable, or an .npz file of attribution_train and attribution_test.
        target: Class that is explained, the predicted one or the label (masks then know the label).
        levels: Shares of the coordinates that are kept (or removed).
        repeats: Retrainings, with seeds of their own, for every level and end.
        mode: Whether the coordinates of an end are kept (DiffROAR, KAR) or removed (ROAR).
        roar: Also retrain with the top coordinates removed at every level.
        fill: What stands for what is not shown; the training mean per channel, black, a number, or linear
            (noisy linear imputation).
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
        gallery: Images shown in the report.
        scheduler: Address of a Dask scheduler; None uses processes of this machine.
        workers: Processes; None is one for each core.
        insecure: Allow a remote scheduler without TLS.
        dry_run: Only predict how many retrainings there are and how long they take.
        trust_code: Allow module:callable, which runs foreign code.
        data_root: Folder of the data; else VERIDICAL_DATA, else ~/.cache/veridical.
        seed: Seed of ties, random orders and retrainings.
        device: auto, cpu or cuda[:n].
        threads: Torch threads of each process; None is one for several processes.
        progress: Show a progress bar.
    """

    run: str
    out: str
    store: str | None = None
    data: str | None = None
    attribution: str = "input-gradient"
    target: TargetName = "predicted"
    levels: list[float] = field(default_factory=lambda: [0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
    repeats: int = 5
    mode: ModeName = "keep"
    roar: bool = False
    fill: FillName | float = "mean"
    order: OrderName = "absolute"
    per: PerName = "value"
    ties: TiesName = "random"
    baselines: list[BaselineName] = field(default_factory=lambda: ["random", "input-agnostic"])
    control: bool = True
    control_repeats: int = 1
    retrain_model: str | None = None
    retrain_model_options: dict[str, ModelOption] = field(default_factory=dict)
    retrain_objective: RetrainObjectiveName = "natural"
    train_examples: int | None = None
    bf16: bool = False
    stacked: StackedName = "never"
    batch: int = 200
    gallery: int = field(default=6, metadata=limited(1, 1000))
    scheduler: str | None = None
    workers: int | None = None
    insecure: bool = False
    dry_run: bool = False
    trust_code: bool = False
    data_root: str | None = None
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    progress: bool = True


@dataclass(frozen=True)
class DemoOptions(Checked):
    """Train a natural and a robust model, attack the explanations of both, and show them side by side.

    Args:
        out: Folder of everything; None is runs/demo, or runs/demo-short. The same command continues in it.
        data: Name of a data set, an .npz file or a folder of class folders.
        short: Less training, fewer images and steps, for a quick look.
        data_root: Folder of the data; else VERIDICAL_DATA, else ~/.cache/veridical.
        seed: Seed of weights, batches and noise.
        device: auto, cpu or cuda[:n].
        progress: Show progress bars.
    """

    out: str | None = None
    data: str = "mnist-5k"
    short: bool = False
    data_root: str | None = None
    seed: int = 0
    device: str = "auto"
    progress: bool = True
