"""Sanity checks by randomised weights and data: layers with fresh weights, labels in random order, noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from veridical.attribution.classifier import examining, logits_of, parameter_like, predict
from veridical.attribution.method import Attribution, dataset_maps
from veridical.data import Dataset, Split
from veridical.data.arrays import Arrays, hashed_order
from veridical.data.dataset import build_dataset
from veridical.metrics.registry import compare_maps
from veridical.runtime.errors import UsageError, argument_error
from veridical.runtime.guards import preserved_rng, private_copy
from veridical.runtime.record import record
from veridical.runtime.seeds import per_example_normal, seed_global, stream


@dataclass(frozen=True)
class Stage:
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
    owners = [
        name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))
    ]
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


def copy_reset(model: nn.Module, seed: int) -> nn.Module:
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
            reset: Any = getattr(module, "reset_parameters", None) or getattr(
                module, "_reset_parameters", None
            )
            if reset is None:
                raise UsageError(
                    f"the layer {name or type(module).__name__!r} ({type(module).__name__}) has weights and "
                    "no reset_parameters. Give fresh=, a function from a seed to a new network."
                )
            for parameter in own.values():
                # What a reset leaves out stays NaN, and is found below.
                parameter.fill_(float("nan") if parameter.is_floating_point() else 0)
            reset()
            if any(bool(parameter.isnan().any()) for parameter in own.values()):
                # As with torch's older weight_norm: what is reset there is made anew from what is not.
                raise UsageError(
                    f"the reset_parameters of the layer {name or type(module).__name__!r} "
                    f"({type(module).__name__}) does not reset {', '.join(own)}. Give fresh=, a function "
                    "from a seed to a new network."
                )
    return fresh


def overwrite_stages(model: nn.Module, fresh: nn.Module, stages: Sequence[Stage]) -> None:
    """Copy the parameters and buffers of `fresh` into the layers of `stages`.

    Raises UsageError where `fresh` is of another architecture.
    """
    with torch.no_grad():
        for name in chain.from_iterable(stage.layers for stage in stages):
            for (key, own), (other, new) in zip(_tensors(model, name), _tensors(fresh, name), strict=True):
                if key != other or own.shape != new.shape:
                    raise argument_error(
                        "fresh", f"{other} {tuple(new.shape)} in {name}", f"{key} {tuple(own.shape)}"
                    )
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
    with examining(model), torch.no_grad(), _noting(model, owners, calls):
        logits_of(model, inputs)
    keys: dict[str, tuple[int, int]] = {}
    last = 0
    for place, name in enumerate(owners):
        last = calls.get(name, last)
        keys[name] = (last, place)
    return sorted(owners, key=keys.__getitem__)


@contextmanager
def _noting(model: nn.Module, owners: Sequence[str], calls: dict[str, int]) -> Iterator[None]:
    """While the block lasts, `calls` gets the place of each layer's first call."""

    def noted(name: str) -> Any:
        def note(_module: nn.Module, _inputs: Any) -> None:
            calls.setdefault(name, len(calls))

        return note

    # Before the call: what a layer with weights of its own contains comes after it.
    hooks = [model.get_submodule(name).register_forward_pre_hook(noted(name)) for name in owners]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def shorten_training(data: Dataset, examples: int, seed: int) -> Dataset:
    """The data set with `examples` of its training images, chosen by seed; the test images stay."""
    if not 1 <= examples <= len(data.train):
        raise argument_error("train_examples", examples, f"a number from 1 to {len(data.train)}")
    chosen = hashed_order(range(len(data.train)), seed, "sanity subset")[:examples]
    return _changed(data, data.train.subset(chosen), {"train_examples": examples, "subset_seed": seed})


def permute_labels(data: Dataset, seed: int) -> Dataset:
    """The data set with its training labels in random order: images and labels stay, their relation goes.

    Of K equally frequent classes one label in K stays right by chance. Test labels stay.
    Source: Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018, section 5 (their data
    randomisation test); Zhang et al., "Understanding deep learning requires rethinking generalization", ICLR
    2017.
    """
    train = data.train
    order = torch.randperm(len(train), generator=stream(seed, "permuted labels"))
    return _changed(data, Split(train.images, train.labels[order]), {"permuted_labels": seed})


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
    return _changed(data, Split(noise, train.labels), {"noise_images": seed})


