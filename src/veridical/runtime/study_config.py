"""Options of the studies as plain values; free of torch, as those of training and attack in `config`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from veridical.runtime.checking import Checked, limited
from veridical.runtime.config import ModelOption, NormName, OptimiserOptions, RecipeName
from veridical.runtime.data_config import (
    ClassesName,
    CodeName,
    LayoutName,
    NullName,
    PatternName,
    PositionName,
)

SanityTestName = Literal["cascading", "independent", "labels", "data"]
AlignedName = Literal["input-gradient", "input-gradient-loss", "smoothgrad"]
TheoryName = Literal["one-layer", "block-margin"]


@dataclass(frozen=True, kw_only=True)
class AlignmentOptions(Checked):
    """Measure how much of a run's maps lies where people look: in the sign's box, on the garment.

    Args:
        run: Folders of trained runs; those that differ in the seed alone are shown as one model.
        out: Folder of the results; the same command continues in it.
        data: Data set with known regions: gtsrb (boxes), fashion-mnist (foreground) or an .npz file with
            masks; None takes the first run's.
        attribution: Explanations by name; on gtsrb and fashion-mnist input-gradient, input-gradient-loss and
            smoothgrad, since those that multiply by the image are zero on a black ground by construction.
        examples: The first so many test images; None takes all.
        titles: A name for each model; None takes the objectives'.
        batch: Images whose attributions are computed at a time.
        gallery: Images shown in the report.
        store: Folder of finished measurements, which several commands may share; None is one inside `out`.
        trust_code: Allow module:callable, which runs foreign code.
        data_root: Folder of the data; else VERIDICAL_DATA, else ~/.cache/veridical.
        seed: Seed of ties and of the noise of smoothgrad.
        device: auto, cpu or cuda[:n].
        threads: Torch threads of each process; None is one for several processes.
        workers: Processes; None is one for each core.
        progress: Show a progress bar.
    """

    run: list[str]
    out: str
    data: str | None = None
    attribution: list[str] = field(default_factory=lambda: ["input-gradient", "smoothgrad"])
    examples: int | None = 1000
    titles: list[str] | None = None
    batch: int = 100
    gallery: int = 6
    store: str | None = None
    trust_code: bool = False
    data_root: str | None = None
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    workers: int | None = None
    progress: bool = True


@dataclass(frozen=True, kw_only=True)
class ShortcutStudyOptions(OptimiserOptions):
    """Train on images with a planted shortcut and measure how far models, and their maps, rely on it.

    Args:
        out: Folder of the results; the same command continues in it.
        data: Data set that the patch is planted in: fashion-mnist, mnist, mnist-5k or an .npz file.
        model: Architecture by name.
        model_options: Options of the architecture, for example {"width": 512}.
        objective: What is minimised; each is trained.
        recipe: "fast" (Veridical's settings) or "paper" (the RAR authors').
        norm: Norm of the ball of the robust objectives.
        radius: Radii of the ball, each of which is trained; None takes the recipe's.
        weight: Weight of the attribution's size in the robust objectives; None takes the recipe's.
        beta: Coefficient of the L1 norm in ig-sum-norm; None takes the recipe's.
        beta_from: Share of the training after which that L1 term is switched on; None takes the recipe's.
        code: What of the patch agrees with the class, its place or its presence.
        rate: Probabilities that a training image's patch agrees with its class, each of which is trained.
        control: Also train with a patch that tells nothing, which shows what a mere patch does.
        size: Side of the patch in pixels.
        margin: Pixels between patch and border.
        pattern: Black and white "checks" of one pixel, or "solid" white.
        contrast: Share of the patch in its pixels, above 0 and at most 1.
        seeds: Trainings of each kind.
        train_examples: Number of training images; None takes all.
        test_examples: Number of test images; None takes all.
        explained: Test images whose maps are measured; None takes all.
        attribution: Explanations by name.
        batch: Images whose attributions are computed at a time.
        gallery: Images shown in the report, at most 10.
        store: Folder of finished trainings, which several commands may share; None is one inside `out`.
        data_root: Folder of the data; else VERIDICAL_DATA, else ~/.cache/veridical.
        seed: First seed of the trainings, and the seed of the patches.
        device: auto, cpu or cuda[:n].
        threads: Torch threads of each process; None is one for several processes.
        workers: Processes; None is one for each core.
        progress: Show a progress bar.
    """

    out: str
    data: str = "fashion-mnist"
    model: str = "cnn"
    model_options: dict[str, ModelOption] = field(default_factory=dict)
    objective: list[str] = field(default_factory=lambda: ["natural", "adversarial", "ig-norm", "ig-sum-norm"])
    recipe: RecipeName = "fast"
    norm: NormName = "linf"
    radius: list[float] | None = None
    weight: float | None = None
    beta: float | None = None
    beta_from: float | None = None
    code: CodeName = "place"
    rate: list[float] = field(default_factory=lambda: [0.95])
    control: bool = True
    size: int = 4
    margin: int = 0
    pattern: PatternName = "checks"
    contrast: float = 1.0
    seeds: int = 3
    train_examples: int | None = None
    test_examples: int | None = None
    explained: int | None = field(default=1000, metadata=limited(2, 10**9))
    attribution: list[AlignedName] = field(default_factory=lambda: ["input-gradient"])
    batch: int = 100
    gallery: int = 6
    store: str | None = None
    data_root: str | None = None
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    workers: int | None = None
    progress: bool = True


@dataclass(frozen=True, kw_only=True)
class LeakageOptions(OptimiserOptions):
    """Train on BlockMNIST and measure how much of the explanations lies in the block that tells nothing.

    Args:
        out: Folder of the results; the same command continues in it.
        data: The kind of images; only block-mnist so far.
        source: Data set of the signal blocks: mnist, mnist-5k, fashion-mnist or an .npz file of grey images.
        classes: "ten" takes all classes of the source, "two" its first two.
        position: Where the digit stands, each of which is trained on: random is BlockMNIST, top is
            BlockMNIST-Top. Pairs with the digit moved are measured for random.
        null: Content of the null block.
        layout: vertical, horizontal, or k for k x k blocks.
        contrast: Factor of the grey levels, above 0 and at most 1.
        noise: Standard deviation of the noise added to every pixel, in input units.
        model: Architecture by name.
        model_options: Options of the architecture, for example {"width": 512}.
        objective: What is minimised; each is trained.
        recipe: "fast" (Veridical's settings) or "paper" (the RAR authors').
        norm: Norm of the balls; one for all radii, or one for each.
        radius: Radii of the balls, each of which is trained; None takes 0.1 for linf and 1.0 for l2.
        weight: Weight of the attribution's size in the robust objectives; None takes the recipe's.
        beta: Coefficient of the L1 norm in ig-sum-norm; None takes the recipe's.
        beta_from: Share of the training after which that L1 term is switched on; None takes the recipe's.
        inner_steps: Steps of the inner ascent; None takes the recipe's.
        radius_warm_up: Share of the training in which the ball grows from nothing to its radius.
        seeds: Trainings of each kind.
        train_examples: Number of training images; None takes all.
        test_examples: Number of test images; None takes all.
        explained: Test images whose maps are measured; None takes all.
        attacked: Test images whose predictions are attacked; None takes all.
        attribution: Explanations by name: input-gradient, input-gradient-loss, gradient-x-input,
            integrated-gradients, smoothgrad, random, captum:CLASS, module:callable.
        batch: Images whose attributions are computed at a time.
        gallery: Images shown in the report, at most 12.
        store: Folder of finished trainings, which several commands may share; None is one inside `out`.
        trust_code: Allow module:callable, which runs foreign code.
        data_root: Folder of the data; else VERIDICAL_DATA, else ~/.cache/veridical.
        seed: First seed of the trainings, and the seed of ties and attacks.
        device: auto, cpu or cuda[:n].
        threads: Torch threads of each process; None is one for several processes.
        workers: Processes; None is one for each core.
        progress: Show a progress bar.
    """

    out: str
    data: Literal["block-mnist"] = "block-mnist"
    source: str = "mnist-5k"
    classes: ClassesName = "ten"
    position: list[PositionName] = field(default_factory=lambda: ["random", "top"])
    null: NullName = "square"
    layout: LayoutName | int = "vertical"
    contrast: float = 1.0
    noise: float = 0.0
    model: str = "mlp"
    model_options: dict[str, ModelOption] = field(default_factory=dict)
    objective: list[str] = field(default_factory=lambda: ["natural", "adversarial", "ig-norm", "ig-sum-norm"])
    recipe: RecipeName = "fast"
    norm: list[NormName] = field(default_factory=lambda: ["linf"])
    radius: list[float] | None = None
    weight: float | None = None
    beta: float | None = None
    beta_from: float | None = None
    inner_steps: int | None = None
    radius_warm_up: float | None = None
    seeds: int = 3
    train_examples: int | None = None
    test_examples: int | None = None
    explained: int | None = field(default=1000, metadata=limited(2, 10**9))
    attacked: int | None = 500
    attribution: list[str] = field(default_factory=lambda: ["input-gradient"])
    batch: int = 100
    gallery: int = 6
    store: str | None = None
    trust_code: bool = False
    data_root: str | None = None
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    workers: int | None = None
    progress: bool = True


@dataclass(frozen=True, kw_only=True)
class SanityOptions(Checked):
    """Check whether a run's maps care what the network has learnt (Adebayo et al., 2018).

    Args:
        run: Folder of the run whose attributions are checked.
        out: Folder of the results; the same command continues in it.
        data: Name of the data set; None takes the run's.
        attribution: Explanations by name: input-gradient, input-gradient-loss, gradient-x-input,
            integrated-gradients, smoothgrad, random, captum:CLASS, module:callable.
        tests: What is randomised: the weights from the logits down (cascading), one layer at a time
            (independent), the labels of a new training (labels), the images of one (data).
        target: Class that is explained, by every network the same: the run's prediction or the label.
        examples: The first so many test images.
        repeats: Draws of fresh weights.
        train_examples: Training images of each new training; None takes all.
        epochs: Length of each new training; it has to learn random labels by heart.
        learning_rate: Greatest learning rate of the new trainings; None is the run's.
        batch: Images whose attributions are computed at a time.
        gallery: Images shown in the report.
        store: Folder of finished jobs, which several commands may share; None is one inside `out`.
        trust_code: Allow module:callable, which runs foreign code.
        data_root: Folder of the data; else VERIDICAL_DATA, else ~/.cache/veridical.
        seed: Seed of fresh weights, permutations, noise and new trainings.
        device: auto, cpu or cuda[:n].
        threads: Torch threads of each process; None is one for several processes.
        workers: Processes; None is one for each core.
        progress: Show a progress bar.
    """

    run: str
    out: str
    data: str | None = None
    attribution: list[str] = field(default_factory=lambda: ["input-gradient"])
    tests: list[SanityTestName] = field(
        default_factory=lambda: ["cascading", "independent", "labels", "data"]
    )
    target: Literal["predicted", "label"] = "predicted"
    examples: int = field(default=200, metadata=limited(2, 10**9))
    repeats: int = 5
    train_examples: int | None = field(default=1000, metadata=limited(2, 10**9))
    epochs: float = 60.0
    learning_rate: float | None = None
    batch: int = 100
    gallery: int = 4
    store: str | None = None
    trust_code: bool = False
    data_root: str | None = None
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    workers: int | None = None
    progress: bool = True


@dataclass(frozen=True, kw_only=True)
class TheoryOptions(Checked):
    """Check the theorems of both papers where the truth is known.

    Options that are None take the experiment's own; of several values the first is the main one.

    Args:
        experiment: one-layer (three trainings of a linear model that are one) or block-margin (what the
            gradients of max-margin and robust networks mark).
        out: Folder of the results; the same command continues in it.
        blocks: Blocks of an input; the first half of them is task-relevant.
        block_size: Numbers in a block.
        noise: Lengths eta of the noise on every block. None: 0.3 in one-layer, else 0, 0.01, 0.05 and 0.1.
        width: Hidden units of the networks; block-margin alone. None: 10000, 10, 100 and 1000.
        sweep_width: Hidden units where noise or radius varies; block-margin alone. None: 1000.
        norm: Norm of the ball; one-layer knows linf alone.
        radius: Radii of the ball in adversarial training. None: 0.1 in one-layer, else 0.3 and 0.05 to 0.35.
        weight: Weights lambda of the attribution's size; one-layer alone. None: 1 and 0.5.
        deviation: Standard deviation of the initial weights. None: 0.5.
        steps: Steps of gradient descent. None: 400 in one-layer, else 600.
        learning_rate: Learning rate; of a hidden unit, which the width multiplies. None: 0.1 in one-layer,
            else 2.
        inner_steps: Steps of the inner ascent. None: 2 in one-layer, else 5.
        data: Data set whose first two classes replace the blocks; one-layer alone.
        train_examples: Training examples; block-margin without noise takes the whole support. None: 500 in
            one-layer, else 100.
        test_examples: Test examples; block-margin alone. None: 1000.
        seeds: Trainings of each kind.
        store: Folder of finished trainings, which several commands may share; None is one inside `out`.
        data_root: Folder of the data; else VERIDICAL_DATA, else ~/.cache/veridical.
        seed: First seed of weights and examples.
        threads: Torch threads of each process; None is one for several processes.
        workers: Processes; None is one for each core.
        progress: Show a progress bar.
    """

    experiment: list[TheoryName] = field(metadata={"positional": True})
    out: str
    blocks: int = 10
    block_size: int = 1
    noise: list[float] | None = field(default=None, metadata=limited(0, 1e4))
    width: list[int] | None = None
    sweep_width: int | None = None
    norm: NormName = "linf"
    radius: list[float] | None = field(default=None, metadata=limited(0, 1e4, above=True))
    weight: list[float] | None = None
    deviation: float | None = None
    steps: int | None = None
    learning_rate: float | None = field(default=None, metadata=limited(0, 1e6, above=True))
    inner_steps: int | None = field(default=None, metadata=limited(1, 10**4))
    data: str | None = None
    train_examples: int | None = None
    test_examples: int | None = None
    seeds: int = 5
    store: str | None = None
    data_root: str | None = None
    seed: int = 0
    threads: int | None = None
    workers: int | None = None
    progress: bool = True

    @property
    def device(self) -> str:
        """Where it runs: these networks are too small for anything but the CPU."""
        return "cpu"
