"""The table of reproductions: what each regenerates of the papers, what is published of it, and its steps.

Chen, Wu, Rastogi, Liang, Jha, "Robust Attribution Regularization", NeurIPS 2019 (arXiv 1905.09957); Shah,
Jain, Netrapalli, "Do Input Gradients Highlight Discriminative Features?", NeurIPS 2021 (arXiv 2102.12781).

Published numbers carry a mark, as in `studies.attack_page`: "published" ones are stated by the authors in
what was read again, "recalled" ones are not. Neither is compared with a measurement to pass a verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal

from veridical.runtime.options import NormName
from veridical.studies.attack_page import MARKS, PAPER_NUMBERS, Mark, paper_numbers

ScaleName = Literal["full", "cpu", "smoke"]
OBJECTIVES: Final = ("natural", "adversarial", "ig-norm", "ig-sum-norm")
_RAR = "Chen et al., NeurIPS 2019"
_SHAH = "Shah et al., NeurIPS 2021"


@dataclass(frozen=True)
class Training:
    """A run that steps examine. options: fields of `TrainOptions`, but for the data and the place."""

    options: Mapping[str, Any]
    seed: int


@dataclass(frozen=True)
class Part:
    """A study of Veridical that does one step, in a folder of its own.

    study: its command. options: fields of its options, but for the place. runs: names of the trainings that
    it examines. images: the option that names the data, "" for a study that takes the run's or none.
    """

    name: str
    study: str
    options: Mapping[str, Any]
    runs: Sequence[str] = ()
    images: str = ""


@dataclass(frozen=True)
class Plan:
    """The steps of a reproduction at a scale: trainings by name, and what is measured of them."""

    trainings: Mapping[str, Training] = field(default_factory=dict)
    parts: Sequence[Part] = ()


@dataclass(frozen=True)
class Statement:
    """A sentence of a paper, and whether it was read again or is recalled."""

    text: str
    mark: Mark

    def cells(self) -> list[str]:
        """The row of a table."""
        return [self.text, MARKS[self.mark]]


@dataclass(frozen=True)
class Reproduction:
    """One entry: kind says how its table is made of what was measured.

    regenerates, source: paper and what of it, in few words and in a sentence. data: the data set of the
    paper, "" for generated examples. stand_in: of the smoke scale, a data set or, as (channels, side),
    generated images. plan: the steps, called with scale, number of seeds, a limit to examples or None, and
    the first seed. seeds: how many of them by default. also: another data set that a step needs.
    """

    name: str
    title: str
    regenerates: str
    source: str
    kind: Literal["rar", "trainings", "diffroar", "parts", "both"]
    data: str
    stand_in: str | tuple[int, int]
    plan: Callable[[ScaleName, int, int | None, int], Plan]
    seeds: Mapping[ScaleName, int]
    statements: Sequence[Statement] = ()
    also: Mapping[ScaleName, str] = field(default_factory=dict)

    def rows(self) -> dict[str, int]:
        """How many numbers and sentences of each mark stand beside what is measured."""
        found = [len(paper_numbers(self.data, one, mark)) for mark in MARKS for one in OBJECTIVES]
        half = len(OBJECTIVES)
        counts = dict.fromkeys(MARKS, 0)
        if self.kind == "rar":
            counts = dict(zip(MARKS, (sum(found[:half]), sum(found[half:])), strict=True))
        if self.kind == "diffroar":
            counts["recalled"] += sum(map(len, DIFFROAR_NUMBERS.get(self.data, {}).values()))
        for one in self.statements:
            counts[one.mark] += 1
        return {mark: count for mark, count in counts.items() if count}


# Robust attribution

# Images attacked by each protocol: of the first training, and of each further one, which tell how much
# training again changes.
_ATTACKED: Mapping[ScaleName, Mapping[str, tuple[int, int]]] = {
    "full": {"paper-fast": (1000, 1000), "strong": (100, 100), "paper": (100, 100)},
    "cpu": {"paper-fast": (1000, 200), "strong": (100, 0), "paper": (100, 0)},
    "smoke": {"paper-fast": (2, 2), "strong": (1, 0)},
}
# An image of 128 x 128 costs as much as twenty of 28 x 28.
_ATTACKED_LARGE = {"paper-fast": (64, 24), "strong": (8, 0)}
_NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "mnist": {"model": "cnn"},
    "fashion-mnist": {"model": "cnn"},
    "gtsrb": {"model": "rar-resnet", "model_options": {"units": 2}, "equalise": True},
    "flowers17": {"model": "rar-resnet", "model_options": {"units": 1}},
}
_SMOKE_TRAINING: Mapping[str, Any] = {
    "validation": 0,
    "train_examples": 120,
    "batch_size": 20,
    "epochs": 3.0,
    "averaging": 0.0,
}
_SMOKE_ATTACK: Mapping[str, Any] = {"steps": 2, "pgd_steps": 2}
# Of digits few epochs are enough; the attacks take most of the hours.
_MNIST_EPOCHS: Mapping[str, float] = {"natural": 1.0, "adversarial": 3.0, "ig-norm": 2.0, "ig-sum-norm": 3.0}
# On 28 x 28 images the ball is so small, and weights such, that a few steps learn something.
_SMOKE_RADIUS = 0.05


def _training(data: str, scale: ScaleName, objective: str) -> dict[str, Any]:
    """The options of one training: the paper's, Veridical's recipe, or a few steps of that."""
    options = {**_NETWORKS[data], "objective": objective}
    if scale == "full":
        return options | {"recipe": "paper"}
    if scale == "smoke":
        options.pop("equalise", None)
        options["model_options"] = (
            {"initialisation": "he"} if options["model"] == "cnn" else {"units": 1, "width": 4}
        )
        if options["model"] == "cnn":
            options |= {} if objective == "natural" else {"radius": _SMOKE_RADIUS}
        # Larger images, or two trainings of each kind: fewer steps.
        fewer = {"flowers17": {"train_examples": 60, "epochs": 1.0}, "mnist": {"epochs": 2.0}}
        return {**options, **_SMOKE_TRAINING, **fewer.get(data, {})}
    if data == "mnist":
        # At 0.3 as few steps leave less accuracy under attack without.
        options |= {} if objective == "natural" else {"radius_warm_up": 0.3}
        options["epochs"] = _MNIST_EPOCHS[objective]
    return options


def _smoke_attack(data: str) -> dict[str, Any]:
    return {**_SMOKE_ATTACK, **({"radius": [_SMOKE_RADIUS]} if _NETWORKS[data]["model"] == "cnn" else {})}


def plan_attacks(data: str, scale: ScaleName, seeds: int, examples: int | None, first: int) -> Plan:
    """Every objective trained `seeds` times, and each run attacked by the protocols of the scale.

    All objectives by one protocol make a table, so that comes before the next protocol and the next seed.
    examples: the most images attacked by any protocol.
    """
    trainings, parts = {}, []
    attacked = _ATTACKED_LARGE if (data, scale) == ("flowers17", "cpu") else _ATTACKED[scale]
    for seed in range(first, first + seeds):
        for objective in OBJECTIVES:
            trainings[f"{objective}-{seed}"] = Training(_training(data, scale, objective), seed)
        for protocol, counts in attacked.items():
            count = counts[seed > first]
            count = count if examples is None else min(count, examples)
            for name in [f"{objective}-{seed}" for objective in OBJECTIVES] if count else ():
                given = {"protocol": protocol, "examples": count, "gallery": 4}
                given |= _smoke_attack(data) if scale == "smoke" else {}
                parts.append(Part(f"{name}-{protocol}", "attack", given, [name], "data"))
    return Plan(trainings, parts)


_RAR_TITLES = {
    "mnist": "Robust attribution on MNIST",
    "fashion-mnist": "Robust attribution on Fashion-MNIST",
    "gtsrb": "Robust attribution on GTSRB",
    "flowers17": "Robust attribution on Flower",
}
# The natural model's single image that the authors show in their talk.
SINGLE_IMAGE: Final[Mapping[str, tuple[float, float]]] = {"flowers17": (0.001, 0.2607)}


def _robust_attribution(name: str, data: str, stand_in: str | tuple[int, int], seeds: int) -> Reproduction:
    statements = []
    if data in SINGLE_IMAGE:
        kept, tau = SINGLE_IMAGE[data]
        text = (
            f"One flower, natural training: of the top 1,000 pixels {kept:.1%} are kept, Kendall's tau {tau}."
        )
        statements.append(Statement(text, "published"))
    return Reproduction(
        name,
        _RAR_TITLES[data],
        "Chen: table, figure",
        f"{_RAR}: table of NA, AA, IN and CO, and the figure of maps before and after the attack",
        "rar",
        data,
        stand_in,
        partial(plan_attacks, data),
        {"full": 3, "cpu": seeds, "smoke": 2 if data == "mnist" else 1},
        statements,
    )


# The L1 term of IG-SUM-NORM, against adversarial training, which is IG-SUM-NORM with beta 0

# The weights and the inner ascent that all of these share; settings are compared on validation images.
_TERM: Mapping[str, Any] = {"model": "cnn", "batch_size": 50, "inner_steps": 2}
_TERM_ATTACKED: Mapping[ScaleName, int] = {"full": 1000, "cpu": 64, "smoke": 2}
_CONSTANT: Mapping[str, Any] = {"schedule": "constant", "learning_rate": 1e-4, "averaging": 0.0}
_SCHEDULES: Mapping[str, Mapping[str, Any]] = {"one-cycle, averaged": {}, "constant 1e-4": _CONSTANT}
_LENGTHS: Mapping[ScaleName, Sequence[int]] = {
    "full": (3_000, 10_000, 30_000, 100_000),
    "cpu": (1_000, 3_000, 10_000),
    "smoke": (1, 15),
}
_TERM_STEPS: Mapping[ScaleName, int] = {"full": 20_000, "cpu": 2_000, "smoke": 15}
_BETAS = (0.1, 0.5, 1.0)


def _initialised(name: str) -> dict[str, Any]:
    """Dense layers by He et al. learn at a smaller rate than the paper's large weights."""
    chosen: dict[str, Any] = {"model_options": {"initialisation": name}}
    return chosen if name == "paper" else {**chosen, "learning_rate": 0.002}


