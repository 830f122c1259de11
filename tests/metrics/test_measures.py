"""What holds for every measure of the registry: an independent answer, its declared facts, and the docs."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.testing import assert_close

from veridical import metrics
from veridical.metrics import max_sensitivity, topk_intersection, windowed_topk_intersection
from veridical.metrics.maps import VIEWS
from veridical.metrics.registry import Measure, compare_maps, measures, ssim_window
from veridical.runtime.errors import UsageError

DOCS = Path(__file__).parents[2] / "docs" / "measures" / "two-maps.md"
K = 10
Array = np.ndarray[Any, np.dtype[np.float64]]


def sizes(values: Array) -> Array:
    """One map (C, H, W) to the saliency (H, W)."""
    return np.asarray(np.abs(values).sum(axis=0))


def top_places(values: Array) -> list[tuple[int, int]]:
    flat = np.argsort(sizes(values), axis=None, kind="stable")[-K:]
    return [divmod(int(place), values.shape[2]) for place in flat]


def share_nearby(a: Array, b: Array) -> float:
    """Share of a's top pixels with one of b's at most one row and one column away."""
    there = top_places(b)
    return sum(any(abs(y - v) <= 1 and abs(x - u) <= 1 for v, u in there) for y, x in top_places(a)) / K


def picture(values: Array) -> Array:
    return np.minimum(sizes(values) / np.quantile(sizes(values), 0.995), 1.0)


def centre(values: Array) -> Array:
    return np.array(ndimage.center_of_mass(sizes(values)))


def selected(a: Array, b: Array) -> tuple[list[float], list[float]]:
    """Both saliencies at the pixels where all channels of a are not zero together."""
    places = [(y, x) for y in range(a.shape[1]) for x in range(a.shape[2]) if a[:, y, x].any()]
    return [sizes(a)[place] for place in places], [sizes(b)[place] for place in places]


# By name, what the measure gives for one pair of maps (C, H, W), computed by others or by its definition.
ANSWERS: dict[str, Callable[[Array, Array], float]] = {
    "topk_intersection": lambda a, b: len(set(top_places(a)) & set(top_places(b))) / K,
    "kendall_tau": lambda a, b: stats.kendalltau(sizes(a), sizes(b)).statistic,
    "kendall_tau_nonzero": lambda a, b: stats.kendalltau(*selected(a, b)).statistic,
    "spearman": lambda a, b: stats.spearmanr(sizes(a), sizes(b), axis=None).statistic,
    "windowed_topk_intersection": lambda a, b: (share_nearby(a, b) + share_nearby(b, a)) / 2,
    "mass_centre_shift": lambda a, b: float(np.linalg.norm(centre(a) - centre(b))),
    "spearman_signed": lambda a, b: stats.spearmanr(a, b, axis=None).statistic,
    "spearman_absolute": lambda a, b: stats.spearmanr(abs(a), abs(b), axis=None).statistic,
    "ssim": lambda a, b: structural_similarity(
        picture(a),
        picture(b),
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    ),
}


def sensitivity_of_two_maps(a: Tensor, b: Tensor) -> Tensor:
    """Max-sensitivity of an explanation that is a for the clean inputs and b for all others."""
    maps = iter([a, b, b])
    return max_sensitivity(lambda _: next(maps), torch.zeros(len(a), 1), 0.1, 2)


OF_NAME = measures()
# The same rules for what the registry's functions can do beside.
VARIANTS = [
    replace(
        OF_NAME["topk_intersection"],
        name="topk_intersection, expected",
        compare=partial(topk_intersection, order="expected"),
    ),
    replace(
        OF_NAME["windowed_topk_intersection"],
        name="windowed_topk_intersection, recall",
        compare=partial(windowed_topk_intersection, direction="recall"),
        invariances=("scale", "sign", "order"),
    ),
    Measure(
        name="max_sensitivity",
        compare=sensitivity_of_two_maps,
        label="max-sensitivity",
        help="largest change of the map beside its own size",
        view="values",
        alike="lower",
        identical=0.0,
        bounds=(0.0, math.inf),
        invariances=("permutation",),
    ),
]
registered = pytest.mark.parametrize("measure", OF_NAME.values(), ids=lambda one: one.name)
every_measure = pytest.mark.parametrize("measure", [*OF_NAME.values(), *VARIANTS], ids=lambda one: one.name)


def measured(measure: Measure, a: Tensor, b: Tensor) -> Tensor:
    view = VIEWS[measure.view]
    return compared(measure, view(a), view(b))


def compared(measure: Measure, a: Tensor, b: Tensor) -> Tensor:
    given = {"k": K, "window": 1}
    return measure.compare(a, b, **{name: given[name] for name in measure.options})


def pair(
    *, channels: int = 2, ties: bool = False, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Two batches (7, C, 12, 13) of signed maps, related but different; a quarter of the first is zero."""
    generator = torch.Generator().manual_seed(11)
    a = torch.randn(7, channels, 12, 13, generator=generator, dtype=dtype)
    b = a + torch.randn(7, channels, 12, 13, generator=generator, dtype=dtype)
    a[..., :3, :] = 0.0
    return ((a * 2).round(), (b * 2).round()) if ties else (a, b)


