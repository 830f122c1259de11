"""How much an explanation changes when its input hardly does: max-sensitivity."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from veridical.runtime.checking import check_count, check_positive
from veridical.runtime.errors import argument_error
from veridical.runtime.lengths import length
from veridical.runtime.seeds import per_example_uniform


def max_sensitivity(
    attribute: Callable[[Tensor], Tensor],
    inputs: Tensor,
    radius: float,
    samples: int = 10,
    seed: int = 0,
    *,
    indices: Tensor | Sequence[int] | None = None,
    bounds: tuple[float, float] | None = None,
    norm: float = 2.0,
    relative: bool = True,
) -> Tensor:
    """Largest change of the map among random inputs nearby, at least 0; lower is more stable.

    max over s of ||attribute(inputs + noise_s) - attribute(inputs)|| / ||attribute(inputs)||, with noise
    uniform in the l_inf ball. It is found by sampling, so it is a lower bound of the maximum over the ball;
    an attack finds more.

    attribute: inputs (N, ...) -> maps (N, ...), signed or not. Hold the target fixed in it: the predicted
        class of a noisy input may be another one.
    inputs: (N, ...), floating point; never changed.
    radius: Of the ball, in input units, more than 0.
    samples, seed: Noisy inputs per example, and their seed. The first ones are the same for every number, so
        more samples never lower the result.
    indices: Numbers of the examples in their data set, (N,), by which their noise is drawn; default 0 .. N -
        1. Give them where a data set is measured in batches, and the batch size changes nothing.
    bounds: Valid range, to which noisy inputs are clipped; the default None does not clip, as in the source.
    norm: Order of the norm over all values of a map.
    relative: Divide by the norm of the clean map, as the source's experiments and Captum. Without it, the
        plain definition, maps of another scale give other values.

    Returns float64 (N,). If relative, a clean map that is all zero gives NaN, or inf if noise changes it
    (Captum divides by 1 there). NaN where a map is not finite.

    Source: Yeh, Hsieh, Suggala, Inouye, Ravikumar, "On the (in)fidelity and sensitivity of explanations",
    NeurIPS 2019, section 4.
    """
    check_positive("radius", radius, "a distance in input units above 0")
    check_count("samples", samples)
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.ndim < 2:
        raise argument_error("inputs", inputs, "a floating-point tensor (N, ...)")
    inputs = inputs.detach()
    numbers = range(len(inputs)) if indices is None else indices
    if len(numbers) != len(inputs):
        raise argument_error("indices", indices, f"one number for each of the {len(inputs)} examples")
    clean = _flat_map(attribute, inputs)
    largest = torch.zeros(len(inputs), dtype=torch.float64, device=inputs.device)
    for sample in range(samples):
        unit = per_example_uniform(
            inputs.shape[1:], seed, f"max-sensitivity/{sample}", numbers, inputs.dtype, inputs.device
        )
        # From [0, 1) to the ball.
        noisy = inputs + radius * (2 * unit - 1)
        if bounds is not None:
            noisy = noisy.clamp(*bounds)
        change = length(_flat_map(attribute, noisy) - clean, norm)
        # torch.maximum passes NaN on, as a result that is undefined must.
        largest = torch.maximum(largest, change)
    return largest / length(clean, norm) if relative else largest


def _flat_map(attribute: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """The maps of a batch as float64 (N, D), of which a norm can be taken."""
    # A copy, for an attribution that writes into its argument would move the inputs of the next one.
    maps = attribute(inputs.clone())
    if not isinstance(maps, Tensor) or maps.ndim < 2 or len(maps) != len(inputs):
        raise argument_error("attribute", maps, f"a function that returns {len(inputs)} maps (N, ...)")
    return maps.detach().double().flatten(1)