def _by_length(scale: ScaleName) -> dict[str, dict[str, Any]]:
    return {f"{steps:,} steps": {**_CONSTANT, "steps": steps} for steps in _LENGTHS[scale]}


def _by_weights(scale: ScaleName) -> dict[str, dict[str, Any]]:
    return {
        f"{weights} weights, {words}": {**_initialised(weights), **schedule, "steps": _TERM_STEPS[scale]}
        for weights in ("paper", "paper-he")
        for words, schedule in _SCHEDULES.items()
    }


def _by_beta(scale: ScaleName) -> dict[str, dict[str, Any]]:
    # The ball grows, or fresh weights would only learn to ignore the image where beta is large.
    return {"": {**_initialised("paper-he"), "radius_warm_up": 0.3, "steps": _TERM_STEPS[scale]}}


def plan_term(
    conditions: Callable[[ScaleName], Mapping[str, Mapping[str, Any]]],
    betas: Sequence[float],
    scale: ScaleName,
    seeds: int,
    examples: int | None,
    first: int,
) -> Plan:
    """Adversarial training, and IG-SUM-NORM with each beta from the first step, in every condition.

    A training's name is its row and its seed. examples: the most validation images attacked.
    """
    trainings, parts = {}, []
    small: dict[str, Any] = {}
    if scale == "smoke":
        small = {"train_examples": 100, "validation": 20, "radius": _SMOKE_RADIUS, "averaging": 0.0}
    count = min(_TERM_ATTACKED[scale], examples or _TERM_ATTACKED[scale])
    given = {"protocol": "paper-fast", "examples": count, "split": "validation", "gallery": 4}
    given |= {**_SMOKE_ATTACK, "radius": [_SMOKE_RADIUS]} if scale == "smoke" else {}
    for condition, chosen in conditions(scale).items():
        for beta in (0.0, *betas):
            term = {"objective": "ig-sum-norm", "beta": beta, "beta_from": 0.0} if beta else {}
            words = f"IG-SUM-NORM, beta {beta:g}" if beta else "adversarial"
            title = ", ".join(filter(None, (words, condition)))
            for seed in range(first, first + seeds):
                options = {**_TERM, "objective": "adversarial", **term, **chosen, **small}
                trainings[f"{title}-{seed}"] = Training(options, seed)
                parts.append(Part(f"{title}-{seed}-paper-fast", "attack", given, [f"{title}-{seed}"], "data"))
    return Plan(trainings, parts)


