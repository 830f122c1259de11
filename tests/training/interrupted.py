"""Run as a script: train one tiny model unbroken and once more under kill -9 at random moments.

usage: interrupted.py FOLDER SEED KILLS SECONDS KIND. Writes FOLDER/unbroken and FOLDER/killed, with
checkpoints at least SECONDS apart inside an epoch of ten steps, and prints the number of kills that hit a
session. KIND is "warm" (starts kept from the last epoch) or "augmented" (changed images, balanced classes).
One process imports torch and forks the trainings, so that a kill costs milliseconds. Nothing here waits for
ever: a session that takes longer than LIMIT seconds prints where it is and ends itself, and with it whatever
waits for it.
"""

import faulthandler
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # optimisers import it when they are first used: once here, not once in every session
from torch import Tensor, nn

from veridical.attacks.ball import Linf
from veridical.data import Dataset, Split
from veridical.training import loop
from veridical.training.log import read_log
from veridical.training.objectives import Inner, RobustAttribution
from veridical.training.penalties import AttributionPenalty

STEPS = 40
LIMIT = 150.0
"""Seconds of one session: a hundred times what it takes on an idle core."""

KINDS: dict[str, tuple[Inner, dict[str, Any]]] = {
    "warm": (Inner(steps=2, step_size=0.05, start="warm"), {}),
    "augmented": (Inner(steps=2, step_size=0.05), {"augment": "shift-rotate", "balance": "classes"}),
}


class Net(nn.Module):
    """Everything that could differ after a resume: layouts, running statistics, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.3)
        self.classify = nn.Linear(64, 3)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)

    def forward(self, inputs: Tensor) -> Tensor:
        features = nn.functional.softplus(self.norm(self.convolution(inputs)))
        logits: Tensor = self.classify(self.dropout(features.flatten(1)))
        return logits


def images(count: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 2, 4, 4), generator=generator, dtype=torch.uint8)
    return Split(pixels, torch.randint(0, 3, (count,), generator=generator))


def training(folder: Path, seconds: float, kind: str) -> None:
    data = Dataset("noise", images(90, 1), images(20, 2), ("a", "b", "c"), "0" * 64, "made here")
    inner, handling = KINDS[kind]
    objective = RobustAttribution(AttributionPenalty(sum_weight=1.0, l1=0.2), Linf(0.1), inner=inner)
    loop.LOG_EVERY = 3  # so that checkpoints fall between lines, and lines between checkpoints
    loop.train(
        model=Net(),
        data=data,
        objective=objective,
        out=str(folder),
        steps=STEPS,
        batch_size=8,
        validation=10,
        averaging=0.9,
        checkpoint_seconds=seconds,
        progress=False,
        threads=1,
        **handling,
    )


def started(folder: Path, seconds: float, kind: str) -> int:
    process = os.fork()
    if process == 0:
        try:
            # A thread of the C runtime, which works in a process that hangs in foreign code too.
            faulthandler.dump_traceback_later(LIMIT, exit=True)
            training(folder, seconds, kind)
        except BaseException as error:
            print(f"a session failed: {error!r}", file=sys.stderr, flush=True)
            raise
        finally:
            # The child must not go on with the parent's loop, whatever happened.
            os._exit(1 if sys.exc_info()[0] else 0)
    return process


def logged_step(folder: Path) -> int:
    lines = read_log(folder)
    return int(lines[-1]["step"]) if lines else 0


def killed(folder: Path, seconds: float, kind: str, at: int, delay: float) -> bool:
    """Start a session and kill it soon after its log has come to step `at`; say whether the kill hit it."""
    process = started(folder, seconds, kind)
    while logged_step(folder) < at:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0
            return False
        # Not oftener: on a busy machine looking takes the time that the session needs.
        time.sleep(0.01)
    time.sleep(delay)
    os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


def alone(seconds: float = 10.0) -> None:
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


def main(folder: Path, seed: int, kills: int, seconds: float, kind: str) -> int:
    alone()
    chance, hits = random.Random(seed), 0
    for at in sorted(chance.sample(range(STEPS), kills)):
        hits += killed(folder / "killed", seconds, kind, at, chance.random() * 0.03)
    for name in ("killed", "unbroken"):
        if os.waitstatus_to_exitcode(os.waitpid(started(folder / name, seconds, kind), 0)[1]) != 0:
            return 1
    print(hits)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5]))
