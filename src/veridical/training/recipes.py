"""From options with gaps to explicit settings, by recipes; and how a run differs from the published training.

Two tables hold the settings of the paper's authors and Veridical's own, per data set and objective. They are
lists of rules; every rule that fits is applied, later rules overrule earlier ones, and what the user gives
overrules all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from veridical.attacks.protocols import PAPER_SETTINGS, paper_row
from veridical.data.registry import DATASETS
from veridical.models.registry import MODELS
from veridical.runtime.checking import Checked, Count, Decay, Factor, Limit, Radius, Seed, Width
from veridical.runtime.errors import RunError, UsageError, argument_error
from veridical.runtime.files import check_form
from veridical.runtime.options import (
    AugmentName,
    BalanceName,
    ObjectiveOptions,
    OptimiserName,
    OptimiserOptions,
    ScheduleName,
    TrainOptions,
)
from veridical.training.penalties import OBJECTIVES


@dataclass(frozen=True, kw_only=True)
class RobustSettings(ObjectiveOptions):
    """The options of an objective, resolved; None stands for what the objective does not use."""

    weight: Factor = field()
    radius: Radius = field()

    @property
    def ball_radius(self) -> float:
        """Radius of the ball in training; `radius` is the one that the run is evaluated at."""
        return self.radius if self.training_radius is None else self.training_radius


@dataclass(frozen=True)
class OptimiserSettings(Checked):
    """How the weights move; the fields are those of `veridical.runtime.options.OptimiserOptions`.

    steps: in total. reduction: how the losses of a batch become one number.
    """

    optimiser: OptimiserName
    schedule: ScheduleName
    learning_rate: Factor
    weight_decay: Factor
    batch_size: Width
    steps: Count
    averaging: Decay
    warm_up: Decay
    reduction: Literal["mean", "sum"]


class _Images(TypedDict):
    """What the records of all data sets and models say at least."""

    name: str
    shape: list[int]
    num_classes: int
    options: dict[str, Any]


class _Preprocessing(TypedDict):
    mean: list[float]
    std: list[float]


class _Model(_Images):
    """The record of a network; what only some have is of `veridical.models.external`."""

    sha256: NotRequired[str]
    preprocessing: NotRequired[_Preprocessing]
    output: NotRequired[str]
    one_logit: NotRequired[bool]


class _Data(_Images):
    train: int
    checksum: str


class InitialWeights(TypedDict):
    """What a training began with: a digest, and what led to it; None is not known, as of a file."""

    weights: str
    objective: str | None
    epochs: float | None


@dataclass(frozen=True)
class Settings(Checked):
    """What a run folder is claimed for: two runs with equal settings (and machine) have equal weights.

    data, model: the records of `Dataset.describe` and `models.external.describe_architecture`.
    robust: None for the natural objective and a caller's own. validation, train_examples: numbers of images.
    initial: the weights that are begun with, of a run or a file; None for fresh ones.
    """

    data: _Data
    model: _Model
    objective: str
    recipe: str
    robust: RobustSettings | None
    optimise: OptimiserSettings
    validation: Annotated[int, Limit(0, 10**9)]
    train_examples: Count
    seed: Seed
    bf16: bool
    augment: AugmentName = "none"
    balance: BalanceName = "none"
    initial: InitialWeights | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch; what is left over of the permutation is not used in that epoch."""
        return max(1, self.train_examples // self.optimise.batch_size)

    @property
    def epochs(self) -> float:
        """Length of the training in epochs."""
        return self.optimise.steps / self.steps_per_epoch

    def to_dict(self) -> dict[str, Any]:
        """Plain values, in the order of the fields."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: object = "the settings of the run") -> Settings:
        """Read back what `to_dict` gave; a RunError that names `source` if another version's or damaged."""
        hint = "Another version of veridical wrote it, or it was edited; train the run again in a new folder."
        check_form(values, Settings, source, hint)
        robust = values["robust"]
        try:
            parts = {
                "robust": robust and RobustSettings(**robust),
                "optimise": OptimiserSettings(**values["optimise"]),
            }
            return cls(**{**values, **parts})
        except UsageError as error:
            raise RunError(f"{source} is damaged: {error} {hint}") from error


_Values = Mapping[str, Any]
_Rule = tuple[tuple[str, ...], tuple[str, ...], _Values]


def _rule(data: tuple[str, ...] = (), objectives: tuple[str, ...] = (), /, **values: Any) -> _Rule:
    """Values for some data sets (rows of the paper's table; empty: all) and some objectives (empty: all)."""
    return data, objectives, values


_IMAGES_28 = ("mnist", "mnist-5k", "fashion-mnist")
_RESNETS = ("gtsrb", "flowers17")

# Chen et al. (2019) and their code. Penalties that they did not train get weights of the same meaning.
_PAPER = (
    _rule(augment="none", balance="none", averaging=0.0, warm_up=0.0, reduction="sum"),
    _rule(weight=1.0, training_radius=None, radius_warm_up=None, beta=0.1, beta_from=0.0),
    _rule(inner_start="random", inner_score="size", inner_nodes=10, nodes=50, rule="right"),
    _rule((), ("input-gradient",), weight=None),
    # The same for objectives of other authors. TRADES' weight on colour images is its authors'; r2et's x' is
    # one step along the gradient, to the edge of the ball.
    _rule(distance="pearson"),
    _rule(_RESNETS, ("trades",), weight=6.0),
    _rule(_IMAGES_28, model="cnn", optimiser="adam", schedule="constant", learning_rate=1e-4),
    _rule(_IMAGES_28, weight_decay=0.0, batch_size=50, steps=100_000, validation=5000, train_examples=55_000),
    _rule(_IMAGES_28, ("natural",), steps=25_000),
    # Ball and inner ascent are those of the attack on predictions.
    *(
        _rule(
            (data,),
            radius=row.radius,
            inner_steps=row.pgd_steps,
            inner_step_size=row.pgd_step_size,
            topk=row.k,
        )
        for data, row in {**PAPER_SETTINGS, "mnist-5k": PAPER_SETTINGS["mnist"]}.items()
    ),
    _rule(_RESNETS, model="rar-resnet", optimiser="sgd", schedule="steps", steps=70_001, inner_nodes=5),
    _rule(_RESNETS, learning_rate=1e-2, weight_decay=2e-4),
    # Their data: every class filled up with warped copies of its images, to one number.
    _rule(_RESNETS, augment="warp", balance="classes"),
    # There their code takes the mean where there is no attribution term, and the sum with one.
    _rule(_RESNETS, ("natural", "adversarial"), reduction="mean"),
    _rule(("gtsrb",), batch_size=64, beta=1.0),
    _rule(("flowers17",), batch_size=16, train_examples=1224),
    _rule(("flowers17",), ("ig-norm",), weight=0.1),
    _rule(("flowers17",), ("ig-norm", "ig-sum-norm"), learning_rate=1e-3),
    _rule((), ("r2et",), inner_steps=0, inner_start="gradient"),
)

# Veridical's own. A radius or weight not named here is the paper's. inner_step_share: of the ball's
# radius in training.
_FAST = (
    _rule(augment="none", balance="none", training_radius=None, radius_warm_up=None, beta_from=0.0),
    _rule(inner_steps=2, inner_step_share=0.7, inner_start="random", inner_score="loss"),
    _rule(inner_nodes=1, nodes=1, rule="midpoint"),
    _rule(optimiser="adam", schedule="one-cycle", warm_up=0.15, learning_rate=1e-3, weight_decay=0.0),
    _rule(batch_size=100, epochs=7.0, averaging=0.999, reduction="mean"),
    # The paper's initial weights are large, and small rates leave them where they are.
    _rule(_IMAGES_28, learning_rate=3e-3),
    _rule(("mnist", "fashion-mnist"), epochs=8.0),
    _rule(("mnist", "fashion-mnist"), ("natural",), epochs=7.0),
    # A step with the L1 term takes twice the time of one without.
    _rule(("mnist", "fashion-mnist"), ("ig-norm",), epochs=5.0),
    # In a ball of 0.3 one node is far from the integral: little accuracy under attack is left.
    _rule(("mnist",), ("ig-norm",), nodes=4),
    _rule((), ("ig-sum-norm",), beta_from=0.75),
    # The loss is no stand-in for how far maps or predictions are from each other.
    _rule((), ("trades", "far", "far-adversarial"), inner_score="size"),
    # With 3 nodes distances go with those by the attack's 100; those of input gradients hardly do.
    _rule((), ("far", "far-adversarial", "r2et"), nodes=3),
    _rule((), ("r2et",), inner_steps=0, inner_start="gradient"),
    _rule(("mnist-5k",), ("ig-sum-norm",), beta=0.3, beta_from=0.6),
    _rule(("mnist-5k",), epochs=15.0, batch_size=50, averaging=0.99),
    _rule(("gtsrb",), epochs=15.0),
    _rule(("flowers17",), epochs=40.0, batch_size=32, averaging=0.99),
)


def resolve(
    options: TrainOptions, *, data: Any, model: Any, train_size: int, objective: str | None = None
) -> Settings:
    """Fill every gap of `options` from its recipe; a UsageError for an option that cannot have an effect.

    data: what `Dataset.describe` gives. model: the record of the network. train_size: images in the training
    split, before validation is held out. objective: the record of a caller's own objective, if it is one.
    """
    name = options.objective if objective is None else objective
    used = () if objective is not None else OBJECTIVES.get(name, trust_code=options.trust_code).options
    values = _recipe_values(options.recipe, _paper_row(data["name"], data["shape"]), name)
    _refuse_unused(options, used, name)
    # What was given overrules the recipe.
    for field_name in (*ObjectiveOptions.__dataclass_fields__, *OptimiserOptions.__dataclass_fields__):
        given = getattr(options, field_name)
        if given is not None:
            values[field_name] = given
    validation = _validation(options.validation, values, train_size)
    remaining = train_size - validation
    examples = remaining if options.train_examples is None else options.train_examples
    if not 1 <= examples <= remaining:
        raise argument_error("train_examples", examples, f"a number from 1 to {remaining}")
    return Settings(
        data=data,
        model=model,
        objective=name,
        recipe=options.recipe,
        robust=_robust(used, values) if used else None,
        optimise=_optimise(options, values, examples),
        validation=validation,
        train_examples=examples,
        seed=options.seed,
        bf16=options.bf16,
        augment=_augment(options, values, data),
        balance=options.balance or values["balance"],
    )


def _augment(options: TrainOptions, values: _Values, data: _Values) -> AugmentName:
    if options.augment == "shift-rotate-flip":
        known = data["name"] in DATASETS
        mirrored = DATASETS.get(data["name"]).mirrored(data["num_classes"]) if known else ()
        if all(label is None for label in mirrored):
            raise UsageError(
                f"augment=shift-rotate-flip: no class of {data['name']} is known to have mirror images that "
                "belong to a class. Take shift-rotate."
            )
    return options.augment or values["augment"]


def _refuse_unused(options: TrainOptions, used: tuple[str, ...], objective: str) -> None:
    for name in ObjectiveOptions.__dataclass_fields__:
        given = getattr(options, name)
        if name not in (*used, *(("norm",) if used else ())) and given not in (None, "linf"):
            possible = ", ".join(used) if used else "none"
            raise UsageError(
                f"{name} has no effect on the objective {objective}; the options it takes: {possible}. "
                f"Leave {name} out."
            )


def _validation(given: int | None, values: _Values, train_size: int) -> int:
    """How many images are held out: as asked, else 5,000 but at most a tenth."""
    if given is None:
        return min(int(values.get("validation", 5000)), train_size // 10)
    if not 0 <= given < train_size:
        raise argument_error("validation", given, f"a number from 0 to {train_size - 1}")
    return given


def _robust(used: tuple[str, ...], values: _Values) -> RobustSettings:
    result: dict[str, Any] = {key: values.get(key) for key in ("weight", "radius", *used)}
    wider = values["training_radius"]
    radius = float(values["radius"] if wider is None else wider)
    if values["weight"] is None:
        # input-gradient: with lambda' = radius^q it adds the loss's change in the ball, to first order.
        result["weight"] = radius ** (1 if values["norm"] == "linf" else 2)
    if "inner_step_size" in result and result["inner_step_size"] is None:
        result["inner_step_size"] = values["inner_step_share"] * radius
    result["radius_warm_up"] = result.get("radius_warm_up") or None  # 0 is none
    return RobustSettings(norm=values["norm"], **result)


def _optimise(options: TrainOptions, values: _Values, examples: int) -> OptimiserSettings:
    if options.epochs is not None and options.steps is not None:
        raise UsageError(f"epochs={options.epochs} and steps={options.steps} were both given; give one.")
    # A batch is never larger than the data; an epoch leaves out what does not fill one.
    batch_size = min(int(values["batch_size"]), examples)
    if options.epochs is not None or "steps" not in values:
        # Whole steps: 2.5 epochs of 36 batches are 90.
        steps = max(1, round(values["epochs"] * (examples // batch_size)))
    else:
        steps = values["steps"]
    names = ("optimiser", "schedule", "learning_rate", "weight_decay", "averaging", "warm_up", "reduction")
    return OptimiserSettings(batch_size=batch_size, steps=steps, **{name: values[name] for name in names})


def _paper_row(data: str, shape: Sequence[int]) -> str:
    """The row of the paper's table that a data set gets; the part of MNIST has settings of its own."""
    return data if data == "mnist-5k" else paper_row(data, shape)


def _recipe_values(recipe: str, row: str, objective: str) -> dict[str, Any]:
    """All values of a recipe for one row of the table and one objective."""

    def gather(rules: Sequence[_Rule]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for data, objectives, values in rules:
            if (not data or row in data) and (not objectives or objective in objectives):
                result |= values
        return result

    paper = gather(_PAPER)
    if recipe == "paper":
        return paper
    # Veridical's recipe keeps of the paper's how large the ball and the penalty are.
    kept = ("weight", "beta", "radius", "distance", "topk")
    return {name: paper[name] for name in kept if name in paper} | gather(_FAST)


_IN_PAPER = ("natural", "adversarial", "ig-norm", "ig-sum-norm")
# Images a class of the authors' training data, originals and warped copies together (their code).
_COPIES = {"gtsrb": 10_000, "flowers17": 1000}
_PAPER_WEIGHTS = "truncated normal, deviation 0.1"
_BFLOAT16 = "bfloat16 products and convolutions in training"


def list_deviations(settings: Settings) -> list[dict[str, Any]]:
    """Every difference from the authors' training, as {"what", "paper", "used"}; empty if there is none.

    The paper's values are those of its own row of the table, or of the row of like images for a data set that
    it does not have (which is itself the first difference).
    """
    if settings.objective not in _IN_PAPER:
        return [{"what": "objective", "paper": f"one of {', '.join(_IN_PAPER)}", "used": settings.objective}]
    name, optimise, initial = settings.data["name"], settings.optimise, settings.initial
    row = _paper_row(name, settings.data["shape"])
    paper = _recipe_values("paper", row, settings.objective)
    averaging = f"exponential, decay {optimise.averaging}" if optimise.averaging else "none"
    pairs: list[tuple[str, Any, Any]] = [
        ("data", "mnist" if row == "mnist-5k" else row, name),
        ("model", paper["model"], settings.model["name"]),
        ("initial weights", _PAPER_WEIGHTS, _initial_weights(settings)),
        ("weights at the start", "fresh", _start(initial)),
    ]
    if settings.robust is not None:
        pairs.append(("norm", "linf", settings.robust.norm))
        options = OBJECTIVES.get(settings.objective).options
        pairs += [(option, paper[option], getattr(settings.robust, option)) for option in options]
    for option in ("optimiser", "schedule", "learning_rate", "weight_decay", "batch_size", "steps"):
        pairs.append((option, paper[option], getattr(optimise, option)))
    pairs += [
        ("weight averaging", "none", averaging),
        ("losses of a batch", f"their {paper['reduction']}", f"their {optimise.reduction}"),
        ("training images", paper.get("train_examples", settings.train_examples), settings.train_examples),
        ("precision", "float32", _BFLOAT16 if settings.bf16 else "float32"),
        ("augment", paper["augment"], settings.augment),
    ]
    if settings.augment == paper["augment"] == "warp":
        copies = f"made once, {_COPIES[row]:,} images a class with the originals"
        pairs.append(("warped images", copies, "made anew in every step, by one interpolation"))
    pairs.append(("balance", paper["balance"], settings.balance))
    if row == "gtsrb" and not settings.data.get("options", {}).get("equalise", False):
        pairs.append(("histogram", "equalised per channel", "as it is"))
    elif row == "gtsrb" and settings.augment != "none":
        pairs.append(("histogram", "equalised after warping", "equalised before it"))
    return [{"what": what, "paper": theirs, "used": ours} for what, theirs, ours in pairs if ours != theirs]


def _start(initial: InitialWeights | None) -> str:
    if initial is None:
        return "fresh"
    if initial["objective"] is None:
        return "those of a file"
    epochs = initial["epochs"]
    before = "after those of a file" if epochs is None else f"{epochs:g} epochs"
    return f"those of a run, {initial['objective']}, {before}"


def _initial_weights(settings: Settings) -> str:
    if settings.model["name"] not in MODELS:
        return "the model's own"
    weights = settings.model.get("options", {}).get("initialisation", "paper")
    if weights in ("paper", 1.0):
        return _PAPER_WEIGHTS
    return weights if isinstance(weights, str) else f"between He et al. (0) and the paper (1): {weights}"
