"""Randomised weights and data: layers, copies, sanity checks, and their verdicts."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from torch import Tensor, nn
from torch.testing import assert_close

from veridical.attribution.method import dataset_maps, predict_classes
from veridical.attribution.methods import InputGradient
from veridical.attribution.registry import create_attribution
from veridical.data import Dataset, Split
from veridical.data.arrays import Arrays
from veridical.data.dataset import build_dataset
from veridical.faithfulness.randomisation import (
    InvarianceVerdict,
    Smoothing,
    Stage,
    _copy_reset,
    _overwrite_stage,
    _pick_partners,
    combine_verdicts,
    compare_unrelated,
    draws_interval,
    find_stages,
    fresh_seed,
    is_nearer,
    judge_remaining,
    judge_rise,
    model_randomisation,
    permute_labels,
    randomised_complexity,
    remaining_similarity,
    replace_by_noise,
    shorten_training,
    smooth_maps,
)
from veridical.metrics.intervals import Interval, mean_interval
from veridical.metrics.registry import compare_maps, measures
from veridical.models import build
from veridical.runtime.errors import UsageError
from veridical.runtime.guards import private_copy
from veridical.runtime.seeds import per_example_normal


class Backwards(nn.Module):
    """Registered from the logits down, called from the inputs up, with a scale of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(3)
        self.first = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.last(self.norm(self.first(inputs.flatten(1))).relu())
        return result


