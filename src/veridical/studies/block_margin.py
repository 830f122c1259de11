"""The theorem on input gradients of max-margin classifiers: checked in closed form, and on trained networks.

Shah, Jain, Netrapalli, "Do input gradients highlight discriminative features?", NeurIPS 2021, section 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch

from veridical.attacks.ascent import pgd
from veridical.attacks.ball import ball
from veridical.attribution.classifier import predict
from veridical.attribution.path import input_gradient
from veridical.data.block_world import BlockExamples, BlockWorld
from veridical.metrics.intervals import Interval, mean_interval
from veridical.metrics.localisation import block_magnitudes, by_role
from veridical.models.mean_field import (
    MOST_ENUMERATED,
    PROVEN,
    LinearScore,
    MeanFieldMLP,
    closed_margin,
    dual_bound,
    dual_value,
    enumerated_dual,
    max_margin,
)
from veridical.report import (
    Column,
    Curve,
    Illustration,
    Panel,
    PictureGallery,
    PictureRow,
    Table,
    curves_illustration,
)
from veridical.report.table import write_cell
from veridical.runtime.checking import Count, Factor, Length, Limit, Size, StepSize, Width
from veridical.runtime.errors import RunError, argument_error
from veridical.runtime.options import BlockWorldChoice, NormName
from veridical.runtime.seeds import stream
from veridical.studies.study import Case, Context, Study, StudyResult, Work, check_different, table_of
from veridical.training.objectives import Inner, Natural, Objective, RobustAttribution
from veridical.training.penalties import AttributionPenalty

# The natural and the adversarially trained MLP, and a linear model trained naturally.
NAMES: Mapping[str, str] = {
    "natural": "natural network",
    "adversarial": "adversarially trained network",
    "linear": "linear model",
}

_FOLLOWED = ("other_ratio", "noise_ratio", "normalised_margin")  # their course in training is kept
_RECORDED = 40  # places of that course, beside the start
_PGD_STEPS = 20
_TIGHT = 1e-12  # relative gap between margin and bound up to which they count as equal in float64

COLUMNS = (
    Column("accuracy", "accuracy", "share", "higher", "Of the test examples.", digits=2),
    Column(
        "other_ratio",
        "other / signal",
        "number",
        meaning="Mean magnitude of the gradient on the other task-relevant blocks over that on the block "
        "that carries the label: 1, all are marked the same; 0, only that one.",
        digits=4,
    ),
    Column("noise_ratio", "noise / signal", "number", meaning="The same for noise blocks.", digits=4),
    Column("margin", "margin", "number", meaning="Least y f(x) of the test examples.", digits=4),
    Column(
        "agnostic",
        "gradient varies by",
        "number",
        meaning="Greatest change of the gradient from input to input over its greatest entry.",
        digits=4,
    ),
)
_CHECKS = (
    Column("noise", "noise"),
    Column("bias", "offsets"),
    Column("margin", "margin", "number", digits=12),
    Column("dual", "bound", "number", digits=12),
    Column("enumerated_dual", "by enumeration", "number", digits=12),
    Column("relevant_least", "least gradient on relevant", "number", digits=6),
    Column("relevant_greatest", "greatest", "number", digits=6),
    Column("noise_greatest", "greatest on noise"),
)
_HOW_TO_SEE = (
    "Each row is an input whose label that block carries, each column a block of its gradient. A gradient "
    "that marks what carries the label has a bright diagonal in the left half and is dark elsewhere."
)
_CERTIFICATE = (
    "The margin is that of two atoms in closed form; the bound is the proven maximum of the dual, and by "
    "enumeration its maximum over every pattern of active inputs. Where all three are equal, no network of "
    "any width has a greater margin."
)
_KINKS = (
    "Gradients are over the corners of the support and 1,000 random examples. With offsets some inputs lie "
    "on a kink, where both one-sided gradients count: they differ, but each is the same on all task-relevant "
    "blocks."
)
_RATIO = "Gradient on other task-relevant blocks over that on the block that carries the label"


@dataclass(frozen=True, kw_only=True)
class BlockMarginOptions(BlockWorldChoice):
    """Measure what the gradients of max-margin and of adversarially trained networks mark in the block world.

    Of several values the first is the main one; the others are varied one at a time.

    Args:
        noise: Lengths eta of the noise on every block.
        radius: Radii of the ball in adversarial training.
        norm: Norm of that ball.
        width: Hidden units of the networks.
        sweep_width: Hidden units where noise or radius varies.
        deviation: Standard deviation of the initial weights.
        steps: Steps of gradient descent.
        learning_rate: Learning rate of a hidden unit: the width multiplies it.
        inner_steps: Steps of the inner ascent.
        train_examples: Training examples; without noise it is the whole support.
        test_examples: Test examples.
    """

    noise: list[Length] = field(default_factory=lambda: [0.0, 0.01, 0.05, 0.1])
    radius: list[StepSize] = field(default_factory=lambda: [0.3, 0.05, 0.1, 0.15, 0.2, 0.25, 0.35])
    norm: NormName = "linf"
    width: list[Width] = field(default_factory=lambda: [10_000, 10, 100, 1000])
    sweep_width: Width = 1000
    deviation: Factor = 0.5
    steps: Count = 600
    learning_rate: Annotated[float, Limit(0, 1e6, above=True)] = 2.0
    inner_steps: Size = 5
    train_examples: Count = 100
    test_examples: Count = 1000


@dataclass(frozen=True)
class _Network:
    """One kind of network, and what it is trained with; radius is 0 where nothing attacks."""

    kind: str
    noise: float
    width: int
    radius: float

    def __str__(self) -> str:
        return f"{self.kind}, noise {self.noise:g}, width {self.width}, radius {self.radius:g}"


def _vary(name: str, values: Sequence[float], *networks: _Network) -> dict[str, list[_Network]]:
    """Each network at ascending values of one of its settings, by kind."""
    lines = {one.kind: [{**vars(one), name: value} for value in sorted(values)] for one in networks}
    return {kind: [_Network(**settings) for settings in line] for kind, line in lines.items()}


class BlockMargin(Study[BlockMarginOptions]):
    """Construct max-margin classifiers, train networks, and see what of an input their gradients mark.

    examples:
      veridical block-margin --out runs/block-margin
      veridical block-margin --noise 0.05 0 --radius 0.2 --width 1000 --out runs/noisy

    In the block world one block of each input carries its label, half of the blocks could, and the others are
    noise. The max-margin classifier is constructed and proven by its dual; networks of one hidden layer are
    trained naturally and adversarially, beside a linear model. An interrupted study is continued by the same
    command. DIR/report.html shows what came out, DIR/result.json has the numbers.
    """

    name = "block-margin"
    title = "Do input gradients mark what carries the label?"
    question = "what do input gradients of max-margin networks mark?"
    columns = COLUMNS
    Options = BlockMarginOptions

    def prepare(self) -> None:
        """List the networks: at the main values, and along each value that varies."""
        options = self.options
        for name in ("noise", "radius", "width"):
            check_different(name, getattr(options, name))
        self.seeds = range(options.seed, options.seed + options.seeds)
        self._world(options.noise[0])  # refuses blocks that cannot be
        natural = _Network("natural", options.noise[0], options.width[0], 0.0)
        adversarial = replace(natural, kind="adversarial", radius=options.radius[0])
        linear = replace(natural, kind="linear", width=1)
        self.main = (natural, adversarial, linear)
        small = [replace(one, width=options.sweep_width) for one in (natural, adversarial)]
        self.sweeps = {
            "width": _vary("width", options.width, natural, adversarial),
            "noise": _vary("noise", options.noise, *small, linear),
            "radius": _vary("radius", options.radius, small[1]),
        }
        self.sweeps["radius"]["adversarial"].insert(0, small[0])

    def _world(self, noise: float, seed: int = 0) -> BlockWorld:
        return BlockWorld(self.options.blocks, self.options.block_size, noise, seed=seed)

    def config(self) -> dict[str, Any]:
        """What the results depend on, as plain values; neither paths nor the machine."""
        return {**super().config(), "experiment": self.name, "seeds": list(self.seeds)}

    def cases(self) -> Iterable[Case]:
        """The trainings of every network, each once, wherever it is shown."""
        swept = [one for sweep in self.sweeps.values() for line in sweep.values() for one in line]
        for network in dict.fromkeys([*self.main, *swept]):
            for seed in self.seeds:
                yield self._case(network, seed)

    def _case(self, network: _Network, seed: int) -> Case:
        options = self.options
        names = ("deviation", "steps", "learning_rate", "train_examples", "test_examples")
        values = {
            "world": self._world(network.noise, seed).describe(),
            **{name: getattr(network, name) for name in ("kind", "width", "radius")},
            **{name: getattr(options, name) for name in names},
            "seed": seed,
        }
        if network.radius:
            values |= {"norm": options.norm, "inner_steps": options.inner_steps}
        passes = options.inner_steps + 1 if network.radius else 1
        examples = options.train_examples if network.noise else options.blocks
        cost = options.steps * (1e-3 + 1e-8 * passes * examples * network.width * options.blocks)
        return Case(values, str(network), seed, stage="training", label=f"{network}, seed {seed}", cost=cost)

    @staticmethod
    def measure(values: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Train a network by full-batch gradient descent and measure its input gradients.

        Returns as `measures` numbers of the test examples at the end: accuracy, robust_accuracy (at the
        radius, None if natural), margin (least y f), normalised_margin (over the mean squared length of the
        units), signal, other, noise (mean magnitudes of the gradient of f by role), their ratios other_ratio
        and noise_ratio to the first, evenness, agnostic (greatest change of the gradient from example to
        example over its greatest entry); `magnitudes`, (d/2, d) by carrying block, mean over y = +-1 without
        noise; `examples`, the number of test examples; and `history`, measures in the course of training.
        """
        del context  # it takes seconds, and reads no files
        world, seed = BlockWorld(**values["world"]), values["seed"]
        network: LinearScore | MeanFieldMLP
        if values["kind"] == "linear":  # in float64, from what a mean-field network computes in the limit: 0
            network = LinearScore(world.size, seed=seed, deviation=0.0)
        else:
            network = MeanFieldMLP(world.size, values["width"], seed=seed, deviation=values["deviation"])
        train = world.examples(values["train_examples"]) if world.noise else world.points()
        test = world.examples(values["test_examples"], "test")
        dtype = next(network.parameters()).dtype
        inputs, threat = train.inputs.to(dtype), None
        objective: Objective = Natural()
        if values["radius"]:
            radius, inner_steps = values["radius"], values["inner_steps"]
            inner = Inner(inner_steps, 2.5 * radius / inner_steps, "random", "loss")
            threat = ball(values["norm"], radius, None)
            objective = RobustAttribution(AttributionPenalty(sum_weight=1.0), threat, inner=inner)
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        # The score is a mean over units, so that a unit moves only if the width multiplies the rate.
        optimiser = torch.optim.SGD(trained, lr=values["learning_rate"] * values["width"])
        steps, history = values["steps"], []
        every = max(1, steps // _RECORDED)
        for step in range(steps):
            if step % every == 0:
                history.append({"step": step, **_measure_gradients(network, test, world)})
            loss = objective(network, inputs, train.target, stream(seed, "inner", step)).loss.mean()
            if not bool(loss.isfinite()):
                raise RunError(f"the loss is {loss.item()} in step {step}. Ask for a smaller learning rate.")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        measures = _measure_gradients(network, test, world)
        history.append({"step": steps, **measures})
        robust_accuracy = None
        if threat is not None:
            noise = stream(seed, "attack")
            moved = pgd(
                network, test.inputs.to(dtype), test.target, threat, steps=_PGD_STEPS, generator=noise
            )
            robust_accuracy = float((predict(network, moved).argmax(1) == test.target).double().mean())
        points = world.points()
        gradient = input_gradient(network.score, points.inputs.to(dtype)).double()
        magnitudes = block_magnitudes(gradient, world.blocks).unflatten(0, (2, world.relevant)).mean(0)
        return {
            "measures": measures | {"robust_accuracy": robust_accuracy},
            "examples": len(test),
            "magnitudes": magnitudes.tolist(),
            "history": history,
        }

    def results(self, work: Work) -> dict[str, Any]:
        """The theorem's checks, then the networks: at the main values, and by width, noise and radius.

        `theorem` has an entry with and one without offsets for each noise that the closed form is proven for;
        `certified_radius` and `max_margin` (at the main noise) are None where they are not known.
        """
        options, main = self.options, self.options.noise[0]
        runs: dict[str, list[Mapping[str, Any]]] = {}
        for case in self.all_cases:
            runs.setdefault(case.group, []).append(work.plain(case))
        proven = [noise for noise in sorted(options.noise) if noise * options.blocks <= PROVEN]
        # With one number a block an l_inf adversary is worst-case noise; see `certified_radius`.
        can_certify = options.block_size == 1 and options.norm == "linf"
        sweeps = {
            f"by_{name}": {
                kind: [{"at": getattr(one, name), **_summarise(runs[str(one)])} for one in line]
                for kind, line in sweep.items()
            }
            for name, sweep in self.sweeps.items()
        }
        return {
            "theorem": [
                check_theorem(self._world(noise), bias=bias) for noise in proven for bias in (True, False)
            ],
            "certified_radius": certified_radius(self._world(main)) if can_certify else None,
            "max_margin": closed_margin(options.blocks, main) if main in proven else None,
            "networks": {
                one.kind: {**_summarise(runs[str(one)]), **_average_course(runs[str(one)])}
                for one in self.main
            },
            **sweeps,
        }

    @classmethod
    def tables(cls, result: StudyResult) -> dict[str, Table]:
        """A row for each kind of network at the main values; intervals are over seeds."""
        rows = {NAMES[kind]: network for kind, network in result.results["networks"].items()}
        caption = "Mean over seeds, with 95% intervals over seeds."
        return {"What the gradients mark": table_of("network", cls.columns, rows, caption)}

    @classmethod
    def lead(cls, result: StudyResult) -> str:  # noqa: ARG003 - the same for every result
        """What the block world is, and what is asked."""
        return (
            "In the block world one block of each input carries its label, half of the blocks could have "
            "carried it, and the others are noise. A gradient that explains an input marks the block that "
            "carries its label."
        )

    @classmethod
    def findings(cls, result: StudyResult) -> list[str]:
        """What the theorem's checks say, then the trained networks."""
        results = result.results
        write = partial(write_cell, unit="number", digits=4)
        sentences = _findings_of_theorem(results)
        for kind in ("natural", "adversarial"):
            network = results["networks"][kind]
            sentences.append(
                f"The {NAMES[kind]} marks the other task-relevant blocks {write(network['other_ratio'])} "
                "times as much as the block that carries the label, and noise blocks "
                f"{write(network['noise_ratio'])} times as much; its test accuracy is "
                f"{write_cell(network['accuracy'], 'share', 2)}."
            )
        varies = results["networks"]["linear"]["agnostic"]["value"]
        sentences.append(
            f"The gradient of the linear model changes from input to input by at most {varies:.2g} of itself."
        )
        return sentences

    @classmethod
    def panels(cls, result: StudyResult) -> list[Panel]:
        """Gradients by block, the table, the sweeps, the course of training, and the theorem's numbers."""
        results = result.results
        [(title, table)] = cls.tables(result).items()
        pictures = [np.asarray(network["magnitudes"]) for network in results["networks"].values()]
        row = PictureRow("", [picture / (picture.max() or 1.0) for picture in pictures])
        names = [NAMES[kind] for kind in results["networks"]]
        gallery = Illustration(
            PictureGallery([row], names, ["heat"] * len(names)),
            "Magnitude of the gradient on each block, over the greatest of the picture; mean over y = +1 and "
            "-1 and over seeds.",
            "Three pictures of magnitudes: blocks that carry the label against blocks of the gradient.",
        )
        checks = [{**check, "bias": "yes" if check["bias"] else "no"} for check in results["theorem"]]
        return [
            Panel(title, [_HOW_TO_SEE], [gallery], table),
            Panel("Width, noise and radius", illustrations=_draw_sweeps(results)),
            Panel("In training", illustrations=_draw_courses(results)),
            Panel(
                "The max-margin classifier",
                [_CERTIFICATE, _KINKS],
                table=Table(_CHECKS, checks) if checks else None,
            ),
        ]


def check_theorem(world: BlockWorld, *, bias: bool = True, draws: int = 1000) -> dict[str, Any]:
    """Construct the max-margin classifier of the world and check it, its dual and its gradients, in float64.

    Returns plain values: `margin` in closed form; `support_margin`, the least y f(x) found on the corners and
    `draws` random examples; `dual`, the proven bound; `enumerated_dual`, the maximum by enumeration (None for
    too many blocks); `gap`, the bound's relative distance; `unit_error`, how far units are from length 1;
    `dual_at_units`, the dual's value at the classifier's own units over the margin, 1 where they are optimal;
    `relevant_least`, `relevant_greatest` and `noise_greatest`, magnitudes of the gradient over all examples
    and both sides of a kink; `unevenness`, how much task-relevant blocks of one example differ; `kinked`, the
    share of examples on a kink. Source: Shah, Jain, Netrapalli (2021), theorem 1.
    """
    classifier = max_margin(world.blocks, world.signal, world.noise, bias=bias)
    corners, drawn = world.corners(), world.examples(draws, "theorem")
    inputs = torch.cat([corners.inputs, drawn.inputs])
    sign = torch.cat([corners.sign, drawn.sign])
    units = torch.cat([classifier.outer[:, None], classifier.offset[:, None], classifier.inner], 1)
    bound = dual_bound(classifier)
    enumerated = None
    if len(corners) <= MOST_ENUMERATED:
        enumerated = enumerated_dual(corners.inputs, corners.sign, bias=bias)
    sides = [classifier.gradient(inputs, at_kink=side) for side in (0.0, 1.0)]
    magnitudes = torch.stack([block_magnitudes(side, world.blocks) for side in sides])
    relevant, noise = magnitudes[..., : world.relevant], magnitudes[..., world.relevant :]
    greatest = relevant.amax(-1)
    return {
        "noise": world.noise,
        "bias": bias,
        "margin": classifier.margin,
        "support_margin": float((sign * classifier.score(inputs)).min()),
        "dual": bound,
        "enumerated_dual": enumerated,
        "gap": bound / classifier.margin - 1,
        "unit_error": float((units.norm(dim=1) - 1).abs().max()),
        "dual_at_units": float(dual_value(units, corners.inputs, corners.sign).min()) / classifier.margin,
        "relevant_least": float(relevant.min()),
        "relevant_greatest": float(relevant.max()),
        "noise_greatest": float(noise.max()),
        "unevenness": float(((greatest - relevant.amin(-1)) / greatest).max()),
        "kinked": float((sides[0] != sides[1]).any(1).double().mean()),
    }


def certified_radius(world: BlockWorld, *, tolerance: float = 1e-4) -> float | None:
    """Greatest l_inf radius up to which the two atoms stay the classifier of greatest robust margin.

    With blocks of one number, an adversary of radius r is noise of size eta + r in the worst case, so the
    corners of that world bound the robust margin. The radius is where their dual leaves the closed form, by
    bisection to `tolerance`; above it nothing is said. None for too many blocks to enumerate, and for noise
    at which the closed form is not the greatest margin even without an adversary. Raises UsageError for
    blocks of several numbers, where the two are not the same.
    """
    if world.block_size != 1:
        raise argument_error("block_size", world.block_size, "1", "Larger blocks have another worst case.")
    if world.blocks > MOST_ENUMERATED:
        return None

    def is_greatest(radius: float) -> bool:
        noisy = BlockWorld(world.blocks, 1, world.noise + radius, world.direction)
        corners = noisy.corners()
        margin = closed_margin(world.blocks, noisy.noise)
        return enumerated_dual(corners.inputs, corners.sign) <= margin * (1 + _TIGHT)

    low, high = 0.0, 1 / world.relevant - world.noise
    if high <= 0 or not is_greatest(low):
        return None
    while high - low > tolerance:
        middle = (low + high) / 2
        low, high = (middle, high) if is_greatest(middle) else (low, middle)
    return low


# One training


def _measure_gradients(
    network: LinearScore | MeanFieldMLP, examples: BlockExamples, world: BlockWorld
) -> dict[str, float]:
    """Accuracy, margins and the gradient's magnitude by role, as `BlockMargin.measure` describes them."""
    inputs = examples.inputs.to(next(network.parameters()).dtype)
    with torch.no_grad():
        margins = examples.sign * network.score(inputs).double()
    gradient = input_gradient(network.score, inputs).double()
    roles = by_role(block_magnitudes(gradient, world.blocks), examples.block, world.relevant)
    signal, other, noise = (float(part.mean()) for part in (roles.signal, roles.other, roles.noise))
    least = float(margins.min())
    length = network.squared_length()
    # The length and the signal are 0 for the linear network before its first step.
    return {
        "accuracy": float((margins > 0).double().mean()),
        "margin": least,
        "normalised_margin": least / length if length else 0.0,
        "signal": signal,
        "other": other,
        "noise": noise,
        "other_ratio": _divide(other, signal),
        "noise_ratio": _divide(noise, signal),
        "evenness": float(roles.evenness.mean()),
        "agnostic": _divide(float((gradient.amax(0) - gradient.amin(0)).max()), float(gradient.abs().max())),
    }


def _divide(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


# Trainings of several seeds


def _summarise(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    measures = [run["measures"] for run in runs]
    summary: dict[str, Any] = {name: _average(measures, name) for name in measures[0]}
    if measures[0]["robust_accuracy"] is None:  # nothing attacked it
        summary["robust_accuracy"] = None
    return summary


def _average(measures: Sequence[Mapping[str, Any]], name: str) -> Interval:
    """Mean over the seeds; a number that is undefined for one of them, null in its file, is undefined."""
    return mean_interval([float("nan") if one[name] is None else one[name] for one in measures])


def _average_course(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Gradients by carrying block, and the course of training."""
    histories = [run["history"] for run in runs]
    course = {name: [_average(points, name) for points in zip(*histories, strict=True)] for name in _FOLLOWED}
    return {
        "examples": runs[0]["examples"],
        "magnitudes": np.mean([run["magnitudes"] for run in runs], axis=0).tolist(),
        "history": {"step": [point["step"] for point in histories[0]], **course},
    }


# From a finished study to its page


def _findings_of_theorem(results: Mapping[str, Any]) -> list[str]:
    checks = results["theorem"]
    if not checks:
        return ["The closed form of the max-margin is proven for none of these lengths of noise."]
    gap, uneven, noise = (
        max(abs(check[name]) for check in checks) for name in ("gap", "unevenness", "noise_greatest")
    )
    certified = (
        f"The max-margin classifier in closed form is certified {len(checks)} times: its margin and the "
        f"dual's bound differ by at most {gap:.2g} of it. Its gradient differs between the task-relevant "
        f"blocks of an input by at most {uneven:.2g} of itself, and is at most {noise:.2g} on noise blocks."
    )
    sentences = [certified]
    if results["certified_radius"] is not None:
        sentences.append(
            f"Up to an l_inf radius of {results['certified_radius']:.3f} it also has the greatest robust "
            "margin: so small a radius gives adversarial training no reason to mark one block."
        )
    return sentences


def _draw_sweeps(results: Mapping[str, Any]) -> list[Illustration]:
    certified = results["certified_radius"]
    of_radius = "Radius 0 is the natural network."
    if certified is not None:
        of_radius += (
            f" Up to {certified:.3f} a classifier of greatest robust margin marks all task-relevant blocks "
            "the same; above, the proof says nothing."
        )
    sweeps = (
        ("by_width", "hidden units", "With more units it comes nearer to the theorem."),
        ("by_noise", "noise eta", "With noise on every block; the linear model beside."),
        ("by_radius", "radius of adversarial training", of_radius),
    )
    return [
        curves_illustration(
            [
                Curve.through(
                    NAMES[kind],
                    [one["at"] for one in line],
                    [one["other_ratio"] for one in line],
                    colour=place,
                )
                for place, (kind, line) in enumerate(results[key].items())
            ],
            f"{_RATIO}. {words}",
            x_label=label,
            y_label="other / signal",
            log_x=key == "by_width",
            level_line=(1.0, "all task-relevant blocks the same"),
        )
        for key, label, words in sweeps
    ]


def _draw_courses(results: Mapping[str, Any]) -> list[Illustration]:
    courses = (
        ("other_ratio", "other / signal", f"{_RATIO}, on the test examples.", None),
        (
            "normalised_margin",
            "normalised margin",
            "Least y f(x) over the mean squared length of the units; no network can exceed the max-margin.",
            results["max_margin"],
        ),
    )
    figures = []
    for name, label, words, level in courses:
        curves = []
        for place, kind in enumerate(("natural", "adversarial")):
            history = results["networks"][kind]["history"]
            # The first step's gradient is that of random weights: its ratio means nothing.
            steps, values = history["step"][1:], history[name][1:]
            curves.append(Curve.through(NAMES[kind], steps, values, colour=place))
        line = None if level is None else (level, "max-margin")
        figures.append(curves_illustration(curves, words, x_label="step", y_label=label, level_line=line))
    return figures
