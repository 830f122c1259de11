"""Streams are reproducible, unrelated, and independent of how examples are batched."""

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from veridical.runtime.errors import UsageError
from veridical.runtime.seeds import per_example_normal, per_example_uniform, seed_global, stream

DRAWS = [per_example_uniform, per_example_normal]


def _numbers(seed: int, purpose: str, index: int = 0) -> Tensor:
    return torch.rand(8, generator=stream(seed, purpose, index))


def test_a_stream_depends_on_each_part_of_its_key() -> None:
    first = _numbers(3, "shuffle", 5)
    assert torch.equal(first, _numbers(3, "shuffle", 5))
    for other in (_numbers(4, "shuffle", 5), _numbers(3, "weights", 5), _numbers(3, "shuffle", 6)):
        assert not torch.equal(first, other)
    # The parts of a key do not run into each other.
    assert not torch.equal(_numbers(1, "1/a", 2), _numbers(1, "a", 21))
    assert not torch.equal(_numbers(1, "2/x", 1), _numbers(1, "x", 12))


def test_streams_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    _numbers(0, "shuffle")
    per_example_normal((3,), 0, "noise", [1, 2])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("draw", DRAWS)
def test_a_row_does_not_depend_on_its_batch(draw: Callable[..., Tensor]) -> None:
    whole = draw((2, 3), 7, "start", torch.arange(10))
    assert whole.shape == (10, 2, 3)
    assert whole.dtype == torch.float32
    for index in (9, 0, 4):
        assert torch.equal(draw((2, 3), 7, "start", [index])[0], whole[index])
    assert torch.equal(draw((2, 3), 7, "start", torch.tensor([8, 2])), whole[[8, 2]])
    assert len({tuple(row.flatten().tolist()) for row in whole}) == 10


@pytest.mark.parametrize("draw", DRAWS)
def test_dtypes_differ_by_rounding_only_and_an_empty_batch_is_empty(draw: Callable[..., Tensor]) -> None:
    double = draw((50,), 7, "start", [3], dtype=torch.float64)
    assert double.dtype == torch.float64
    assert torch.equal(double.float(), draw((50,), 7, "start", [3]))
    assert draw((2, 3), 7, "start", []).shape == (0, 2, 3)


@pytest.mark.parametrize("shape", [(), (3,), (1, 5, 6)])
@pytest.mark.parametrize(
    ("drawn", "plain"),
    [
        (per_example_normal, np.random.Generator.standard_normal),
        (per_example_uniform, np.random.Generator.random),
    ],
)
def test_each_row_is_a_new_philox_stream(
    drawn: Callable[..., Tensor], plain: Callable[..., np.ndarray], shape: tuple[int, ...]
) -> None:
    indices = [5, 0, 10**12, 5]
    keys = [hashlib.sha256(f"3/{index}/noise".encode()).digest()[:16] for index in indices]
    streams = [np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little"))) for key in keys]
    expected = torch.from_numpy(np.stack([plain(one, size=shape) for one in streams]))
    assert torch.equal(drawn(shape, 3, "noise", indices, dtype=torch.float64), expected)


@pytest.mark.parametrize("seed", [1.0, True, "1"])
def test_a_seed_that_is_no_integer_is_refused(seed: object) -> None:
    with pytest.raises(UsageError, match="seed: expected an int"):
        stream(seed, "shuffle")  # type: ignore[arg-type]


def test_the_global_generator_is_set_as_torch_sets_it() -> None:
    with torch.random.fork_rng():
        for seed in (0, stream(0, "layers").initial_seed()):
            torch.manual_seed(seed)
            expected = torch.rand(5)
            seed_global(seed)
            assert torch.equal(torch.rand(5), expected)
