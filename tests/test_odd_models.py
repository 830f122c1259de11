"""Every public function that takes a model, with models and callers that do odd things.

Each pair gives the right value, which is that of an ordinary model, or an error that says what to do; and
whatever the caller owns is afterwards as it was.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from veridical.attacks.ascent import pgd
from veridical.attacks.attribution import attack
from veridical.attacks.ball import L2, Linf
from veridical.attacks.directions import MassCentre, RandomSign, TopK
from veridical.attacks.protocols import protocol
from veridical.attacks.robustness import measure_robustness
from veridical.attribution import axioms
from veridical.attribution.captum_adapter import CaptumAttribution
from veridical.attribution.classifier import predict
from veridical.attribution.method import batch_maps, dataset_maps
from veridical.attribution.methods import (
    GradientTimesInput,
    InputGradient,
    IntegratedGradients,
    RandomAttribution,
)
from veridical.attribution.registry import ATTRIBUTIONS
from veridical.data import Split
from veridical.faithfulness.randomisation import find_stages, model_randomisation
from veridical.runtime.errors import UsageError
from veridical.runtime.seeds import stream
from veridical.training.objectives import Inner, Natural, Objective, RobustAttribution, RobustChange
from veridical.training.penalties import AttributionPenalty, ChangePenalty

Call = Callable[[nn.Module, Tensor, Tensor], Any]


# ------------------------------------------------------------------------------------------- the functions

PLAN = protocol("paper-fast", steps=2, k=5)
LINF = Linf(0.1)


def attacking(attribution: Any, direction: Any, plan: Any = PLAN) -> Call:
    def call(model: nn.Module, inputs: Tensor, target: Tensor) -> Any:
        result = attack(
            model, inputs, target, attribution=attribution, attack=direction, ball=LINF, protocol=plan
        )
        return result.inputs, result.kendall_tau, result.perturbed_map

    return call


def gradient(
    model: nn.Module, inputs: Tensor, target: Tensor | None = None, *, create_graph: bool = False
) -> Tensor:
    """A caller's own method, which calls the model as it is."""
    assert target is not None
    points = inputs if inputs.requires_grad else inputs.detach().requires_grad_()
    score = model(points.clone()).gather(1, target[:, None]).sum()
    return torch.autograd.grad(score, points, create_graph=create_graph)[0]


BACKGROUND = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(4))
CLIMBING: dict[str, Call] = {
    "pgd linf": lambda m, x, y: pgd(m, x, y, LINF, steps=2, start="origin"),
    "pgd l2, best": lambda m, x, y: pgd(m, x, y, L2(0.5), steps=2, start="origin", keep="best"),
    "attack top-k of IG": attacking(IntegratedGradients(4), TopK(5)),
    "attack centre of own": attacking(gradient, MassCentre()),
    "attack strong": attacking(InputGradient(), TopK(5), protocol("strong", steps=2, k=5)),
}
PREDICTING: dict[str, Call] = {
    "predict": lambda m, x, _: predict(m, x),
    "map of the predicted": lambda m, x, _: InputGradient()(m, x),
    "random map of the predicted": lambda m, x, _: RandomAttribution()(m, x),
    "attack without a goal": attacking(InputGradient(), RandomSign()),
}
MAPS: dict[str, Call] = {
    **{e.name: e.create(0, BACKGROUND) for e in ATTRIBUTIONS.entries() if e.explains is not None},
    "gradient x input, graph": lambda m, x, y: GradientTimesInput()(m, x, y, create_graph=True).detach(),
    "IG, auto": IntegratedGradients(max_nodes=512, tolerance=0.1),
    "IG, diagnostics": lambda m, x, y: IntegratedGradients(4).with_diagnostics(m, x, y).residual,
    "own method": lambda m, x, y: batch_maps(gradient, m, x, y, range(len(x)), 0),
    "Captum": CaptumAttribution(captum.attr.Saliency),
    "completeness": lambda m, x, y: axioms.completeness(IntegratedGradients(4), m, x, y),
    "stages": lambda m, x, _: len(find_stages(m, x)),
}


def split_of(inputs: Tensor, target: Tensor) -> Split:
    return Split((inputs * 255).round().byte(), target)


def robustness(model: nn.Module, inputs: Tensor, target: Tensor) -> Any:
    """With labels that the model gives, so that every image is attacked."""
    label = predict(model, split_of(inputs, target).batch(range(len(inputs)), inputs.dtype)[0]).argmax(1)
    result = measure_robustness(model, split_of(inputs, label), radius=0.1, steps=2, k=5, pgd_steps=2)
    names = ("kendall_tau", "adversarial_prediction")
    return tuple(torch.from_numpy(result.main.arrays[name]) for name in names)


