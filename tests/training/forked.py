"""Run as a script: trainings forked from one process that has torch, killed, and by one process and by two.

usage: forked.py FOLDER                             what processes do together, and how they fail
       forked.py FOLDER SEED KILLS SECONDS KIND     one training unbroken, and under kill -9

The former writes what every process's work gave, or how it failed, into FOLDER/outcomes/NAME.RANK.json.
The latter writes FOLDER/unbroken and FOLDER/killed, with checkpoints at least SECONDS apart inside an
epoch, and prints the number of kills that hit a session. Nothing here waits for ever: a process that takes
longer than LIMIT seconds prints where it is and ends itself, and with it whatever waits for it.
"""

import faulthandler
import json
import os
import random
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
from veridical.training.distributed import ALONE, ProcessGroup, Share, join_processes
from veridical.training.log import read_log
from veridical.training.objectives import Inner, Objective, ObjectiveValue, RobustAttribution
from veridical.training.penalties import AttributionPenalty

Work = Callable[[ProcessGroup], Any]

LIMIT = 150.0
"""Seconds of one process: a hundred times what it takes on an idle core."""
STEPS, WHITE = 12, 20
"""Steps of a shared training, in epochs of five; and the number of the one image that is all white."""


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


def robust(start: Any = "random") -> RobustAttribution:
    inner = Inner(steps=2, step_size=0.05, start=start)
    return RobustAttribution(AttributionPenalty(sum_weight=1.0, l1=0.2), Linf(0.1), inner=inner)


KINDS: dict[str, dict[str, Any]] = {
    "": {},
    "-augmented": {"augment": "shift-rotate", "balance": "classes"},
    "-warm": {"objective": robust("warm")},
}
"""Kinds of trainings, by the end of their names: changed images, and starts kept from the last epoch."""


def images(count: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 255, (count, 2, 4, 4), generator=generator, dtype=torch.uint8)
    pixels[WHITE : WHITE + 1] = 255
    return Split(pixels, torch.randint(0, 3, (count,), generator=generator))


def training(
    out: Path,
    group: ProcessGroup = ALONE,
    objective: Objective | None = None,
    extra: nn.Module | None = None,
    count: int = 45,
    **given: Any,
) -> None:
    loop.LOG_EVERY = 3  # so that checkpoints fall between lines, and lines between checkpoints
    values = {"batch_size": 7, "steps": STEPS, "averaging": 0.9, "checkpoint_seconds": 0, "seed": 4, **given}
    loop.train(
        model=Net(extra),
        data=Dataset("noise", images(count, 1), images(20, 2), ("a", "b", "c"), "0" * 64, "made here"),
        objective=objective or robust(),
        group=group,
        out=str(out),
        validation=10,
        progress=False,
        threads=1,
        **values,
    )


def fork(work: Callable[[], object]) -> int:
    process = os.fork()
    if process == 0:
        try:
            # A thread of the C runtime, which works in a process that hangs in foreign code too.
            faulthandler.dump_traceback_later(LIMIT, exit=True)
            work()
        except BaseException as error:
            print(f"a session failed: {error!r}", file=sys.stderr, flush=True)
            raise
        finally:
            # The child must not go on with the parent's program, whatever happened.
            os._exit(1 if sys.exc_info()[0] else 0)
    return process


def ended(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def logged_step(folder: Path) -> int:
    lines = read_log(folder)
    return int(lines[-1]["step"]) if lines else 0


# ---------------------------------------------------------------------------------- one process, killed


def session(folder: Path, seconds: float, kind: str) -> int:
    """Start a training with all that could differ after a resume: layouts, running statistics, dropout."""
    extra = nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(0.3))
    longer: dict[str, Any] = {"count": 90, "batch_size": 8, "steps": 40, "checkpoint_seconds": seconds}
    return fork(partial(training, folder, extra=extra, **longer, **KINDS[kind]))