class Uncalled(nn.Module):
    """The weights of `second` are used without a call, as nn.MultiheadAttention uses its projection's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = nn.functional.linear(self.first(inputs.flatten(1)), self.second.weight, self.second.bias)
        result: Tensor = self.third(hidden)
        return result


def names(model: nn.Module, shape: tuple[int, ...] = (1, 2, 2)) -> list[tuple[str, ...]]:
    return [stage.layers for stage in find_stages(model, torch.zeros(1, *shape))]


def test_the_order_is_that_of_the_calls_and_scales_belong_to_the_layer_before() -> None:
    assert names(Backwards()) == [("last",), ("first", "norm")]
    assert names(Uncalled()) == [("third",), ("second",), ("first",)]
    before = nn.Sequential(nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 2))
    assert names(before) == [("2", "1")]
    assert find_stages(Backwards(), torch.zeros(1, 4))[1] == Stage("first", ("first", "norm"))
    layers = names(build("cnn", shape=(1, 8, 8), num_classes=3, seed=0), (1, 8, 8))
    assert layers == [("classify",), ("hidden",), ("conv2",), ("conv1",)]
    stages = names(build("resnet18", shape=(3, 8, 8), num_classes=3, seed=0, width=8), (3, 8, 8))
    assert (stages[0], stages[-1]) == (("classify",), ("stem", "norm"))
    # 17 convolutions on the way, 3 on shortcuts, and the logits.
    assert len(stages) == 21


def test_a_reset_copy_is_fresh_and_comes_from_the_seed_alone() -> None:
    model = Backwards()
    rng = torch.get_rng_state()
    one, same, other = _copy_reset(model, 1), _copy_reset(model, 1), _copy_reset(model, 2)
    assert torch.equal(torch.get_rng_state(), rng)
    for name, weights in one.state_dict().items():
        assert torch.equal(weights, same.state_dict()[name])
        if name in ("last.weight", "first.weight"):
            assert not torch.equal(weights, other.state_dict()[name])
            assert not torch.equal(weights, model.state_dict()[name])


def test_only_the_chosen_stages_change() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model(torch.rand(8, 4))  # moves the running statistics
    fresh = _copy_reset(model, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    changed = private_copy(model)
    _overwrite_stage(changed, fresh, Stage("0", ("0", "1")))
    for name, value in changed.state_dict().items():
        source = before if name.startswith("2.") else fresh.state_dict()
        assert_close(value, source[name])
        assert_close(model.state_dict()[name], before[name])
    assert not torch.equal(before["1.running_mean"], changed.state_dict()["1.running_mean"])


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Colour images whose brightness is the class, sorted by class."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 100)
    images = (60 * labels[:, None, None, None] + random.integers(0, 60, (400, 5, 4, 3))).astype(np.uint8)
    return build_dataset("bright", Arrays(images, labels, images[::9], labels[::9], tuple("abcd")), "memory")


def test_permuted_labels_are_the_same_labels_of_other_images(data: Dataset) -> None:
    result = permute_labels(data, 1)
    assert torch.equal(result.train.images, data.train.images)
    assert torch.equal(result.train.labels.bincount(), data.train.labels.bincount())
    # One in four is right by chance.
    assert 0.15 < float((result.train.labels == data.train.labels).double().mean()) < 0.35
    assert torch.equal(result.test.labels, data.test.labels)


def test_noise_has_the_channels_distribution_and_nothing_of_the_class(data: Dataset) -> None:
    result = replace_by_noise(data, 1)
    assert torch.equal(result.train.images, replace_by_noise(data, 1).train.images)
    assert not torch.equal(result.train.images, replace_by_noise(data, 2).train.images)
    assert torch.equal(result.train.labels, data.train.labels)
    assert torch.equal(result.test.images, data.test.images)
    true, noise = data.train.images.double(), result.train.images.double()
    # Cutting at 0 and 255 moves both a little.
    torch.testing.assert_close(noise.mean((0, 2, 3)), true.mean((0, 2, 3)), rtol=0.05, atol=0)
    torch.testing.assert_close(noise.std((0, 2, 3)), true.std((0, 2, 3)), rtol=0.1, atol=0)
    brightness = noise.mean((1, 2, 3))
    by_class = torch.stack([brightness[result.train.labels == label].mean() for label in range(4)])
    assert float(by_class.max() - by_class.min()) < 8  # 180 in the images
    # Neighbours are as unlike as any two values.
    centred = noise - noise.mean((0, 2, 3), keepdim=True)
    assert abs(float((centred[..., 1:] * centred[..., :-1]).mean() / centred.square().mean())) < 0.05


def test_a_part_is_chosen_across_classes_and_has_a_checksum_of_its_own(data: Dataset) -> None:
    part = shorten_training(data, 80, 5)
    assert len(part.train) == 80
    assert min(part.train.labels.bincount().tolist()) > 8  # the first 80 of the file are one class
    assert part.classes == data.classes
    versions = [data, part, shorten_training(data, 80, 6), permute_labels(part, 5), replace_by_noise(part, 5)]
    assert len({one.checksum for one in versions}) == len(versions)
    assert permute_labels(part, 5).checksum == permute_labels(part, 5).checksum
    assert permute_labels(part, 5).options["permuted_labels"] == 5
    with pytest.raises(UsageError, match="from 1 to 400"):
        shorten_training(data, 401, 0)


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
    assert [state.stage.name for state in result] == list("7520")
    fresh = _copy_reset(network, 3)
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
    fresh, target = _copy_reset(network, 3), predict_classes(network, examples)
    stages = find_stages(network, examples.batch(range(1))[0])
    middle = private_copy(network)
    _overwrite_stage(middle, fresh, stages[1])
    assert_close(result[1].maps, dataset_maps(middle, examples, InputGradient(), target=target))
    # A map of the image alone does not change.
    image: Any = lambda _model, inputs, *_, **__: inputs - 0.5  # noqa: E731
    for state in model_randomisation(network, examples, image):
        for similarity in state.similarity.values():
            assert_close(similarity, torch.ones(40, dtype=torch.float64))


def test_given_classes_and_a_builder_of_fresh_networks_are_used(network: nn.Module, examples: Split) -> None:
    seeds = []

    def fresh(seed: int) -> nn.Module:
        seeds.append(seed)
        return _copy_reset(network, seed)

    options: dict[str, Any] = {"fresh": fresh, "target": examples.labels, "seed": 4, "batch_size": 17}
    result = list(model_randomisation(network, examples, InputGradient(), **options))
    assert seeds == [fresh_seed(4)]
    assert seeds[0] > 1000
    last = dataset_maps(_copy_reset(network, seeds[0]), examples, InputGradient(), target=examples.labels)
    assert_close(result[-1].maps, last)


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


def test_smoothed_maps_are_means_over_noisy_inputs(network: nn.Module, examples: Split) -> None:
    target, smoothing = predict_classes(network, examples), Smoothing(samples=4, noise=0.2, seed=6)
    result = smooth_maps(network, examples, InputGradient(), smoothing=smoothing, target=target, batch_size=7)
    inputs, _ = examples.batch(range(40))
    total = torch.zeros_like(inputs)
    for sample in range(4):
        purpose = f"smoothed sample {sample}"
        noisy = inputs + 0.2 * per_example_normal((1, 12, 12), 6, purpose, range(40))
        noisy.requires_grad_()
        logits = network(noisy).gather(1, target[:, None]).sum()
        total += torch.autograd.grad(logits, noisy)[0]
    assert_close(result, total / 4)
    # Without noise it is the map itself.
    still = Smoothing(samples=2, noise=0.0)
    same = smooth_maps(network, examples, InputGradient(), smoothing=still, target=target)
    assert_close(same, dataset_maps(network, examples, InputGradient(), target=target))


def test_from_the_image_up_the_last_network_is_that_of_the_cascade(
    network: nn.Module, examples: Split
) -> None:
    down, up, smooth = (
        list(model_randomisation(network, examples, InputGradient(), seed=2, **options))
        for options in (
            {},
            {"order": "bottom-up"},
            {"order": "bottom-up", "smoothing": Smoothing(samples=2, noise=0.0)},
        )
    )
    assert [state.stage.name for state in up] == list("0257")
    assert torch.equal(up[-1].maps, down[-1].maps)
    assert not torch.equal(up[0].maps, down[0].maps)
    for one, other in zip(up, smooth, strict=True):
        assert_close(one.maps, other.maps)
    # The first step leaves all but the lowest layer trained.
    lowest, stages = private_copy(network), find_stages(network, examples.batch(range(1))[0])
    _overwrite_stage(lowest, _copy_reset(network, 2), stages[-1])
    target = predict_classes(network, examples)
    assert torch.equal(up[0].maps, dataset_maps(lowest, examples, InputGradient(), target=target))


def test_guided_backpropagation_is_caught_by_smoothed_maps_too(network: nn.Module, examples: Split) -> None:
    method, target = create_attribution("captum:GuidedBackprop"), predict_classes(network, examples)
    smoothing = Smoothing(samples=5)
    own = smooth_maps(network, examples, method, smoothing=smoothing, target=target)
    level = compare_unrelated(own, target, 0)["other image"]["ssim"]
    draws = [
        list(
            model_randomisation(network, examples, method, order="bottom-up", smoothing=smoothing, seed=draw)
        )
        for draw in range(3)
    ]
    states = [
        remaining_similarity(torch.stack([draw[place].similarity["ssim"] for draw in draws]), level)
        for place in (-2, -1)
    ]
    assert judge_remaining(states) == "nearly invariant", states


def test_gradients_are_more_complex_in_random_networks_and_what_looks_at_none_is_the_same(
    network: nn.Module, examples: Split
) -> None:
    rises = {}
    for name in ("input-gradient", "random"):
        result = randomised_complexity(network, examples, create_attribution(name), draws=range(3))
        assert result.rise.shape == (3, 40)
        rises[name] = draws_interval(result.rise)
    assert judge_rise(rises["input-gradient"]) == "rises"
    assert judge_rise(rises["random"]) == "does not rise"
    assert rises["random"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 40}
    # The random networks are those that a cascade ends with; NumPy and SciPy have the entropies.
    target = predict_classes(network, examples)
    one = randomised_complexity(network, examples, InputGradient(), draws=[2], batch_size=17)
    *_, last = model_randomisation(network, examples, InputGradient(), seed=2)
    trained = dataset_maps(network, examples, InputGradient(), target=target)
    for i in range(0, 40, 8):
        bins = len(np.histogram_bin_edges(trained[i].double().numpy(), bins="fd")) - 1
        assert int(one.bins[i]) == min(max(bins, 10), 200)
        before, after = (
            entropy(np.histogram(maps[i].double().numpy(), bins=int(one.bins[i]))[0])
            for maps in (trained, last.maps)
        )
        assert float(one.rise[0, i]) == pytest.approx((after - before) / before, rel=1e-9)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.01, 0.2, "rises"),
        (-0.01, 0.2, "undecided"),
        (0.0, 0.2, "undecided"),
        (0.0, 0.0, "does not rise"),
        (-0.2, -0.1, "does not rise"),
        (None, None, "undecided"),
    ],
)
def test_complexity_rises_only_with_a_whole_interval(
    low: float | None, high: float | None, verdict: str
) -> None:
    assert judge_rise({"value": 0.05, "low": low, "high": high, "n": 9}) == verdict


class Scale(nn.Module):
    """A layer that cannot be reset."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_what_it_refuses(network: nn.Module, examples: Split) -> None:
    with pytest.raises(UsageError, match="with parameters"):
        find_stages(nn.Flatten(), torch.zeros(1, 4))
    with pytest.raises(UsageError, match="at least one state"):
        judge_remaining([])
    weights_stay = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 2)))
    for model, message in (
        (nn.Sequential(Scale()), r"layer '0' \(Scale\).*Give fresh="),
        (weights_stay, r"layer '0' \(Linear\) does not reset .*weight_g.*Give fresh="),
    ):
        with pytest.raises(UsageError, match=message):
            _copy_reset(model, 0)
    model = nn.Sequential(nn.Linear(4, 2))
    for fresh, message in (
        (nn.Sequential(nn.Linear(4, 3)), r"fresh: .*\(2, 4\).*\(3, 4\)"),
        (nn.Linear(4, 2), r"fresh: .*same architecture"),
    ):
        with pytest.raises(UsageError, match=message):
            _overwrite_stage(model, fresh, Stage("0", ("0",)))
    with pytest.raises(UsageError, match=r"order: .*cascading, independent"):
        next(model_randomisation(network, examples, InputGradient(), order="sideways"))  # type: ignore[arg-type]