def randomised(model: nn.Module, inputs: Tensor, target: Tensor) -> Any:
    *_, last = model_randomisation(model, split_of(inputs, target), InputGradient(), target=target)
    return last.maps


DATA: dict[str, Call] = {
    "maps of a data set": lambda m, x, y: dataset_maps(m, split_of(x, y), InputGradient()),
    "robustness": robustness,
    "randomised weights": randomised,
}
EVERY = {**CLIMBING, **PREDICTING, **MAPS, **DATA}
every_function = pytest.mark.parametrize("name", EVERY)


def training(objective: Objective) -> Call:
    """The losses, and the gradient that a step of training takes of them, in the model's parameters."""

    def call(model: nn.Module, inputs: Tensor, target: Tensor) -> Any:
        value = objective(model, inputs, target, stream(0, "objective"))
        learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
        slopes = torch.autograd.grad(value.loss.sum(), learnt)
        return value.loss.detach(), *slopes

    return call


INNER = Inner(steps=2, step_size=0.05, start="random")
OBJECTIVES: dict[str, Call] = {
    "natural": training(Natural()),
    "adversarial": training(RobustAttribution(AttributionPenalty(sum_weight=1.0), LINF, inner=INNER)),
    "IG-NORM": training(RobustAttribution(AttributionPenalty(l1=1.0), LINF, inner=INNER)),
    "IG-SUM-NORM": training(
        RobustAttribution(AttributionPenalty(sum_weight=1.0, l1=0.5), L2(0.5), inner=INNER)
    ),
    "loss-change": training(RobustAttribution(AttributionPenalty(absolute_sum=1.0), LINF, inner=INNER)),
    "trades": training(RobustChange(ChangePenalty("kl"), LINF, inner=INNER)),
    "far": training(RobustChange(ChangePenalty("pearson"), L2(0.5), inner=INNER)),
    "r2et": training(RobustChange(ChangePenalty("thickness", topk=5), LINF, inner=INNER)),
}


# ---------------------------------------------------------------------------------------------- the models


class Plain(nn.Module):
    """Images (N, 1, 6, 6) to 3 logits; `before` and `after` are what an odd model does."""

    def __init__(
        self,
        after: Callable[[Tensor], Any] = lambda logits: logits,
        before: Callable[[Tensor], Tensor] = lambda inputs: inputs,
        classes: int = 3,
    ) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.drop, self.last = nn.Dropout(), nn.Linear(64, classes)
        self.before, self.after = before, after
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator))
        self.double().eval()

    def hidden(self, inputs: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(self.before(inputs))))

    def forward(self, inputs: Tensor) -> Any:
        return self.after(self.last(self.drop(self.hidden(inputs).flatten(1))))


class Overwriting(Plain):
    """What its layers return is written over, as by `out += identity` and `ReLU(inplace=True)`."""

    def hidden(self, inputs: Tensor) -> Tensor:
        hidden = self.norm(self.conv(inputs))
        hidden += 0
        return F.relu(hidden, inplace=True)


class Attention(Plain):
    """Fused attention, which has no second derivative, before the last layer."""

    def hidden(self, inputs: Tensor) -> Tensor:
        tokens = super().hidden(inputs).flatten(2)
        return F.scaled_dot_product_attention(tokens, tokens, tokens)


class WrittenOut(Plain):
    """The same attention by products and a softmax."""

    def hidden(self, inputs: Tensor) -> Tensor:
        tokens = super().hidden(inputs).flatten(2)
        return torch.softmax(tokens @ tokens.transpose(1, 2) / tokens.shape[2] ** 0.5, 2) @ tokens


def _mixed(model: Plain) -> nn.Module:
    """In train mode, but for one layer; one parameter is frozen."""
    model.train()
    model.norm.eval()
    model.last.bias.requires_grad_(False)
    return model


def _hooked(model: nn.Module) -> nn.Module:
    model.register_forward_hook(lambda *_: None)
    model.get_submodule("conv").register_full_backward_hook(lambda *_: None)
    return model