def _of_the_term(
    name: str,
    varied: str,
    conditions: Callable[[ScaleName], Mapping[str, Mapping[str, Any]]],
    betas: Sequence[float],
    seeds: int,
) -> Reproduction:
    return Reproduction(
        name,
        f"What the L1 term of IG-SUM-NORM adds, by {varied}",
        "Chen: claim in doubt",
        f"{_RAR}: that IG-SUM-NORM keeps explanations better than adversarial training, by {varied}",
        "trainings",
        "fashion-mnist",
        (1, 16),
        partial(plan_term, conditions, betas),
        {"full": 3, "cpu": seeds, "smoke": 1},
        [Statement("IN 72.08% and CO .6747 with the term, 46.12% and .6251 without.", "recalled")],
    )


# Input gradients

# Radii of adversarial training, by norm; in l2 on Imagenette Veridical's choice.
_BALLS: Mapping[str, Mapping[NormName, float]] = {
    "fashion-mnist": {"linf": 0.1, "l2": 1.0},
    "cifar10": {"linf": 8 / 255, "l2": 0.5},
    "imagenette": {"linf": 4 / 255, "l2": 0.5},
    "svhn": {"linf": 8 / 255, "l2": 0.5},
}
_LEVELS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
# Top minus bottom accuracy at these levels, from the first version of the paper, whose scheme ranks by loss
# gradients, and whose network is a ResNet-50 on CIFAR-10 and a ResNet-18 on ImageNet-10.
DIFFROAR_NUMBERS: Final[Mapping[str, Mapping[str, Sequence[float]]]] = {
    "cifar10": {
        "natural": (-0.056, -0.048, -0.030, -0.006, 0.010, 0.012, 0.010),
        "linf": (0.232, 0.228, 0.188, 0.149, 0.094, 0.045, 0.015),
        "l2": (0.121, 0.137, 0.128, 0.121, 0.101, 0.067, 0.051),
    },
    "imagenette": {
        "natural": (-0.053, -0.046, -0.037, 0.007, 0.051, 0.011, 0.039),
        "linf": (0.149, 0.111, 0.088, 0.076, 0.051, 0.032, 0.018),
    },
}
DIFFROAR_NETWORKS: Final = {"cifar10": "ResNet-50", "imagenette": "ResNet-18, ImageNet-10"}
DIFFROAR_LEVELS: Final = _LEVELS
_DIFFROAR_STATEMENTS = (
    Statement("Natural models violate assumption (A): DiffROAR is near or below zero.", "published"),
    Statement("Adversarially trained models satisfy it: DiffROAR is above zero.", "published"),
)
# Of two-layer networks and of ResNets: what is trained, and what is retrained on unmasked images.
_DIFFROAR: Mapping[ScaleName, Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]] = {
    "full": {
        "mlp": ({}, {"levels": list(_LEVELS), "repeats": 5, "stacked": "auto"}),
        "resnet18": ({}, {"levels": list(_LEVELS), "repeats": 5}),
    },
    "cpu": {
        "mlp": ({}, {"levels": [0.05, 0.1, 0.2, 0.5], "repeats": 5, "epochs": 3.0, "stacked": "auto"}),
        "resnet18": (
            {
                "model_options": {"width": 8, "norm": "batch"},
                "epochs": 6.0,
                "learning_rate": 0.004,
                "averaging": 0.99,
            },
            {"levels": [0.1], "repeats": 3, "epochs": 3.0, "baselines": ["random"]},
        ),
    },
    "smoke": {
        "mlp": (
            {"model_options": {"width": 16}, **_SMOKE_TRAINING},
            {"levels": [0.5], "repeats": 2, "epochs": 1.0, "baselines": ["random"], "control": False},
        ),
        "resnet18": (
            {"model_options": {"width": 2}, **_SMOKE_TRAINING},
            {"levels": [0.5], "repeats": 2, "epochs": 1.0, "baselines": [], "control": False},
        ),
    },
}
# Nine times the pixels and a tenth of the images: a stem that makes the image small, and more epochs.
_DIFFROAR_LARGE: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "mlp": ({"epochs": 20.0}, {"levels": [0.1, 0.5], "repeats": 3, "epochs": 10.0, "baselines": ["random"]}),
    "resnet18": (
        {"model_options": {"width": 8, "norm": "batch", "stem": "7x7"}, "epochs": 30.0, "batch_size": 50},
        {"epochs": 15.0},
    ),
}