@pytest.mark.parametrize("counts", [(5, 5), (10, 10, 9), (1, 1), (30, 1, 1), (7,), (3, 4, 5, 6)])
def test_unrelated_maps_are_those_of_other_images_of_another_class(counts: tuple[int, ...]) -> None:
    target = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    target = target[torch.randperm(len(target), generator=torch.Generator().manual_seed(2))]
    result = _pick_partners(target, 4)
    assert sorted(result.tolist()) == list(range(len(target)))
    assert bool((result != torch.arange(len(target))).all())
    if 2 * max(counts) <= sum(counts):
        assert bool((target[result] != target).all())
    assert torch.equal(result, _pick_partners(target, 4))


def test_unrelated_maps_are_near_zero_for_noise_and_not_where_images_share_structure() -> None:
    generator = torch.Generator().manual_seed(1)
    shared = torch.randn(1, 3, 12, 12, generator=generator).abs() * 4
    own = torch.randn(40, 3, 12, 12, generator=generator) + shared
    result = compare_unrelated(own, torch.arange(40) % 4, seed=0)
    assert abs(float(result["noise"]["spearman_signed"].mean())) < 0.05
    assert float(result["other image"]["spearman_signed"].mean()) > 0.5
    with pytest.raises(UsageError, match="at least 2"):
        compare_unrelated(own[:1], torch.zeros(1, dtype=torch.int64), seed=0)


