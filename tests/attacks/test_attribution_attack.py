"""What `attack` promises of every direction, protocol and method; which iterate it reports."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from veridical.attacks.attribution import AttackResult, _IterateSelector, attack, batch_size
from veridical.attacks.ball import L2, Ball, Linf
from veridical.attacks.directions import MassCentre, RandomSign, TargetRegion, TopK
from veridical.attacks.protocols import Protocol, Restart, protocol
from veridical.attribution.classifier import predict
from veridical.attribution.methods import InputGradient, IntegratedGradients, RandomAttribution, SmoothGrad
from veridical.attribution.path import Quadrature
from veridical.metrics import mass_centre
from veridical.metrics.maps import saliency
from veridical.runtime.errors import UsageError

from .conftest import Trained

SIX = Quadrature("gauss-legendre", 6)


def plan(name: str = "paper-fast", steps: int = 6, **changes: Any) -> Protocol:
    """A named protocol with fewer nodes and steps, in proportion."""
    final = None if name == "paper" else Quadrature("right", 20)
    small = protocol(name, k=10, steps=steps, step_size=0.03)
    return replace(small, climb_nodes=SIX, judge_nodes=SIX, final_nodes=final, **changes)


def run(case: Trained, direction: Any = None, threat: Ball | None = None, **options: Any) -> AttackResult:
    model, inputs, target = case
    options = {"attribution": IntegratedGradients(), "protocol": plan(), **options}
    return attack(model, inputs, target, attack=direction or TopK(10), ball=threat or Linf(0.12), **options)


DIRECTIONS = [TopK(10), MassCentre(), TargetRegion(0, 4, 0, 4), RandomSign()]


@pytest.mark.parametrize("direction", DIRECTIONS, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("threat", [Linf(0.12), L2(0.5)], ids=lambda b: type(b).__name__)
@pytest.mark.parametrize("name", ["paper-fast", "strong"])
def test_label_stays_and_the_ball_is_kept(trained: Trained, direction: Any, threat: Ball, name: str) -> None:
    model, inputs, _ = trained
    result = run(trained, direction, threat, protocol=plan(name))
    assert torch.equal(predict(model, result.inputs).argmax(1), predict(model, inputs).argmax(1))
    assert bool((threat.distance(result.inputs, inputs) <= threat.radius + 1e-12).all())
    assert bool(((result.inputs >= 0) & (result.inputs <= 1)).all())
    assert bool(result.found.any())
    assert result.trace.shape == (9, 6 * (4 if name == "strong" else 1))
    for field in fields(AttackResult):
        value = getattr(result, field.name)
        assert not isinstance(value, Tensor) or (len(value) == 9 and not value.requires_grad)


@pytest.mark.parametrize(
    ("direction", "method"),
    [
        (TopK(10), IntegratedGradients()),
        (TopK(10), SmoothGrad(samples=3)),
        (RandomSign(), IntegratedGradients()),
        # A random map has no gradient to climb.
        (RandomSign(), RandomAttribution()),
    ],
)
def test_batches_and_shards_change_nothing(trained: Trained, direction: Any, method: Any) -> None:
    model, inputs, target = trained
    options = {"attribution": method, "protocol": plan("strong", steps=3)}
    whole = run(trained, direction, **options)
    cut = run(trained, direction, **options, rows=12)
    picked = [7, 2, 5]
    shard = run((model, inputs[picked], target[picked]), direction, **options, indices=picked)
    single = run((model, inputs[4:5], target[4:5]), direction, **options, indices=[4])
    for name in ("inputs", "kendall_tau", "topk_intersection", "spearman", "trace", "found"):
        expected = getattr(whole, name)
        assert_close(getattr(cut, name), expected, equal_nan=True)
        assert_close(getattr(shard, name), expected[picked], equal_nan=True)
        assert_close(getattr(single, name), expected[4:5], equal_nan=True)
    assert cut.gradient_evaluations == whole.gradient_evaluations


def test_seed_moves_random_starts_only(trained: Trained) -> None:
    strong = plan("strong", steps=3)
    first, second = run(trained, protocol=strong), run(trained, protocol=strong, seed=1)
    # The first two climbs start at the origin.
    assert_close(first.trace[:, :6], second.trace[:, :6], equal_nan=True)
    assert not torch.equal(first.trace[:, 6:], second.trace[:, 6:])


def test_strong_is_never_safer_than_paper_fast(trained: Trained) -> None:
    gains = []
    for radius, seed in ((0.05, 0), (0.12, 0), (0.12, 1)):
        fast = run(trained, threat=Linf(radius), seed=seed)
        strong = run(trained, threat=Linf(radius), seed=seed, protocol=plan("strong"))
        assert_close(strong.trace[:, :6], fast.trace, equal_nan=True)
        for name in ("kendall_tau", "topk_intersection", "spearman"):
            assert bool((getattr(strong, name) <= getattr(fast, name)).all()), name
        assert bool((strong.found >= fast.found).all())
        gains.append(fast.kendall_tau - strong.kendall_tau)
    assert float(torch.cat(gains).max()) > 0.01, "the further climbs must find something"


def test_nothing_found_counts_as_unharmed(trained: Trained) -> None:
    model, inputs, target = trained

    class Fickle(nn.Module):
        """Another label anywhere but at the originals."""

        def forward(self, points: Tensor) -> Tensor:
            logits = model(points)
            known = (points.flatten(1)[:, None] == inputs.flatten(1)[None]).all(2).any(1)
            return torch.where(known[:, None], logits, logits.flip(1).roll(1, 1) - 5 * logits)

    result = run((Fickle(), inputs, target))
    assert not bool(result.found.any())
    for name in ("kendall_tau", "topk_intersection", "spearman"):
        assert getattr(result, name).tolist() == [1.0] * 9
    assert bool(result.trace.isnan().all())
    assert torch.equal(result.inputs, inputs)
    assert torch.equal(result.perturbed_map, result.clean_map)


def test_every_direction_does_what_it_says_better_than_chance(trained: Trained) -> None:
    region = TargetRegion(0, 4, 0, 4)
    directions = {"top": TopK(10), "centre": MassCentre(), "region": region, "random": RandomSign()}
    paper = plan("paper", steps=10)
    found = {name: run(trained, direction, protocol=paper) for name, direction in directions.items()}
    clean = saliency(found["top"].clean_map)
    maps = {name: saliency(result.perturbed_map) for name, result in found.items()}
    shares = {name: m / m.sum((1, 2), keepdim=True) for name, m in maps.items()}
    in_region = {name: float(m[:, :4, :4].sum((1, 2)).mean()) for name, m in shares.items()}
    centre = mass_centre(clean)
    moved = {name: float((mass_centre(m) - centre).norm(dim=1).mean()) for name, m in shares.items()}
    kept = {name: float(result.topk_intersection.mean()) for name, result in found.items()}
    assert in_region["region"] > max(in_region[name] for name in ("top", "centre", "random"))
    assert moved["centre"] > max(moved[name] for name in ("top", "random"))
    assert kept["top"] < min(kept[name] for name in ("centre", "random"))


def test_random_sign_moves_every_pixel_by_full_steps(trained: Trained) -> None:
    _, inputs, _ = trained
    one = replace(plan("paper", steps=1), judge_nodes=SIX)
    result = run(trained, RandomSign(), Linf(0.12, bounds=None), protocol=one)
    offset = (result.inputs - inputs)[result.found]
    assert_close(offset.abs(), torch.full_like(offset, 0.03))
    assert 0.4 < float((offset > 0).double().mean()) < 0.6
    assert result.rewrites == 0


def test_gradient_evaluations_are_counted(trained: Trained) -> None:
    model, inputs, target = trained
    calls = 0

    class Counting(nn.Module):
        def forward(self, points: Tensor) -> Any:
            nonlocal calls
            if points.requires_grad:
                calls += len(points)
            return model(points)

    for name in ("paper", "paper-fast", "strong"):
        calls = 0
        result = run((Counting(), inputs[:1], target[:1]), protocol=plan(name, steps=3))
        checks = len(plan(name).climbs)
        assert result.gradient_evaluations == calls - checks


def test_batches_hold_as_many_examples_as_rows_allow() -> None:
    assert batch_size(InputGradient(), plan(), 160) == 160
    assert batch_size(IntegratedGradients(), plan(), 160) == 26
    assert batch_size(SmoothGrad(samples=40), plan(), 160) == 4


def test_an_empty_batch_gives_an_empty_result(trained: Trained) -> None:
    model, inputs, target = trained

    class Picky(nn.Module):
        def forward(self, points: Tensor) -> Any:
            assert len(points), "a model need not take an empty batch"
            return model(points)

    result = run((Picky(), inputs[:0], target[:0]), protocol=plan("strong"))
    assert result.inputs.shape == (0, 1, 8, 8)
    assert result.kendall_tau.shape == result.found.shape == (0,)
    assert result.trace.shape == (0, 24)


def test_progress_is_told_after_each_batch(trained: Trained) -> None:
    told: list[int] = []
    run(trained, rows=24, progress=told.append, protocol=plan(steps=1))
    assert told == [4, 8, 9]


def test_images_with_few_lit_pixels_are_set_in_motion(trained: Trained) -> None:
    """All of such a map lies on the attacked pixels, so that the score has no slope at the start."""
    model, inputs, _ = trained
    dark = torch.zeros_like(inputs)
    dark[:, :, 2:5, 2:5] = inputs[:, :, 2:5, 2:5]
    label = predict(model, dark).argmax(1)
    result = run((model, dark, label), TopK(10), protocol=plan("paper", steps=8))
    assert bool((result.inputs[result.found] != dark[result.found]).any())
    assert int(result.found.sum()) >= 6
    again = run((model, dark[3:5], label[3:5]), TopK(10), protocol=plan("paper", steps=8), indices=[3, 4])
    assert_close(again.inputs, result.inputs[3:5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": torch.rand(2, 64)}, r"\(N, C, H, W\).*shape \(2, 64\)"),
        ({"attack": TopK(65), "protocol": "paper"}, "k=65"),
        ({"attack": "topk"}, r"TopK\(k\), MassCentre\(\).*got 'topk'"),
        ({"attack": TopK(9)}, r"compares 9 pixels and protocol 'paper-fast' 10.*TopK\(9, compared=10\)"),
    ],
)
def test_bad_arguments_are_refused(trained: Trained, changes: dict[str, Any], message: str) -> None:
    images, target = torch.rand(2, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1])
    given: dict[str, Any] = {
        "inputs": images,
        "target": target,
        "attack": TopK(10),
        "protocol": plan(),
    } | changes
    with pytest.raises(UsageError, match=message):
        attack(trained[0], attribution=IntegratedGradients(), ball=Linf(0.1), **given)


def test_a_protocol_without_climbs_is_refused() -> None:
    with pytest.raises(UsageError, match="no climbs"):
        replace(protocol("paper"), climbs=())


def test_the_k_of_topk_is_that_of_the_intersection_unless_said(trained: Trained) -> None:
    one = plan(steps=2)
    found = {
        given: run(trained, TopK(*given), protocol=replace(one, k=k)).topk_intersection
        for given, k in (((10,), 10), ((7,), None), ((7, 10), 10))
    }
    assert torch.equal(found[(10,)], run(trained, TopK(10), protocol=replace(one, k=None)).topk_intersection)
    # Shares of 7 pixels are no shares of 10, and the attack is that on 7.
    assert_close(found[(7,)] * 7, (found[(7,)] * 7).round())
    assert_close(found[(7, 10)] * 10, (found[(7, 10)] * 10).round())
    assert not torch.equal(found[(7,)], found[(7, 10)])


def test_named_protocols_can_be_changed() -> None:
    changed = protocol("strong", steps=7, k=None)
    assert (changed.steps, changed.k, changed.compared, changed.name) == (7, None, 100, "strong")
    assert changed.climbs[0] == protocol("paper-fast").climbs[0] == Restart()
    with pytest.raises(UsageError, match="'gentle'"):
        protocol("gentle")


# ------------------------------------------------------------------------------- which iterate is reported

ORIGIN = torch.arange(1.0, 10.0, dtype=torch.float64).reshape(1, 1, 3, 3)


def judge(*, minimise_each: bool = False) -> _IterateSelector:
    """The map is the image itself; every iterate keeps its label."""
    plan, label = Protocol("test", k=3, minimise_each=minimise_each), torch.zeros(1, dtype=torch.int64)
    return _IterateSelector(lambda x: torch.eye(2)[:1].repeat(len(x), 1), _itself, ORIGIN, label, plan)


def _itself(inputs: Tensor) -> Tensor:
    return inputs


def swapped(*pairs: tuple[int, int]) -> Tensor:
    """The original with the values at these places exchanged, in turn."""
    flat = ORIGIN.flatten().clone()
    for one, other in pairs:
        flat[[one, other]] = flat[[other, one]]
    return flat.reshape(ORIGIN.shape)


@pytest.mark.parametrize("final", [_itself, lambda inputs: ORIGIN * inputs.sum()])
def test_an_iterate_that_the_final_map_finds_harmless_leaves_the_original(final: Any) -> None:
    """Its order is the original's, of the judging map or of the final one: the example counts as unharmed."""
    judging = judge()
    judging(2 * ORIGIN if final is _itself else swapped((0, 8)))
    choice, _ = judging.choose(final)
    assert choice["found"].tolist() == [False]
    assert torch.equal(choice["inputs"], ORIGIN)
    assert torch.equal(choice["perturbed_map"], choice["clean_map"])
    assert choice["kendall_tau"].tolist() == choice["topk_intersection"].tolist() == [1.0]


def test_a_lower_overlap_comes_first_then_a_lower_tau() -> None:
    """Two lose one of the top three, of which one also turns the rest round; the third loses two."""
    turned, high, two_lost = swapped((0, 8), (1, 5), (2, 4)), swapped((5, 6)), swapped((5, 6), (4, 7))
    for order, kept in (((turned, high), turned), ((high, turned), turned), ((turned, two_lost), two_lost)):
        judging = judge(minimise_each=True)
        for iterate in order:
            judging(iterate)
        assert judging.by_intersection is not None
        assert torch.equal(judging.by_intersection.inputs[0], kept)
        assert torch.equal(judging.by_tau[0].inputs[0], turned)
