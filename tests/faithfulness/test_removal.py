"""Removal on a fixed model: linear models have closed forms, and a planted truth is found."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from veridical import GradientTimesInput, Linf
from veridical.data import Dataset, Split
from veridical.faithfulness.ranking import rank_coordinates
from veridical.faithfulness.removal import (
    BlurFill,
    adversarial_change,
    mask_leak,
    patch_numbers,
    perturbation_curves,
    sampled_removal,
    single_deletion,
    with_missing_patches,
)
from veridical.faithfulness.unmasking import ConstantFill
from veridical.runtime.errors import UsageError
from veridical.runtime.options import CoordinateOrder

BLACK = ConstantFill((0.0,))
LEVELS = (0.25, 0.5, 0.75)
SIGNED = CoordinateOrder(order="signed", per="pixel")


def linear(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double().eval()


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def maps_of(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    return GradientTimesInput()(model, inputs, target)


def test_curves_are_what_masking_by_hand_gives() -> None:
    model, inputs = linear(), images()
    target = model(inputs).argmax(1)
    maps = maps_of(model, inputs, target)
    ranks = rank_coordinates(maps, SIGNED)
    said = perturbation_curves(model, inputs, target, ranks, BLACK, levels=LEVELS)
    order = maps.flatten(1).argsort(dim=1, descending=True)
    for place, level in enumerate(LEVELS):
        for end, places in (
            (0, order[:, : round(64 * level)]),
            (1, order[:, 64 - round(64 * level) :]),
        ):
            changed = inputs.flatten(1).scatter(1, places, 0.0).reshape(inputs.shape)
            expected = model(changed).softmax(1).gather(1, target[:, None])[:, 0]
            torch.testing.assert_close(said.probability[end, place], expected.detach())
            assert torch.equal(said.predicted[end, place], model(changed).argmax(1))
    # With one fill, to remove the top is to keep the bottom.
    kept = perturbation_curves(model, inputs, target, ranks, BLACK, levels=LEVELS[::-1], mode="keep")
    torch.testing.assert_close(kept.probability.flip(0), said.probability)


def test_what_raises_the_logit_most_harms_most_when_it_is_removed() -> None:
    model, inputs = linear(), images()
    target = model(inputs).argmax(1)
    ranks = rank_coordinates(maps_of(model, inputs, target), SIGNED)
    removed = perturbation_curves(model, inputs, target, ranks, BLACK, levels=LEVELS).probability
    assert bool((removed[0] < removed[1]).all())
    kept = perturbation_curves(model, inputs, target, ranks, BLACK, levels=LEVELS, mode="keep").probability
    assert bool((kept[0] > kept[1]).all())


@pytest.mark.parametrize("grid", [2, 4, 8])
def test_single_deletion_is_one_for_gradient_times_input_of_a_linear_model(grid: int) -> None:
    model, inputs = linear(), images()
    target = torch.tensor([0, 1, 2, 0, 1, 2])
    maps = maps_of(model, inputs, target)
    value = single_deletion(model, inputs, target, maps, BLACK, grid=grid, indices=range(6))
    torch.testing.assert_close(value, torch.ones(6, dtype=torch.float64))
    opposite = single_deletion(model, inputs, target, -maps, BLACK, grid=grid, indices=range(6))
    torch.testing.assert_close(opposite, -torch.ones(6, dtype=torch.float64))
    nothing = single_deletion(model, inputs, target, 0 * maps, BLACK, grid=grid, indices=range(6))
    assert bool(nothing.isnan().all())


def test_a_mask_that_copies_the_class_leaks_and_a_random_one_does_not() -> None:
    """A model that reads one pixel for each class, of which the mask keeps the one of its owner."""

    class Reads(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.flatten(1)[:, :3]

    inputs, seen = torch.full((6, 1, 8, 8), 0.5), torch.tensor([0, 1, 2, 0, 1, 2])
    importance = torch.zeros(6, 64).scatter(1, seen[:, None], 1.0).reshape(6, 1, 8, 8)
    ranks = rank_coordinates(importance, SIGNED)
    leak = mask_leak(Reads(), inputs, seen, ranks, BLACK, levels=[1 / 64], indices=range(6))
    assert leak.shape == (1, 6)
    assert float(leak.mean()) > 0.5
    random = rank_coordinates(torch.zeros(6, 1, 8, 8), CoordinateOrder(per="pixel", seed=3))
    many = [
        mask_leak(Reads(), inputs, seen, random, BLACK, levels=[0.5], indices=range(6), seed=s)
        for s in range(40)
    ]
    assert abs(float(torch.stack(many).mean())) < 0.2
    alike = mask_leak(Reads(), inputs, 0 * seen, ranks, BLACK, levels=[0.5], indices=range(6))
    assert bool(alike.isnan().all())


def test_patches_drawn_from_one_end_are_missing_and_no_others() -> None:
    """A model that reads one patch: to draw half of a pair that holds it hits it half the time."""

    class Reads(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            bright = inputs[:, 0, :2, :2].flatten(1).sum(1)
            return torch.stack([bright, 1 + 0 * bright], dim=1)

    inputs, seen = torch.ones(200, 1, 8, 8), torch.zeros(200, dtype=torch.int64)
    scores = torch.zeros(200, 16)
    scores[:, 0], scores[:, 1] = 2.0, 1.0
    kept = sampled_removal(
        Reads(), inputs, seen, scores, BLACK, levels=[2 / 16, 0.5], grid=4, indices=range(200)
    )
    assert kept.shape == (2, 2, 200)
    # One of the first two patches is missing, then four of the first eight; never one of the last.
    for place in (0, 1):
        assert float(kept[0, place].mean()) == pytest.approx(0.5, abs=0.05)
        assert bool((kept[1, place] == 1).all())
    # Never more of the image than a fine-tuned model has seen.
    few = sampled_removal(
        Reads(), inputs, seen, scores, BLACK, levels=[1.0], grid=4, most=1 / 16, indices=range(200)
    )
    assert float(few[0].mean()) == pytest.approx(15 / 16, abs=0.03)


def test_patches_that_copy_the_class_leak_when_they_are_missing() -> None:
    """A model that says which patch is missing, and an owner's mask that leaves out its own class's."""

    class Tells(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return -torch.stack([inputs[:, 0, :2, 2 * c : 2 * c + 2].sum((1, 2)) for c in range(3)], dim=1)

    inputs, seen = torch.ones(60, 1, 8, 8), torch.arange(60) % 3
    scores = torch.zeros(60, 16).scatter(1, seen[:, None], 1.0)
    given: dict[str, Any] = {"levels": [1 / 16], "grid": 4, "indices": range(60), "sampled": True}
    leak = mask_leak(Tells(), inputs, seen, scores, BLACK, **given)
    # A random patch tells the owner's class once in three, and the first class if it is none of theirs.
    assert float(leak.mean()) > 0.5
    none = mask_leak(Tells(), inputs, seen, torch.rand(60, 16), BLACK, **given)
    assert abs(float(none.mean())) < 0.15


def test_only_the_places_at_one_end_change_and_stay_in_the_ball() -> None:
    model, inputs = linear(), images()
    target = model(inputs).argmax(1)
    ranks = rank_coordinates(maps_of(model, inputs, target), CoordinateOrder(per="pixel"))
    ball = Linf(0.05)
    said = adversarial_change(model, inputs, target, ranks, ball, level=0.25, steps=4)
    weight = next(model.parameters())
    for end, inside in ((0, ranks < 16), (1, ranks >= 48)):
        # For a linear model of three classes the loss climbs as the logits' softmax says; it never falls.
        before = model(inputs).softmax(1).gather(1, target[:, None])[:, 0]
        assert bool((said.probability[end, 0] <= before + 1e-12).all())
        # No change of these places in the ball does more than the sum of its greatest effects.
        worst = (weight[:, None] - weight[target]).abs().amax(0) * inside * 0.05
        logits = model(inputs)
        low = (logits.gather(1, target[:, None])[:, 0] - worst.sum(1)).detach()
        least = torch.cat([low[:, None], logits.scatter(1, target[:, None], -torch.inf)], 1).softmax(1)[:, 0]
        assert bool((said.probability[end, 0] >= 0.5 * least).all())


def test_patches_cover_the_image_once_and_differ_by_a_row_at_most() -> None:
    numbers = patch_numbers((7, 10), 3)
    counts = np.bincount(numbers.flatten())
    assert len(counts) == 9
    assert counts.sum() == 70
    assert counts.max() <= 3 * 4
    assert counts.min() >= 2 * 3
    with pytest.raises(UsageError, match="grid"):
        patch_numbers((7, 10), 8)


def test_training_images_miss_the_same_patches_each_time_and_test_images_none() -> None:
    split = Split((255 * images(20)).to(torch.uint8), torch.arange(20) % 3)
    data = Dataset("own", split, split, ("a", "b", "c"), "0" * 64, "memory")
    masked = with_missing_patches(data, BLACK, grid=4, most=0.5, seed=3)
    inputs, target = masked.train.batch(range(20))
    again, _ = masked.train.batch([7, 3])
    assert torch.equal(inputs[[7, 3]], again)
    assert torch.equal(target, split.labels)
    whole, _ = split.batch(range(20))
    missing = (inputs == 0) & (whole != 0)
    assert 0 < float(missing.double().mean()) < 0.5
    by_patch = missing[:, 0].reshape(20, 4, 2, 4, 2).permute(0, 1, 3, 2, 4).flatten(3)
    assert torch.equal(by_patch.any(3), by_patch.double().mean(3) > 0.4)  # patches go as a whole
    assert torch.equal(masked.test.batch(range(20))[0], whole)
    # As a training cuts them: by subsets of subsets.
    part = masked.train.subset(range(5, 20)).subset([2, 0])
    assert torch.equal(part.batch(range(2))[0], inputs[[7, 5]])


def test_a_blurred_image_has_lost_its_detail_and_kept_its_mean() -> None:
    fill, inputs = BlurFill(), images()
    filled = fill(inputs, torch.zeros_like(inputs, dtype=torch.bool), torch.arange(6), "test")
    assert float(filled.std(dim=(2, 3)).max()) < 0.6 * float(inputs.std(dim=(2, 3)).min())
    torch.testing.assert_close(filled.mean(), inputs.mean(), atol=0.03, rtol=0)
    assert torch.equal(
        fill(inputs, inputs > 0.5, torch.arange(6), "test")[inputs > 0.5], inputs[inputs > 0.5]
    )
