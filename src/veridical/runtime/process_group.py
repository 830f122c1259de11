"""Processes that share one command's work, as torchrun starts them; torch is imported when they meet."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from veridical.runtime.errors import RunError, UsageError, VeridicalError, argument_error

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PATIENCE = timedelta(days=7)
"""How long a process waits for the others, as while process 0 validates; one that ends is noticed at once."""


_MOST_LAUNCHED = 2**20


def launched() -> int:
    """How many processes torchrun (or whatever set RANK and WORLD_SIZE) started for this command; else 1."""
    if "RANK" not in os.environ:
        return 1
    _variable("RANK", 0, 0, _MOST_LAUNCHED)
    return _variable("WORLD_SIZE", 1, 1, _MOST_LAUNCHED)


def _variable(name: str, default: int, least: int, most: int) -> int:
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and least <= int(text) <= most):
        hint = "torchrun sets it; without torchrun, unset RANK and WORLD_SIZE."
        raise argument_error(name, text, f"a whole number from {least} to {most}", hint)
    return int(text)


@dataclass(frozen=True)
class ProcessGroup:
    """This process among `size` that do one piece of work together; `rank` counts from 0.

    local_rank: its number on its own machine, and that of its GPU. Of size 1 it is a program as usual. What
    communicates must be called by all processes in the same order: everything but `first` and `device`.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is process 0, which alone writes results and shows progress."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """What "auto", "cpu" or "cuda" means to this process: of several, each has a GPU of its own."""
        import torch

        from veridical.runtime.devices import resolve_device

        if self.size > 1 and name not in ("auto", "cpu", "cuda"):
            raise argument_error("device", name, f"auto, cpu or cuda for {self.size} processes")
        device = resolve_device(name)
        if self.size == 1 or device.type == "cpu":
            return device
        if self.local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"device: each process takes a GPU of its own, and process {self.rank} would be number "
                f"{self.local_rank + 1} of a machine with {torch.cuda.device_count()} GPUs. Start fewer, or "
                "give --device cpu."
            )
        return torch.device("cuda", self.local_rank)

    def add_up(self, tensor: Tensor) -> Tensor:
        """Replace the tensor by its sum over all processes, with the same bits on each, and return it."""
        if self.size > 1:
            import torch.distributed as dist

            with self._meeting():
                dist.all_reduce(tensor)
        return tensor

    def copy_from(self, source: int, tensor: Tensor) -> Tensor:
        """Replace the contiguous tensor by that of process `source`, and return it."""
        if self.size > 1:
            import torch.distributed as dist

            with self._meeting():
                dist.broadcast(tensor, source)
        return tensor

    def told(self, value: Any, source: int = 0) -> Any:
        """The plain value that process `source` gives, on every process."""
        if self.size == 1:
            return value
        import torch

        # JSON: what travels between processes is never unpickled.
        content = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
        length = int(self.copy_from(source, torch.tensor([len(content)])))
        if self.rank != source:
            content = torch.zeros(length, dtype=torch.uint8)
        return json.loads(bytes(self.copy_from(source, content).tolist()))

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """A block that fails on all processes if it fails on one; nothing in it may communicate.

        Where it failed its error is raised as it is, elsewhere a RunError that quotes it.
        """
        if self.size == 1:
            yield
            return
        failure = None
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised again as soon as the others know
            failure = error
        self._agree(failure)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """A guarded block that process 0 does first and the others, all at once, when it has done it."""
        if not self.first:
            self._agree(None)
        with self.guarded():
            yield
        if self.first:
            self._agree(None)

    def _agree(self, failure: Exception | None) -> None:
        """Wait for all processes; raise on each if one brings a failure."""
        if self.size == 1:
            return
        import torch

        states = torch.zeros(self.size, dtype=torch.int64)
        states[self.rank] = failure is not None
        failed = self.add_up(states).nonzero()
        if not len(failed):
            return
        source = int(failed[0])
        reason = self.told(_reason(failure), source)
        if failure is not None:
            raise failure
        raise RunError(f"process {source} of {self.size} stopped: {reason}")

    @contextmanager
    def _meeting(self) -> Iterator[None]:
        """Turn a lost connection into a RunError that says what to do."""
        try:
            yield
        except RuntimeError as error:
            # Gloo's messages: a place in its source, what happened, then general advice.
            cause = str(error).partition("\n")[0].partition(". ")[0]
            cause = cause.partition("] ")[2] or cause
            raise RunError(
                f"process {self.rank} of {self.size} lost the others ({cause}). One of them was killed or "
                "ended by an error, which it printed itself. The same command continues where it was."
            ) from error


ALONE = ProcessGroup()
"""One process, which shares its work with nobody."""


@contextmanager
def joined(device: str = "auto") -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started with this one, for as long as the block lasts.

    `ALONE` where there is only one. device: the option of that name; GPUs communicate by NCCL, all else by
    gloo. A program that has a torch.distributed group already makes its own `ProcessGroup`.
    """
    if launched() == 1:
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    rank = _variable("RANK", 0, 0, launched() - 1)
    group = ProcessGroup(rank, launched(), _variable("LOCAL_RANK", rank, 0, launched() - 1))
    if not dist.is_available():
        raise UsageError("this build of PyTorch has no torch.distributed. Start one process, not several.")
    own = group.device(device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    try:
        with group._meeting():
            dist.init_process_group("cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo", timeout=PATIENCE)
    except ValueError as error:
        raise UsageError(f"{error}. Start the processes with torchrun.") from error
    try:
        yield group
        group._agree(None)
    except BaseException:
        # NCCL would wait here for processes that may be gone; this one is about to end anyway.
        if own.type != "cuda":
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _reason(failure: Exception | None) -> str:
    return str(failure) if isinstance(failure, VeridicalError | OSError) else f"{failure!r}"
