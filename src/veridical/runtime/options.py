"""Groups of options that commands share, each documented once; free of torch, so that parsing is quick.

A command's options inherit the groups that they need, and state a field anew where it differs.
Types such as `Share` and `FilePath` carry the limits that `runtime.checking` holds a field to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from veridical.runtime.checking import (
    Checked,
    Contrast,
    Count,
    Decay,
    Factor,
    FilePath,
    Length,
    Level,
    Limit,
    Pictures,
    Processes,
    Radius,
    Repeats,
    Seed,
    Share,
    Size,
    Steps,
    StepSize,
    Width,
    needs,
)

RecipeName = Literal["fast", "paper"]
NormName = Literal["linf", "l2"]
StartName = Literal["random", "origin", "gradient", "warm"]
ScoreName = Literal["size", "loss"]
DistanceName = Literal["pearson", "cosine"]
AugmentName = Literal["none", "shift-rotate", "shift-rotate-flip", "warp"]
BalanceName = Literal["none", "classes"]
OptimiserName = Literal["adam", "sgd"]
ScheduleName = Literal["one-cycle", "steps", "constant"]
ModelOption = int | float | str | list[float]
RuleName = Literal["right", "left", "midpoint", "trapezoid", "gauss-legendre"]
ProtocolName = Literal["paper", "paper-fast", "strong"]
OrderName = Literal["absolute", "signed", "squared"]
PerName = Literal["value", "pixel"]
TiesName = Literal["random", "stable"]
StackedName = Literal["auto", "never"]
ModeName = Literal["keep", "remove"]
BaselineName = Literal["random", "input-agnostic"]
TargetName = Literal["predicted", "label"]
RetrainObjectiveName = Literal["natural", "same"]
ClassesName = Literal["ten", "two"]
NullName = Literal["square", "filled", "noise", "scramble"]
PositionName = Literal["random", "top", "bottom"]
LayoutName = Literal["vertical", "horizontal"]
Blocks = Annotated[int, Limit(2, 16)]
CodeName = Literal["place", "presence"]
ShortcutTestName = Literal["agreeing", "moved", "gone"]
PatternName = Literal["checks", "solid"]


@dataclass(frozen=True, kw_only=True)
class Machine(Checked):
    """Where one process computes, and from which seed.

    Args:
        seed: Seed of all that is random.
        device: auto, cpu or cuda[:n].
        progress: Show a progress bar.
    """

    seed: Seed = 0
    device: str = "auto"
    progress: bool = True


@dataclass(frozen=True, kw_only=True)
class Placement(Machine):
    """Where results and jobs lie, and what runs the jobs.

    Args:
        out: Folder of the results; the same command continues in it.
        store: Folder of finished jobs, which several commands may share; None is one inside `out`.
        threads: Torch threads of each process; None is one for several processes.
        workers: Processes; None is one for each core.
        scheduler: Address of a Dask scheduler; None uses processes of this machine.
        insecure: Allow a remote scheduler without TLS.
    """

    out: FilePath
    store: FilePath | None = None
    threads: Processes | None = None
    workers: Processes | None = None
    scheduler: str | None = None
    # Anybody who reaches a scheduler runs code on its workers.
    insecure: bool = field(default=False, metadata=needs("scheduler"))


@dataclass(frozen=True, kw_only=True)
class DataRoot(Checked):
    """Where data sets are looked up.

    Args:
        data_root: Folder of the data; else VERIDICAL_DATA, else the cache folder, on Linux
            ~/.cache/veridical.
    """

    data_root: FilePath | None = None


@dataclass(frozen=True, kw_only=True)
class DataChoice(DataRoot):
    """Which images.

    Args:
        data: Name of a data set, an .npz file, a folder of class folders or one that Hugging Face's library
            `datasets` saved; None takes the run's.
    """

    data: FilePath | None = None


@dataclass(frozen=True, kw_only=True)
class ModelDetails(Checked):
    """How a model by name is built, what its images go through, and where its logits are.

    Args:
        model_options: Options of the architecture, for example {"width": 8}.
        input_mean: Of each channel of images in [0, 1], subtracted before the model; None takes what the
            model's library records.
        input_std: The difference is divided by it; None takes what the library records.
        output: Which entry of a tuple (its place, from 0) or dict (its name) that the model returns holds the
            logits; None for a model that returns them alone, or under "logits".
        one_logit: The model has one logit, whose sign tells two classes apart.
        image_size: Height and width to which image files in folders are brought; None is the model's, cut out
            of the middle as its library does, or as they are.
    """

    model_options: dict[str, ModelOption] = field(default_factory=dict, metadata=needs("model"))
    input_mean: list[Factor] | None = field(default=None, metadata=needs("model"))
    input_std: list[Factor] | None = field(default=None, metadata=needs("model"))
    output: str | None = field(default=None, metadata=needs("model"))
    one_logit: bool = field(default=False, metadata=needs("model"))
    image_size: Size | None = field(default=None, metadata=needs("model"))


@dataclass(frozen=True, kw_only=True)
class SubjectChoice(ModelDetails, DataChoice):
    """What is examined: a run of `veridical train`, or an architecture and its weights, and the images.

    Args:
        run: Folder of a trained run.
        model: Instead of a run, an architecture by name, torchvision:NAME, timm:NAME, hf:DIR (a folder that
            transformers saved), export:FILE (an archive of torch.export) or module:callable; the last two
            with trust_code.
        weights: File of that model's weights, safetensors or a state_dict of torch.save.
        equalise: Equalise the histogram of every channel; None does as the run.
        masks: For class folders, a folder of mask images with the images' names, bright where evidence is.
        trust_code: Allow module:callable, which runs foreign code.
    """

    run: FilePath | None = None
    model: str | None = None
    weights: FilePath | None = field(default=None, metadata=needs("model"))
    equalise: bool | None = None
    masks: FilePath | None = None
    trust_code: bool = False


@dataclass(frozen=True, kw_only=True)
class TimeLimit(Checked):
    """How long a command that has many parts may take.

    Args:
        budget: Time after which no further part is begun, as in 10m, 90s or 2h (a number alone: minutes);
            None does all.
    """

    budget: Annotated[float, Limit(0, 1e6, above=True)] | str | None = None


@dataclass(frozen=True, kw_only=True)
class Gallery(Checked):
    """What a report shows.

    Args:
        gallery: Images shown in the report.
    """

    gallery: Pictures = 6


@dataclass(frozen=True, kw_only=True)
class AttributionChoice(Checked):
    """Which explanations, and how they are computed.

    Args:
        attribution: Explanations by name: {attributions}, captum:CLASS, module:callable.
        batch: Images whose attributions are computed at a time.
        trust_code: Allow module:callable, which runs foreign code.
    """

    attribution: list[str] = field(default_factory=lambda: ["input-gradient"])
    batch: Width = 100
    trust_code: bool = False


# The names of the next two groups are also read as lists: what an objective takes, and what a recipe decides.
@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions(Checked):
    """The objective l(x) + weight * max over x' of size(IG(x, x')) and how its inner maximum is sought.

    A field that is None takes the recipe's value for the data set; results record what was used.

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
        distance: Of two maps in far: 1 - Pearson's correlation, or 1 - cosine similarity.
        topk: Pixels that r2et keeps above the others, at most half of them.
    """

    weight: Factor | None = None
    beta: Factor | None = None
    norm: NormName = "linf"
    radius: Radius | None = None
    training_radius: Radius | None = None
    radius_warm_up: Share | None = None
    inner_steps: Steps | None = None
    inner_step_size: Length | None = None
    inner_start: StartName | None = None
    inner_score: ScoreName | None = None
    inner_nodes: Size | None = None
    nodes: Size | None = None
    rule: RuleName | None = None
    beta_from: Share | None = None
    distance: DistanceName | None = None
    topk: Count | None = None


@dataclass(frozen=True, kw_only=True)
class OptimiserOptions(Checked):
    """How the weights move; None takes the recipe's.

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
    learning_rate: Factor | None = None
    weight_decay: Factor | None = None
    batch_size: Width | None = None
    epochs: Annotated[float, Limit(0, 1e5, above=True)] | None = None
    steps: Count | None = None
    averaging: Decay | None = None
    warm_up: Decay | None = None


