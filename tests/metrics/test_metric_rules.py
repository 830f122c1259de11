"""What holds for every metric, in one table: invariances, batch splits, purity, dtypes, errors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import Tensor

from veridical import metrics
from veridical.metrics import (
    kendall_tau,
    mass_centre_shift,
    max_sensitivity,
    spearman,
    ssim,
    topk_intersection,
    windowed_topk_intersection,
)
from veridical.runtime.errors import UsageError


@dataclass(frozen=True)
class Case:
    """A metric of two batches of maps, and which rearrangements of the pixels of both may not change it."""

    name: str
    metric: Callable[[Tensor, Tensor], Tensor]
    pixels: Literal["any", "grid"]
    symmetric: bool = True
    identical: float = 1.0


def sensitivity_of_two_maps(a: Tensor, b: Tensor) -> Tensor:
    """Max-sensitivity of an explanation that is a for the clean inputs and b for all others."""
    calls: list[Tensor] = []

    def attribute(inputs: Tensor) -> Tensor:
        calls.append(inputs)
        return a if len(calls) == 1 else b

    return max_sensitivity(attribute, torch.zeros(len(a), 1), 0.1, 2)


CASES = [
    Case("kendall_tau", kendall_tau, "any"),
    Case("spearman", spearman, "any"),
    Case("topk_intersection", lambda a, b: topk_intersection(a, b, 10), "any"),
    Case("topk_intersection expected", lambda a, b: topk_intersection(a, b, 10, order="expected"), "any"),
    Case("windowed_topk_intersection", lambda a, b: windowed_topk_intersection(a, b, 10, 1), "grid"),
    Case(
        "windowed_topk_intersection recall",
        lambda a, b: windowed_topk_intersection(a, b, 10, 2, direction="recall"),
        "grid",
        symmetric=False,
    ),
    Case("mass_centre_shift", mass_centre_shift, "grid", identical=0.0),
    Case("ssim", lambda a, b: ssim(a, b, data_range=2.0, window=5), "grid"),
    Case("max_sensitivity", sensitivity_of_two_maps, "any", symmetric=False, identical=0.0),
]
CHECKED = [case for case in CASES if case.name != "max_sensitivity"]
every_metric = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
# The range of the values is an argument of SSIM.
every_metric_of_order = pytest.mark.parametrize(
    "case", [case for case in CASES if case.name != "ssim"], ids=lambda case: case.name
)
every_metric_of_two_maps = pytest.mark.parametrize("case", CHECKED, ids=lambda case: case.name)


def pair(ties: bool = False, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Two batches (7, 6, 8) of non-negative maps, related but different."""
    generator = torch.Generator().manual_seed(11)
    a = torch.rand(7, 6, 8, generator=generator, dtype=dtype)
    b = a + torch.rand(7, 6, 8, generator=generator, dtype=dtype)
    if ties:
        a, b = (a * 4).floor(), (b * 4).floor()
    return a, b


