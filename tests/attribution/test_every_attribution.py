"""Every attribution of the registry: what an entry claims holds; outputs, records and other forms of call."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from captum.attr import Saliency
from torch import Tensor, nn
from torch.testing import assert_close

from veridical.attacks.attribution import attack
from veridical.attacks.ball import Linf
from veridical.attacks.directions import TopK
from veridical.attacks.protocols import protocol
from veridical.attribution.captum_adapter import CaptumAttribution
from veridical.attribution.classifier import all_finite
from veridical.attribution.method import Attribution, AttributionMethod, batch_maps
from veridical.attribution.methods import (
    ExpectedGradients,
    GradientTimesInput,
    InputGradient,
    IntegratedGradients,
    RandomAttribution,
    SmoothGrad,
)
from veridical.attribution.registry import (
    ATTRIBUTIONS,
    AttributionEntry,
    check_on_black,
    create_attribution,
    describe_attribution,
    find_attribution,
)
from veridical.data import Split
from veridical.runtime.errors import UsageError

from .conftest import BACKGROUND, TARGET, SmoothNet, images

# PyTorch's forward mode, which hidden layers need, warns about PyTorch's own use of torch.jit.script.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")


def _half_mirrored(inputs: Tensor) -> Tensor:
    return 0.5 * inputs.flip(3)


def _create(entry: AttributionEntry, seed: int = 0) -> Attribution:
    return entry.create(seed, BACKGROUND)


def _variant(name: str, **options: Any) -> AttributionEntry:
    """An entry with other options of its method, whose facts must hold as well."""
    entry = ATTRIBUTIONS.get(name)
    label = f"{name} {sorted(options)}"
    return replace(entry, name=label, options={**entry.options, **options})


ENTRIES = [
    *ATTRIBUTIONS.entries(),
    find_attribution("captum:Saliency"),
    _variant("gradient-x-input", output="log-probability"),
    _variant("smoothgrad", samples=5, rows=7),
    _variant("expected-gradients", samples=7, rows=7),
    _variant("expected-gradients", samples=3, output="log-probability"),
    _variant("integrated-gradients", nodes=6, rule="right"),
    _variant("integrated-gradients", nodes=5, baseline=0.3, output="loss", rows=7),
    _variant("integrated-gradients", nodes="auto", tolerance=1e-2),
    _variant("integrated-gradients", nodes=5, baseline=_half_mirrored),
    _variant("integrated-gradients", nodes=4, layer="first"),
]
every_entry = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
differentiable = pytest.mark.parametrize(
    "entry", [entry for entry in ENTRIES if entry.is_differentiable], ids=lambda entry: entry.name
)


@every_entry
def test_a_map_has_the_inputs_form_and_a_graph_where_it_is_asked_for(entry: AttributionEntry) -> None:
    method, model, inputs = _create(entry), SmoothNet(), images().requires_grad_()
    maps = method(model, inputs, TARGET)
    assert maps.shape == inputs.shape or "layer" in entry.name
    assert maps.dtype == inputs.dtype
    assert not maps.requires_grad
    assert torch.equal(method(model.eval(), inputs, TARGET), maps)
    assert method(model, inputs[:0], TARGET[:0]).shape == (0, 1, 4, 4)
    if entry.is_differentiable:
        graph = method(model, inputs, TARGET, create_graph=True)
        assert graph.requires_grad
        assert_close(graph.detach(), maps, rtol=1e-12, atol=1e-13)
    assert inputs.grad is None


@every_entry
def test_examples_do_not_influence_each_other_and_noise_follows_their_numbers(
    entry: AttributionEntry,
) -> None:
    method: Any = _create(entry)
    model, inputs = SmoothNet(), images()
    whole = method(model, inputs, TARGET)
    alone = [method(model, inputs[i : i + 1], TARGET[i : i + 1], indices=[i]) for i in range(3)]
    assert_close(torch.cat(alone), whole, rtol=1e-10, atol=1e-12)
    # Without indices the place in the call counts: only noise can tell.
    moved = torch.allclose(method(model, inputs[1:], TARGET[1:]), whole[1:])
    assert moved is not (entry.is_random and not entry.name.startswith("captum"))


@every_entry
def test_the_seed_matters_only_where_noise_is_drawn(entry: AttributionEntry) -> None:
    first, again, other = (_create(entry, seed)(SmoothNet(), images(), TARGET) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    if not entry.name.startswith("captum"):  # some of Captum's draw
        assert torch.allclose(first, other) is not entry.is_random


@every_entry
def test_the_map_is_zero_on_black_where_the_entry_says_that_it_multiplies(entry: AttributionEntry) -> None:
    inputs = images()
    inputs[:, :, 1] = 0
    maps = _create(entry)(SmoothNet(), inputs, TARGET)
    if entry.multiplies_by_input is None or {"baseline", "layer"} & entry.options.keys():
        return
    assert bool((maps[:, :, 1] == 0).all()) is entry.multiplies_by_input


def directional(
    value: Callable[[], Tensor], variables: list[Tensor], directions: list[Tensor], step: float = 1e-6
) -> Tensor:
    """Central difference of `value` along the directions; the variables are put back."""

    def moved(by: float) -> Tensor:
        with torch.no_grad():
            for variable, direction in zip(variables, directions, strict=True):
                variable.add_(direction, alpha=by)
        return value().detach()

    difference = moved(step) - moved(-2 * step)
    moved(step)
    return difference / (2 * step)


@differentiable
@pytest.mark.parametrize("which", ["weights", "inputs"])
def test_derivatives_of_maps_match_finite_differences(entry: AttributionEntry, which: str) -> None:
    method, model, inputs = _create(entry), SmoothNet(), images()
    generator = torch.Generator().manual_seed(1)
    variables: list[Tensor] = list(model.parameters()) if which == "weights" else [inputs.requires_grad_()]
    directions = [torch.randn(v.shape, generator=generator, dtype=v.dtype) for v in variables]

    def value() -> Tensor:
        maps = method(model, inputs, TARGET, create_graph=True)
        return (maps * torch.linspace(-1, 1, maps.numel(), dtype=maps.dtype).reshape(maps.shape)).sum()

    gradients = torch.autograd.grad(value(), variables, allow_unused=True, materialize_grads=True)
    exact = torch.stack([(g * d).sum() for g, d in zip(gradients, directions, strict=True)]).sum()
    assert float(exact.abs()) > 1e-3
    assert_close(exact, directional(value, variables, directions), rtol=1e-7, atol=1e-8)


@every_entry
def test_an_attack_climbs_what_can_be_differentiated_and_refuses_the_rest(entry: AttributionEntry) -> None:
    if "layer" in entry.options:
        pytest.skip("its maps are not images")

    def attacked() -> Any:
        plan = protocol("paper-fast", k=4, steps=2, step_size=0.05)
        options: Any = {"attack": TopK(4), "ball": Linf(0.1), "protocol": plan}
        return attack(SmoothNet(), images(), TARGET, attribution=_create(entry), **options)

    if entry.is_differentiable:
        assert attacked().perturbed_map.shape == images().shape
        return
    with pytest.raises(UsageError, match=r"cannot be (differentiated|climbed)"):
        attacked()


# ------------------------------------------------------------------------------------------------- the names


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("input-gradient", InputGradient("logit")),
        ("input-gradient-loss", InputGradient("loss")),
        ("gradient-x-input", GradientTimesInput()),
        ("integrated-gradients", IntegratedGradients(nodes=32)),
        ("smoothgrad", SmoothGrad(seed=6)),
        ("expected-gradients", ExpectedGradients(BACKGROUND, seed=6)),
        ("random", RandomAttribution(seed=6)),
    ],
)
def test_names_are_methods(name: str, method: AttributionMethod) -> None:
    made = create_attribution(name, seed=6, background=BACKGROUND)
    assert type(made) is type(method)
    assert describe_attribution(made) == describe_attribution(method)


def test_a_background_is_drawn_from_a_split_by_seed_and_recorded_by_its_digest() -> None:
    pixels = torch.arange(200, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(200, 1, 4, 4)
    split = Split(pixels, torch.arange(200) // 20)
    method, again, other = (
        create_attribution("expected-gradients", seed=seed, background=split) for seed in (3, 3, 4)
    )
    assert isinstance(method, ExpectedGradients)
    chosen = (method.baselines[:, 0, 0, 0] * 255).round().long().tolist()
    assert len(set(chosen)) == len(chosen) == 64
    assert len({number // 20 for number in chosen}) == 10  # of every class, though they are sorted
    records = [describe_attribution(one) for one in (method, again, other)]
    assert records[0] == records[1] != records[2]
    assert records[0]["baselines"]["shape"] == [64, 1, 4, 4]
    few: Any = create_attribution("expected-gradients", background=split.subset(range(7)))
    assert len(few.baselines) == 7
    # Those that need none look at none.
    assert create_attribution("smoothgrad", background=split) == SmoothGrad()
    with pytest.raises(UsageError, match=r"background: .*expected-gradients compares with.*Give background="):
        create_attribution("expected-gradients")


def test_names_for_black_grounds_follow_from_the_facts() -> None:
    for name in ("input-gradient", "input-gradient-loss", "smoothgrad", "expected-gradients"):
        check_on_black(name)
    for name in ("gradient-x-input", "integrated-gradients", "random", "captum:Saliency"):
        with pytest.raises(UsageError, match="zero on a black ground"):
            check_on_black(name)


def test_captums_saliency_is_the_absolute_input_gradient() -> None:
    method = create_attribution("captum:Saliency")
    assert isinstance(method, CaptumAttribution)
    expected = create_attribution("input-gradient")(SmoothNet(), images(), TARGET).abs()
    assert_close(method(SmoothNet(), images(), TARGET), expected)
    assert "Saliency" in str(describe_attribution(method))


@pytest.mark.parametrize("name", ["captum:NoSuchMethod", "captum:visualization", "gradient", ""])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="attribution: expected"):
        find_attribution(name)


OWN = """
import torch

