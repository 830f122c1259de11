"""The networks of the theorems: their loss, their scaling, their weights."""

import pytest
import torch
from torch.nn.functional import cross_entropy, softplus

from veridical.models.mean_field import LinearScore, MeanFieldMLP
from veridical.runtime.errors import UsageError

INPUTS = torch.randn(7, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGET = torch.tensor([0, 1, 1, 0, 1, 0, 1])
SIGN = TARGET.double() * 2 - 1


def mlp(width: int = 5, **options: object) -> MeanFieldMLP:
    return MeanFieldMLP(6, width, seed=3, dtype=torch.float64, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("network", [LinearScore(6, seed=1), mlp()])
def test_cross_entropy_is_the_logistic_loss_of_the_score(network: LinearScore | MeanFieldMLP) -> None:
    loss = cross_entropy(network(INPUTS), TARGET, reduction="none")
    torch.testing.assert_close(loss, softplus(-SIGN * network.score(INPUTS)), rtol=1e-12, atol=1e-14)
    assert torch.equal(network(INPUTS).argmax(1), (network.score(INPUTS) > 0).long())


def test_the_score_is_the_mean_over_units() -> None:
    network = mlp()
    units = [
        network.outer[k] * torch.relu(INPUTS @ network.inner[k] + network.offset[k])
        for k in range(network.width)
    ]
    torch.testing.assert_close(network.score(INPUTS), torch.stack(units).mean(0), rtol=1e-12, atol=1e-14)
    parts = [network.outer**2, (network.inner**2).sum(1), network.offset**2]
    assert network.squared_length() == pytest.approx(torch.stack(parts).sum(0).mean().item())
    assert LinearScore(6, seed=1).squared_length() == pytest.approx(
        LinearScore(6, seed=1).weight.square().sum().item()
    )


def test_a_step_in_proportion_to_the_width_does_not_depend_on_it() -> None:
    # Every unit three times over is the same function, and must stay so.
    small, large = mlp(4), mlp(12)
    with torch.no_grad():
        for name, value in small.named_parameters():
            getattr(large, name).copy_(value.repeat_interleave(3, dim=0))
    for network in (small, large):
        optimiser = torch.optim.SGD(network.parameters(), lr=0.7 * network.width)
        for _ in range(3):
            optimiser.zero_grad()
            cross_entropy(network(INPUTS), TARGET).backward()
            optimiser.step()
    torch.testing.assert_close(small.score(INPUTS), large.score(INPUTS), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(small.score(INPUTS), mlp(4).score(INPUTS), rtol=0.1)


def test_initial_weights_are_the_seeds_and_of_the_deviation_whatever_the_width() -> None:
    assert torch.equal(mlp().inner, mlp().inner)
    assert not torch.equal(mlp().inner, MeanFieldMLP(6, 5, seed=4, dtype=torch.float64).inner)
    for width in (200, 20_000):
        wide = MeanFieldMLP(6, width, seed=0, deviation=0.5)
        assert wide.inner.std().item() == pytest.approx(0.5, rel=0.05)
        assert wide.outer.dtype == torch.float32
    state = torch.get_rng_state()
    mlp()
    assert torch.equal(state, torch.get_rng_state())


def test_without_bias_offsets_are_zero_and_stay_so() -> None:
    network = mlp(bias=False)
    assert network.offset.abs().max() == 0
    cross_entropy(network(INPUTS), TARGET).backward()
    assert network.offset.grad is None
    assert network.inner.grad is not None


def test_a_network_needs_a_unit() -> None:
    with pytest.raises(UsageError, match="width: expected a number of units of at least 1"):
        mlp(0)