RIGHT: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "in train mode": (lambda: Plain().train(), Plain),
    "with frozen parameters": (lambda: Plain().requires_grad_(False), Plain),
    "with modes of its own": (lambda: _mixed(Plain()), Plain),
    "with hooks": (lambda: _hooked(Plain()), Plain),
    "in DataParallel": (lambda: nn.DataParallel(Plain()), Plain),
    "compiled": (lambda: torch.compile(Plain(), backend="eager"), Plain),
    "writing into its input": (
        lambda: Plain(before=lambda inputs: inputs.sub_(0.5).div_(0.25)),
        lambda: Plain(before=lambda inputs: (inputs - 0.5) / 0.25),
    ),
    "writing over activations": (Overwriting, Plain),
    "with fused attention": (Attention, WrittenOut),
    "giving log-probabilities": (
        lambda: Plain(lambda logits: torch.log_softmax(logits, 1)),
        lambda: Plain(lambda logits: logits - logits.logsumexp(1, keepdim=True)),
    ),
}


TRAINED = {"in train mode", "with frozen parameters", "with modes of its own"}
"""What a step of training looks at, so that its objectives differ."""

REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a tuple": (lambda: Plain(lambda logits: (logits, logits)), "returned a tuple.*logits alone"),
    "a dict": (lambda: Plain(lambda logits: {"out": logits}), "returned a dict of out"),
    "an object with logits": (
        lambda: Plain(lambda logits: SimpleNamespace(logits=logits)),
        "returned a SimpleNamespace.*logits alone",
    ),
    "one number per image": (lambda: Plain(lambda logits: logits[:, 0]), r"returned shape \(\d+,\)"),
    "a map of logits": (lambda: Plain(lambda logits: logits[:, :, None]), r"returned shape \(\d+, 3, 1\)"),
    "half of the rows": (lambda: Plain(lambda logits: logits[:1]), r"returned shape \(1, 3\)"),
    "classes": (lambda: Plain(lambda logits: logits.argmax(1)[:, None]), "int64"),
    "NaN": (lambda: Plain(lambda logits: logits * torch.nan), r"NaN or infinite for (\d+) of \1"),
    "infinity for one": (
        lambda: Plain(lambda logits: torch.where(torch.arange(len(logits))[:, None] == 1, torch.inf, logits)),
        r"NaN or infinite for 1 of \d+",
    ),
}
"""By what the model returns: how to make it, and what every function says."""


# --------------------------------------------------------------------------------- what a call may not change


def images(count: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return (0.1 + 0.8 * torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(3))).to(dtype)


TARGET = torch.tensor([2, 0, 1])


def _state(model: nn.Module) -> tuple[Any, ...]:
    return (
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [parameter.grad for parameter in model.parameters()],
        [len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules()],
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        random.getstate(),
        np.random.get_state()[1].tolist(),  # type: ignore[index]
        torch.get_rng_state().tolist(),
        torch.get_num_threads(),
    )


@contextmanager
def unchanged(model: nn.Module, inputs: Tensor, target: Tensor) -> Iterator[None]:
    before, weights = _state(model), {name: value.clone() for name, value in model.state_dict().items()}
    pixels, classes = inputs.clone(), target.clone()
    yield
    assert _state(model) == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(inputs, pixels)
    assert torch.equal(target, classes)
    assert not inputs.requires_grad


def outcome(name: str, model: nn.Module, inputs: Tensor, target: Tensor) -> Any:
    with unchanged(model, inputs, target):
        return EVERY[name](model, inputs, target)


pytestmark = pytest.mark.filterwarnings("ignore:the model's attention is computed by:UserWarning")


# ------------------------------------------------------------------------------------------------- the tests


@every_function
@pytest.mark.parametrize("odd", RIGHT)
def test_odd_models_give_what_plain_ones_give(odd: str, name: str) -> None:
    strange, plain = RIGHT[odd]
    if odd == "in DataParallel" and name == "stages":
        pytest.skip("its layers have other names")
    found = outcome(name, strange(), images(), TARGET)
    assert_close(found, outcome(name, plain(), images(), TARGET), rtol=1e-7, atol=1e-9)


@every_function
@pytest.mark.parametrize("odd", REFUSED)
def test_other_outputs_are_refused_by_name(odd: str, name: str) -> None:
    make, message = REFUSED[odd]
    if name == "own method":
        pytest.skip("it calls the model itself")
    model, inputs = make(), images()
    with unchanged(model, inputs, TARGET), pytest.raises(UsageError, match=message):
        EVERY[name](model, inputs, TARGET)


@every_function
def test_a_squeezed_lone_image_is_refused(name: str) -> None:
    model = Plain(torch.squeeze)
    if name == "own method":
        pytest.skip("it calls the model itself")
    if name in (
        "smoothgrad",
        "expected-gradients",
        "integrated-gradients",
    ):  # which call it with several rows at once
        plain = outcome(name, Plain(), images(1), TARGET[:1])
        assert_close(outcome(name, model, images(1), TARGET[:1]), plain)
        return
    with pytest.raises(UsageError, match=r"returned shape \(3,\).*squeeze"):
        outcome(name, model, images(1), TARGET[:1])