def assert_same(result: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


def test_the_table_has_every_metric() -> None:
    elsewhere = {"Interval", "mean_interval", "proportion_interval", "mass_centre", "topk_mask"}
    # A map and a region, in test_localisation; two maps and a region, in test_leakage_metrics.
    elsewhere |= {
        "topk_curve",
        "topk_share",
        "mass_share",
        "pointing_game",
        "auc",
        "area_share",
        "zero_share",
    }
    elsewhere |= {"left_behind", "cosine_within"}
    assert {case.name.split()[0] for case in CASES} == set(metrics.__all__) - elsewhere


@every_metric
def test_result_is_one_float64_per_example(case: Case) -> None:
    result = case.metric(*pair())
    assert result.shape == (7,)
    assert result.dtype == torch.float64
    assert len(set(result.tolist())) > 1


@every_metric
def test_identical_maps_agree_fully(case: Case) -> None:
    a, _ = pair()
    assert_same(case.metric(a, a), torch.full((7,), case.identical, dtype=torch.float64))


@every_metric
def test_permuted_pixels_change_nothing(case: Case) -> None:
    a, b = pair()
    expected = case.metric(a, b)
    if case.pixels == "any":
        order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
        assert_same(case.metric(a.flatten(1)[:, order], b.flatten(1)[:, order]), expected)
    else:
        assert_same(case.metric(a.flip(1), b.flip(1)), expected)
        assert_same(case.metric(a.flip(2), b.flip(2)), expected)
        assert_same(case.metric(a.mT, b.mT), expected)


@every_metric_of_order
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("scale", [2.0**-40, 3.0, 1e6])
def test_positive_scale_changes_nothing(case: Case, ties: bool, scale: float) -> None:
    a, b = pair(ties)
    assert_same(case.metric(a * scale, b * scale), case.metric(a, b))
    if case.name != "max_sensitivity":  # whose two maps come from one explanation
        assert_same(case.metric(a * scale, b), case.metric(a, b))


@every_metric
def test_order_of_the_examples_does_not_show(case: Case) -> None:
    a, b = pair(ties=True)
    assert_same(case.metric(a.flip(0), b.flip(0)), case.metric(a, b).flip(0))


@every_metric
@pytest.mark.parametrize("ties", [False, True])
def test_batch_split_changes_nothing(case: Case, ties: bool) -> None:
    a, b = pair(ties)
    parts = [case.metric(a[part], b[part]) for part in (slice(0, 1), slice(1, 5), slice(5, 7))]
    assert torch.equal(torch.cat(parts), case.metric(a, b))


@every_metric
def test_symmetry_in_the_two_maps_is_as_documented(case: Case) -> None:
    a, b = pair()
    if case.symmetric:
        assert_same(case.metric(b, a), case.metric(a, b))
    else:
        assert not torch.allclose(case.metric(b, a), case.metric(a, b))


@every_metric
def test_maps_are_not_changed_and_need_no_copy(case: Case) -> None:
    a, b = pair(ties=True)
    before = a.clone(), b.clone()
    rng = torch.get_rng_state()
    # Views with strides of their own, as channels_last gives them.
    expected = case.metric(a, b)
    strided = case.metric(a.mT.contiguous().mT, b)
    assert torch.equal(strided, expected)
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])
    assert torch.equal(torch.get_rng_state(), rng)


@every_metric
def test_graphs_are_neither_needed_nor_kept(case: Case) -> None:
    a, b = pair()
    result = case.metric(a.requires_grad_(), b)
    assert not result.requires_grad
    assert a.requires_grad
    assert torch.equal(result, case.metric(a.detach(), b))


@every_metric
def test_an_empty_batch_gives_an_empty_result(case: Case) -> None:
    empty = torch.zeros(0, 6, 8)
    result = case.metric(empty, empty)
    assert result.shape == (0,)
    assert result.dtype == torch.float64


@every_metric
def test_nan_stays_with_its_example(case: Case) -> None:
    a, b = pair()
    expected = case.metric(a, b)
    a[2, 3, 3] = torch.nan
    b[4, 0, 0] = torch.nan
    result = case.metric(a, b)
    assert result.isnan().nonzero().flatten().tolist() == [2, 4]
    kept = ~result.isnan()
    assert torch.equal(result[kept], expected[kept])


