"""The order of a network's layers, and copies of it with fresh weights in some of them."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from veridical.faithfulness.randomisation import Stage, copy_reset, find_stages, overwrite_stages
from veridical.models import build
from veridical.runtime.errors import UsageError
from veridical.runtime.guards import private_copy


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


def test_the_registrys_networks_are_taken_apart_from_the_logits_down() -> None:
    assert names(build("cnn", shape=(1, 8, 8), num_classes=3, seed=0), (1, 8, 8)) == [
        ("classify",),
        ("hidden",),
        ("conv2",),
        ("conv1",),
    ]
    stages = names(build("resnet18", shape=(3, 8, 8), num_classes=3, seed=0, width=8), (3, 8, 8))
    assert stages[0] == ("classify",)
    assert stages[-1] == ("stem", "norm")
    # 17 convolutions on the way, 3 on shortcuts, and the logits.
    assert len(stages) == 21


def test_looking_leaves_the_network_as_it_was() -> None:
    model = Backwards().train()
    find_stages(model, torch.zeros(1, 4))
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())
    with pytest.raises(UsageError, match="with parameters"):
        find_stages(nn.Flatten(), torch.zeros(1, 4))


def test_a_reset_copy_is_fresh_and_comes_from_the_seed_alone() -> None:
    model = Backwards()
    rng = torch.get_rng_state()
    one, same, other = copy_reset(model, 1), copy_reset(model, 1), copy_reset(model, 2)
    assert torch.equal(torch.get_rng_state(), rng)
    for name, weights in one.state_dict().items():
        assert torch.equal(weights, same.state_dict()[name])
        if name in ("last.weight", "first.weight"):
            assert not torch.equal(weights, other.state_dict()[name])
            assert not torch.equal(weights, model.state_dict()[name])


def test_a_layer_that_cannot_be_reset_is_named() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))

    with pytest.raises(UsageError, match=r"layer '0' \(Scale\).*Give fresh="):
        copy_reset(nn.Sequential(Scale()), 0)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_a_reset_that_leaves_weights_as_they_are_is_refused() -> None:
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 2)))
    with pytest.raises(UsageError, match=r"layer '0' \(Linear\) does not reset .*weight_g.*Give fresh="):
        copy_reset(model, 0)


def test_only_the_chosen_stages_change() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model(torch.rand(8, 4))  # moves the running statistics
    fresh = copy_reset(model, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    changed = private_copy(model)
    overwrite_stages(changed, fresh, [Stage("0", ("0", "1"))])
    for name, value in changed.state_dict().items():
        source = before if name.startswith("2.") else fresh.state_dict()
        assert_close(value, source[name])
        assert_close(model.state_dict()[name], before[name])
    assert not torch.equal(before["1.running_mean"], changed.state_dict()["1.running_mean"])


def test_a_fresh_network_of_another_architecture_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    with pytest.raises(UsageError, match=r"fresh: .*\(2, 4\).*\(3, 4\)"):
        overwrite_stages(model, nn.Sequential(nn.Linear(4, 3)), [Stage("0", ("0",))])
    with pytest.raises(UsageError, match=r"fresh: .*same architecture"):
        overwrite_stages(model, nn.Linear(4, 2), [Stage("0", ("0",))])
