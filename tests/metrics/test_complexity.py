"""Entropy of maps' histograms against NumPy and SciPy, and what may be done to a map without a change."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from torch import Tensor
from torch.testing import assert_close

from veridical.metrics.complexity import freedman_diaconis, histogram_entropy, relative_rise
from veridical.runtime.errors import UsageError


def maps(kind: str, shape: tuple[int, ...] = (12, 3, 9, 7)) -> Tensor:
    random = np.random.default_rng(0)
    drawn = {
        "normal": random.normal(size=shape),
        "uniform": random.random(shape),
        "heavy": random.standard_t(2, size=shape),
    }
    return torch.from_numpy(drawn[kind])


@pytest.mark.parametrize("kind", ["normal", "uniform", "heavy"])
def test_entropies_and_bins_are_those_of_numpy_and_scipy(kind: str) -> None:
    values = maps(kind)
    rows = values.flatten(1).numpy()
    by_rule = [len(np.histogram_bin_edges(row, bins="fd")) - 1 for row in rows]
    bins = freedman_diaconis(values)
    assert bins.tolist() == [min(max(count, 10), 200) for count in by_rule]
    for given in (bins, 1, 25):
        counts = torch.as_tensor(given).expand(len(rows)).tolist()
        pairs = zip(rows, counts, strict=True)
        expected = [entropy(np.histogram(row, bins=count)[0]) for row, count in pairs]
        assert_close(histogram_entropy(values, given), torch.tensor(expected, dtype=torch.float64))
    assert_close(histogram_entropy(values[:1], bins[:1]), histogram_entropy(values, bins)[:1])
    assert_close(histogram_entropy(values.float(), 25), histogram_entropy(values, 25), rtol=0, atol=1e-2)


def test_neither_scale_nor_shift_nor_place_counts() -> None:
    values = maps("heavy")
    expected = histogram_entropy(values, 32)
    assert_close(histogram_entropy(1024 * values, 32), expected)
    assert_close(histogram_entropy(values + 1, 32), expected, rtol=0, atol=1e-2)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    assert_close(histogram_entropy(values[..., order], 32), expected)
    assert torch.equal(freedman_diaconis(1024 * values), freedman_diaconis(values))


def test_the_ends_are_one_value_and_all_values_alike_often() -> None:
    ramp = torch.arange(64, dtype=torch.float64).reshape(1, 8, 8)
    few = torch.zeros(1, 8, 8, dtype=torch.float64)
    few[0, 0, 0] = 1
    assert_close(histogram_entropy(ramp, 16), torch.tensor([np.log(16)]))
    assert_close(histogram_entropy(torch.ones(2, 8, 8), 16), torch.zeros(2, dtype=torch.float64))
    assert_close(histogram_entropy(few, 16), torch.tensor([entropy([63, 1])]))
    # No spread in the middle asks for endless bins, none at all for any number.
    assert freedman_diaconis(torch.cat([few, 0 * few])).tolist() == [200, 10]
    few[0, 0, 1] = torch.nan
    assert bool(histogram_entropy(few, 16).isnan().all())
    assert len(histogram_entropy(ramp[:0], 16)) == len(freedman_diaconis(ramp[:0])) == 0


def test_a_rise_is_relative_and_undefined_from_zero() -> None:
    before = torch.tensor([2.0, 0.0, 4.0], dtype=torch.float64)
    after = torch.tensor([[3.0, 1.0, 4.0], [1.0, 0.0, 2.0]], dtype=torch.float64)
    expected = torch.tensor([[0.5, torch.nan, 0.0], [-0.5, torch.nan, -0.5]], dtype=torch.float64)
    assert_close(relative_rise(before, after), expected, equal_nan=True)


@pytest.mark.parametrize("bins", [0, 2.5, torch.tensor([1, 2])])
def test_bins_of_another_form_are_refused(bins: int) -> None:
    with pytest.raises(UsageError, match=r"bins: .*an integer of at least 1"):
        histogram_entropy(maps("normal"), bins)
