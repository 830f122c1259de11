"""What ends a training before its time: a number that is not finite, a folder that is in use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from veridical.runtime.errors import RunError
from veridical.runtime.files import write_json


def stopped(
    folder: Path, step: int, what: str, batch: Tensor, bad: Tensor, checkpoint: Path | None
) -> RunError:
    """Build (not raise) the error of a step whose loss or gradient is not finite, and write stopped.json.

    batch, bad: the numbers, in the data set's training split, of the step's images and of those to blame.
    checkpoint: the newest, which is from before the step.
    """
    images, guilty, report = batch.tolist(), bad.tolist(), folder / "stopped.json"
    record = {"step": step, "not_finite": what, "images": guilty, "batch": images, "checkpoint": checkpoint}
    write_json(report, record)
    shown = ", ".join(map(str, images[:16])) + (", ..." if len(images) > 16 else "")
    return RunError(
        f"{what} was not finite at step {step} for {len(guilty)} of {len(images)} images. The batch was the "
        f"training images {shown} (all are in {report}). The last good checkpoint is {checkpoint or 'none'}. "
        "Lower the learning rate or the radius, in a new folder."
    )


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder against a second process, where the system has file locks; a kill releases it."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder}: another process is training in it. Wait for it or stop it.") from None
        yield