def plan_diffroar(data: str, scale: ScaleName, seeds: int, examples: int | None, first: int) -> Plan:
    """Natural and adversarial networks of two kinds, and DiffROAR of each one's input gradients.

    examples: the most training images of a retraining.
    """
    trainings, parts = {}, []
    for model, (training, measured) in _DIFFROAR[scale].items():
        chosen = dict(measured)
        if (data, scale) == ("imagenette", "cpu"):
            longer, more = _DIFFROAR_LARGE[model]
            training, chosen = {**training, **longer}, {**chosen, **more}
        if examples is not None:
            chosen["train_examples"] = min(examples, chosen.get("train_examples", examples))
        balls: list[tuple[str, Mapping[str, Any]]] = [("natural", {"objective": "natural"})]
        for norm, radius in _BALLS[data].items():
            if (scale, model, norm) == ("cpu", "resnet18", "l2"):
                continue  # half an hour more
            balls.append((norm, {"objective": "adversarial", "norm": norm, "radius": radius}))
        for ball, objective in balls:
            for seed in range(first, first + seeds):
                name = f"{model}-{ball}-{seed}"
                trainings[name] = Training({"model": model, **training, **objective}, seed)
                # Only the baselines of the first depend on nothing that was trained; jobs are shared.
                parts.append(Part(f"{name}-diffroar", "diffroar", {**chosen, "gallery": 3}, [name], "data"))
    return Plan(trainings, parts)


