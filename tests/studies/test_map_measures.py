"""All measures of a batch of maps at once: by hand, where regions are empty, and joined from batches."""

import numpy as np
import pytest
import torch

from veridical.studies.maps import SINGLE, joined, map_measures, measures_over_seeds


def test_a_map_by_hand() -> None:
    maps = torch.tensor([[[[4.0, -3.0], [2.0, 1.0]]], [[[0.0, 0.0], [0.0, 5.0]]]])
    regions = torch.tensor([[[True, True], [False, False]], [[True, False], [False, False]]])
    found = map_measures(maps, regions, seed=0, indices=[0, 1], levels=[0.5])
    assert found["mass"].tolist() == [0.7, 0.0]
    assert found["area"].tolist() == [0.5, 0.25]
    assert found["pointing"].tolist() == [1.0, 0.0]
    assert found["topk"][0].tolist() == [1.0]
    assert found["auc"].tolist() == pytest.approx([1.0, 1 / 3])
    assert found["zero"].tolist() == [0.0, 0.75]


def test_nothing_lies_in_an_empty_region_not_even_none() -> None:
    maps, regions = torch.ones(2, 1, 3, 3), torch.zeros(2, 3, 3, dtype=torch.bool)
    regions[1, 0, 0] = True
    found = map_measures(maps, regions, seed=0, indices=[0, 1])
    for name in ("mass", "area", "pointing", "auc", "topk"):
        assert np.isnan(found[name][0]).all(), name
        assert not np.isnan(found[name][1]).any(), name
    assert found["zero"].tolist() == [0.0, 0.0]


def test_batches_join_to_the_whole_and_seeds_to_intervals() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(5, 3, 4, 4, generator=generator)
    maps[maps.abs() < 0.7] = 0.0  # ties, which must not depend on the batch
    regions = torch.rand(5, 4, 4, generator=generator) < 0.5
    whole = map_measures(maps, regions, seed=3, indices=range(5))
    parts = [map_measures(maps[r.start : r.stop], regions[r.start : r.stop], seed=3, indices=r) for r in
             (range(2), range(2, 5))]  # fmt: skip
    again = joined(parts)
    assert set(whole) == {*SINGLE, "topk"}
    for name, values in whole.items():
        np.testing.assert_array_equal(again[name], values)
    found = measures_over_seeds([whole, whole])
    assert found["excess"]["seeds"]["value"] == pytest.approx((whole["mass"] - whole["area"]).mean())
    assert [two["examples"]["value"] for two in found["topk"]] == pytest.approx(whole["topk"].mean(axis=0))
