"""Options of training and attack as plain values; free of torch, so that `--help` and parsing are quick.

A field that is None takes the recipe's (or the run's) value for the data set; results record what was used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

ObjectiveName = Literal["natural", "adversarial", "input-gradient", "ig-norm", "ig-sum-norm", "loss-change"]
OBJECTIVES: tuple[ObjectiveName, ...] = (
    "natural",
    "adversarial",
    "input-gradient",
    "ig-norm",
    "ig-sum-norm",
    "loss-change",
)
RecipeName = Literal["fast", "paper"]
NormName = Literal["linf", "l2"]
StartName = Literal["random", "origin", "gradient"]
ScoreName = Literal["size", "loss"]
OptimiserName = Literal["adam", "sgd"]
ScheduleName = Literal["one-cycle", "steps", "constant"]
ModelOption = int | float | str | list[float]
RuleName = Literal["right", "left", "midpoint", "trapezoid", "gauss-legendre"]
ProtocolName = Literal["paper", "paper-fast", "strong"]
AttributionName = Literal["integrated-gradients", "input-gradient"]


@dataclass(frozen=True, kw_only=True)
class SubjectOptions:
    """What is trained, on what, and where it goes.

    Args:
        out: Folder of the run; the same command continues a run that was interrupted.
        data: Name of a data set, an .npz file or a folder of class folders.
        model: Architecture by name.
        objective: What is minimised.
        recipe: "fast" (Veridical's settings) or "paper" (the RAR authors').
    """

    out: str
    data: str = "mnist-5k"
    model: str = "cnn"
    objective: ObjectiveName = "ig-sum-norm"
    recipe: RecipeName = "fast"


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions:
    """The objective l(x) + weight * max over x' of size(IG(x, x')) and how its inner maximum is sought.

    Args:
        weight: lambda, the weight of the attribution's size; for input-gradient the penalty's own weight.
        beta: Coefficient of the L1 norm in ig-sum-norm.
        norm: Norm of the ball around each input.
        radius: Radius of the ball, in input units (images are in [0, 1]).
        inner_steps: Steps of the inner ascent.
        inner_step_size: Length of an inner step, in input units.
        inner_start: Where the inner ascent starts.
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
    inner_steps: int | None = None
    inner_step_size: float | None = None
    inner_start: StartName | None = None
    inner_score: ScoreName | None = None
    inner_nodes: int | None = None
    nodes: int | None = None
    rule: RuleName | None = None
    beta_from: float | None = None


@dataclass(frozen=True, kw_only=True)
class OptimiserOptions:
    """How the weights move.

    Args:
        optimiser: Adam (decoupled weight decay) or SGD with momentum 0.9.
        schedule: One cycle (linear warm-up, cosine to zero), the paper's steps, or constant.
        learning_rate: Greatest learning rate.
        weight_decay: Decoupled for adam, L2 for sgd.
        batch_size: Examples per step.
        epochs: Passes through the training images; a fraction is allowed.
        steps: Steps in total, instead of epochs.
        averaging: Decay of the exponential average of the weights; 0 keeps the last weights.
        warm_up: Share of the steps in which the one-cycle rate rises.
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
        validation: Training images held out for validation; 0 holds none out.
        train_examples: Use only so many of the remaining training images; None uses all.
        data_root: Folder of the data; else VERIDICAL_DATA, else ~/.cache/veridical.
        download: Let torchvision download the data into the root.
        seed: Seed of weights, batches, noise and split.
        device: auto, cpu or cuda[:n].
        threads: Torch threads; None leaves torch's choice.
        bf16: Train with bfloat16 products and convolutions, on CPUs that have them; metrics stay float32.
        checkpoint_seconds: Least seconds between checkpoints inside an epoch; each epoch ends with one.
        tensorboard: Also write TensorBoard events (extra "tensorboard").
        progress: Show a progress bar.
    """

    model_options: dict[str, ModelOption] = field(default_factory=dict)
    equalise: bool = False
    validation: int | None = None
    train_examples: int | None = None
    data_root: str | None = None
    download: bool = False
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    bf16: bool = False
    checkpoint_seconds: float = 60.0
    tensorboard: bool = False
    progress: bool = True


@dataclass(frozen=True)
class AttackOptions:
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
    steps: int | None = None
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


@dataclass(frozen=True)
class DemoOptions:
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