def _input_gradients(name: str, data: str, title: str, side: int) -> Reproduction:
    return Reproduction(
        name,
        f"DiffROAR of input gradients on {title}",
        "Shah: curves, images",
        f"{_SHAH}: DiffROAR curves of MLPs and ResNets, unmasked images",
        "diffroar",
        data,
        (1 if data == "fashion-mnist" else 3, side),
        partial(plan_diffroar, data),
        {"full": 1, "cpu": 1, "smoke": 1},
        _DIFFROAR_STATEMENTS,
    )


# Where the truth is known

_LEAKAGE: Mapping[ScaleName, Mapping[str, Mapping[str, Any]]] = {
    "full": {
        "mlp": {"model_options": {"width": 512}, "radius": [0.1]},
        "resnet18": {"radius": [0.1], "radius_warm_up": 0.5},
    },
    "cpu": {
        "mlp": {"model_options": {"width": 512}, "radius": [0.1]},
        "resnet18": {
            "model_options": {"width": 8},
            "radius": [0.1],
            "radius_warm_up": 0.5,
            "train_examples": 8000,
            "batch_size": 25,
            "learning_rate": 0.003,
            "epochs": 3.0,
        },
    },
    "smoke": {
        "mlp": {"model_options": {"width": 16}, "radius": [0.1], "train_examples": 100, "epochs": 1.0},
        "resnet18": {
            "model_options": {"width": 2},
            "radius": [0.1],
            "train_examples": 50,
            "batch_size": 25,
            "epochs": 1.0,
        },
    },
}
_FEW = {"test_examples": 20, "explained": 20}