@pytest.mark.parametrize("name", [*CLIMBING, *PREDICTING, "input-gradient-loss"])
def test_models_of_one_logit_are_refused_where_a_class_is_predicted(name: str) -> None:
    model, inputs, target = Plain(classes=1), images(), torch.zeros(3, dtype=torch.int64)
    with unchanged(model, inputs, target), pytest.raises(UsageError, match="one logit"):
        EVERY[name](model, inputs, target)


@pytest.mark.parametrize("name", CLIMBING)
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_probabilities_are_not_climbed(name: str, scale: float) -> None:
    with pytest.raises(UsageError, match=r"probabilities.*softmax"):
        outcome(name, Plain(lambda logits: torch.softmax(scale * logits, 1)), images(), TARGET)


@pytest.mark.parametrize("name", [*CLIMBING, *MAPS])
def test_targets_beyond_the_logits_are_refused(name: str) -> None:
    if name in ("own method", "stages"):
        pytest.skip("it looks at no target")
    with pytest.raises(UsageError, match="3 logits"):
        outcome(name, Plain(), images(), torch.tensor([0, 1, 3]))


@every_function
def test_models_that_draw_random_numbers_leave_the_generators_alone(name: str) -> None:
    model = Plain(before=lambda inputs: F.dropout(inputs, 0.2, True))
    if name == "IG, auto":
        pytest.skip("no path through noise converges, and it says so")
    outcome(name, model, images(), TARGET)


AROUND: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "nothing": nullcontext,
}


@every_function
@pytest.mark.parametrize("around", AROUND)
def test_what_is_around_a_call_does_not_matter(name: str, around: str) -> None:
    expected = outcome(name, Plain().float(), images(dtype=torch.float32), TARGET)
    model = Plain().float()
    with AROUND[around]():
        found = outcome(name, model, images(dtype=torch.float32), TARGET.clone())
    assert_close(found, expected, rtol=0, atol=0)


def test_models_made_in_inference_mode_are_refused() -> None:
    with torch.inference_mode():
        model = Plain()
    for name in (*CLIMBING, *PREDICTING):
        with pytest.raises(UsageError, match=r"made under torch.inference_mode"):
            EVERY[name](model, images(), TARGET)


