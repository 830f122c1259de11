"""measure_robustness: what it counts over what, against direct calls; batches, sessions, radii, notes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from veridical.attacks.ascent import pgd
from veridical.attacks.attribution import attack
from veridical.attacks.ball import L2, Linf
from veridical.attacks.directions import TopK
from veridical.attacks.protocols import Protocol, protocol
from veridical.attacks.robustness import Examination, RobustnessResult, measure_robustness
from veridical.attribution.classifier import predict
from veridical.attribution.methods import InputGradient, IntegratedGradients
from veridical.attribution.path import Quadrature
from veridical.data import Split
from veridical.metrics import (
    kendall_tau_nonzero,
    mass_centre_shift,
    mean_interval,
    proportion_interval,
    windowed_topk_intersection,
)
from veridical.metrics.maps import saliency
from veridical.models import build
from veridical.runtime.errors import UsageError

FIVE = Quadrature("gauss-legendre", 5)
FAST = Protocol("test", 4, 0.05, 8, FIVE, FIVE, Quadrature("right", 20), 3)


def measure(model: nn.Module, split: Split, **options: Any) -> RobustnessResult:
    return measure_robustness(model, split, **{"radius": 0.1, "protocol": FAST, "pgd_steps": 3, **options})


def test_every_number_is_what_direct_calls_give(model: nn.Module, split: Split) -> None:
    result = measure(model, split, examples=15, pictures=6, seed=3)
    inputs, target = split.batch(range(15), torch.float64)
    right = predict(model, inputs).argmax(1) == target
    assert 0 < int(right.sum()) < 15, "some must be classified wrongly"
    moved = pgd(model, inputs, target, Linf(0.1), steps=3, seed=3)
    held = int((predict(model, moved).argmax(1) == target).sum())
    attacked = attack(
        model,
        inputs[right],
        target[right],
        attribution=IntegratedGradients(),
        attack=TopK(8),
        ball=Linf(0.1),
        protocol=FAST,
        seed=3,
        indices=right.nonzero()[:, 0],
    )
    clean, perturbed = saliency(attacked.clean_map), saliency(attacked.perturbed_map)
    found, n = result.to_dict(), int(right.sum())
    assert found["natural_accuracy"] == proportion_interval(n, 15)
    assert found["adversarial_accuracy"] == proportion_interval(held, 15)
    assert held < n
    expected = {
        "topk_intersection": attacked.topk_intersection,
        "kendall_tau": attacked.kendall_tau,
        # The order matters: which pixels count is the clean map's.
        "kendall_tau_nonzero": kendall_tau_nonzero(clean, perturbed),
        "spearman": attacked.spearman,
        "windowed_topk_intersection": windowed_topk_intersection(clean, perturbed, 8, 1),
        "mass_centre_shift": mass_centre_shift(clean, perturbed),
    }
    for name, values in expected.items():
        assert found[name]["n"] == n
        assert found[name]["value"] == pytest.approx(mean_interval(values)["value"], abs=1e-12)
        array = result.main.arrays[name]
        np.testing.assert_allclose(array[right.numpy()], values.numpy(), atol=1e-12)
        assert np.isnan(array[~right.numpy()]).all()
    assert found["not_found"] == proportion_interval(int((~attacked.found).sum()), n)
    everything, labels = split.batch(range(20), torch.float64)
    all_right = int((predict(model, everything).argmax(1) == labels).sum())
    assert found["natural_accuracy_of_all"] == proportion_interval(all_right, 20)
    assert (found["examples"], found["correctly_classified"], found["radius"]) == (15, n, 0.1)
    assert found["gradient_evaluations"] == {"prediction": 3, "explanation": attacked.gradient_evaluations}
    assert found["twin_rewrites"] == 2
    assert "curve" not in found
    pictures = result.main.arrays["perturbed"]
    assert pictures.shape == (6, 1, 8, 8)
    kept = inputs.clone()
    kept[right] = attacked.inputs
    np.testing.assert_allclose(pictures, kept[:6].float().numpy(), atol=1e-6)
    assert np.isnan(result.main.arrays["saliency"][~right[:6].numpy()]).all()


def test_fewer_examples_are_the_first_ones(model: nn.Module, split: Split) -> None:
    few, many = measure(model, split, examples=7), measure(model, split)
    assert len(many.main.arrays["index"]) == 20
    for name in ("kendall_tau", "adversarial_prediction", "trace"):
        np.testing.assert_allclose(few.main.arrays[name], many.main.arrays[name][:7], atol=1e-6)
    assert measure(model, split, examples=500).to_dict()["examples"] == 20
    with pytest.raises(UsageError, match=r"examples: expected .* from 1"):
        measure(model, split, examples=0)


def test_others_may_examine_the_batches(model: nn.Module, split: Split) -> None:
    told: list[tuple[int, int]] = []
    whole = measure(model, split, rows=20, curve=[0.05], progress=lambda *at: told.append(at))
    assert told == [(done, 40) for done in range(0, 41, 4)]
    asked: list[tuple[float, range]] = []

    def examine(work: Sequence[tuple[Examination, range]]) -> list[dict[str, Any]]:
        asked.extend((examination.ball.radius, batch) for examination, batch in work)
        # In any order, and each on its own.
        arrays = [examination.examine(model, split, batch) for examination, batch in reversed(work)]
        return arrays[::-1]

    joined = measure(model, split, rows=20, curve=[0.05], examine=examine)
    assert asked == [(r, range(first, first + 4)) for r in (0.05, 0.1) for first in range(0, 20, 4)]
    assert joined.to_dict() == whole.to_dict()
    together = measure(model, split, rows=1000, curve=[0.05])
    assert (together.notes, together.gradient_evaluations) == (whole.notes, whole.gradient_evaluations)
    for name, array in together.main.arrays.items():
        np.testing.assert_allclose(whole.main.arrays[name], array, atol=1e-6, err_msg=name)
    for name, array in whole.main.arrays.items():
        np.testing.assert_array_equal(joined.main.arrays[name], array)


def test_a_curve_has_every_radius_and_tends_to_no_change(model: nn.Module, split: Split) -> None:
    result = measure(model, split, curve=[0.0, 0.02, 0.1], examples=12)
    assert [point.radius for point in result.curve] == [0.0, 0.02, 0.1]
    assert result.main is result.curve[-1]
    nothing, small, large = (point.metrics for point in result.curve)
    assert nothing["kendall_tau"]["value"] == nothing["topk_intersection"]["value"] == 1.0
    assert nothing["not_found"]["value"] == 1.0
    assert nothing["adversarial_accuracy"] == nothing["natural_accuracy"]
    assert large["kendall_tau"]["value"] < small["kendall_tau"]["value"] < 1.0  # type: ignore[operator]
    rows = result.to_dict()["curve"]
    assert [row["radius"] for row in rows] == [0.0, 0.02, 0.1]
    assert rows[1]["kendall_tau"] == small["kendall_tau"]
    # Steps in proportion: the small radius gives what it gives alone, with its own share of the step.
    alone = measure(model, split, radius=0.02, step_size=0.01, examples=12)
    assert alone.main.metrics["kendall_tau"] == small["kendall_tau"]


def test_defaults_of_named_protocols(model: nn.Module, split: Split) -> None:
    by_name = measure(model, split, protocol="paper-fast", k=8, steps=2, examples=4)
    explicit = protocol("paper-fast", k=8, steps=2, step_size=0.01)
    assert by_name.to_dict() == measure(model, split, protocol=explicit, examples=4).to_dict()


def test_other_norms_methods_and_directions(model: nn.Module, split: Split) -> None:
    result = measure(model, split, norm="l2", radius=0.5, attribution=InputGradient(), examples=9, pictures=9)
    arrays = result.main.arrays
    lengths = L2(0.5).distance(torch.from_numpy(arrays["perturbed"]), torch.from_numpy(arrays["image"]))
    assert bool((lengths <= 0.5 + 1e-5).all())
    assert bool((lengths > 0.1).any())
    assert "incomplete" not in result.to_dict()
    assert result.to_dict()["kendall_tau"]["value"] < 1


def test_networks_that_standardise_each_image_are_explained(model: nn.Module, split: Split) -> None:
    network, striped = build("rar-resnet", shape=(3, 8, 8), num_classes=4, seed=0, units=1), split
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (6, 3, 8, 8), generator=generator).to(torch.uint8)
    inputs = images.float() / 255
    split = Split(images, predict(network, inputs).argmax(1))
    result = measure(network, split, radius=8 / 255, protocol=FAST, examples=4)
    assert result.main.metrics["incomplete"]["value"] == 1.0
    ordinary = measure(model, striped, protocol=FAST)
    incomplete = ordinary.main.metrics["incomplete"]["value"]
    assert incomplete is not None
    assert incomplete < 0.5
    assert not any("converge" in note for note in ordinary.notes)
    text = " ".join(result.notes)
    assert "did not converge (converged = False) for 100%" in text
    assert "gradient x input" in text


def test_notes_on_what_was_not_found_and_on_protocols_of_many_climbs(model: nn.Module, split: Split) -> None:
    still = measure(model, split, radius=0.0, examples=5)
    assert any("100.0% of the explanations no iterate" in note for note in still.notes)
    # Radii beside one of 0 have steps of their own length.
    curve = measure(model, split, radius=0.0, curve=[0.3], examples=5).curve[1]
    plain = measure(model, split, radius=0.3, examples=5).main
    assert curve.metrics["adversarial_accuracy"] == plain.metrics["adversarial_accuracy"]
    assert curve.metrics["kendall_tau"] == plain.metrics["kendall_tau"]
    strong = measure(model, split, protocol="strong", k=8, steps=1, examples=3)
    assert any("each the least" in note for note in strong.notes)


def test_nothing_classified_correctly_is_said_and_not_a_crash(model: nn.Module, split: Split) -> None:
    inputs, _ = split.batch(range(20), torch.float64)
    wrong = Split(split.images, (predict(model, inputs).argmax(1) + 1) % 3)
    result = measure(model, wrong, examples=5)
    found = result.to_dict()
    assert found["natural_accuracy"]["value"] == 0
    assert found["kendall_tau"] == {"value": None, "low": None, "high": None, "n": 0}
    assert any("No example was classified correctly" in note for note in result.notes)


def test_pictures_of_a_float32_model_show_the_image_as_it_was(model: nn.Module, split: Split) -> None:
    arrays = measure(model.float(), split, examples=5, pictures=5).main.arrays
    inputs, _ = split.batch(range(5))
    np.testing.assert_array_equal(arrays["image"], inputs.numpy())
    assert (arrays["perturbed"] != arrays["image"]).any()
