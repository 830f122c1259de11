"""Sanity checks by randomised weights and data: what is randomised, what remains of maps, the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from veridical.attribution.classifier import examining, logits_of, parameter_like
from veridical.attribution.method import Attribution, dataset_maps, predict_classes
from veridical.data import Dataset, Split
from veridical.data.arrays import Arrays, hashed_order
from veridical.data.dataset import build_dataset
from veridical.metrics.complexity import freedman_diaconis, histogram_entropy, relative_rise
from veridical.metrics.intervals import Interval, mean_interval
from veridical.metrics.registry import compare_maps
from veridical.runtime.checking import Checked, Factor, Seed, Width, check_value, record
from veridical.runtime.errors import UsageError, argument_error
from veridical.runtime.guards import preserved_rng, private_copy
from veridical.runtime.seeds import per_example_normal, seed_global, stream


class Stage(NamedTuple):
    """What is randomised at a time: a layer with a matrix or kernel, and the scales and shifts behind it.

    name: of the layer, as `named_modules` gives it. layers: the names of all modules that belong to it.
    """

    name: str
    layers: tuple[str, ...]


def find_stages(model: nn.Module, inputs: Tensor) -> tuple[Stage, ...]:
    """The stages of a network from the logits down to the inputs, each layer in one of them.

    The order is that in which one forward pass of `inputs` (N, ...) calls the layers, reversed; a layer whose
    weights are used without a call counts as called with the one registered before it. Layers with vectors
    alone, such as normalisation, belong to the layer that comes before them. Raises UsageError for a network
    without parameters.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise argument_error("model", model, "a network of layers", "Give what was scripted or traced.")
    owners = [name for name, module in model.named_modules() if [*module.parameters(recurse=False)]]
    if not owners:
        raise argument_error("model", type(model).__name__, "a network with parameters")
    stages: list[list[str]] = []
    vectors: list[str] = []
    for name in _called(model, inputs, owners):
        if all(parameter.ndim < 2 for parameter in model.get_submodule(name).parameters(recurse=False)):
            # Before any layer with a matrix they belong to the first one.
            (stages[-1] if stages else vectors).append(name)
        else:
            stages.append([name])
    if not stages:
        stages, vectors = [vectors], []
    stages[0] += vectors
    return tuple(Stage(names[0] or "(the network's own)", tuple(names)) for names in reversed(stages))


def _copy_reset(model: nn.Module, seed: int) -> nn.Module:
    """A copy whose layers have all been reset by their own `reset_parameters`, from the seed alone.

    Raises UsageError for a layer that cannot be reset: its network needs a function that builds a fresh one.
    """
    fresh = private_copy(model)
    with preserved_rng(), torch.no_grad():
        seed_global(stream(seed, "reset").initial_seed())
        for name, module in fresh.named_modules():
            own = dict(module.named_parameters(recurse=False))
            if not own:
                continue
            layer = f"layer {name or type(module).__name__!r} ({type(module).__name__})"
            hint = "Give fresh=, a function from a seed to a new network."
            names = ("reset_parameters", "_reset_parameters")
            reset: Any = next((getattr(module, one) for one in names if hasattr(module, one)), None)
            if reset is None:
                raise UsageError(f"the {layer} has weights and no reset_parameters. {hint}")
            for parameter in own.values():
                # What a reset leaves out stays NaN, and is found below.
                parameter.fill_(float("nan") if parameter.is_floating_point() else 0)
            reset()
            if any(bool(parameter.isnan().any()) for parameter in own.values()):
                # As with torch's older weight_norm: what is reset there is made anew from what is not.
                raise UsageError(
                    f"the reset_parameters of the {layer} does not reset {', '.join(own)}. {hint}"
                )
    return fresh


def _overwrite_stage(model: nn.Module, fresh: nn.Module, stage: Stage) -> None:
    """Copy the parameters and buffers of `fresh` into the layers of a stage; UsageError if they differ."""
    for name in stage.layers:
        for (key, own), (other, new) in zip(_tensors(model, name), _tensors(fresh, name), strict=True):
            if key != other or own.shape != new.shape:
                given = f"{other} {tuple(new.shape)} in {name}"
                raise argument_error("fresh", given, f"{key} {tuple(own.shape)}")
            with torch.no_grad():
                own.copy_(new)


