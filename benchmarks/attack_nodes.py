"""How few quadrature nodes an attack on explanations may climb and judge with: pairs against ten of each.

veridical train --data fashion-mnist --model cnn --objective adversarial --epochs 1.5 --out runs/robust
python benchmarks/attack_nodes.py --run runs/robust --data fashion-mnist --radius 0.1 --examples 64

Without --run a small network is trained on digits first.
"""

import argparse
import tempfile
import time
from typing import Any

import torch
from torch import nn

from veridical.attacks.attribution import attack
from veridical.attacks.ball import Linf
from veridical.attacks.directions import TopK
from veridical.attacks.protocols import protocol
from veridical.attribution.methods import IntegratedGradients
from veridical.attribution.path import Quadrature
from veridical.data import load as load_data
from veridical.metrics.intervals import mean_interval
from veridical.training.loop import train
from veridical.training.run import load

PAIRS = ((10, 10), (5, 10), (5, 5), (4, 6))


def trained(folder: str | None) -> nn.Module:
    """The network of a run, or one of an epoch on digits."""
    if folder is not None:
        return load(folder).model
    few: dict[str, Any] = {"model": "cnn", "objective": "natural", "epochs": 1.0, "progress": False}
    with tempfile.TemporaryDirectory() as place:
        return train(data="mnist-5k", out=place, **few).model


def main() -> None:
    """Parse, attack the first images that are classified correctly with each pair, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--run", help="folder of a trained run")
    parser.add_argument("--data", default="mnist-5k")
    parser.add_argument("--radius", type=float, default=0.1)
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, test = trained(options.run).eval(), load_data(options.data).test
    inputs, target = test.batch(range(min(len(test), 10 * options.examples)))
    correct = model(inputs).argmax(1) == target
    inputs, target = inputs[correct][: options.examples], target[correct][: options.examples]
    print("| climb, judge | IN less that of 10, 10 | CO less that of 10, 10 | time to 10, 10 |")
    print("|---|---|---|---|")
    first: tuple[torch.Tensor, torch.Tensor, float] | None = None
    for climb, judge in PAIRS:
        nodes = {"climb_nodes": Quadrature(nodes=climb), "judge_nodes": Quadrature(nodes=judge)}
        plan = protocol("paper-fast", steps=options.steps, **nodes)
        begun = time.process_time()
        result = attack(
            model,
            inputs,
            target,
            attribution=IntegratedGradients(),
            attack=TopK(100),
            ball=Linf(options.radius),
            protocol=plan,
        )
        seconds = time.process_time() - begun
        kept, tau = result.topk_intersection, result.kendall_tau
        first = first or (kept, tau, seconds)
        cells = [
            "{value:+.4f} ({low:+.4f} to {high:+.4f})".format(**mean_interval((ours - theirs).tolist()))
            for ours, theirs in ((kept, first[0]), (tau, first[1]))
        ]
        print(f"| {climb}, {judge} | {cells[0]} | {cells[1]} | {seconds / first[2]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
