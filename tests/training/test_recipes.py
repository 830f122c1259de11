"""The authors' settings, Veridical's own, and what is said about the difference."""

import json
from typing import Any

import pytest

from veridical.runtime.errors import UsageError
from veridical.runtime.options import TrainOptions
from veridical.training.recipes import Settings, list_deviations, resolve

SIZES = {
    "mnist": (60_000, (1, 28, 28)),
    "fashion-mnist": (60_000, (1, 28, 28)),
    "mnist-5k": (4000, (1, 28, 28)),
    "gtsrb": (39_209, (3, 32, 32)),
    "flowers17": (1224, (3, 128, 128)),
    "cifar10": (50_000, (3, 32, 32)),
    "x.npz": (1000, (1, 12, 12)),
    "big": (1000, (3, 96, 96)),
}

CLASSES = {"gtsrb": 43, "flowers17": 17}


def resolved(data: str, model: str | None = None, equalise: bool = False, **given: Any) -> Settings:
    train_size, shape = SIZES[data]
    network = model or ("rar-resnet" if shape[0] == 3 else "cnn")
    options = TrainOptions(out="o", data=data, model=network, **given)
    sizes = {"shape": list(shape), "num_classes": CLASSES.get(data, 10)}
    images = {"name": data, "train": train_size, "checksum": "", "options": {"equalise": equalise}, **sizes}
    record = {"name": network, "options": {}, **sizes}
    return resolve(options, data=images, model=record, train_size=train_size)


# radius, inner steps, step size, IG-NORM lambda, IG-SUM-NORM beta, inner nodes
BALLS = {
    "mnist": (0.3, 40, 0.01, 1.0, 0.1, 10),
    "fashion-mnist": (0.1, 20, 0.01, 1.0, 0.1, 10),
    "gtsrb": (8 / 255, 7, 2 / 255, 1.0, 1.0, 5),
    "flowers17": (8 / 255, 7, 2 / 255, 0.1, 0.1, 5),
}
# batch, optimiser, schedule, decay, natural and robust greatest rates, natural and robust steps
OPTIMISERS = {
    "mnist": (50, "adam", "constant", 0.0, (1e-4, 1e-4), (25_000, 100_000)),
    "fashion-mnist": (50, "adam", "constant", 0.0, (1e-4, 1e-4), (25_000, 100_000)),
    "gtsrb": (64, "sgd", "steps", 2e-4, (1e-2, 1e-2), (70_001, 70_001)),
    "flowers17": (16, "sgd", "steps", 2e-4, (1e-2, 1e-3), (70_001, 70_001)),
}


@pytest.mark.parametrize("data", list(BALLS))
def test_the_paper_recipe_is_the_authors_table(data: str) -> None:
    radius, steps, size, weight, beta, nodes = BALLS[data]
    norm = resolved(data, objective="ig-norm", recipe="paper").robust
    total = resolved(data, objective="ig-sum-norm", recipe="paper").robust
    assert norm is not None
    assert total is not None
    assert (norm.weight, total.weight, total.beta, norm.beta) == (weight, 1.0, beta, None)
    for robust in (norm, total):
        ascent = (robust.norm, robust.radius, robust.inner_steps, robust.inner_step_size)
        assert ascent == ("linf", radius, steps, size)
        assert (robust.inner_start, robust.inner_score, robust.rule) == ("random", "size", "right")
        assert (robust.inner_nodes, robust.nodes) == (nodes, 50)