@every_function
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_results_have_the_precision_of_the_model(name: str, dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16 and (
        name.startswith("attack") or name in ("robustness", "randomised weights")
    ):
        with pytest.raises(UsageError, match="float32 or float64 maps"):
            outcome(name, Plain().to(dtype), images(dtype=dtype), TARGET)
        return
    found = outcome(name, Plain().to(dtype), images(dtype=dtype), TARGET)
    for part in found if isinstance(found, tuple) else (found,):
        if isinstance(part, Tensor) and part.is_floating_point():
            assert part.dtype in (dtype, torch.float64)
            assert bool(part.isfinite().all())


@every_function
def test_inputs_of_another_dtype_are_named(name: str) -> None:
    if name == "own method" or name in DATA:
        pytest.skip("it calls the model itself, or makes its inputs")
    with pytest.raises(UsageError, match=r"parameters are torch.float32 and the inputs torch.float64"):
        outcome(name, Plain().float(), images(), TARGET)


@every_function
@pytest.mark.parametrize("given", [np.zeros((3, 1, 6, 6)), [[0.0]], images().mul(255).byte()], ids=type)
def test_inputs_that_are_no_tensors_of_numbers_are_named(name: str, given: Any) -> None:
    if name in ("own method", "stages", *DATA):
        pytest.skip("internal: its inputs come from a data set")
    with pytest.raises(UsageError, match=r"inputs: expected"):
        EVERY[name](Plain(), given, TARGET)


@every_function
def test_what_is_no_module_is_named(name: str) -> None:
    if name == "stages":
        pytest.skip("internal: it walks the modules first")
    with pytest.raises(UsageError, match=r"model: expected an nn.Module"):
        EVERY[name](lambda inputs: inputs.flatten(1), images(), TARGET)  # type: ignore[arg-type]


@every_function
def test_examples_are_independent_of_their_number(name: str) -> None:
    """A batch of one gives the row of the whole; one of none gives nothing."""
    if name == "stages":
        pytest.skip("no rows")
    whole = outcome(name, Plain(), images(), TARGET)
    one = outcome(name, Plain(), images()[:1], TARGET[:1])
    for all_rows, row in zip(*((part if isinstance(part, tuple) else (part,)) for part in (whole, one))):
        assert_close(row, all_rows[:1], rtol=1e-9, atol=1e-12)
    if name in ("completeness", "IG, diagnostics", "robustness"):
        with pytest.raises(UsageError, match=r"at least one example|from 1 to 0"):
            outcome(name, Plain(), images()[:0], TARGET[:0])
        return
    none = outcome(name, Plain(), images()[:0], TARGET[:0])
    for part in none if isinstance(none, tuple) else (none,):
        assert len(part) == 0


@every_function
def test_infinite_derivatives_are_no_explanation(name: str) -> None:
    """A black pixel under a square root: the logits are finite, their gradient is not."""
    inputs = images()
    inputs[1, 0, 2, 2] = 0
    model = Plain(before=torch.sqrt)
    if name in ("stages", "predict", "random map of the predicted"):
        outcome(name, model, inputs, TARGET)
        return
    # The sign of an infinite derivative is a direction; on the way from a brighter image none is infinite.
    if name in ("pgd linf", "expected-gradients"):
        assert bool(outcome(name, model, inputs, TARGET).isfinite().all())
        return
    with pytest.raises(UsageError, match="NaN or infinite"):
        outcome(name, model, inputs, TARGET)


# Words of torch itself: of its compiler, and of a hook on a layer whose inputs need no gradient.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("odd", sorted(RIGHT.keys() - TRAINED))
def test_objectives_of_odd_models_are_those_of_plain_ones(odd: str, name: str) -> None:
    found = []
    for make in RIGHT[odd]:
        model, inputs = make(), images()
        with unchanged(model, inputs, TARGET):
            found.append(OBJECTIVES[name](model, inputs, TARGET))
    assert_close(*found, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("odd", sorted(REFUSED.keys() - {"NaN", "infinity for one"}))
def test_objectives_refuse_other_outputs(odd: str, name: str) -> None:
    make, message = REFUSED[odd]
    model, inputs = make(), images()
    message = message.replace(r"\(3", r"\((3|6)")  # both ends of a change go through the model at once
    with unchanged(model, inputs, TARGET), pytest.raises(UsageError, match=message):
        OBJECTIVES[name](model, inputs, TARGET)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_refuse_one_logit_and_classes_beyond_the_logits(name: str) -> None:
    with pytest.raises(UsageError, match="one logit"):
        OBJECTIVES[name](Plain(classes=1), images(), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(UsageError, match="3 logits"):
        OBJECTIVES[name](Plain(), images(), torch.tensor([0, 1, 3]))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_do_not_climb_probabilities(name: str) -> None:
    model = Plain(lambda logits: torch.softmax(logits, 1))
    if name == "natural":
        OBJECTIVES[name](model, images(), TARGET)
        return
    with pytest.raises(UsageError, match="probabilities"):
        OBJECTIVES[name](model, images(), TARGET)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_report_losses_that_are_not_finite(name: str) -> None:
    """The loop that trains names the images; nothing is refused before."""
    loss, *_ = OBJECTIVES[name](Plain(lambda logits: logits * torch.nan), images(), TARGET)
    assert bool(loss.isnan().all())


def _own(change: Callable[[Tensor], Any]) -> Any:
    """A caller's own method, whose map is made of the inputs alone."""

    def method(_model: nn.Module, inputs: Tensor, _target: Tensor, *, create_graph: bool = False) -> Any:
        return change(inputs if create_graph else inputs.detach())

    return method


@pytest.mark.parametrize(
    ("attribution", "message"),
    [
        ("ig", "a method such as"),
        (lambda _model, inputs, _target: inputs, "create_graph="),
        (_own(torch.detach), "no graph"),
        (RandomAttribution(), "no graph"),
        (_own(lambda inputs: inputs[..., :5]), r"gave shape \(3, 1, 6, 5\)"),
        (_own(lambda inputs: inputs * torch.nan), "NaN or infinite for 3"),
        (_own(lambda inputs: inputs.detach().numpy()), "a ndarray"),
    ],
)
def test_attributions_that_cannot_be_attacked_are_refused(attribution: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        attacking(attribution, TopK(5))(Plain(), images(), TARGET)


def test_scripted_models_can_be_explained_but_not_smoothed() -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    with pytest.warns((DeprecationWarning, FutureWarning)):
        scripted = torch.jit.trace(plain, images())
    maps = IntegratedGradients(4)
    assert_close(maps(scripted, images(), TARGET), maps(plain, images(), TARGET))
    with pytest.raises(UsageError, match="TorchScript"):
        attacking(InputGradient(), TopK(5))(scripted, images(), TARGET)
    with pytest.raises(UsageError, match="scripted or traced"):
        randomised(scripted, images(), TARGET)
