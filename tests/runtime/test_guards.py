"""Guards restore what they found, after an exception too."""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from threading import Lock

import numpy as np
import pytest
import torch
from torch import nn

from veridical.runtime.errors import UsageError
from veridical.runtime.guards import eval_mode, evaluating, frozen, preserved_rng, private_copy, thread_count


class BrokenError(Exception):
    """Raised inside a guarded block."""


def _mixed_model() -> nn.Sequential:
    """A model in train mode with one part in eval mode and one parameter already frozen."""
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2)).train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    return model


def _state(model: nn.Module) -> tuple[list[bool], list[bool]]:
    return [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]


@pytest.mark.parametrize("guard", [eval_mode, frozen, evaluating])
@pytest.mark.parametrize("fails", [False, True])
def test_each_part_gets_its_own_state_back(
    guard: Callable[[nn.Module], AbstractContextManager[nn.Module]], fails: bool
) -> None:
    model = _mixed_model()
    before = _state(model)
    assert len(set(before[0])) == len(set(before[1])) == 2
    still = (before[0] if guard is frozen else [False] * 5, before[1] if guard is eval_mode else [False] * 6)
    try:
        with guard(model) as inner:
            assert inner is model
            assert _state(model) == still
            if fails:
                raise BrokenError
    except BrokenError:
        assert fails
    assert _state(model) == before


def test_a_graph_from_before_the_block_still_reaches_the_weights_after_it() -> None:
    model = nn.Linear(3, 1)
    loss = model(torch.ones(2, 3)).sum()
    with frozen(model):
        model(torch.ones(2, 3))
    loss.backward()
    assert model.weight.grad is not None
    assert torch.equal(model.weight.grad, torch.full((1, 3), 2.0))


def _global_draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@pytest.mark.parametrize("fails", [False, True])
def test_the_global_generators_continue_as_if_nothing_was_drawn(fails: bool) -> None:
    with preserved_rng():
        expected = _global_draws()
    try:
        with preserved_rng():
            assert _global_draws() == expected
            torch.manual_seed(1)
            if fails:
                raise BrokenError
    except BrokenError:
        assert fails
    with preserved_rng():
        assert _global_draws() == expected


@pytest.mark.parametrize("kept", [False, True])
def test_numpy_s_kept_normal_number_is_given_back(kept: bool) -> None:
    with preserved_rng():
        np.random.seed(5)
        np.random.randn(2 - kept)
        expected = np.random.get_state(legacy=False)
        for drawn in (0, 1, 2, 3):
            with preserved_rng():
                np.random.randn(drawn)
            found = np.random.get_state(legacy=False)
            assert str(found) == str(expected)
            assert found["state"]["key"].tolist() == expected["state"]["key"].tolist()


def test_thread_count_is_restored_and_checked() -> None:
    before = torch.get_num_threads()
    with suppress(BrokenError), thread_count(before + 1):
        assert torch.get_num_threads() == before + 1
        raise BrokenError
    assert torch.get_num_threads() == before
    with pytest.raises(UsageError, match="threads: expected an integer from 1 to"), thread_count(0):
        pass


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_layers_that_make_their_weight_anew_can_be_copied(norm: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(getattr(nn.utils, norm)(nn.Linear(3, 2)))
    inputs = torch.rand(4, 3)
    model(inputs).sum().backward()
    copied = private_copy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(3)
    before = model.eval()(inputs)
    assert not torch.allclose(copied.eval()(inputs), before)
    assert torch.equal(model(inputs), before)


def test_a_model_that_cannot_be_copied_is_refused_by_name() -> None:
    model = nn.Linear(2, 2)
    object.__setattr__(model, "lock", Lock())
    with pytest.raises(UsageError, match=r"model: Linear .*cannot"):
        private_copy(model)