def without_region(metric: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda a, b, _: metric(a, b)


REGION = torch.zeros(7, 6, 8, dtype=torch.bool).index_fill_(1, torch.tensor([2, 3]), True)
# Every function of maps, with two maps and a region of which it takes what it needs.
CALLS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    **{case.name: without_region(case.metric) for case in CHECKED},
    "max_sensitivity": lambda a, _, __: max_sensitivity(lambda inputs: inputs, a, 0.1, 2),
    "max_sensitivity of maps": lambda a, _, __: max_sensitivity(lambda _: a, torch.zeros(7, 6, 8), 0.1, 2),
    "mass_centre": lambda a, _, __: metrics.mass_centre(a)[:, 0],
    "topk_mask": lambda a, _, __: metrics.topk_mask(a, 3),
    "topk_curve": lambda a, _, region: metrics.topk_curve(a, region)[:, 0],
    "topk_share": lambda a, _, region: metrics.topk_share(a, region, 0.1),
    "mass_share": lambda a, _, region: metrics.mass_share(a, region),
    "pointing_game": lambda a, _, region: metrics.pointing_game(a, region),
    "auc": lambda a, _, region: metrics.auc(a, region),
    "zero_share": lambda a, _, __: metrics.zero_share(a),
    "area_share": lambda _, __, region: metrics.area_share(region),
    "left_behind": metrics.left_behind,
    "cosine_within": metrics.cosine_within,
    "mean_interval": lambda a, _, __: metrics.mean_interval(a),  # type: ignore[dict-item,return-value]
    "proportion_interval": lambda a, _, __: metrics.proportion_interval(a, a),  # type: ignore[arg-type,dict-item,return-value]
}
WITHOUT_VALUES = {"topk_mask", "area_share", "mean_interval", "proportion_interval"}
every_call = pytest.mark.parametrize("name", CALLS)


def test_the_calls_have_every_function() -> None:
    assert {name.split()[0] for name in CALLS} == set(metrics.__all__) - {"Interval"}


@pytest.mark.parametrize("name", [name for name in CALLS if name not in WITHOUT_VALUES])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("inside", [True, False])
def test_a_map_that_is_not_finite_agrees_with_nothing(name: str, value: float, inside: bool) -> None:
    a, _ = pair()
    a[3, 2 if inside else 0, 0] = value
    if value < 0 and "mass_centre" in name:
        with pytest.raises(UsageError, match="at least 0"):
            CALLS[name](a, a.clone(), REGION)
        return
    assert CALLS[name](a, a.clone(), REGION).isnan().nonzero().flatten().tolist() == [3]


@every_call
@pytest.mark.parametrize("given", [Tensor.numpy, Tensor.tolist, type, str])
def test_what_is_no_tensor_is_taken_rightly_or_refused(name: str, given: Callable[[Tensor], object]) -> None:
    maps = (*pair(), REGION)
    for place in range(3):
        mixed: list[object] = [given(one) if at == place else one for at, one in enumerate(maps)]
        try:
            result = CALLS[name](*mixed)  # type: ignore[arg-type]
        except UsageError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert torch.equal(result, CALLS[name](*maps))


@every_metric
def test_float32_is_what_float64_gives_for_the_same_values(case: Case) -> None:
    a, b = pair(dtype=torch.float32)
    torch.testing.assert_close(case.metric(a, b), case.metric(a.double(), b.double()), rtol=1e-12, atol=1e-12)


@every_metric_of_two_maps
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.complex64])
def test_other_dtypes_are_refused(case: Case, dtype: torch.dtype) -> None:
    a, b = pair()
    for arguments in ((a.to(dtype), b), (a, b.to(dtype))):
        with pytest.raises(UsageError, match=f"float32 or float64.*{dtype}"):
            case.metric(*arguments)


@every_metric_of_two_maps
def test_maps_that_cannot_be_compared_are_refused(case: Case) -> None:
    a, b = pair()
    with pytest.raises(UsageError, match=r"^b: .*\(7, 6, 8\).*\(6, 6, 8\)"):
        case.metric(a, b[1:])
    with pytest.raises(UsageError, match=r"batch dimension"):
        case.metric(a[0, 0], b[0, 0])
    with pytest.raises(UsageError, match=r"at least one value"):
        case.metric(a[:, :0], b[:, :0])
    with pytest.raises(UsageError, match="tensor"):
        case.metric(a.numpy(), b)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="device"):
        case.metric(a, b.to("meta"))