def assert_same(result: Tensor, expected: Tensor) -> None:
    assert_close(result, expected, rtol=1e-12, atol=1e-12)


@registered
@pytest.mark.parametrize("ties", [False, True])
def test_equals_an_independent_answer(measure: Measure, ties: bool) -> None:
    assert measure.name in ANSWERS, f"add an independent answer for {measure.name} to ANSWERS"
    a, b = pair(ties=ties)
    expected = [ANSWERS[measure.name](*maps) for maps in zip(a.numpy(), b.numpy(), strict=True)]
    assert_close(measured(measure, a, b), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@every_measure
@pytest.mark.parametrize("ties", [False, True])
def test_invariances_are_as_declared(measure: Measure, ties: bool) -> None:
    a, b = pair(channels=1, ties=ties)
    view = VIEWS[measure.view]
    expected = measured(measure, a, b)
    order = torch.randperm(12 * 13, generator=torch.Generator().manual_seed(0))
    changed = {
        "scale": measured(measure, a * 1e4, b),
        "sign": measured(measure, -a, b),
        "order": compared(measure, view(a) ** 3 + 1, view(b)),
        "exchange": measured(measure, b, a),
    }
    if not ties:  # among equal values the top k are those of the last places
        shuffled = (x.flatten(2)[:, :, order].view_as(x) for x in (a, b))
        changed["permutation"] = measured(measure, *shuffled)
        # Whatever a measure makes of places, no side of the image is special.
        for flipped in (lambda x: x.flip(2), lambda x: x.flip(3), lambda x: x.mT):
            assert_same(measured(measure, flipped(a), flipped(b)), expected)
    for name, result in changed.items():
        if name in measure.invariances:
            assert_same(result, expected)
        elif not ties:
            assert not torch.allclose(result, expected), f"{measure.name} is also invariant by {name}"


@every_measure
def test_equal_maps_and_the_range_are_as_declared(measure: Measure) -> None:
    a, b = pair()
    assert_same(measured(measure, a, a), torch.full((7,), measure.identical, dtype=torch.float64))
    low, high = measure.bounds
    for result in (measured(measure, a, b), measured(measure, a, -a), measured(measure, a, b.flip(2))):
        assert bool(((result >= low - 1e-12) & (result <= high + 1e-12)).all())
    # The better direction is towards equal maps: a little noise is more alike than much.
    near, far = (measured(measure, a, a + share * (b - a)).mean() for share in (0.01, 1.0))
    assert bool(near > far) == (measure.alike == "higher")
    assert measure.identical == (high if measure.alike == "higher" else low)


@every_measure
@pytest.mark.parametrize("ties", [False, True])
def test_a_pair_s_number_depends_on_no_other(measure: Measure, ties: bool) -> None:
    a, b = pair(ties=ties)
    whole = measured(measure, a, b)
    assert whole.shape == (7,)
    assert whole.dtype == torch.float64
    parts = [measured(measure, a[part], b[part]) for part in (slice(0, 1), slice(1, 5), slice(5, 7))]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(measured(measure, a.flip(0), b.flip(0)), whole.flip(0))
    assert measured(measure, a[:0], b[:0]).shape == (0,)
    # Views with strides of their own, as channels_last gives them.
    assert torch.equal(measured(measure, a.mT.contiguous().mT, b), whole)


@every_measure
def test_no_pair_at_all_is_an_empty_result_however_large_the_maps(measure: Measure) -> None:
    for side in (7, 64, 200):  # long rows are sorted in other ways than short ones
        none = torch.zeros(0, 2, side, side)
        assert measured(measure, none, none).shape == (0,)


@every_measure
def test_float32_maps_give_what_the_same_numbers_give_in_float64(measure: Measure) -> None:
    a, b = pair(channels=1, dtype=torch.float32)
    assert_same(measured(measure, a, b), measured(measure, a.double(), b.double()))


@every_measure
def test_a_map_that_is_not_finite_is_like_no_other(measure: Measure) -> None:
    a, b = pair()
    expected = measured(measure, a, b)
    a[2, 0, 3, 3], b[4, 1, 0, 0], a[5, 0, 1, 1] = torch.nan, torch.nan, torch.inf
    result = measured(measure, a, b)
    assert result.isnan().nonzero().flatten().tolist() == [2, 4, 5]
    kept = ~result.isnan()
    assert torch.equal(result[kept], expected[kept])


@registered
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.complex64])
def test_maps_whose_ties_may_come_from_rounding_are_refused(measure: Measure, dtype: torch.dtype) -> None:
    maps = VIEWS[measure.view](pair()[0])
    given = dict.fromkeys(measure.options, 3)
    for other in ((maps.to(dtype), maps), (maps, maps.to(dtype))):
        with pytest.raises(UsageError, match=f"float32 or float64.*{dtype}"):
            measure.compare(*other, **given)
    if measure.view == "picture":  # which are made in float64
        with pytest.raises(UsageError, match="float32 or float64"):
            VIEWS["picture"](pair()[0].to(dtype))