def _tensors(model: nn.Module, name: str) -> list[tuple[str, Tensor]]:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise argument_error("fresh", f"a network without {name}", "one of the same architecture") from None
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def _called(model: nn.Module, inputs: Tensor, owners: Sequence[str]) -> list[str]:
    """The layers in the order of their first call."""
    calls: dict[str, int] = {}

    def note(name: str, _module: nn.Module, _inputs: Any) -> None:
        calls.setdefault(name, len(calls))

    with examining(model), torch.no_grad(), ExitStack() as hooks:
        for name in owners:
            # Before the call: what a layer with weights of its own contains comes after it.
            hooks.callback(model.get_submodule(name).register_forward_pre_hook(partial(note, name)).remove)
        logits_of(model, inputs)
    keys: dict[str, tuple[int, int]] = {}
    last = 0
    for place, name in enumerate(owners):
        last = calls.get(name, last)
        keys[name] = (last, place)
    return sorted(owners, key=keys.__getitem__)


def shorten_training(data: Dataset, examples: int, seed: int) -> Dataset:
    """The data set with `examples` of its training images, chosen by seed; the test images stay."""
    if not 1 <= examples <= len(data.train):
        raise argument_error("train_examples", examples, f"a number from 1 to {len(data.train)}")
    chosen = hashed_order(range(len(data.train)), seed, "sanity subset")[:examples]
    return _replace_train(data, data.train.subset(chosen), {"train_examples": examples, "subset_seed": seed})


def permute_labels(data: Dataset, seed: int) -> Dataset:
    """The data set with its training labels in random order: images and labels stay, their relation goes.

    Of K equally frequent classes one label in K stays right by chance. Test labels stay.
    Source: Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018, section 5 (their data
    randomisation test); Zhang et al., "Understanding deep learning requires rethinking generalization", ICLR
    2017.
    """
    train = data.train
    order = torch.randperm(len(train), generator=stream(seed, "permuted labels"))
    return _replace_train(data, Split(train.images, train.labels[order]), {"permuted_labels": seed})


def replace_by_noise(data: Dataset, seed: int) -> Dataset:
    """The data set with noise in place of its training images: labels stay, what they are the labels of goes.

    Every value is drawn on its own from a normal distribution with the mean and the deviation of its channel
    over all training images, rounded to bytes and cut at 0 and 255; example i by (seed, i). Test images stay.
    Source: Zhang et al. (2017), section 2 ("Gaussian").
    """
    train = data.train
    values = train.images.double()
    mean = values.mean(dim=(0, 2, 3), keepdim=True)
    deviation = values.std(dim=(0, 2, 3), keepdim=True)
    drawn: Tensor = per_example_normal(train.images.shape[1:], seed, "noise images", range(len(train)))
    # Bytes, as images are: what falls outside the range is cut.
    noise = (mean + deviation * drawn).round().clamp(0, 255).to(torch.uint8)
    return _replace_train(data, Split(noise, train.labels), {"noise_images": seed})


def _replace_train(data: Dataset, train: Split, options: dict[str, object]) -> Dataset:
    """The data set with another training split, and a checksum of its own; recorded in its options."""
    images = [split.images.permute(0, 2, 3, 1).numpy() for split in (train, data.test)]
    labels = [split.labels.numpy() for split in (train, data.test)]
    arrays = Arrays(images[0], labels[0], images[1], labels[1], data.classes, {**data.options, **options})
    return build_dataset(data.name, arrays, data.source)


OrderName = Literal["cascading", "independent", "bottom-up"]


@dataclass(frozen=True)
class Smoothing(Checked):
    """Maps averaged over noisy inputs before they are compared (sMPRT, Hedström et al., 2023).

    samples, noise: noisy inputs of each example, and the standard deviation in input units; the defaults are
    those of Quantus. Noisy inputs are not clipped. seed: sample k of example i adds normal noise of the
    stream (seed, "smoothed sample k", i).
    """

    samples: Width = 50
    noise: Factor = 0.1
    seed: Seed = 0


