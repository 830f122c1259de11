"""Functions of plain values that run once, in this process or in others, and keep their results.

Nothing here knows neural networks. `veridical.jobs.cluster` has the executor for Dask.
"""

from veridical.jobs.pool import InProcess, ProcessPool, WorkerLost, workers_of
from veridical.jobs.run import Outcome, Progress, check_outcomes, run_jobs
from veridical.jobs.store import Job, JobFunction, Store

__all__ = [
    "InProcess",
    "Job",
    "JobFunction",
    "Outcome",
    "ProcessPool",
    "Progress",
    "Store",
    "WorkerLost",
    "check_outcomes",
    "run_jobs",
    "workers_of",
]