@dataclass(frozen=True, kw_only=True)
class TrainOptions(OptimiserOptions, ObjectiveOptions, ModelDetails, DataChoice, Machine):
    """Train one classifier and keep it in a run folder.

    Args:
        out: Folder of the run; the same command continues a run that was interrupted.
        data: Name of a data set, an .npz file, a folder of class folders or one that Hugging Face's library
            `datasets` saved.
        model: Architecture by name, torchvision:NAME, timm:NAME, hf:DIR (a folder that transformers saved) or
            module:callable (with trust_code).
        objective: What is minimised, by name or as module:callable (with trust_code).
        recipe: "fast" (Veridical's settings) or "paper" (the RAR authors').
        equalise: Equalise the histogram of every channel (GTSRB in the paper).
        augment: Change training images at random in every step, by shifts, rotations and brightness
            ("shift-rotate"), mirroring too where the class allows it, or as the RAR authors ("warp").
        balance: Take every class equally often in an epoch.
        init: File of weights that this training begins with, safetensors or a state_dict of torch.save.
        initial_run: Instead, folder of a finished run whose weights it begins with. With neither they are
            fresh, or for hf:DIR the folder's own.
        validation: Training images held out for validation; 0 holds none out.
        train_examples: Use only so many of the remaining training images; None uses all.
        download: Let torchvision download the data into the root.
        seed: Seed of weights, batches, noise and split.
        threads: Torch threads; None leaves torch's choice.
        bf16: Train with bfloat16 products and convolutions, on CPUs that have them; metrics stay float32.
        checkpoint_seconds: Least seconds between checkpoints inside an epoch; each epoch ends with one.
        trust_code: Allow module:callable, which runs foreign code.
        tensorboard: Also write TensorBoard events (extra "tensorboard").
    """

    out: FilePath
    data: FilePath = "mnist-5k"
    model: str = "cnn"
    objective: str = "ig-sum-norm"
    recipe: RecipeName = "fast"
    equalise: bool = False
    augment: AugmentName | None = None
    balance: BalanceName | None = None
    init: FilePath | None = None
    initial_run: FilePath | None = None
    validation: Annotated[int, Limit(0, 10**9)] | None = None
    train_examples: Count | None = None
    download: bool = False
    threads: Processes | None = None
    bf16: bool = False
    checkpoint_seconds: Annotated[float, Limit(0, 1e9)] = 60.0
    trust_code: bool = False
    tensorboard: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainingGrid(OptimiserOptions):
    """What a study trains: every objective at every radius, several times.

    Args:
        model: Architecture by name.
        model_options: Options of the architecture, for example {"width": 512}.
        objective: What is minimised; each is trained.
        recipe: "fast" (Veridical's settings) or "paper" (the RAR authors').
        radius: Radii of the ball, each of which is trained; None takes the recipe's.
        weight: Weight of the attribution's size in the robust objectives; None takes the recipe's.
        beta: Coefficient of the L1 norm in ig-sum-norm; None takes the recipe's.
        beta_from: Share of the training after which that L1 term is switched on; None takes the recipe's.
        seeds: Trainings of each kind.
        train_examples: Number of training images; None takes all.
        test_examples: Number of test images; None takes all.
        explained: Test images whose maps are measured; None takes all.
    """

    model: str = "cnn"
    model_options: dict[str, ModelOption] = field(default_factory=dict)
    objective: list[str] = field(default_factory=lambda: ["natural", "adversarial", "ig-norm", "ig-sum-norm"])
    recipe: RecipeName = "fast"
    radius: list[Radius] | None = None
    weight: Factor | None = None
    beta: Factor | None = None
    beta_from: Share | None = None
    seeds: Repeats = 3
    train_examples: Count | None = None
    test_examples: Count | None = None
    # Two at least: an interval over examples needs a spread.
    explained: Annotated[int, Limit(2, 10**9)] | None = 1000