def plan_leakage(scale: ScaleName, seeds: int, examples: int | None, first: int) -> Plan:
    """Leakage of natural and robust networks of two kinds on BlockMNIST and BlockMNIST-Top.

    examples: the most test images whose maps are measured.
    """
    parts = []
    for model, chosen in _LEAKAGE[scale].items():
        given: dict[str, Any] = {"model": model, "seeds": seeds, "seed": first, "gallery": 4, **chosen}
        if scale == "smoke":
            given |= _FEW | {"attacked": 20, "objective": ["natural", "adversarial"]}
        if examples is not None:
            given["explained"] = min(examples, given.get("explained", examples))
        parts.append(Part(model, "leakage", given, images="source"))
    return Plan(parts=parts)


_BLOCK_STATEMENTS = (
    Statement(
        "All models, natural and robust, reach 99.99% test accuracy, whether the digit is in a random block "
        "or always on top.",
        "published",
    ),
    Statement(
        "Input gradients of natural models mark both blocks of BlockMNIST: features of other instances leak "
        "into them. On BlockMNIST-Top they mark the digit.",
        "published",
    ),
    Statement("Input gradients of robust models mark the digit on both.", "published"),
)
_THEORY_STATEMENTS = (
    Statement("The networks of 10,000 units reach 100% test accuracy.", "published"),
    Statement(
        "The gradient magnitude of a max-margin network is one constant above zero on every task-relevant "
        "block, whatever the instance, and zero on every noise block.",
        "published",
    ),
    Statement("That is so for noise of length eta below 1 / (10 d).", "recalled"),
    Statement(
        "The naturally trained network marks all task-relevant blocks; the adversarially trained one marks "
        "the instance's own.",
        "published",
    ),
    Statement("A linear model's gradient is the same for all inputs and suppresses noise.", "published"),
)
_ONE_LAYER_STATEMENTS = (
    Statement(
        "For one layer, an l_inf ball and lambda 1, IG-NORM and adversarial training are one objective, the "
        "soft max-margin E[g(-y <w, x> + eps ||w||_1)].",
        "published",
    ),
)


def plan_theory(study: str, scale: ScaleName, seeds: int, examples: int | None, first: int) -> Plan:
    """A study of networks that train in seconds, in full, or for the smoke scale with few steps.

    examples: the most training examples.
    """
    given: dict[str, Any] = {"seeds": seeds, "seed": first}
    if examples is not None:
        given["train_examples"] = examples
    if scale == "smoke" and study == "one-layer":
        given |= {"steps": 20, "weight": [1.0]}
    if scale == "smoke" and study == "block-margin":
        given |= {
            "width": [100, 20],
            "sweep_width": 20,
            "noise": [0.0, 0.05],
            "radius": [0.3, 0.1],
            "steps": 60,
        }
    return Plan(parts=[Part(study, study, given)])


# Both papers: what no paper has

_BOTH: Mapping[ScaleName, Mapping[str, Mapping[str, Any]]] = {
    "full": {
        "diffroar": {"levels": [0.1, 0.3, 0.5], "repeats": 5},
        "alignment": {},
        "leakage": {"model": "mlp", "model_options": {"width": 512}, "radius": [0.1]},
        "shortcut": {"model": "cnn"},
    },
    "cpu": {
        "diffroar": {
            "levels": [0.1, 0.5],
            "repeats": 3,
            "epochs": 4.0,
            "train_examples": 5000,
            "baselines": ["random"],
        },
        "alignment": {},
        "leakage": {"model": "mlp", "model_options": {"width": 512}, "radius": [0.1]},
        "shortcut": {"model": "mlp", "model_options": {"width": 512}, "train_examples": 10_000},
    },
    "smoke": {
        "diffroar": {"levels": [0.5], "repeats": 2, "epochs": 1.0, "baselines": [], "control": False},
        "leakage": {
            "model": "mlp",
            "model_options": {"width": 16},
            "radius": [0.1],
            "train_examples": 50,
            "epochs": 1.0,
            **_FEW,
        },
        "shortcut": {
            "model": "mlp",
            "model_options": {"width": 16},
            "train_examples": 100,
            "epochs": 1.0,
            **_FEW,
        },
    },
}