@pytest.mark.parametrize("data", list(OPTIMISERS))
@pytest.mark.parametrize("objective", ["natural", "adversarial", "ig-norm", "ig-sum-norm"])
def test_the_paper_recipe_moves_the_weights_as_the_authors_do_and_deviates_in_nothing(
    data: str, objective: str
) -> None:
    batch, optimiser, schedule, decay, rates, steps = OPTIMISERS[data]
    settings = resolved(data, objective=objective, recipe="paper")
    used = settings.optimise
    assert (used.batch_size, used.optimiser, used.schedule) == (batch, optimiser, schedule)
    robust = objective.startswith("ig")
    if robust or objective == "natural":
        assert (used.learning_rate, used.steps) == (rates[robust], steps[robust])
    assert (used.weight_decay, used.averaging) == (decay, 0.0)
    mean = data in ("gtsrb", "flowers17") and not robust
    assert used.reduction == ("mean" if mean else "sum")
    assert "losses of a batch" not in told(settings)
    balanced = ("warp", "classes") if "mnist" not in data else ("none", "none")
    assert (settings.augment, settings.balance) == balanced
    if "mnist" in data:
        assert (settings.train_examples, settings.validation) == (55_000, 5000)
        assert list_deviations(settings) == []


def told(settings: Settings) -> dict[str, tuple[Any, Any]]:
    return {entry["what"]: (entry["paper"], entry["used"]) for entry in list_deviations(settings)}


def test_what_differs_from_the_authors_images_is_said() -> None:
    plain = told(resolved("gtsrb", objective="ig-norm", recipe="paper"))
    assert set(plain) == {"warped images", "histogram"}
    assert plain["warped images"][0] == "made once, 10,000 images a class with the originals"
    equalised = told(resolved("gtsrb", objective="ig-norm", recipe="paper", equalise=True))
    assert equalised["histogram"] == ("equalised after warping", "equalised before it")
    left = resolved(
        "gtsrb", objective="ig-norm", recipe="paper", equalise=True, augment="none", balance="none"
    )
    assert told(left) == {"augment": ("warp", "none"), "balance": ("classes", "none")}
    flowers = told(resolved("flowers17", objective="ig-norm", recipe="paper"))
    assert flowers["training images"] == (1224, 1102)
    assert set(flowers) == {"warped images", "training images"}


def test_mirroring_is_refused_where_no_class_is_known_to_allow_it() -> None:
    assert resolved("gtsrb", objective="natural", augment="shift-rotate-flip").augment == "shift-rotate-flip"
    for data in ("mnist", "x.npz"):
        with pytest.raises(UsageError, match=r"shift-rotate-flip: no class of .* Take shift-rotate"):
            resolved(data, objective="natural", augment="shift-rotate-flip")
        assert resolved(data, objective="natural", augment="shift-rotate").augment == "shift-rotate"


def test_every_departure_of_the_fast_recipe_is_said() -> None:
    given: dict[str, Any] = {"inner_steps": 3, "inner_step_size": 0.05, "inner_score": "loss", "nodes": 1}
    found = told(resolved("fashion-mnist", objective="ig-sum-norm", bf16=True, batch_size=128, **given))
    assert found["inner_steps"] == (20, 3)
    assert found["inner_step_size"] == (0.01, 0.05)
    assert found["inner_score"] == ("size", "loss")
    assert found["nodes"] == (50, 1)
    assert found["batch_size"] == (50, 128)
    assert found["losses of a batch"] == ("their sum", "their mean")
    assert found["precision"][0] == "float32"
    assert not {"radius", "weight", "model", "data", "norm"} & set(found)


@pytest.mark.parametrize(
    ("given", "what", "difference"),
    [
        ({"radius": 0.2}, "radius", (0.1, 0.2)),
        ({"beta": 0.5}, "beta", (0.1, 0.5)),
        ({"norm": "l2"}, "norm", ("linf", "l2")),
        ({"beta_from": 0.5}, "beta_from", (0.0, 0.5)),
        ({"averaging": 0.99}, "weight averaging", ("none", "exponential, decay 0.99")),
        ({"learning_rate": 1e-3}, "learning_rate", (1e-4, 1e-3)),
        ({"train_examples": 500}, "training images", (55_000, 500)),
        ({"model": "mlp"}, "model", ("cnn", "mlp")),
        ({"inner_start": "warm"}, "inner_start", ("random", "warm")),
        ({"augment": "shift-rotate"}, "augment", ("none", "shift-rotate")),
        ({"balance": "classes"}, "balance", ("none", "classes")),
        (
            {"objective": "loss-change"},
            "objective",
            ("one of natural, adversarial, ig-norm, ig-sum-norm", "loss-change"),
        ),
    ],
)
def test_a_changed_option_is_the_only_deviation(
    given: dict[str, Any], what: str, difference: tuple[Any, Any]
) -> None:
    settings = resolved("fashion-mnist", **{"objective": "ig-sum-norm", "recipe": "paper", **given})
    assert told(settings) == {what: difference}