@registered
def test_maps_that_cannot_be_compared_are_refused(measure: Measure) -> None:
    maps = VIEWS[measure.view](pair()[0])
    compare = partial(measure.compare, **dict.fromkeys(measure.options, 3))
    with pytest.raises(UsageError, match=r"^b: .*\(7, .*12, 13\).*\(6, .*12, 13\)"):
        compare(maps, maps[1:])
    with pytest.raises(UsageError, match="batch dimension"):
        compare(maps[(0,) * (maps.ndim - 1)], maps[(0,) * (maps.ndim - 1)])
    with pytest.raises(UsageError, match="at least one value"):
        compare(maps[..., :0], maps[..., :0])
    with pytest.raises(UsageError, match="tensor"):
        compare(maps.numpy(), maps)
    with pytest.raises(UsageError, match="device"):
        compare(maps, maps.to("meta"))


def test_constant_maps_have_no_order_but_a_picture() -> None:
    a, b = pair()
    b[0] = 0.0
    result = {name: values.isnan().tolist()[:2] for name, values in compare_maps(a, b, k=K).items()}
    undefined = {"kendall_tau", "kendall_tau_nonzero", "mass_centre_shift"}
    undefined |= {"spearman", "spearman_signed", "spearman_absolute"}
    assert result == {name: [name in undefined, False] for name in measures()}


def test_tau_over_nonzero_pixels_ignores_what_a_change_paints_on_black() -> None:
    a = torch.tensor([[[0.0, 0.0, 1.0, 2.0, 3.0]]], dtype=torch.float64).expand(4, 1, 5).clone()
    painted = torch.tensor([[[9.0, 8.0, 1.0, 2.0, 3.0]]], dtype=torch.float64).expand(4, 1, 5).clone()
    # None, one, two and all pixels of the original are not zero.
    a[0], a[1, 0, :4], a[2, 0, :3], a[3] = 0.0, 0.0, 0.0, a[3] + 1
    nonzero, whole = metrics.kendall_tau_nonzero(a, painted), metrics.kendall_tau(a, painted)
    assert nonzero[:2].isnan().all()
    assert nonzero[2].item() == 1.0
    assert whole[2].item() < 0
    assert nonzero[3].item() == whole[3].item()
    # The other way round the painted pixels count.
    assert metrics.kendall_tau_nonzero(painted, a)[2].item() == whole[2].item()


