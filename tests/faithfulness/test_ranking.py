"""Ranks of one batch and of data sets, by methods, maps in files and code of one's own."""

import dataclasses
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn

from veridical.attribution.methods import InputGradient, SmoothGrad
from veridical.data import Dataset
from veridical.faithfulness.ranking import Ranking, rank_coordinates, rank_dataset, rank_maps
from veridical.runtime.errors import DataError, RunError, UsageError
from veridical.runtime.options import CoordinateOrder, OrderName, PerName


def maps(examples: int = 6, channels: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(examples, channels, 5, 4, generator=torch.Generator().manual_seed(seed))


KEYS: dict[OrderName, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "absolute": np.abs,
    "signed": lambda values: values,
    "squared": lambda values: values**2,
}


@pytest.mark.parametrize("order", ["absolute", "signed", "squared"])
@pytest.mark.parametrize("per", ["value", "pixel"])
def test_ranks_are_those_of_scipy(order: OrderName, per: PerName) -> None:
    attribution = maps()
    importance = KEYS[order](attribution.double().numpy())
    flat = importance.sum(axis=1) if per == "pixel" else importance
    expected = rankdata(-flat.reshape(6, -1), axis=1, method="ordinal") - 1
    result = rank_coordinates(attribution, CoordinateOrder(order=order, per=per))
    assert result.dtype == torch.int16
    assert np.array_equal(result.numpy(), expected)


def test_many_coordinates_need_int32() -> None:
    wide = torch.arange(2**15 + 1, dtype=torch.float64).reshape(1, 1, 1, -1)
    assert rank_coordinates(wide).dtype == torch.int32
    assert rank_coordinates(wide)[0, 0] == 2**15
    assert rank_coordinates(wide[..., 1:]).dtype == torch.int16
    assert rank_coordinates(wide[..., 1:]).min() == 0


def test_squares_of_small_gradients_do_not_vanish() -> None:
    small = torch.tensor([1e-25, 3e-25, 2e-25, 0.0]).reshape(1, 1, 2, 2)
    assert rank_coordinates(small, CoordinateOrder(order="squared")).tolist() == [[2, 0, 1, 3]]


def test_stable_ties_go_by_place_and_random_ones_do_not() -> None:
    tied = torch.zeros(1, 1, 8, 8)
    tied[0, 0, 7] = 1.0
    stable = rank_coordinates(tied, CoordinateOrder(ties="stable"))[0].tolist()
    assert stable == [*range(8, 64), *range(8)]
    drawn = rank_coordinates(tied, CoordinateOrder(seed=3))[0]
    assert sorted(drawn[56:].tolist()) == list(range(8))
    assert drawn[:56].tolist() != stable[:56]
    assert not torch.equal(drawn, rank_coordinates(tied, CoordinateOrder(seed=4))[0])


def test_random_ties_are_uniform() -> None:
    drawn = rank_coordinates(torch.zeros(4000, 1, 2, 2), CoordinateOrder(seed=1))
    # Each coordinate has each rank in a quarter of the examples: 1000, with deviation 27.
    counts = torch.stack([(drawn == place).sum(dim=0) for place in range(4)])
    assert bool(((counts - 1000).abs() < 140).all())


def test_batches_change_nothing() -> None:
    attribution = maps(9).round()  # many ties
    how = CoordinateOrder(seed=2)
    whole = rank_coordinates(attribution, how)
    numbers = [range(4), range(4, 5), range(5, 9)]
    parts = [rank_coordinates(attribution[n.start : n.stop], how, indices=n) for n in numbers]
    assert torch.equal(whole, torch.cat(parts))
    shuffled = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rank_coordinates(attribution[shuffled], how, indices=shuffled), whole[shuffled])
    assert rank_coordinates(attribution[:0]).shape == (0, 60)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_without_a_rank_are_refused(bad: float) -> None:
    attribution = maps()
    attribution[2, 0, 0, 0] = bad
    with pytest.raises(UsageError, match=r"not finite in 1 of 6 \(the first is 2\)"):
        rank_coordinates(attribution)


@pytest.fixture
def ranking() -> Ranking:
    train, test = (rank_coordinates(maps(count, seed=count)).numpy() for count in (7, 3))
    return Ranking(train, test, (3, 5, 4), {"seed": 0, "attribution": {"method": "made up"}})


def test_a_ranking_comes_back_from_its_file(ranking: Ranking, tmp_path: Path) -> None:
    ranking.save(tmp_path / "ranking.npz")
    result = Ranking.load(tmp_path / "ranking.npz")
    assert np.array_equal(result.train, ranking.train)
    assert np.array_equal(result.test, ranking.test)
    assert result.shape == (3, 5, 4)
    assert result.describe() == ranking.describe()
    assert result.checksum == ranking.checksum
    # Mapped: workers share the pages, and nobody can write to them.
    assert isinstance(result.train, np.memmap)
    assert not result.train.flags.writeable
    assert [path.name for path in tmp_path.iterdir()] == ["ranking.npz"]
    with np.load(tmp_path / "ranking.npz", allow_pickle=False) as archive:
        assert np.array_equal(archive["train"], ranking.train)
    # The checksum is that of the ranks, whatever made them.
    assert Ranking(ranking.train, ranking.test, ranking.shape, {}).checksum == ranking.checksum
    assert Ranking(ranking.train[::-1], ranking.test, ranking.shape).checksum != ranking.checksum


def test_what_is_no_ranking_is_refused(ranking: Ranking, tmp_path: Path) -> None:
    """Damaged files are a test of jobs' files."""
    for dtype in (np.int64, np.float32):
        with pytest.raises(UsageError, match="ranks train"):
            Ranking(ranking.train.astype(dtype), ranking.test, ranking.shape)  # type: ignore[arg-type]
    path, header = tmp_path / "other.npz", io.BytesIO()
    with pytest.raises(RunError, match="no file"):
        Ranking.load(path)
    for array in (np.array([[print]], dtype=object), ranking.train):
        np.savez(path, train=array)
        with pytest.raises(RunError, match=r"other\.npz is damaged"):
            Ranking.load(path)
    # A header that asks for too much is refused before anything is read.
    form = {"descr": "<i2", "fortran_order": False, "shape": (2**40, 64)}
    np.lib.format.write_array_header_1_0(header, form)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train.npy", header.getvalue())
    with pytest.raises(RunError, match=r"other\.npz is damaged"):
        Ranking.load(path)


@pytest.fixture(scope="session")
def few(marked_data: Dataset) -> Dataset:
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
    def half(model: nn.Module, inputs: Tensor, *_: Any, **__: Any) -> Tensor:  # noqa: ARG001
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
        (good.astype(np.int64), np.zeros((10, 1, 8, 8)), r"floating .* but found int64"),
        (good.reshape(25, 64), np.zeros((10, 1, 8, 8)), r"\(25, 1, 8, 8\)"),
    ):
        np.savez(path, attribution_train=train, attribution_test=test)
        with pytest.raises(DataError, match=message):
            rank_maps(path, few)
    np.savez(path, attribution_train=good)
    with pytest.raises(DataError, match="expected an array attribution_test"):
        rank_maps(path, few)