def around(value: float, half: float = 0.05) -> Interval:
    return {"value": value, "low": value - half, "high": value + half, "n": 9}


UNKNOWN: Interval = {"value": 0.1, "low": None, "high": None, "n": 1}


def values(draws: int) -> Tensor:
    return torch.rand(draws, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_interval_joins_examples_and_draws() -> None:
    drawn = values(4) + torch.arange(4)[:, None]
    intervals = draws_interval(drawn), mean_interval(drawn.mean(0)), mean_interval(drawn.mean(1))
    half, *halves = [(one["high"] - one["low"]) / 2 for one in intervals]  # type: ignore[operator]
    assert half == pytest.approx((halves[0] ** 2 + halves[1] ** 2) ** 0.5)
    assert intervals[0]["value"] == pytest.approx(float(drawn.mean()))
    assert intervals[0]["n"] == 30
    assert draws_interval(values(1)) == mean_interval(values(1)[0])
    # Undefined comparisons are left out.
    drawn[0, 3], drawn[:, 7] = torch.nan, torch.nan
    assert draws_interval(drawn)["n"] == 29
    assert draws_interval(drawn)["low"] is not None
    with pytest.raises(UsageError, match="draws, N"):
        draws_interval(drawn[0])
    # What remains is 1 for the same map, 0 for an unrelated one, and nothing where all images have one map.
    level = 0.2 + 0.1 * values(1)[0]
    pairs = (torch.ones(3, 30), level), (level.expand(3, 30), level), (torch.ones(3, 30), torch.ones(30))
    same, other, unknown = (remaining_similarity(*pair)["value"] for pair in pairs)
    assert same == pytest.approx(1.0)
    assert other == pytest.approx(0.0, abs=1e-12)
    assert unknown is None


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ([around(0.0)], "passes"),
        ([around(0.1), around(-0.3)], "passes"),
        ([around(0.22)], "undecided"),  # the interval reaches over the threshold
        ([around(0.1), around(0.4)], "undecided"),
        ([around(0.52)], "undecided"),
        ([around(0.6), around(0.0)], "nearly invariant"),
        ([around(0.0), around(1.0)], "nearly invariant"),
        ([UNKNOWN], "undecided"),
        ([around(0.0), UNKNOWN], "undecided"),
    ],
)
def test_verdicts_need_a_whole_interval(found: list[Interval], verdict: str) -> None:
    assert judge_remaining(found) == verdict


@pytest.mark.parametrize(
    ("verdicts", "telling", "expected"),
    [
        (("passes", "passes"), (True, True), "passes"),
        (("passes", "undecided"), (True, True), "undecided"),
        (("passes", "undecided"), (True, False), "passes"),
        (("undecided", "undecided"), (False, False), "undecided"),
        (("passes", "nearly invariant"), (True, True), "nearly invariant"),
        (("undecided", "nearly invariant"), (True, False), "nearly invariant"),
    ],
)
def test_one_measure_is_enough_to_fail_and_all_that_tell_must_pass(
    verdicts: tuple[InvarianceVerdict, ...], telling: tuple[bool, ...], expected: str
) -> None:
    by_name, can_tell = dict(zip("ab", verdicts, strict=True)), dict(zip("ab", telling, strict=True))
    assert combine_verdicts(by_name, can_tell) == expected


def test_a_control_tells_only_where_it_is_clearly_nearer() -> None:
    randomised = values(1)[0]
    assert is_nearer(randomised + 0.1, randomised)
    assert not is_nearer(randomised, randomised)
    assert not is_nearer(values(2)[1], randomised)
