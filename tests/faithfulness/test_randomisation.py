"""Maps of networks that lose what they have learnt, on a small network that has learnt to tell shapes."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from veridical.attribution.maps import dataset_maps
from veridical.attribution.methods import InputGradient
from veridical.attribution.registry import create_attribution
from veridical.data import Split
from veridical.faithfulness.invariance import (
    combine_verdicts,
    compare_unrelated,
    judge_remaining,
    pick_partners,
    remaining_similarity,
)
from veridical.faithfulness.randomisation import (
    copy_reset,
    find_stages,
    fresh_seed,
    model_randomisation,
    overwrite_stages,
    predict_classes,
)
from veridical.metrics.intervals import Interval
from veridical.metrics.registry import compare_maps, measures
from veridical.runtime.errors import UsageError
from veridical.runtime.guards import private_copy

DRAWS = 5


def shapes(count: int, seed: int) -> Split:
    """Images 12x12 of a bar, a standing bar, a square or a cross, anywhere on a dark ground."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
    labels = torch.randint(4, (count,), generator=generator)
    middle = torch.randint(3, 9, (2, count, 1, 1), generator=generator)
    down, across = (rows - middle[0]).abs(), (columns - middle[1]).abs()
    kinds = [
        (down < 1) & (across < 4),
        (down < 4) & (across < 1),
        (down < 2) & (across < 2),
        (down == across) & (down < 3),
    ]
    shape = torch.stack(kinds)[labels, torch.arange(count)].float()
    bright = 0.5 + 0.4 * torch.rand(count, 1, 1, generator=generator)
    noise = 0.1 * torch.rand(count, 12, 12, generator=generator)
    return Split((255 * (bright * shape + noise)).round().to(torch.uint8)[:, None], labels)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Two convolutions and two linear layers, trained until they tell the shapes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 25, 128),
            nn.ReLU(),
            nn.Linear(128, 4),
        )
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    data = shapes(640, 1)
    for step in range(80):
        inputs, target = data.batch(range(64 * step % 640, 64 * step % 640 + 64))
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs), target).backward()
        optimiser.step()
    return model


@pytest.fixture(scope="module")
def examples() -> Split:
    return shapes(40, 2)


def test_the_cascade_ends_with_the_maps_of_a_fresh_network(network: nn.Module, examples: Split) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    target = predict_classes(network, examples)
    assert float((target == examples.labels).double().mean()) > 0.9
    result = list(model_randomisation(network, examples, InputGradient(), seed=3))
    assert [(state.stage.name, state.randomised) for state in result] == [
        ("7", 1),
        ("5", 2),
        ("2", 3),
        ("0", 4),
    ]
    fresh = copy_reset(network, 3)
    # Of the classes that the trained network predicts, at every step.
    last = dataset_maps(fresh, examples, InputGradient(), target=target)
    assert torch.equal(result[-1].maps, last)
    assert torch.equal(result[-1].predicted, predict_classes(fresh, examples))
    trained = dataset_maps(network, examples, InputGradient(), target=target)
    for name, values in compare_maps(trained, last, "sanity").items():
        assert torch.equal(result[-1].similarity[name], values)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_independent_leaves_the_other_layers_trained(network: nn.Module, examples: Split) -> None:
    result = list(model_randomisation(network, examples, InputGradient(), order="independent", seed=3))
    assert [state.randomised for state in result] == [1, 1, 1, 1]
    fresh, target = copy_reset(network, 3), predict_classes(network, examples)
    stages = find_stages(network, examples.batch(range(1))[0])
    middle = private_copy(network)
    overwrite_stages(middle, fresh, stages[1:2])
    assert_close(result[1].maps, dataset_maps(middle, examples, InputGradient(), target=target))


def test_given_classes_and_a_builder_of_fresh_networks_are_used(network: nn.Module, examples: Split) -> None:
    seeds = []

    def fresh(seed: int) -> nn.Module:
        seeds.append(seed)
        return copy_reset(network, seed)

    options = {"fresh": fresh, "target": examples.labels, "seed": 4, "batch_size": 17}
    steps: list[tuple[int, int]] = []
    result = list(
        model_randomisation(
            network,
            examples,
            InputGradient(),
            progress=lambda done, total: steps.append((done, total)),
            **options,  # type: ignore[arg-type]
        )
    )
    assert seeds == [fresh_seed(4)]
    assert seeds[0] > 1000
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    last = dataset_maps(copy_reset(network, seeds[0]), examples, InputGradient(), target=examples.labels)
    assert_close(result[-1].maps, last)