def test_other_data_take_the_row_of_like_images_and_say_so() -> None:
    for data, row in (
        ("mnist-5k", "mnist"),
        ("cifar10", "gtsrb"),
        ("x.npz", "fashion-mnist"),
        ("big", "flowers17"),
    ):
        settings = resolved(data, objective="ig-norm", recipe="paper")
        assert settings.robust is not None
        assert settings.robust.radius == BALLS[row][0]
        assert told(settings)["data"] == (row, data)


def test_steps_of_the_ascent_follow_the_radius() -> None:
    robust = resolved("fashion-mnist", objective="adversarial", radius=0.02).robust
    assert robust is not None
    wider = resolved("fashion-mnist", objective="adversarial", radius=0.04).robust
    assert wider is not None
    assert wider.inner_step_size == pytest.approx(2 * (robust.inner_step_size or 0.0))
    assert robust.inner_score is None  # the sum alone: there is nothing but the loss to climb


@pytest.mark.parametrize(("norm", "power"), [("linf", 1), ("l2", 2)])
def test_the_input_gradient_penalty_weighs_as_much_as_the_loss_may_change(norm: str, power: int) -> None:
    robust = resolved("fashion-mnist", objective="input-gradient", norm=norm).robust
    assert robust is not None
    assert robust.weight == pytest.approx(robust.ball_radius**power)
    chosen = resolved("fashion-mnist", objective="input-gradient", norm=norm, weight=3.0).robust
    assert chosen is not None
    assert chosen.weight == 3.0


def test_lengths_can_be_given_in_epochs_or_steps() -> None:
    settings = resolved("mnist-5k", epochs=2.5, batch_size=100, validation=400)
    assert (settings.steps_per_epoch, settings.optimise.steps, settings.epochs) == (36, 90, 2.5)
    assert resolved("mnist-5k", steps=7).optimise.steps == 7
    assert resolved("mnist-5k", steps=7, recipe="paper").optimise.steps == 7
    assert resolved("mnist", epochs=1.0, recipe="paper").optimise.steps == 1100
    with pytest.raises(UsageError, match="both"):
        resolved("mnist", epochs=1.0, steps=7)


def test_a_batch_is_never_larger_than_the_data() -> None:
    settings = resolved("mnist-5k", train_examples=30, batch_size=100, epochs=2.0)
    assert (settings.optimise.batch_size, settings.steps_per_epoch, settings.optimise.steps) == (30, 1, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"objective": "natural", "radius": 0.1}, "radius has no effect on the objective natural"),
        ({"objective": "adversarial", "beta": 0.1}, "beta has no effect"),
        ({"objective": "ig-norm", "beta": 0.1}, "beta has no effect"),
        ({"objective": "input-gradient", "nodes": 3}, "nodes has no effect"),
        ({"objective": "natural", "training_radius": 0.1}, "training_radius has no effect on .* natural"),
        ({"objective": "natural", "radius_warm_up": 0.5}, "radius_warm_up has no effect on .* natural"),
        ({"objective": "input-gradient", "radius_warm_up": 0.5}, "radius_warm_up has no effect"),
        ({"validation": 4000}, "validation"),
        ({"train_examples": 3601}, "train_examples: expected a number from 1 to 3600"),
    ],
)
def test_impossible_options_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolved("mnist-5k", **given)


@pytest.mark.parametrize("objective", ["natural", "ig-sum-norm"])
def test_settings_survive_being_written_down(objective: str) -> None:
    settings = resolved("mnist-5k", objective=objective)
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
