"""Derivative of a map in the inputs: Veridical's convolutions against PyTorch's own double backward.

    python benchmarks/second_order.py --batch 256 --threads 1

The paper's CNN on its softplus twin, one node a row: input gradient, then the derivative of its product with
a fixed map. "plain" is the same network from nn.Conv2d, nn.MaxPool2d and torch.autograd alone. Printed: CPU
milliseconds a row (median over the rounds) and the median of the paired ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

from veridical.attacks.surrogate import SoftplusTwin
from veridical.attribution.method import TargetScalar
from veridical.attribution.path import input_gradient
from veridical.models.registry import build


def plain_network(model: nn.Module) -> nn.Module:
    """The same function from PyTorch's layers, with the same weights."""
    layers = [model.get_submodule(name) for name in ("conv1", "conv2", "hidden", "classify")]
    return nn.Sequential(
        layers[0],
        nn.MaxPool2d(2),
        nn.ReLU(),
        layers[1],
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        layers[2],
        nn.ReLU(),
        layers[3],
    )


def second_order(model: nn.Module, inputs: Tensor, target: Tensor, direction: Tensor, quick: bool) -> Tensor:
    """Gradient in the inputs of <direction, input gradient of the target's logit>, on the twin."""
    point = inputs.clone().requires_grad_(True)
    scalar = TargetScalar(model, target)
    with SoftplusTwin(1.0):
        if quick:
            gradient = input_gradient(scalar, point, create_graph=True)
        else:
            (gradient,) = torch.autograd.grad(scalar(point).sum(), point, create_graph=True)
    (second,) = torch.autograd.grad((gradient * direction).sum(), point)
    return second


def check(networks: dict[str, nn.Module], inputs: Tensor, target: Tensor, direction: Tensor) -> None:
    """Raise unless both networks agree in float64, where no pooling window is decided by rounding."""
    wide = {name: network.double() for name, network in networks.items()}
    results = [
        second_order(network, inputs.double(), target, direction.double(), name == "ours")
        for name, network in wide.items()
    ]
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)
    for network in networks.values():
        network.float()


def main() -> None:
    """Parse, check that both agree, time them in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = build("cnn", shape=(1, 28, 28), num_classes=10, seed=0).to(memory_format=torch.channels_last)
    model.requires_grad_(False)
    networks = {"ours": model, "plain": plain_network(model)}
    generator = torch.Generator().manual_seed(0)
    inputs, direction = (torch.rand(options.batch, 1, 28, 28, generator=generator) for _ in range(2))
    target = torch.randint(10, (options.batch,), generator=generator)
    check(networks, inputs[:8], target[:8], direction[:8])
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(options.rounds):
        for name, network in networks.items():
            begin = time.process_time()
            second_order(network, inputs, target, direction, name == "ours")
            times[name].append((time.process_time() - begin) / options.batch * 1000)
    ratio = statistics.median(p / o for p, o in zip(times["plain"], times["ours"], strict=True))
    print(
        f"batch {options.batch}, {options.threads} threads, {options.rounds} pairs: "
        f"ours {statistics.median(times['ours']):.2f} ms, plain {statistics.median(times['plain']):.2f} ms "
        f"of CPU a row, plain / ours {ratio:.2f}"
    )


if __name__ == "__main__":
    main()