def _changed(data: Dataset, train: Split, options: dict[str, object]) -> Dataset:
    """The data set with another training split, and a checksum of its own; recorded in its options."""
    arrays = Arrays(
        train.images.permute(0, 2, 3, 1).numpy(),
        train.labels.numpy(),
        data.test.images.permute(0, 2, 3, 1).numpy(),
        data.test.labels.numpy(),
        data.classes,
        {**data.options, **options},
    )
    return build_dataset(data.name, arrays, data.source)


OrderName = Literal["cascading", "independent"]


@record
class Randomised:
    """One state of the network and what its maps have in common with those of the trained one.

    stage: what lost its weights last. randomised: how many stages have fresh weights. maps: (N, C, H, W).
    predicted: the class that this network predicts (N,). similarity: by measure (N,), see `metrics.registry`.
    """

    stage: Stage
    randomised: int
    maps: Tensor
    predicted: Tensor
    similarity: dict[str, Tensor]


def model_randomisation(
    model: nn.Module,
    examples: Split,
    attribution: Attribution,
    *,
    order: OrderName = "cascading",
    fresh: Callable[[int], nn.Module] | None = None,
    target: Tensor | None = None,
    seed: int = 0,
    map_seed: int = 0,
    batch_size: int = 256,
    progress: Callable[[int, int], Any] | None = None,
) -> Iterator[Randomised]:
    """Randomise a network's layers from the logits down and compare its maps with the trained network's.

    Parameters
    ----------
    attribution
        A method, or any callable of its form.
    order
        "cascading" randomises one more stage at each step and ends with a network that has learnt nothing;
        "independent" randomises one stage at a time and leaves the others trained.
    fresh
        From a seed to a new network of the same architecture with its initial weights; None resets the layers
        of a copy by their own `reset_parameters`.
    target
        The classes that are explained (N,), the same at every step; None takes those that the trained network
        predicts. Maps of two classes would differ even if no weight did.
    seed
        Of the fresh weights, which no training of the registry's networks begins with.
    map_seed
        Of a callable's random numbers, the same for every network; see `dataset_maps`.
    progress
        Told how many steps are done, and how many there are.

    Yields a `Randomised` per stage. Raises UsageError for layers that cannot be reset.
    Source: Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018, section 4.
    """
    if order not in get_args(OrderName):
        raise argument_error("order", order, " or ".join(get_args(OrderName)))
    stages = find_stages(model, _first(model, examples))
    explained = predict_classes(model, examples, batch_size) if target is None else target
    new = copy_reset(model, seed) if fresh is None else fresh(fresh_seed(seed))

    def maps_of(network: nn.Module) -> Tensor:
        return dataset_maps(
            network, examples, attribution, target=explained, batch_size=batch_size, seed=map_seed
        )

    trained, network = maps_of(model), private_copy(model)
    for number, stage in enumerate(stages, start=1):
        overwrite_stages(network, new, [stage])
        maps, classes = maps_of(network), predict_classes(network, examples, batch_size)
        randomised = number
        if order == "independent":
            # The trained weights come back before the next stage.
            overwrite_stages(network, model, [stage])
            randomised = 1
        yield Randomised(stage, randomised, maps, classes, compare_maps(trained, maps, "sanity"))
        if progress is not None:
            progress(number, len(stages))


def fresh_seed(seed: int) -> int:
    """The seed of fresh weights: one that no training was started with, as those are small numbers."""
    return int(stream(seed, "randomised weights").initial_seed()) % 2**31


def predict_classes(model: nn.Module, examples: Split, batch_size: int = 256) -> Tensor:
    """The class that a network predicts for each example, int64 (N,) on the CPU."""
    like = parameter_like(model)
    result = []
    for first in range(0, len(examples), batch_size):
        numbers = range(first, min(first + batch_size, len(examples)))
        result.append(predict(model, examples.batch(numbers, like.dtype, like.device)[0]).argmax(dim=1).cpu())
    return torch.cat(result) if result else torch.zeros(0, dtype=torch.int64)


def _first(model: nn.Module, examples: Split) -> Tensor:
    like = parameter_like(model)
    return examples.batch(range(min(1, len(examples))), like.dtype, like.device)[0]
