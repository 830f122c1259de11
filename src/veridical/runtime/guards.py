"""How nothing of the caller's changes: context managers that give back what they found, copies of models."""

import copy
import ctypes
import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from numpy.random import mtrand
from torch import Tensor, nn

from veridical.runtime.checking import Processes, check_value
from veridical.runtime.errors import UsageError


def private_copy(model: nn.Module) -> nn.Module:
    """A deep copy of a model; a UsageError for one that Python cannot copy.

    Tensors with a graph that a layer keeps and makes anew when it is called, such as the weight under torch's
    older `weight_norm` and `spectral_norm`, are copied as values: deepcopy refuses them.
    """
    values = [value for module in model.modules() for value in vars(module).values()]
    copies = {id(v): v.detach().clone() for v in values if isinstance(v, Tensor) and not v.is_leaf}
    try:
        # In inference mode the copy's weights could never enter a graph.
        with torch.inference_mode(False):
            return copy.deepcopy(model, copies)
    except Exception as error:
        raise UsageError(
            f"model: {type(model).__name__} has to be copied, so that yours stays as it is, and cannot be "
            f"({type(error).__name__}: {error}). Take out what copy.deepcopy refuses."
        ) from error


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Put the model into eval mode; each submodule gets its own flag back, after an exception too."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        if any(training for _, training in flags):
            model.eval()
        yield model
    finally:
        # Set one by one: `train()` would overwrite the flag of a submodule that was frozen on its own. And
        # only where it changed: a module's attributes are slow to set.
        for module, training in flags:
            if module.training != training:
                module.training = training


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Let no gradient reach the parameters; afterwards each has its own `requires_grad` again.

    A graph that was built before may be run backward after the block, not inside it: there it would lose the
    weights' gradients. `.grad` is not touched.
    """
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, requires_grad in flags:
            if requires_grad:
                parameter.requires_grad_(False)
        yield model
    finally:
        for parameter, requires_grad in flags:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Both `eval_mode` and `frozen`: how a model is attacked or measured."""
    with eval_mode(model), frozen(model):
        yield model


@contextmanager
def no_autocast() -> Iterator[None]:
    """Compute in the tensors' own dtypes: gradients of rounded logits are mostly rounding."""
    with ExitStack() as disabled:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                disabled.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def default_modes() -> Iterator[None]:
    """Gradients on; inference mode, autocast and compilation off: nothing depends on who calls."""
    with ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.enable_grad())
        modes.enter_context(no_autocast())
        if "torch._dynamo" in sys.modules:
            # Compiled code has no second derivative, and the smooth twin cannot look into it.
            modes.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Restore the global generators of torch (CPU and CUDA), numpy and Python when the block ends.

    For foreign code that draws from them; Veridical's own takes a generator or a seed.
    """
    python, cpu = random.getstate(), torch.get_rng_state()
    words = _numpy_words()
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002 - the generator that foreign code draws from
    # A CUDA that nobody has used yet has no state to keep, and asking for it would start it.
    initialized: bool = torch.cuda.is_initialized()
    # Of all cards: a model may lie on any.
    cuda = torch.cuda.get_rng_state_all() if initialized else None
    try:
        yield
    finally:
        random.setstate(python)
        # Slow, and needless where no word was drawn, of which a normal number that it keeps may be made.
        if legacy["has_gauss"] or words is None or words != _numpy_words():
            np.random.set_state(legacy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


def _numpy_words() -> bytes | None:
    """The state of numpy's global generator but for the normal number it keeps, in a microsecond.

    None for a generator other than numpy's own, the Mersenne twister: 624 words and a place among them.
    """
    generator = mtrand.get_bit_generator()
    if type(generator) is not np.random.MT19937:
        return None
    return ctypes.string_at(generator.ctypes.state_address, 4 * 625)


@contextmanager
def thread_count(count: int) -> Iterator[None]:
    """Let torch use `count` threads inside one operation, then as many as before."""
    check_value("threads", count, Processes)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)