seen = []

class Twice:
    def __call__(self, model, inputs, target=None, *, create_graph=False):
        seen.append((model.training, any(p.requires_grad for p in model.parameters()), target))
        return 2 * inputs + torch.rand(1)

twice = Twice()
def narrow(model, inputs, target=None, *, create_graph=False):
    return inputs[:, :, 1:]
"""


def test_foreign_code_runs_only_when_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_attributions.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="--trust-code"):
        create_attribution("own_attributions:twice")
    method, model = create_attribution("own_attributions:twice", trust_code=True), SmoothNet()
    state = torch.get_rng_state()
    found = batch_maps(method, model, images(), None, range(4, 7), 1)
    # Its own random number is the same again, and nobody else's generator moved.
    assert torch.equal(found, batch_maps(method, model, images(), None, range(4, 7), 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    import own_attributions  # type: ignore[import-not-found]

    assert own_attributions.seen[-1] == (False, False, None)
    record = describe_attribution(method)
    assert record["method"] == "own_attributions.Twice"
    assert len(record["source"]) == 64
    narrow: Attribution = create_attribution("own_attributions:narrow", trust_code=True)
    with pytest.raises(UsageError, match=r"shape \(3, 1, 3, 4\).* for inputs of shape \(3, 1, 4, 4\)"):
        batch_maps(narrow, model, images(), None, range(3), 0)


def test_the_docs_list_every_attribution_with_its_facts() -> None:
    page = Path(__file__).parents[2] / "docs" / "robust-attribution.md"
    listed = re.findall(
        r"^\| `([a-z-]+)` \| (.*) \| (.*) \| (.*) \| (.*) \|$", page.read_text(), re.MULTILINE
    )
    facts = [(e.multiplies_by_input, e.is_differentiable, e.is_random) for e in ATTRIBUTIONS.entries()]
    expected = [
        (e.name, e.summary, *("yes" if fact else "no" for fact in known))
        for e, known in zip(ATTRIBUTIONS.entries(), facts, strict=True)
    ]
    assert [row for row in listed if row[0] in ATTRIBUTIONS] == expected


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
        *(create_attribution(name, background=BACKGROUND) for name in ATTRIBUTIONS),
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