def is_killed(folder: Path, seconds: float, kind: str, at: int, delay: float) -> bool:
    """Start a session and kill it soon after its log has come to step `at`; say whether the kill hit it."""
    process = session(folder, seconds, kind)
    while logged_step(folder) < at:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return False
        # Not oftener: on a busy machine looking takes the time that the session needs.
        time.sleep(0.01)
    time.sleep(delay)
    os.kill(process, signal.SIGKILL)
    return ended(process) == -signal.SIGKILL


def wait_for_threads(seconds: float = 10.0) -> None:
    """Wait until the threads are over that imports may have started; name those that stay.

    A fork copies one thread: a lock that another one holds would stay locked in the session. A session that
    hangs for that ends itself after `LIMIT` seconds, and the names below tell whose lock it may have been.
    """
    folder = Path("/proc/self/task")
    until = time.monotonic() + seconds
    while folder.exists() and len(os.listdir(folder)) > 1 and time.monotonic() < until:
        time.sleep(0.05)
    names = [(task / "comm").read_text().strip() for task in folder.iterdir()] if folder.exists() else []
    if len(names) > 1:
        print(f"forked beside the threads {', '.join(sorted(names))}", file=sys.stderr, flush=True)


def interrupt(folder: Path, seed: int, kills: int, seconds: float, kind: str) -> int:
    chance, hits = random.Random(seed), 0
    for at in sorted(chance.sample(range(40), kills)):
        hits += is_killed(folder / "killed", seconds, kind, at, chance.random() * 0.03)
    print(hits)
    return max(ended(session(folder / name, seconds, kind)) for name in ("killed", "unbroken"))


# ------------------------------------------------------------------------------------------ two processes


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

    def outcome(rank: int) -> None:
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        os.environ.update(ranks | address)
        told: dict[str, Any] = {}
        try:
            with join_processes("cpu") as group:
                told["value"] = work(group)
        except Exception as error:  # noqa: BLE001 - the test reads it
            told = {"error": type(error).__name__, "message": str(error)}
        (folder / "outcomes" / f"{name}.{rank}.json").write_text(json.dumps(told))

    return [fork(partial(outcome, rank)) for rank in range(count)]


def kill_one(folder: Path, at: int) -> None:
    """Kill process 1 of a training when its log has come to step `at`, and wait for the other to end."""
    run = folder / "killed"
    first, second = started(folder, "killed", 2, lambda group: training(run, group))
    while logged_step(run) < at:
        time.sleep(0.001)
    os.kill(second, signal.SIGKILL)
    assert ended(second) == -signal.SIGKILL, "it was too quick to be killed"
    ended(first)


def share(folder: Path) -> int:
    (folder / "outcomes").mkdir()
    torch.set_num_threads(1)

    def do(name: str, work: Work, count: int = 2) -> None:
        for process in started(folder, name, count, work):
            ended(process)

    for kind, given in KINDS.items():
        for name, count in (("alone", 1), ("pair", 2)):
            do(f"{name}{kind}", partial(training, folder / f"{name}{kind}", **given), count)
    kill_one(folder, 6)
    for name in ("continued", "finished"):
        do(name, lambda group: training(folder / "killed", group))
    do("white-alone", lambda group: training(folder / "white-alone", group, Breaks()), 1)
    do("white", lambda group: training(folder / "white", group, Breaks()))
    do("raises", lambda group: training(folder / "raises", group, Breaks(group.rank == 1)))
    do("norm", lambda group: training(folder / "norm", group, extra=nn.BatchNorm2d(4)))
    do("statistics", lambda group: training(folder / "own", group, extra=KeepsStatistics()))
    do("small", lambda group: training(folder / "small", group, batch_size=1))
    do("other", lambda group: training(folder / "other", group, seed=group.rank))
    do("step", lambda group: Share(group, 4).check_step(5 - 5 * group.rank, folder))
    do("gradients", gradients)
    do("dropout", lambda group: Share(group, 4).layer_seed(0, 3))
    write_shades(folder)
    return 0


if __name__ == "__main__":
    wait_for_threads()
    place, *rest = sys.argv[1:]
    if rest:
        sys.exit(interrupt(Path(place), int(rest[0]), int(rest[1]), float(rest[2]), rest[3]))
    sys.exit(share(Path(place)))