class _Noisy:
    """A split whose inputs have the noise of one sample of a smoothing."""

    def __init__(self, examples: Split, smoothing: Smoothing, sample: int) -> None:
        self.examples, self.smoothing, self.purpose = examples, smoothing, f"smoothed sample {sample}"

    def __len__(self) -> int:
        return len(self.examples)

    def batch(
        self, indices: Sequence[int], dtype: torch.dtype, device: torch.device | str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Noisy inputs (n, C, H, W) and target (n,)."""
        inputs, target = self.examples.batch(indices, dtype, device)
        noise: Tensor = per_example_normal(
            inputs.shape[1:], self.smoothing.seed, self.purpose, indices, dtype, inputs.device
        )
        return inputs + self.smoothing.noise * noise, target


def smooth_maps(
    model: nn.Module,
    examples: Split,
    attribution: Attribution,
    *,
    smoothing: Smoothing | None,
    **options: Any,
) -> Tensor:
    """The mean of the maps of noisy inputs, (N, C, H, W), signed; options: as `dataset_maps` takes them.

    smoothing: None gives the maps of the images themselves. A random method draws the same noise of its own
    for every sample.
    """
    if smoothing is None:
        return dataset_maps(model, examples, attribution, **options)
    total: Tensor | float = 0.0
    for sample in range(smoothing.samples):
        noisy = _Noisy(examples, smoothing, sample)
        total = total + dataset_maps(model, noisy, attribution, **options)
    return torch.as_tensor(total) / smoothing.samples


@record
class Randomised:
    """One state of the network and what its maps have in common with those of the trained one.

    stage: what lost its weights last. maps: (N, C, H, W). predicted: the class that this network predicts
    (N,). similarity: by measure (N,), see `metrics.registry`.
    """

    stage: Stage
    maps: Tensor
    predicted: Tensor
    similarity: dict[str, Tensor]


def model_randomisation(
    model: nn.Module,
    examples: Split,
    attribution: Attribution,
    *,
    order: OrderName = "cascading",
    smoothing: Smoothing | None = None,
    fresh: Callable[[int], nn.Module] | None = None,
    target: Tensor | None = None,
    last: int | None = None,
    seed: int = 0,
    map_seed: int = 0,
    batch_size: int = 256,
) -> Iterator[Randomised]:
    """Randomise a network's layers one after the other and compare its maps with the trained network's.

    attribution: a method, or any callable of its form. order: "cascading" randomises one more stage at each
    step, from the logits down, and ends with a network that has learnt nothing; "bottom-up" does so from the
    inputs up; "independent" randomises one stage at a time and leaves the others trained. smoothing: compare
    means over noisy inputs; None compares the maps of the images themselves. fresh: from a seed to a new
    network of the same architecture with its initial weights; None resets the layers of a copy by their own
    `reset_parameters`, a UsageError for layers that cannot be reset. target: the classes that are explained
    (N,), the same at every step; None takes those that the trained network predicts. Maps of two classes
    would differ even if no weight did. last: of a cascade only so many stages at its end, on which verdicts
    rest; None takes all. seed: of the fresh weights, which no training of the registry's networks begins
    with. map_seed: of a callable's random numbers, the same for every network; see `dataset_maps`.

    Yields a `Randomised` per stage.
    Source: Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018, section 4. Bottom-up and smoothed
    it is the sMPRT of Hedström et al., "Sanity checks revisited", 2023 (arXiv 2401.06465).
    """
    check_value("order", order, OrderName)
    stages = _stages_for(model, examples)
    explained = predict_classes(model, examples, batch_size) if target is None else target
    new = _fresh_network(model, fresh, seed)

    maps_of = partial(
        smooth_maps,
        smoothing=smoothing,
        examples=examples,
        attribution=attribution,
        target=explained,
        batch_size=batch_size,
        seed=map_seed,
    )
    trained, network = maps_of(model), private_copy(model)
    for place, stage in enumerate(reversed(stages) if order == "bottom-up" else stages):
        _overwrite_stage(network, new, stage)
        if last is not None and order != "independent" and place < len(stages) - last:
            continue
        maps, classes = maps_of(network), predict_classes(network, examples, batch_size)
        if order == "independent":
            # The trained weights come back before the next stage.
            _overwrite_stage(network, model, stage)
        yield Randomised(stage, maps, classes, compare_maps(trained, maps, "sanity"))


def _stages_for(model: nn.Module, examples: Split) -> tuple[Stage, ...]:
    like = parameter_like(model)
    return find_stages(model, examples.batch(range(min(1, len(examples))), like.dtype, like.device)[0])


def _fresh_network(model: nn.Module, fresh: Callable[[int], nn.Module] | None, seed: int) -> nn.Module:
    return _copy_reset(model, seed) if fresh is None else fresh(fresh_seed(seed))


@record
class Complexity:
    """The entropy of maps' histograms, in nats: of the trained network's and of random networks'.

    trained: (N,). randomised: (draws, N). bins: of the histograms, int64 (N,).
    """

    trained: Tensor
    randomised: Tensor
    bins: Tensor

    @property
    def rise(self) -> Tensor:
        """(randomised - trained) / trained, (draws, N); NaN where the trained network's map is constant."""
        return relative_rise(self.trained, self.randomised)


def randomised_complexity(
    model: nn.Module,
    examples: Split,
    attribution: Attribution,
    *,
    draws: Sequence[int] = (0,),
    fresh: Callable[[int], nn.Module] | None = None,
    target: Tensor | None = None,
    map_seed: int = 0,
    batch_size: int = 256,
) -> Complexity:
    """How complex maps are before and after all weights became random (eMPRT, Hedström et al., 2023).

    draws: seeds of fresh weights. The others as in `model_randomisation`. Each pair of maps has one number of
    bins, that of the trained network's by Freedman and Diaconis: with more of them entropy is higher.
    Source: "Sanity checks revisited", arXiv 2401.06465. One number of bins for each map, where Quantus has
    one for all, is ours: a map's result depends on no other's.
    """
    stages = _stages_for(model, examples)
    explained = predict_classes(model, examples, batch_size) if target is None else target
    maps_of = partial(
        dataset_maps,
        examples=examples,
        attribution=attribution,
        target=explained,
        batch_size=batch_size,
        seed=map_seed,
    )
    trained, network, entropies = maps_of(model).float(), private_copy(model), []
    bins = freedman_diaconis(trained)
    for seed in draws:
        new = _fresh_network(model, fresh, seed)
        for stage in stages:
            _overwrite_stage(network, new, stage)
        entropies.append(histogram_entropy(maps_of(network).float(), bins))
    return Complexity(histogram_entropy(trained, bins), torch.stack(entropies), bins)


def fresh_seed(seed: int) -> int:
    """The seed of fresh weights: one that no training was started with, as those are small numbers."""
    return int(stream(seed, "randomised weights").initial_seed()) % 2**31


def compare_unrelated(maps: Tensor, target: Tensor, seed: int) -> dict[str, dict[str, Tensor]]:
    """Similarities that say nothing about a network, by name of the other map: "other image" and "noise".

    other image: the map (N, C, H, W) of another image by the same network, of another class as far as the
    explained classes (N,) allow it. noise: independent normal values. At least 2 maps.
    """
    shape, numbers = maps.shape[1:], range(len(maps))
    unrelated = {
        "other image": maps[_pick_partners(target, seed).to(maps.device)],
        "noise": per_example_normal(shape, seed, "unrelated map", numbers, maps.dtype, maps.device),
    }
    return {name: compare_maps(maps, other, "sanity") for name, other in unrelated.items()}


def _pick_partners(target: Tensor, seed: int) -> Tensor:
    """Another example for each (N,): each is taken once, none itself, of another class where that can be."""
    count = len(target)
    if count < 2:
        raise argument_error("target", target, "at least 2 examples")
    shuffled = torch.randperm(count, generator=stream(seed, "unrelated images"))
    order = shuffled[target.cpu()[shuffled].argsort(stable=True)]
    # Sorted by class and moved on by the largest class's size, nobody meets the own class, if that is
    # at most half.
    largest = int(target.cpu().bincount().max())
    result = torch.empty_like(order)
    result[order] = order.roll(-max(1, min(largest, count // 2)))
    return result


InvarianceVerdict = Literal["passes", "nearly invariant", "undecided"]

# Remaining similarity from which on a map is nearly invariant: it kept more than it lost.
INVARIANT_ABOVE = 0.5
# Remaining similarity up to which a map passes.
PASSES_BELOW = 0.25
# Training accuracy that a network must reach on randomised data for the comparison to say something.
LEARNT_BY_HEART = 0.95


def draws_interval(values: Tensor) -> Interval:
    """The mean of values (draws, N) with a 95% interval for both things that vary; NaN is left out.

    Half its length is the root of the sum of squares of two: Student's t over the examples' means over draws,
    and over the draws' means over examples. With one draw only the first is there. n is the number of
    examples with a value.
    """
    if values.ndim != 2:
        raise argument_error("values", values, "(draws, N)")
    over_examples, over_draws = (mean_interval(values.nanmean(dim), undefined="exclude") for dim in (0, 1))
    ends = [(one["low"], one["high"]) for one in (over_examples, over_draws)]
    halves = [(high - low) / 2 for low, high in ends if low is not None and high is not None]
    low, high = ends[0]
    if len(halves) < 2 or low is None or high is None:
        return over_examples
    # Both things vary independently, so their variances add up.
    centre, half = (low + high) / 2, sqrt(sum(one**2 for one in halves))
    return {"value": centre, "low": centre - half, "high": centre + half, "n": over_examples["n"]}


def remaining_similarity(similarity: Tensor, unrelated: Tensor, identical: float = 1.0) -> Interval:
    """How much of a map is left, from similarity to the changed maps (draws, N) and to unrelated ones (N,).

    (similarity - unrelated) / (identical - mean unrelated), with `identical` the measure's value for equal
    maps: 1 for the same map, 0 for one that has no more in common with it than the map of another image,
    below 0 less. Differences are paired by example.
    """
    gap = identical - float(unrelated.nanmean())
    if not abs(gap) > 0:
        # Unrelated maps are the same map: nothing can be told from similarity.
        return {"value": None, "low": None, "high": None, "n": 0}
    return draws_interval((similarity - unrelated) / gap)


def judge_remaining(states: Sequence[Interval]) -> InvarianceVerdict:
    """The verdict of one measure from what remained at one or more states, all without what was learnt.

    "nearly invariant" if at one of them the whole interval lies above INVARIANT_ABOVE, "passes" if at all of
    them it lies below PASSES_BELOW, "undecided" otherwise, or where there is no interval.
    """
    if not states:
        raise argument_error("states", list(states), "at least one state")
    if any(one["low"] is not None and one["low"] > INVARIANT_ABOVE for one in states):
        return "nearly invariant"
    below = all(one["high"] is not None and one["high"] < PASSES_BELOW for one in states)
    return "passes" if below else "undecided"


RiseVerdict = Literal["rises", "does not rise", "undecided"]


def judge_rise(rise: Interval) -> RiseVerdict:
    """Whether complexity rises: if the whole interval lies above 0 it does, if none of it does not."""
    if rise["low"] is None or rise["high"] is None:
        return "undecided"
    return "rises" if rise["low"] > 0 else "undecided" if rise["high"] > 0 else "does not rise"


def combine_verdicts(
    verdicts: Mapping[str, InvarianceVerdict], telling: Mapping[str, bool]
) -> InvarianceVerdict:
    """One verdict from those of the measures: nearly invariant by any, or passes by all that can tell.

    telling: whether a measure could have come out otherwise. What is the same by one measure is the same to
    whoever looks at the maps in that way; a measure that cannot tell can refute a pass, not make one.
    """
    if "nearly invariant" in verdicts.values():
        return "nearly invariant"
    chosen = [verdict for name, verdict in verdicts.items() if telling[name]]
    return "passes" if chosen and all(verdict == "passes" for verdict in chosen) else "undecided"


def is_nearer(control: Tensor, randomised: Tensor, alike: str = "higher") -> bool:
    """Whether maps come nearer to the judged ones after training on the true data (N,) than on randomised.

    Without that a low similarity after training on randomised data shows nothing: trainings differ anyway.
    alike: the direction of the measure in which maps are more alike, "higher" or "lower".
    """
    nearer = control - randomised if alike == "higher" else randomised - control
    interval = mean_interval(nearer, undefined="exclude")
    return interval["low"] is not None and interval["low"] > 0