def test_a_study_gets_its_own_measures_and_skips_what_it_has() -> None:
    a, b = pair()
    assert list(compare_maps(a, b, "sanity")) == list(measures("sanity"))
    assert "kendall_tau" not in compare_maps(a, b, "attack", skip=["kendall_tau"])
    # An eighth of the pixels, where nothing is said.
    assert torch.equal(
        compare_maps(a, b, "attack")["topk_intersection"],
        compare_maps(a, b, "attack", k=12 * 13 // 8)["topk_intersection"],
    )
    with pytest.raises(UsageError, match=r"\(N, C, H, W\)"):
        compare_maps(a, b[1:])
    with pytest.raises(UsageError, match=r"\(N, C, H, W\)"):
        compare_maps(a[:, 0], b[:, 0])


def test_the_window_of_ssim_fits_small_pictures() -> None:
    assert [ssim_window(side, 40) for side in (3, 4, 8, 11, 28)] == [3, 3, 7, 11, 11]
    assert ssim_window(28, 5) == 5


def test_the_docs_list_every_measure_with_its_facts() -> None:
    text = DOCS.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and ", `" in line.split(" | ")[0]]
    assert rows == [
        f"| {one.label}, `{one.name}` | {one.help.replace('{k}', 'k')} | {one.view} | {one.alike}, "
        f"{one.bounds[0]:g} to {one.bounds[1]:g} | {', '.join(one.invariances)} | {', '.join(one.studies)} |"
        for one in measures().values()
    ]


MAPS = torch.rand(2, 7, 6, 8, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
REGION = torch.zeros(7, 6, 8, dtype=torch.bool).index_fill_(1, torch.tensor([2, 3]), True)
# Every function of maps, with two maps and a region of which it takes what it needs.
CALLS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "kendall_tau": lambda a, b, _: metrics.kendall_tau(a, b),
    "kendall_tau_nonzero": lambda a, b, _: metrics.kendall_tau_nonzero(a, b),
    "spearman": lambda a, b, _: metrics.spearman(a, b),
    "topk_intersection": lambda a, b, _: topk_intersection(a, b, 10),
    "topk_intersection expected": lambda a, b, _: topk_intersection(a, b, 10, order="expected"),
    "windowed_topk_intersection": lambda a, b, _: windowed_topk_intersection(a, b, 10, 1),
    "mass_centre_shift": lambda a, b, _: metrics.mass_centre_shift(a, b),
    "ssim": lambda a, b, _: metrics.ssim(a, b, data_range=2.0, window=5),
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
    "histogram_entropy": lambda a, _, __: metrics.histogram_entropy(a, 20),
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
    a = MAPS[0].clone()
    a[3, 2 if inside else 0, 0] = value
    if value < 0 and "mass_centre" in name:
        with pytest.raises(UsageError, match="at least 0"):
            CALLS[name](a, a.clone(), REGION)
        return
    assert CALLS[name](a, a.clone(), REGION).isnan().nonzero().flatten().tolist() == [3]


@every_call
def test_nothing_of_the_caller_changes_and_no_example_is_no_error(name: str) -> None:
    a, b, before, rng = MAPS[0].clone().requires_grad_(), MAPS[1].clone(), MAPS.clone(), torch.get_rng_state()
    if "interval" not in name:
        result = CALLS[name](a, b, REGION)
        assert result.dtype == torch.float64 or name == "topk_mask"
        assert not result.requires_grad or name == "mass_centre"
        if name != "max_sensitivity of maps":  # whose inputs are always seven
            assert len(CALLS[name](a[:0], b[:0], REGION[:0])) == 0
    assert torch.equal(torch.stack([a, b]), before)
    assert torch.equal(torch.get_rng_state(), rng)


@every_call
@pytest.mark.parametrize("given", [Tensor.numpy, Tensor.tolist, type, str])
def test_what_is_no_tensor_is_taken_rightly_or_refused(name: str, given: Callable[[Tensor], object]) -> None:
    maps = (*MAPS, REGION)
    for place in range(3):
        mixed: list[object] = [given(one) if at == place else one for at, one in enumerate(maps)]
        try:
            result = CALLS[name](*mixed)  # type: ignore[arg-type]
        except UsageError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert torch.equal(result, CALLS[name](*maps))