@dataclass(frozen=True, kw_only=True)
class CoordinateOrder(Checked):
    """By what coordinates are ranked.

    Args:
        order: Ranking by the absolute (the paper's), the signed or the squared attribution.
        per: Rank the C * H * W single values (the paper's), or the H * W pixels by sums over their channels.
        ties: Order of equal values, random by seed, which no batching changes, or by their place, so that
            they pile up in the upper rows.
        seed: Seed of ties, random orders and retrainings.
    """

    order: OrderName = "absolute"
    per: PerName = "value"
    ties: TiesName = "random"
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class DiffRoarChoice(CoordinateOrder):
    """What DiffROAR ranks, unmasks and retrains.

    Args:
        target: Class that is explained, the predicted one or the label (masks then know the label).
        levels: Shares of the coordinates that are kept (or removed).
        repeats: Retrainings, with seeds of their own, for every level and end.
        mode: Whether the coordinates of an end are kept (DiffROAR, KAR) or removed (ROAR).
        roar: Also retrain with the top coordinates removed at every level.
        fill: What stands for what is not shown; the training mean per channel, black, a number, linear
            (noisy linear imputation), or module:callable.
        baselines: Orders that are measured beside the attribution.
        control: Train on the masks alone, which tells how much their shape says about the class.
        control_repeats: Retrainings of the control for every level and end.
    """

    target: TargetName = "predicted"
    levels: list[Level] = field(default_factory=lambda: [0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
    repeats: Repeats = 5
    mode: ModeName = "keep"
    roar: bool = False
    fill: Share | str = "mean"
    baselines: list[BaselineName] = field(default_factory=lambda: ["random", "input-agnostic"])
    control: bool = True
    control_repeats: Repeats = field(default=1, metadata=needs("control"))


@dataclass(frozen=True, kw_only=True)
class BlockWorldChoice(Placement):
    """Small networks in the block world.

    Args:
        blocks: Blocks of an input, an even number; the first half of them is task-relevant.
        block_size: Numbers in a block.
        seeds: Trainings of each kind.
        seed: First seed of weights and examples.
        device: cpu; these networks are too small for anything else.
    """

    blocks: Size = 10
    block_size: Size = 1
    seeds: Repeats = 5
    device: Literal["cpu"] = "cpu"


@dataclass(frozen=True, kw_only=True)
class AttackChoice(Checked):
    """The ball, and how predictions and explanations are attacked in it.

    What is None is the paper's for the data set.

    Args:
        protocol: "paper" (the RAR authors' evaluation), "paper-fast" or "strong".
        attribution: Explanation that is attacked, by name: {attributions}, captum:CLASS, module:callable;
            one that cannot be differentiated only with --attack random.
        attack: Where the explanation is pushed, by name: {directions}, module:callable.
        radius: Radii of the ball, in input units; None takes the run's (or the paper's for the data set).
        norm: Norm of the ball.
        k: Pixels attacked and compared; None takes the paper's for the data set.
        steps: Iterations of the attribution attack; None takes the paper's for the data set.
        step_size: Length of an iteration, in input units; None takes the paper's for the data set.
        region: Rows and columns (top, bottom, left, right) of the region for the "target" attack.
        pgd_steps: Steps of the attack on predictions; None takes the paper's for the data set.
        pgd_step_size: Step length of the attack on predictions; None takes the paper's for the data set.
        trust_code: Allow module:callable, which runs foreign code.
    """

    protocol: ProtocolName = "paper-fast"
    attribution: str = "integrated-gradients"
    attack: str = "topk"
    radius: list[Radius] | None = None
    norm: NormName = "linf"
    k: Count | None = None
    steps: Annotated[int, Limit(1, 10**5)] | None = None
    step_size: StepSize | None = None
    region: list[Steps] | None = field(default=None, metadata=needs("attack", "target"))
    pgd_steps: Annotated[int, Limit(1, 10**5)] | None = None
    pgd_step_size: StepSize | None = None
    trust_code: bool = False


@dataclass(frozen=True, kw_only=True)
class SplitSizes(Checked):
    """How many images a generated data set has.

    Args:
        train_examples: Number of training images; None takes all.
        test_examples: Number of test images; None takes all.
    """

    train_examples: Count | None = None
    test_examples: Count | None = None


@dataclass(frozen=True, kw_only=True)
class BlockDesign(SplitSizes):
    """Images of one signal block and null blocks, wherever the signal stands.

    Args:
        source: Data set of grey images, by name or .npz file; its images are the signal blocks.
        classes: "ten" takes all classes of the source, "two" its first two (digits 0 and 1).
        null: Content of a null block: a square's outline, a filled square, a square of noise, or the shuffled
            pixels of an image of the source.
        layout: "vertical" (one above the other), "horizontal" (side by side), or k for k x k blocks.
        contrast: Factor of the signal block's grey levels, above 0 and at most 1.
        noise: Standard deviation of the Gaussian noise added to every pixel, in input units (0 to 1).
    """

    source: FilePath = "mnist-5k"
    classes: ClassesName = "ten"
    null: NullName = "square"
    layout: LayoutName | Blocks = "vertical"
    contrast: Contrast = 1.0
    noise: Share = 0.0


@dataclass(frozen=True, kw_only=True)
class BlockOptions(BlockDesign):
    """What a BlockMNIST data set is: one signal block and null blocks in each image.

    Args:
        position: Where the signal stands: "random", "top" (the first block), "bottom" (the last), or the
            probability that it is the first block.
        null_contrast: As contrast, for null blocks; None takes that of the signal.
        tile: Side in pixels of the squares that null "scramble" shuffles; 1 shuffles pixels.
        seed: Seed of positions, contents and noise.
    """

    position: PositionName | Share = "random"
    null_contrast: Contrast | None = None
    tile: Size = field(default=1, metadata=needs("null", "scramble"))
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class PatchOptions(Checked):
    """A patch that is planted in images.

    Args:
        code: What of the patch agrees with the class: its "place" (one for each class, along the border), or
            its "presence" (classes of odd label have it).
        size: Side of the patch in pixels.
        margin: Pixels between patch and border.
        pattern: Black and white "checks" of one pixel, seen on any ground, or "solid" white.
        contrast: Share of the patch in its pixels, above 0 and at most 1; the image keeps the rest.
    """

    code: CodeName = "place"
    size: Size = 4
    margin: Steps = 0
    pattern: PatternName = "checks"
    contrast: Contrast = 1.0


@dataclass(frozen=True, kw_only=True)
class ShortcutOptions(PatchOptions, SplitSizes):
    """A patch planted in images, which agrees with the class in training and need not in testing.

    Args:
        source: Data set that the patch is planted in, by name or .npz file.
        rate: Probability that a training image's patch agrees with its class.
        test: Test images: "agreeing" at the same rate, "moved" (place or presence independent of the class),
            or "gone" (no patch).
        seed: Seed of what is drawn for each image.
    """

    source: FilePath = "fashion-mnist"
    rate: Share = 0.95
    test: ShortcutTestName = "moved"
    seed: Seed = 0
