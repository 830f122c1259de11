"""Max-sensitivity: against Captum with the same noise, closed forms, keyed noise, edge cases."""

from typing import Any

import pytest
import torch
from torch import Tensor

from veridical.metrics import max_sensitivity
from veridical.runtime.errors import UsageError
from veridical.runtime.seeds import per_example_uniform


def cubic(inputs: Tensor) -> Tensor:
    return inputs**3 - 0.5 * inputs.flip(1)


def noise(shape: torch.Size, sample: int, seed: int, dtype: torch.dtype) -> Tensor:
    unit = per_example_uniform(shape[1:], seed, f"max-sensitivity/{sample}", range(shape[0]), dtype)
    return 2 * unit - 1


@pytest.mark.parametrize("norm", [1.0, 2.0, float("inf")])
def test_equals_captum_on_the_same_perturbations(norm: float) -> None:
    metrics = pytest.importorskip("captum.metrics")
    inputs = torch.rand(5, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    radius, samples = 0.05, 7
    rows = torch.stack([noise(inputs.shape, s, 3, inputs.dtype) for s in range(samples)], dim=1).flatten(0, 1)
    expected = metrics.sensitivity_max(
        lambda perturbed: (cubic(perturbed[0] if isinstance(perturbed, tuple) else perturbed),),
        inputs,
        perturb_func=lambda repeated: repeated + radius * rows,
        n_perturb_samples=samples,
        norm_ord=norm,
    )
    result = max_sensitivity(cubic, inputs, radius, samples, seed=3, norm=norm)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=0)
    assert bool((result > 0).all())


def test_linear_maps_have_the_norm_of_the_noise() -> None:
    inputs = torch.rand(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    largest = torch.stack([noise(inputs.shape, s, 0, inputs.dtype).norm(dim=1) for s in range(4)]).amax(dim=0)
    absolute = max_sensitivity(lambda x: 2 * x, inputs, 0.1, 4, relative=False)
    torch.testing.assert_close(absolute, 0.2 * largest, rtol=1e-12, atol=0)
    relative = max_sensitivity(lambda x: 2 * x, inputs, 0.1, 4)
    torch.testing.assert_close(relative, 0.1 * largest / inputs.norm(dim=1), rtol=1e-12, atol=0)


def test_noise_belongs_to_the_example_not_to_the_batch() -> None:
    inputs = torch.rand(6, 3, 3, generator=torch.Generator().manual_seed(2))
    whole = max_sensitivity(cubic, inputs, 0.1, 3, seed=5)
    parts = [
        max_sensitivity(cubic, inputs[part], 0.1, 3, seed=5, indices=torch.arange(6)[part])
        for part in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-6, atol=0)
    assert not torch.allclose(max_sensitivity(cubic, inputs, 0.1, 3, seed=6), whole)
    # More samples never find less.
    assert bool((max_sensitivity(cubic, inputs, 0.1, 6, seed=5) >= whole).all())


def test_noise_stays_in_the_ball_and_in_bounds() -> None:
    seen: list[Tensor] = []

    def record(inputs: Tensor) -> Tensor:
        seen.append(inputs)
        return inputs

    inputs = torch.tensor([[0.0, 0.5, 1.0] * 20])
    max_sensitivity(record, inputs, 0.3, 5, bounds=(0.0, 1.0))
    noisy = torch.cat(seen[1:])
    assert float((noisy - inputs).abs().max()) <= 0.3 + 1e-6
    assert float(noisy.min()) >= 0
    assert float(noisy.max()) <= 1
    max_sensitivity(record, inputs, 0.3, 5)
    assert float(torch.cat(seen[7:]).min()) < 0
    # An attribution that writes into its argument does no harm.
    before = inputs.clone()
    written = max_sensitivity(lambda x: x.mul_(3), inputs, 0.1)
    torch.testing.assert_close(written, max_sensitivity(lambda x: x * 3, inputs, 0.1))
    assert torch.equal(inputs, before)


def test_a_zero_map_has_no_relative_sensitivity() -> None:
    inputs = torch.zeros(1, 4)
    assert max_sensitivity(torch.zeros_like, inputs, 0.1).isnan().item()
    assert max_sensitivity(lambda x: x, inputs, 0.1).isposinf().item()
    assert max_sensitivity(torch.zeros_like, inputs, 0.1, relative=False).item() == 0.0


@pytest.mark.parametrize(
    ("radius", "options", "message"),
    [(0.0, {}, "radius"), (0.1, {"samples": 0}, "samples"), (0.1, {"indices": [1, 2]}, "indices")],
)
def test_bad_arguments_are_refused(radius: float, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        max_sensitivity(cubic, torch.rand(3, 4), radius, **options)
    with pytest.raises(UsageError, match="attribute"):
        max_sensitivity(lambda x: x.sum(1), torch.rand(3, 4), 0.1)