def test_a_map_of_the_image_alone_does_not_change(network: nn.Module, examples: Split) -> None:
    def image(
        model: nn.Module,  # noqa: ARG001 - that it is not looked at is the point
        inputs: Tensor,
        target: Tensor | None = None,  # noqa: ARG001
        *,
        create_graph: bool = False,  # noqa: ARG001
    ) -> Tensor:
        return inputs - 0.5

    for state in model_randomisation(network, examples, image):
        for values in state.similarity.values():
            assert_close(values, torch.ones(40, dtype=torch.float64))


def remains(network: nn.Module, examples: Split, name: str) -> dict[str, list[Interval]]:
    """By measure what remains with all layers random but the lowest, and with all random, over some draws."""
    method, target = create_attribution(name), predict_classes(network, examples)
    draws = [list(model_randomisation(network, examples, method, seed=draw)) for draw in range(DRAWS)]
    maps = dataset_maps(network, examples, method, target=target)
    level = compare_unrelated(maps, target, 0)["other image"]
    return {
        measure: [
            remaining_similarity(
                torch.stack([draw[place].similarity[measure] for draw in draws]), level[measure]
            )
            for place in (-2, -1)
        ]
        for measure in measures("sanity")
    }


def test_gradients_fall_to_unrelated_maps_and_guided_backpropagation_is_caught(
    network: nn.Module, examples: Split
) -> None:
    verdicts, most = {}, {}
    for name in ("input-gradient", "captum:GuidedBackprop"):
        result = remains(network, examples, name)
        judged = {measure: judge_remaining(states) for measure, states in result.items()}
        verdicts[name] = combine_verdicts(judged, dict.fromkeys(measures("sanity"), True))
        most[name] = max(states[0]["value"] or 0.0 for states in result.values())
    assert verdicts == {"input-gradient": "passes", "captum:GuidedBackprop": "nearly invariant"}, most
    assert most["input-gradient"] < 0.15
    # Nothing above the first convolution is what it was, and most of the guided picture is there.
    assert most["captum:GuidedBackprop"] > 0.6


def test_what_it_refuses(network: nn.Module, examples: Split) -> None:
    with pytest.raises(UsageError, match=r"order: .*cascading or independent"):
        next(model_randomisation(network, examples, InputGradient(), order="sideways"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"target: .*each of 40 examples"):
        dataset_maps(network, examples, InputGradient(), target=torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("counts", [(5, 5), (10, 10, 9), (1, 1), (30, 1, 1), (7,), (3, 4, 5, 6)])
def test_unrelated_maps_are_those_of_other_images_of_another_class(counts: tuple[int, ...]) -> None:
    target = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    target = target[torch.randperm(len(target), generator=torch.Generator().manual_seed(2))]
    result = pick_partners(target, 4)
    assert sorted(result.tolist()) == list(range(len(target)))
    assert bool((result != torch.arange(len(target))).all())
    if 2 * max(counts) <= sum(counts):
        assert bool((target[result] != target).all())
    assert torch.equal(result, pick_partners(target, 4))


def test_unrelated_maps_are_near_zero_for_noise_and_not_where_images_share_structure() -> None:
    generator = torch.Generator().manual_seed(1)
    shared = torch.randn(1, 3, 12, 12, generator=generator).abs() * 4
    own = torch.randn(40, 3, 12, 12, generator=generator) + shared
    result = compare_unrelated(own, torch.arange(40) % 4, seed=0)
    assert abs(float(result["noise"]["spearman_signed"].mean())) < 0.05
    assert float(result["other image"]["spearman_signed"].mean()) > 0.5
    with pytest.raises(UsageError, match="at least 2"):
        compare_unrelated(own[:1], torch.zeros(1, dtype=torch.int64), seed=0)
