"""The judge of iterates: which one is reported, and what counts as unharmed."""

import torch
from torch import Tensor
from torch.testing import assert_close

from veridical.attacks.attribution import _IterateSelector, _Shortlist
from veridical.attribution.integrated_gradients import IntegratedGradients
from veridical.metrics import kendall_tau
from veridical.metrics.maps import saliency

from .conftest import Trained

ORIGIN = torch.arange(1.0, 10.0, dtype=torch.float64).reshape(1, 1, 3, 3)


def judge(*, minimise_each: bool = False, shortlist: int = 1) -> _IterateSelector:
    """The map is the image itself; every iterate keeps its label."""
    label = torch.zeros(1, dtype=torch.int64)
    return _IterateSelector(
        lambda x: torch.eye(2)[:1].repeat(len(x), 1), _itself, ORIGIN, label, 3, shortlist, minimise_each
    )


def _itself(inputs: Tensor) -> Tensor:
    return inputs


def swapped(*pairs: tuple[int, int]) -> Tensor:
    """The original with the values at these places exchanged, in turn."""
    flat = ORIGIN.flatten().clone()
    for one, other in pairs:
        flat[[one, other]] = flat[[other, one]]
    return flat.reshape(ORIGIN.shape)


def test_an_iterate_whose_map_has_the_same_order_leaves_the_original() -> None:
    """Its tau is 1: the example counts as unharmed, and nothing of the iterate is reported."""
    judging = judge()
    judging(2 * ORIGIN)
    choice, _ = judging.choose(_itself)
    assert choice["found"].tolist() == [False]
    assert torch.equal(choice["inputs"], ORIGIN)
    assert torch.equal(choice["perturbed_map"], ORIGIN)
    assert choice["kendall_tau"].tolist() == choice["topk_intersection"].tolist() == [1.0]


def test_an_iterate_that_the_final_map_finds_harmless_leaves_the_original() -> None:
    judging = judge()
    judging(swapped((0, 8)))
    # The final map does not see the swap.
    choice, _ = judging.choose(lambda inputs: ORIGIN * inputs.sum())
    assert choice["found"].tolist() == [False]
    assert torch.equal(choice["inputs"], ORIGIN)


def test_of_equal_overlaps_the_lower_tau_is_kept() -> None:
    """Both lose one of the top three; the first also turns the rest round."""
    low, high = swapped((0, 8), (1, 5), (2, 4)), swapped((5, 6))
    for order in ((low, high), (high, low)):
        judging = judge(minimise_each=True)
        taus = [float(judging(iterate)) for iterate in order]
        assert min(taus) < max(taus) < 1
        assert judging.by_intersection is not None
        assert torch.equal(judging.by_intersection.inputs[0], low)
        assert_close(float(judging.by_intersection.values[0]), 2 / 3, rtol=0, atol=1e-8)


def test_a_lower_overlap_comes_before_a_lower_tau() -> None:
    two_lost, turned = swapped((5, 6), (4, 7)), swapped((0, 8), (1, 5), (2, 4))
    judging = judge(minimise_each=True)
    assert float(judging(turned)) < float(judging(two_lost))
    assert judging.by_intersection is not None
    assert torch.equal(judging.by_intersection.inputs[0], two_lost)
    assert torch.equal(judging.by_tau[0].inputs[0], turned)


def test_a_crowded_shortlist_does_not_displace_the_first_climb(trained: Trained) -> None:
    """The judge may rank later climbs lower although the final map ranks them higher: the first stays in."""
    model, inputs, target = trained
    method = IntegratedGradients(nodes=20, rule="right")
    selector = _IterateSelector(model, lambda x: method(model, x, target), inputs, target, 10, 1, True)
    first, second = inputs + 0.02, inputs - 0.02
    selector.by_tau[-1].offer(first, method(model, first, target), torch.full((9,), 0.5, dtype=torch.float64))
    selector.freeze()
    selector.by_tau[-1].offer(
        second, method(model, second, target), torch.full((9,), 0.1, dtype=torch.float64)
    )
    outcome, final_maps = selector.choose(lambda x: method(model, x, target))
    known, no_maps = selector.choose(None)
    assert (final_maps, no_maps) == (4, 0)
    for name, value in known.items():
        assert_close(value, outcome[name], rtol=1e-4, atol=1e-6)
    clean = saliency(method(model, inputs, target))
    for candidate in (first, second):
        tau = kendall_tau(saliency(method(model, candidate, target)), clean)
        assert bool((outcome["kendall_tau"] <= tau).all())


def test_shortlist_keeps_the_least_in_order() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(20, 3, generator=generator, dtype=torch.float64)
    values[4] = torch.nan
    values[7, 1] = torch.inf
    shortlist = _Shortlist(torch.zeros(3, 1, 2, 2), torch.zeros(3, 1, 2, 2), 4)
    for number, row in enumerate(values):
        iterate = torch.full((3, 1, 2, 2), float(number))
        shortlist.offer(iterate, -iterate, row)
    ordered = values.nan_to_num(torch.inf).sort(0)
    assert_close(shortlist.values, ordered.values[:4])
    assert torch.equal(shortlist.inputs[:, :, 0, 0, 0].long(), ordered.indices[:4])
    assert torch.equal(shortlist.maps, -shortlist.inputs)
