"""Rankings of whole data sets by an attribution, and by maps from a file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from veridical.attribution.methods import InputGradient, SmoothGrad
from veridical.data import Dataset
from veridical.faithfulness.ranking import rank_coordinates, rank_dataset, rank_maps
from veridical.runtime.errors import DataError


@pytest.fixture(scope="session")
def few(marked_data: Dataset) -> Dataset:
    import dataclasses

    train, test = marked_data.train.subset(range(25)), marked_data.test.subset(range(10))
    return dataclasses.replace(marked_data, train=train, test=test)


def gradient(network: nn.Module, inputs: Tensor, target: Tensor | None = None) -> Tensor:
    """The paper's attribution in plain autograd."""
    inputs = inputs.clone().requires_grad_()
    logits = network(inputs)
    chosen = logits.argmax(1) if target is None else target
    (result,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), inputs)
    return result


@pytest.mark.parametrize("target", ["predicted", "label"])
def test_a_data_set_is_ranked_by_the_gradient_of_the_logit(
    network: nn.Module, few: Dataset, target: str
) -> None:
    reported: list[tuple[int, int]] = []
    ranking = rank_dataset(
        network,
        few,
        InputGradient(),
        target=target,  # type: ignore[arg-type]
        batch=8,
        record={"weights": "abc"},
        progress=lambda done, total: reported.append((done, total)),
    )
    for split, result in ((few.train, ranking.train), (few.test, ranking.test)):
        inputs, labels = split.batch(slice(None), torch.float64)
        expected = rank_coordinates(gradient(network, inputs, labels if target == "label" else None))
        assert np.array_equal(result, expected.numpy())
    assert reported == [(0, 35), (8, 35), (16, 35), (24, 35), (25, 35), (33, 35), (35, 35)]
    assert ranking.record["weights"] == "abc"
    assert ranking.record["target"] == target
    assert ranking.record["zero_share"] == 0.0
    assert ranking.record["attribution"]["method"] == "InputGradient"


def test_batches_do_not_change_a_ranking_with_noise(network: nn.Module, few: Dataset) -> None:
    method = SmoothGrad(samples=2, seed=1)
    result = [rank_dataset(network, few, method, batch=batch).checksum for batch in (4, 25)]
    assert result[0] == result[1]


def test_exact_zeros_are_counted(network: nn.Module, few: Dataset) -> None:
    def half(
        model: nn.Module, inputs: Tensor, target: Tensor | None = None, *, create_graph: bool = False
    ) -> Tensor:
        del model, target, create_graph
        maps = torch.ones_like(inputs)
        maps[:, :, :4] = 0
        return maps

    assert rank_dataset(network, few, half).record["zero_share"] == 0.5


def test_maps_from_a_file_rank_as_the_method_that_made_them(
    network: nn.Module, few: Dataset, tmp_path: Path
) -> None:
    parts = {"train": few.train, "test": few.test}
    maps = {
        f"attribution_{part}": gradient(network, split.batch(slice(None), torch.float64)[0]).numpy()
        for part, split in parts.items()
    }
    expected = rank_dataset(network, few, InputGradient()).checksum
    plain, packed, grey = tmp_path / "plain.npz", tmp_path / "packed.npz", tmp_path / "grey.npz"
    np.savez(plain, **maps)  # type: ignore[arg-type]
    np.savez_compressed(packed, **maps)  # type: ignore[arg-type]
    np.savez(grey, **{name: values[:, 0].astype(">f8") for name, values in maps.items()})  # type: ignore[arg-type]
    for path in (plain, packed, grey):
        ranking = rank_maps(path, few, batch=7)
        assert ranking.checksum == expected
        assert len(ranking.record["attribution"]["sha256"]) == 64
    whole, some = rank_maps(plain, few, batch=7), rank_maps(plain, few, batch=7, train=11)
    assert (len(some.train), len(some.test)) == (11, len(few.test))
    assert np.array_equal(some.train, whole.train[:11])


def test_maps_that_do_not_fit_are_refused(few: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "maps.npz"
    good = np.zeros((25, 1, 8, 8), dtype=np.float32)
    for train, test, message in (
        (good, np.zeros((9, 1, 8, 8)), r"\(10, 1, 8, 8\)"),
        (good[:, :, :7], np.zeros((10, 1, 8, 8)), r"\(25, 1, 8, 8\)"),
        (good.astype(np.int64), np.zeros((10, 1, 8, 8)), "kind f"),
        (good.reshape(25, 64), np.zeros((10, 1, 8, 8)), "4 dimensions"),
    ):
        np.savez(path, attribution_train=train, attribution_test=test)
        with pytest.raises(DataError, match=message):
            rank_maps(path, few)
    np.savez(path, attribution_train=good)
    with pytest.raises(DataError, match="expected an array attribution_test"):
        rank_maps(path, few)
