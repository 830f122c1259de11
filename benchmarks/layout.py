"""Memory layouts: how long NCHW takes beside channels_last, in convolutions, training, IG and attacks.

    python benchmarks/layout.py --threads 1 --pairs 5

Both layouts take turns, so that a drift of the machine's speed meets both. Printed: the shortest time of
each, and the median over the pairs of NCHW's time divided by channels_last's; above 1 channels_last is the
quicker. `veridical.runtime.devices.fast_layout` is the rule that follows.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from veridical.attacks.ascent import pgd
from veridical.attacks.attribution import attack
from veridical.attacks.ball import Linf
from veridical.attacks.directions import TopK
from veridical.attacks.protocols import protocol
from veridical.attribution.methods import IntegratedGradients
from veridical.models import build, networks
from veridical.runtime.options import TrainOptions
from veridical.training.objectives import build_objective
from veridical.training.recipes import resolve

LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
CONVOLUTIONS = ((32, 64, 14, 5), (16, 16, 32, 3), (64, 64, 8, 3))
MODELS: tuple[tuple[str, tuple[int, int, int], dict[str, Any]], ...] = (
    ("cnn", (1, 28, 28), {}),
    ("rar-resnet", (3, 32, 32), {}),
    ("resnet18", (3, 32, 32), {"width": 16}),
)
FOLDED = networks._convolve_and_pool


def convolutions(batch: int) -> Iterator[tuple[str, dict[str, Callable[[], object]]]]:
    """Forward pass and both gradients of single convolutions."""
    for inside, outside, size, kernel in CONVOLUTIONS:
        steps: dict[str, dict[str, Callable[[], object]]] = {}
        for name, layout in LAYOUTS.items():
            inputs = torch.rand(batch, inside, size, size).contiguous(memory_format=layout)
            weight = torch.rand(outside, inside, kernel, kernel).contiguous(memory_format=layout)
            back = torch.rand_like(conv2d(inputs, weight, padding=kernel // 2))

            def gradient(
                wanted: list[bool],
                tensors: tuple[Tensor, Tensor, Tensor] = (back, inputs, weight),
                kernel: int = kernel,
            ) -> object:
                geometry = ([1, 1], [kernel // 2] * 2, [1, 1], False, [0, 0], 1)
                return torch.ops.aten.convolution_backward(*tensors, None, *geometry, wanted)

            forward = lambda x=inputs, w=weight, k=kernel: conv2d(x, w, padding=k // 2)  # noqa: E731
            for what, step in (
                ("forward", forward),
                ("input gradient", lambda one=gradient: one([True, False, False])),
                ("weight gradient", lambda one=gradient: one([False, True, False])),
            ):
                steps.setdefault(what, {})[name] = step
        for what, pair in steps.items():
            yield f"{kernel}x{kernel}, {inside} to {outside}, {size}x{size}: {what}", pair


def networks(batch: int) -> Iterator[tuple[str, dict[str, Callable[[], object]]]]:
    """Steps of training, IG, PGD and an attack on IG, for the networks by name."""
    for name, shape, options in MODELS:
        found = {}
        for layout in LAYOUTS:
            model = build(name, shape=shape, num_classes=10, seed=0, **options)
            found[layout] = dict(_steps(model, shape, batch, layout))
        for what in found["NCHW"]:
            yield f"{name}: {what}", {layout: steps[what] for layout, steps in found.items()}


def _steps(
    model: nn.Module, shape: tuple[int, int, int], batch: int, layout: str
) -> Iterator[tuple[str, Callable[[], object]]]:
    model = model.to(memory_format=LAYOUTS[layout])
    source = torch.Generator().manual_seed(0)
    inputs = torch.rand(batch, *shape, generator=source).contiguous(memory_format=LAYOUTS[layout])
    target = torch.randint(10, (batch,), generator=source)
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)

    def laid_out(step: Callable[[], object]) -> Callable[[], object]:
        def run() -> object:
            # The paper's network brings its second convolution into channels_last by itself.
            whole = FOLDED if layout == "channels_last" else lambda *given: FOLDED(*given).contiguous()
            networks._convolve_and_pool = whole
            return step()

        return run

    def training(objective: str) -> None:
        options = TrainOptions(out="unused", objective=objective)  # type: ignore[arg-type]
        sizes = {"shape": shape, "num_classes": 10, "options": {}}
        name = "fashion-mnist" if shape[0] == 1 else "gtsrb"
        data = {"name": name, "train": 60_000, "checksum": "", **sizes}
        chosen = resolve(options, data=data, model={"name": "", **sizes}, train_size=60_000)
        optimiser.zero_grad()
        value = build_objective(chosen.objective, chosen.robust)(model, inputs, target, source)
        value.loss.mean().backward()
        optimiser.step()

    for objective in ("natural", "adversarial", "ig-norm"):
        yield f"training, {objective}", laid_out(lambda one=objective: training(one))
    ball = Linf(8 / 255)
    yield "IG, 10 nodes", laid_out(lambda: IntegratedGradients(nodes=10)(model, inputs, target))
    yield "PGD, 5 steps", laid_out(lambda: pgd(model, inputs, target, ball, steps=5, generator=source))
    plan = protocol("paper-fast", steps=2, final_nodes=None)
    method, goal = IntegratedGradients(), TopK(100)

    def attacked() -> object:
        return attack(
            model, inputs[:4], target[:4], attribution=method, attack=goal, ball=ball, protocol=plan
        )

    yield "attack on IG, 2 steps, 4 images", laid_out(attacked)


def seconds(step: Callable[[], object]) -> float:
    """Seconds of processor time of one call: what else runs on the machine counts less than on the clock."""
    begun = time.process_time()
    step()
    return time.process_time() - begun


def main() -> None:
    """Parse, measure in pairs, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", default="", help="of the rows, those whose name holds this")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{torch.backends.cpu.get_cpu_capability()}, batch {options.batch}, {options.threads} threads")
    print("| what | NCHW, ms | channels_last, ms | NCHW / channels_last |")
    print("|---|---|---|---|")
    for source in (convolutions, networks):
        for what, pair in source(options.batch):
            if options.only not in what:
                continue
            first, second = pair["NCHW"], pair["channels_last"]
            first(), second()
            times = [(seconds(first), seconds(second)) for _ in range(options.pairs)]
            least = [min(one[place] for one in times) * 1e3 for place in (0, 1)]
            ratio = statistics.median(one / other for one, other in times)
            print(f"| {what} | {least[0]:.1f} | {least[1]:.1f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
