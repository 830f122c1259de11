"""Functions of plain values that run once, in this process or in others, and keep their results.

Nothing here knows neural networks. `veridical.jobs.pool` has the process pool, `veridical.jobs.cluster` Dask.
"""

from veridical.jobs.engine import run_jobs
from veridical.jobs.executors import InProcess, WorkerLost, workers_of
from veridical.jobs.job import Job, JobFunction
from veridical.jobs.outcome import Outcome, Progress
from veridical.jobs.store import Store

__all__ = [
    "InProcess",
    "Job",
    "JobFunction",
    "Outcome",
    "Progress",
    "Store",
    "WorkerLost",
    "run_jobs",
    "workers_of",
]