def plan_both(scale: ScaleName, seeds: int, examples: int | None, first: int) -> Plan:
    """The models of `rar-fashion-mnist` under attack and DiffROAR, on garments, digits in blocks, a shortcut.

    examples: the most images attacked. Smoke has no garments: their regions are known of Fashion-MNIST alone.
    """
    attacks = plan_attacks("fashion-mnist", scale, seeds, examples, first)
    parts = [one for one in attacks.parts if one.options["protocol"] == "paper-fast"]
    chosen = _BOTH[scale]
    for name in attacks.trainings:
        given = {**chosen["diffroar"], "gallery": 3}
        parts.append(Part(f"{name}-diffroar", "diffroar", given, [name], "data"))
    grid = {"objective": list(OBJECTIVES), "seeds": seeds, "seed": first, "gallery": 4}
    if "alignment" in chosen:
        given = {"attribution": ["input-gradient", "smoothgrad"], "gallery": 4, **chosen["alignment"]}
        parts.append(Part("alignment", "alignment", given, list(attacks.trainings), "data"))
    source = "mnist-5k" if scale == "smoke" else "mnist"
    parts.append(Part("leakage", "leakage", {**grid, **chosen["leakage"], "source": source}))
    parts.append(Part("shortcut", "shortcut", {**grid, **chosen["shortcut"]}, images="data"))
    return Plan(attacks.trainings, parts)


_TABLE = (
    _robust_attribution("rar-mnist", "mnist", "mnist-5k", 3),
    _robust_attribution("rar-fashion-mnist", "fashion-mnist", (1, 16), 3),
    _robust_attribution("rar-gtsrb", "gtsrb", (3, 16), 1),
    # More rows than 64, so that images count as flowers.
    _robust_attribution("rar-flowers", "flowers17", (3, 68), 1),
    _of_the_term("l1-length", "length of the training", _by_length, (0.1,), 1),
    _of_the_term("l1-weights", "initial weights and schedule", _by_weights, (0.1,), 2),
    _of_the_term("l1-beta", "its coefficient", _by_beta, _BETAS, 3),
    _input_gradients("diffroar-fashion-mnist", "fashion-mnist", "Fashion-MNIST", 16),
    _input_gradients("diffroar-cifar10", "cifar10", "CIFAR-10", 16),
    _input_gradients("diffroar-imagenette", "imagenette", "Imagenette, for ImageNet-10", 24),
    _input_gradients("diffroar-svhn", "svhn", "SVHN", 16),
    Reproduction(
        "block-mnist",
        "What input gradients mark on BlockMNIST",
        "Shah: accuracies, maps",
        f"{_SHAH}: accuracies and gradients on BlockMNIST and BlockMNIST-Top",
        "parts",
        "mnist",
        "mnist-5k",
        plan_leakage,
        {"full": 5, "cpu": 3, "smoke": 2},
        _BLOCK_STATEMENTS,
    ),
    Reproduction(
        "synthetic",
        "What gradients of max-margin networks mark in the block world",
        "Shah: theorem, figure",
        f"{_SHAH}: theorem, and the figure of gradients of linear model and MLPs",
        "parts",
        "",
        "",
        partial(plan_theory, "block-margin"),
        {"full": 5, "cpu": 5, "smoke": 2},
        _THEORY_STATEMENTS,
    ),
    Reproduction(
        "one-layer",
        "One layer: IG-NORM is adversarial training",
        "Chen: theorem",
        f"{_RAR}: theorem of one-layer networks",
        "parts",
        "",
        "",
        partial(plan_theory, "one-layer"),
        {"full": 5, "cpu": 5, "smoke": 2},
        _ONE_LAYER_STATEMENTS,
    ),
    Reproduction(
        "robust-vs-faithful",
        "Are robust explanations faithful ones?",
        "neither: new",
        "no paper: the models of the first under the measures of the second",
        "both",
        "fashion-mnist",
        (1, 16),
        plan_both,
        {"full": 3, "cpu": 3, "smoke": 1},
        also={"full": "mnist", "cpu": "mnist", "smoke": "mnist-5k"},
    ),
)
REPRODUCTIONS: Final[Mapping[str, Reproduction]] = {one.name: one for one in _TABLE}
assert {data for data, _ in PAPER_NUMBERS} == set(_RAR_TITLES)
