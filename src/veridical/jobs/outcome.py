"""What running jobs tells: how each ended, and where the whole set stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Outcome:
    """How one job ended.

    status: "done" (run now), "reused" (the store had it, or another command made it) or "failed". result:
    what its function returned, None when it failed. seconds: how long its last attempt ran. error, log_tail:
    why it failed, and the last lines of its log. sent_bytes: what was pickled to send it, 0 in the same
    process.
    """

    id: str
    status: Literal["done", "reused", "failed"]
    result: dict[str, Any] | None
    seconds: float | None = None
    error: str | None = None
    log_tail: str = ""
    sent_bytes: int = 0


@dataclass(frozen=True)
class Progress:
    """Where a set of jobs stands, in plain numbers.

    done: ended in any way, of `total`; reused and failed are parts of it. waiting: jobs that another command
    runs. seconds_left: from the predicted costs of the rest, corrected by how long the finished ones took;
    None for an executor that does not tell its number of `workers`.
    """

    done: int
    total: int
    reused: int
    failed: int
    waiting: int
    seconds_left: float | None
