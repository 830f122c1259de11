"""Run as a script: trainings by one process and by two, forked from one that has torch.

usage: side_by_side.py FOLDER. Every process writes what its work gave, or how it failed, into
FOLDER/outcomes/NAME.RANK.json.
"""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # optimisers import it when they are first used: once here, not once in every process
from torch import Tensor, nn

from veridical.attacks.ball import Linf, Noise
from veridical.data import Dataset, Split
from veridical.training import loop
from veridical.training.distributed import ProcessGroup, Share, join_processes
from veridical.training.log import read_log
from veridical.training.objectives import Inner, Objective, ObjectiveValue, RobustAttribution
from veridical.training.penalties import AttributionPenalty

Work = Callable[[ProcessGroup], Any]

STEPS, WHITE = 12, 20
"""Steps of a training, in epochs of five; and the number of the one training image that is all white."""


class Net(nn.Module):
    """Convolutional, float64, with a weight that nothing depends on; `extra` runs before the last layer."""

    def __init__(self, extra: nn.Module | None = None) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 4, 3, padding=1)
        self.extra = extra or nn.Identity()
        self.classify = nn.Linear(64, 3)
        self.unused = nn.Parameter(torch.ones(2))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.extra(nn.functional.softplus(self.convolution(inputs)))
        logits: Tensor = self.classify(features.flatten(1))
        return logits


class KeepsStatistics(nn.Module):
    """A layer of a caller's own that remembers the mean of what it saw."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        if self.training:
            self.mean.copy_(features.detach().mean())
        return features


@dataclass(frozen=True)
class Breaks:
    """The cross-entropy, which is not a number for the white image, or raises in one of the processes."""

    raises: bool = field(default=False, repr=False)

    def __call__(
        self, model: nn.Module, inputs: Tensor, target: Tensor, generator: Noise | None = None
    ) -> ObjectiveValue:
        del generator
        if self.raises:
            raise ValueError("no step today")
        white = inputs.flatten(1).amin(1) == 1
        loss = nn.functional.cross_entropy(model(inputs), target, reduction="none")
        return ObjectiveValue(torch.where(white, torch.nan, loss))


WARM = RobustAttribution(
    AttributionPenalty(sum_weight=1.0, l1=0.2), Linf(0.1), inner=Inner(steps=2, step_size=0.05, start="warm")
)
KINDS: dict[str, dict[str, Any]] = {
    "": {},
    "-augmented": {"augment": "shift-rotate", "balance": "classes"},
    "-warm": {"objective": WARM},
}
"""What is trained by one process and by two, by the end of its name."""


def images(count: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 255, (count, 2, 4, 4), generator=generator, dtype=torch.uint8)
    pixels[WHITE : WHITE + 1] = 255
    return Split(pixels, torch.randint(0, 3, (count,), generator=generator))


def training(
    out: Path,
    group: ProcessGroup,
    objective: Objective | None = None,
    extra: nn.Module | None = None,
    **given: Any,
) -> None:
    loop.LOG_EVERY = 3
    robust = RobustAttribution(
        AttributionPenalty(sum_weight=1.0, l1=0.2), Linf(0.1), inner=Inner(steps=2, step_size=0.05)
    )
    values = {"batch_size": 7, "steps": STEPS, "averaging": 0.9, "checkpoint_seconds": 0, "seed": 4, **given}
    loop.train(
        model=Net(extra),
        data=Dataset("noise", images(45, 1), images(20, 2), ("a", "b", "c"), "0" * 64, "made here"),
        objective=objective or robust,
        group=group,
        out=str(out),
        validation=10,
        progress=False,
        threads=1,
        **values,
    )


def gradients(group: ProcessGroup) -> list[Any]:
    """One parameter with a gradient everywhere, one in process 0 only, one nowhere, one of another dtype."""
    model = nn.ParameterList([nn.Parameter(torch.zeros(2, 3)) for _ in range(3)])
    model.append(nn.Parameter(torch.zeros(2, dtype=torch.float64)))
    model[0].grad = torch.full((2, 3), 1.0 + group.rank)
    model[1].grad = None if group.rank else torch.arange(6.0).reshape(2, 3)
    model[3].grad = torch.full((2,), 0.5, dtype=torch.float64)
    Share(group, 4).add_gradients(model)
    return [None if parameter.grad is None else parameter.grad.tolist() for parameter in model]


def write_shades(folder: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    arrays: dict[str, Any] = {}
    for name, count in (("train", 90), ("test", 30)):
        labels = torch.arange(count) % 3
        shade = torch.rand(count, 8, 8, generator=generator) * 0.7 + labels[:, None, None] * 0.15
        arrays |= {f"x_{name}": (shade * 255).to(torch.uint8).numpy(), f"y_{name}": labels.numpy()}
    np.savez(folder / "shades.npz", **arrays)


def started(folder: Path, name: str, count: int, work: Work) -> list[int]:
    """Fork `count` processes that torchrun might have started; each does the work and writes its outcome."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    processes = []
    for rank in range(count):
        process = os.fork()
        if process == 0:
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
            os.environ.update(ranks | address)
            outcome(folder / "outcomes" / f"{name}.{rank}.json", work)
        processes.append(process)
    return processes


def outcome(path: Path, work: Work) -> None:
    told: dict[str, Any] = {}
    try:
        with join_processes("cpu") as group:
            told["value"] = work(group)
    except Exception as error:  # noqa: BLE001 - the test reads it
        told |= {"error": type(error).__name__, "message": str(error)}
    finally:
        path.write_text(json.dumps(told))
        # The child must not go on with the parent's program, whatever happened.
        os._exit(0)


def done(folder: Path, name: str, work: Work, count: int = 2) -> None:
    for process in started(folder, name, count, work):
        os.waitpid(process, 0)


def killed(folder: Path, at: int) -> None:
    """Kill process 1 of a training when its log has come to step `at`, and wait for the other to end."""
    run = folder / "killed"
    first, second = started(folder, "killed", 2, lambda group: training(run, group))
    while not any(line["step"] >= at for line in read_log(run)):
        time.sleep(0.001)
    os.kill(second, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]) == -signal.SIGKILL, (
        "it was too quick to be killed"
    )
    os.waitpid(first, 0)


def main(folder: Path) -> None:
    (folder / "outcomes").mkdir()
    torch.set_num_threads(1)
    for kind, given in KINDS.items():
        for name, count in (("alone", 1), ("pair", 2)):
            out = folder / f"{name}{kind}"
            done(folder, out.name, partial(training, out, **given), count)
    killed(folder, 6)
    done(folder, "continued", lambda group: training(folder / "killed", group))
    done(folder, "finished", lambda group: training(folder / "killed", group))
    done(folder, "white-alone", lambda group: training(folder / "white-alone", group, Breaks()), 1)
    done(folder, "white", lambda group: training(folder / "white", group, Breaks()))
    done(folder, "raises", lambda group: training(folder / "raises", group, Breaks(group.rank == 1)))
    done(folder, "norm", lambda group: training(folder / "norm", group, extra=nn.BatchNorm2d(4)))
    done(folder, "statistics", lambda group: training(folder / "own", group, extra=KeepsStatistics()))
    done(folder, "small", lambda group: training(folder / "small", group, batch_size=1))
    done(folder, "other", lambda group: training(folder / "other", group, seed=group.rank))
    done(folder, "step", lambda group: Share(group, 4).check_step(5 - 5 * group.rank, folder))
    done(folder, "gradients", gradients)
    done(folder, "dropout", lambda group: Share(group, 4).layer_seed(0, 3))
    write_shades(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
