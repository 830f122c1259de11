"""What a call must leave as it was, which arguments it refuses, and the Captum-style form of call."""

from typing import Any

import pytest
import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from captum.attr import Saliency
from torch import Tensor, nn
from torch.testing import assert_close

from veridical.attribution.captum_adapter import CaptumAttribution
from veridical.attribution.classifier import all_finite
from veridical.attribution.integrated_gradients import IntegratedGradients
from veridical.attribution.method import AttributionMethod
from veridical.attribution.methods import (
    GradientTimesInput,
    InputGradient,
    RandomAttribution,
    SmoothGrad,
)
from veridical.runtime.errors import UsageError

# PyTorch's forward mode, which hidden layers need, warns about PyTorch's own use of torch.jit.script.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")

METHODS: list[AttributionMethod] = [
    InputGradient(),
    GradientTimesInput(output="loss"),
    SmoothGrad(samples=3),
    IntegratedGradients(4),
    IntegratedGradients(),
    IntegratedGradients(4, layer="0"),
    RandomAttribution(),
    CaptumAttribution(Saliency),
]
every_method = pytest.mark.parametrize("method", METHODS, ids=str)


def network() -> nn.Sequential:
    """Batch norm and dropout, so that train mode would show."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.Softplus(),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(12, 3),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.double()


def images() -> Tensor:
    return torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


TARGET = torch.tensor([2, 0, 1])


def differentiable(method: AttributionMethod) -> bool:
    return not isinstance(method, CaptumAttribution)


@every_method
@pytest.mark.parametrize("create_graph", [False, True])
def test_the_callers_model_tensors_and_generators_stay_as_they_were(
    method: AttributionMethod, create_graph: bool
) -> None:
    if create_graph and not differentiable(method):
        pytest.skip("Captum's maps cannot be differentiated")
    model, inputs, target = network(), images(), TARGET.clone()
    model[1].eval()  # frozen by itself: must still be so afterwards, and the others in train mode
    model[5].bias.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    rng, grad_mode = torch.get_rng_state(), torch.is_grad_enabled()
    method(model, inputs, target, create_graph=create_graph)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.is_grad_enabled() == grad_mode
    assert torch.equal(inputs, images())
    assert not inputs.requires_grad
    assert inputs.grad is None
    assert torch.equal(target, TARGET)
    assert not any(module._forward_hooks for module in model.modules())


@every_method
def test_an_exception_leaves_everything_as_it_was_too(method: AttributionMethod) -> None:
    model = network()
    rng = torch.get_rng_state()
    # Random maps fail in the prediction, for a wrong shape; the others because there is no class 3.
    random = isinstance(method, RandomAttribution)
    arguments = (images()[:, :, :2], None) if random else (images(), torch.tensor([2, 0, 3]))
    with pytest.raises((RuntimeError, IndexError, AssertionError, UsageError)):
        method(model, *arguments)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), rng)
    assert not any(module._forward_hooks for module in model.modules())


@every_method
def test_maps_are_those_of_eval_mode_whatever_the_mode(method: AttributionMethod) -> None:
    model, inputs = network(), images()
    training = method(model, inputs, TARGET)
    assert_close(training, method(model.eval(), inputs, TARGET), rtol=0, atol=0)


@every_method
def test_no_grad_and_inference_mode_make_no_difference(method: AttributionMethod) -> None:
    model = network()
    expected = method(model, images(), TARGET)
    with torch.no_grad():
        assert_close(method(model, images(), TARGET), expected, rtol=0, atol=0)
        if differentiable(method) and not isinstance(method, RandomAttribution):
            assert method(model, images(), TARGET, create_graph=True).requires_grad
    with torch.inference_mode():
        inputs, target = images(), TARGET.clone()
        found = method(model, inputs, target)
        assert torch.is_inference_mode_enabled()
    assert_close(found, expected, rtol=0, atol=0)
    assert not found.is_inference()


@every_method
def test_examples_do_not_influence_each_other(method: AttributionMethod) -> None:
    model, inputs = network(), images()
    whole = method(model, inputs, TARGET)
    alone = [method(model, inputs[i : i + 1], TARGET[i : i + 1], indices=[i]) for i in range(3)]
    assert_close(torch.cat(alone), whole, rtol=1e-10, atol=1e-12)


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_maps_dtype_is_the_inputs(method: AttributionMethod, dtype: torch.dtype) -> None:
    assert method(network().to(dtype), images().to(dtype), TARGET).dtype == dtype


@every_method
def test_an_empty_batch_gives_an_empty_map(method: AttributionMethod) -> None:
    assert method(network(), images()[:0], TARGET[:0]).shape == (0, 1, 4, 4)


@every_method
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": lambda x: x}, r"model: expected an nn\.Module"),
        ({"inputs": torch.zeros(3, 1, 4, 4, dtype=torch.uint8)}, "floating-point inputs .* Divide bytes"),
        ({"inputs": torch.zeros(3)}, "inputs: expected floating-point"),
        ({"target": torch.tensor([0, 1])}, r"target: expected \(3,\) integers"),
        ({"target": torch.zeros(3)}, r"target: expected \(3,\) integers"),
        ({"target": torch.tensor([0, -1, 1])}, "classes of at least 0"),
        ({"indices": [0, 1]}, "indices: expected 3 integers"),
        ({"indices": [0.5, 1.0, 2.0]}, "indices: expected 3 integers"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    method: AttributionMethod, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        method(**{"model": network(), "inputs": images(), "target": TARGET, **arguments})


def test_models_and_outputs_of_the_wrong_form_are_named() -> None:
    with pytest.raises(
        UsageError, match=r"the model returned shape \(3, 1, 4, 4\) and dtype torch.float64 for 3 inputs"
    ):
        InputGradient()(nn.Identity(), images())

    class Cut(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.detach().flatten(1)

    with pytest.raises(UsageError, match="does not depend on its inputs"):
        InputGradient()(Cut(), images(), 0)
    with pytest.raises(UsageError, match="the scalar returned shape"):
        InputGradient(output=lambda logits, _: logits)(network(), images(), 0)


def test_bound_methods_answer_captums_call() -> None:
    model, inputs, baseline = network().eval(), images(), images().flip(0)
    bound = IntegratedGradients(5).bind(model)
    ours, delta = bound.attribute(inputs, baseline, target=TARGET, n_steps=20, return_convergence_delta=True)
    theirs, their_delta = CaptumIntegratedGradients(model).attribute(
        inputs, baseline, target=TARGET, n_steps=20, return_convergence_delta=True
    )
    assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
    assert_close(delta, their_delta, rtol=0, atol=1e-6)
    assert_close(bound.attribute(inputs, target=1), IntegratedGradients(5)(model, inputs, 1))
    assert_close(bound(inputs, 1, create_graph=True).detach(), bound(inputs, 1))


def test_bound_methods_refuse_what_the_method_cannot_use() -> None:
    bound = InputGradient().bind(network())
    for argument in ({"baselines": 0.0}, {"n_steps": 3}, {"return_convergence_delta": True}):
        with pytest.raises(UsageError, match=f"InputGradient has no use for {next(iter(argument))}"):
            bound.attribute(images(), **argument)


def test_descriptions_are_plain_values() -> None:
    import json

    for method in [
        *METHODS,
        IntegratedGradients(3, baseline=torch.zeros(2)),
        InputGradient(output=nn.functional.nll_loss),
    ]:
        described = json.loads(json.dumps(method.describe()))
        assert described["method"] == type(method).__name__
    zero, one = (IntegratedGradients(3, baseline=torch.tensor(v)).describe() for v in (0.0, 1.0))
    assert zero["baseline"]["sha256"] != one["baseline"]["sha256"]
    assert SmoothGrad(samples=3, noise=0.5).describe() == {
        "method": "SmoothGrad",
        "samples": 3,
        "noise": 0.5,
        "seed": 0,
        "output": "logit",
        "rows": 512,
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_what_is_finite_is_told_by_each_value_and_not_by_their_sum(dtype: torch.dtype) -> None:
    most = torch.finfo(dtype).max
    for values, finite in (
        ([[most, most], [most, 1.0]], True),
        ([[-most, -most], [most, -most]], True),
        ([[torch.inf, -torch.inf]], False),
        ([[torch.nan, 1.0]], False),
        ([[1.0, -torch.inf]], False),
        ([[]], True),
    ):
        assert all_finite(torch.tensor(values, dtype=dtype)) is finite
