"""Outputs that are refused, records of methods, and the Captum-style form of call."""

import pytest
import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from captum.attr import Saliency
from torch import Tensor, nn
from torch.testing import assert_close

from veridical.attribution.captum_adapter import CaptumAttribution
from veridical.attribution.classifier import all_finite
from veridical.attribution.methods import InputGradient, IntegratedGradients, SmoothGrad
from veridical.attribution.registry import ATTRIBUTIONS, create_attribution, describe_attribution
from veridical.runtime.errors import UsageError

from .conftest import TARGET, SmoothNet, images


def test_models_and_outputs_of_the_wrong_form_are_named() -> None:
    class Cut(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.detach().flatten(1)

    with pytest.raises(UsageError, match="does not depend on its inputs"):
        InputGradient()(Cut(), images(), 0)
    with pytest.raises(UsageError, match="the scalar returned shape"):
        InputGradient(output=lambda logits, _: logits)(SmoothNet(), images(), 0)


def test_bound_methods_answer_captums_call() -> None:
    model, inputs, baseline = SmoothNet().eval(), images(), images().flip(0)
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
    bound = InputGradient().bind(SmoothNet())
    for argument in ({"baselines": 0.0}, {"n_steps": 3}, {"return_convergence_delta": True}):
        with pytest.raises(UsageError, match=f"InputGradient has no use for {next(iter(argument))}"):
            bound.attribute(images(), **argument)


def test_descriptions_are_plain_values() -> None:
    import json

    for method in [
        *(create_attribution(name) for name in ATTRIBUTIONS),
        CaptumAttribution(Saliency),
        IntegratedGradients(3, baseline=torch.zeros(2)),
        InputGradient(output=nn.functional.nll_loss),
    ]:
        described = json.loads(json.dumps(describe_attribution(method)))
        assert described["method"] == type(method).__name__
    zero, one = (IntegratedGradients(3, baseline=torch.tensor(v)).describe() for v in (0.0, 1.0))
    assert zero["baseline"]["sha256"] != one["baseline"]["sha256"]
    options = {"samples": 3, "noise": 0.5, "seed": 0, "output": "logit", "rows": 512}
    assert SmoothGrad(samples=3, noise=0.5).describe() == {"method": "SmoothGrad", **options}
    assert IntegratedGradients(5).describe() == IntegratedGradients(5, rows=512).describe()


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
