"""The block world: what it draws, and what its corners are."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import kstest

from veridical.data.block_world import BlockExamples, BlockWorld
from veridical.runtime.errors import UsageError

NOISY = BlockWorld(blocks=6, block_size=3, noise=0.2, seed=4)


def noise_of(world: BlockWorld, drawn: BlockExamples) -> torch.Tensor:
    """What is left of the inputs (N, blocks, block_size) without y u* on the carrying block."""
    blocks: torch.Tensor = drawn.inputs.unflatten(1, (world.blocks, world.block_size)).clone()
    blocks[torch.arange(len(drawn)), drawn.block] -= drawn.sign[:, None] * world.signal
    return blocks


def test_without_noise_one_block_is_the_label_times_the_signal() -> None:
    world = BlockWorld(blocks=4, block_size=2, direction=(3.0, -4.0))
    points = world.points()
    expected = [[3, -4, 0, 0], [0, 0, 3, -4], [-3, 4, 0, 0], [0, 0, -3, 4]]
    assert points.inputs.tolist() == [[*row, 0, 0, 0, 0] for row in expected]
    assert points.target.tolist() == [1, 1, 0, 0]
    assert points.block.tolist() == [0, 1, 0, 1]
    assert points.sign.tolist() == [1, 1, -1, -1]
    drawn = world.examples(50)
    places = drawn.block + world.relevant * (1 - drawn.target)
    assert torch.equal(drawn.inputs, points.inputs[places])


def test_labels_and_places_are_uniform_and_independent() -> None:
    drawn = replace(NOISY, noise=0.0).examples(1200)
    counts = torch.bincount(drawn.block * 2 + drawn.target, minlength=6)
    assert len(counts) == 6
    # 200 expected of each; 5 deviations are 65.
    assert (counts - 200).abs().max() < 65


def test_noise_is_uniform_in_the_ball_of_its_length() -> None:
    drawn = NOISY.examples(400)
    noise = noise_of(NOISY, drawn)
    share = noise.norm(dim=2) / NOISY.noise
    assert share.max() <= 1 + 1e-12
    # Uniform in a 3-ball: the cube of the length is uniform, and so is every entry of the direction.
    assert kstest((share**3).flatten().numpy(), "uniform").pvalue > 1e-3
    direction = noise / noise.norm(dim=2, keepdim=True)
    for entry in range(3):
        values = (direction[..., entry].flatten().numpy() + 1) / 2
        assert kstest(values, "uniform").pvalue > 1e-3


def test_examples_depend_on_seed_part_and_number_alone() -> None:
    few, many = NOISY.examples(5), NOISY.examples(40)
    # Powers of many numbers at once may be rounded in another way than those of few.
    torch.testing.assert_close(few.inputs, many.inputs[:5], rtol=1e-13, atol=0)
    assert torch.equal(few.target, many.target[:5])
    assert not torch.equal(few.inputs, NOISY.examples(5, "test").inputs)
    assert not torch.equal(few.inputs, BlockWorld(6, 3, 0.2, seed=5).examples(5).inputs)
    assert len(NOISY.examples(0)) == 0


def test_corners_lie_in_the_support_and_are_the_worst_for_a_sum_over_the_relevant_blocks() -> None:
    corners = NOISY.corners()
    noise = noise_of(NOISY, corners)
    lengths = noise.norm(dim=2)
    torch.testing.assert_close(
        lengths[:, :3], torch.full((6, 3), 0.2, dtype=torch.float64), rtol=1e-12, atol=0
    )
    assert lengths[:, 3:].max() == 0
    summed = torch.cat([NOISY.signal.repeat(3), torch.zeros(9).double()])
    worst = corners.sign * (corners.inputs @ summed)
    torch.testing.assert_close(worst, torch.full((6,), 1 - 3 * 0.2, dtype=torch.float64), rtol=1e-12, atol=0)
    drawn = NOISY.examples(300)
    assert (drawn.sign * (drawn.inputs @ summed)).min() > worst[0]


def test_a_world_is_made_again_from_its_record() -> None:
    world = BlockWorld(4, 2, 0.1, direction=(0.0, 1.0), seed=3)
    record = world.describe()
    assert BlockWorld(**{**record, "direction": tuple(record["direction"])}) == world
    assert BlockWorld().describe()["direction"] is None


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"blocks": 5}, "blocks"),
        ({"blocks": 0}, "blocks"),
        ({"block_size": 0}, "block_size"),
        ({"noise": -0.1}, "noise"),
        ({"noise": float("nan")}, "noise"),
        ({"direction": (0.0,)}, "direction"),
        ({"direction": (1.0, 1.0)}, "direction"),
    ],
)
def test_what_cannot_be_is_refused_by_name(options: dict[str, object], name: str) -> None:
    with pytest.raises(UsageError, match=f"^{name}: expected"):
        BlockWorld(**options)  # type: ignore[arg-type]
