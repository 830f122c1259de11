"""Run many jobs to their end: the longest first, each once, and no failure in the way of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Executor

from veridical.jobs.job import Job, check_trusted
from veridical.jobs.outcome import Outcome, Progress
from veridical.jobs.session import Session
from veridical.jobs.store import Store
from veridical.runtime.errors import argument_error


def run_jobs(
    jobs: Iterable[Job],
    store: Store,
    executor: Executor,
    *,
    retries: int = 1,
    progress: Callable[[Progress], object] | None = None,
    trust_code: bool = False,
    poll_seconds: float = 0.5,
) -> dict[str, Outcome]:
    """Run jobs until each has a result or failed; return their outcomes by id, in the order of `jobs`.

    Jobs of one id run once, and jobs with a result in the store not at all. The costliest go first. retries:
    how often a job whose worker was lost is submitted again; a job that raises is not repeated (the next call
    tries it again). Jobs that another command runs are waited for, with a look every `poll_seconds`.
    progress: called at the start, after every job and at every look. trust_code: functions outside Veridical
    may run. The executor stays open. A failing job is an outcome; a RunError says that the executor takes no
    more jobs.
    """
    if retries < 0:
        raise argument_error("retries", retries, "a number from 0")
    unique = {job.id: job for job in jobs}
    for job in unique.values():
        check_trusted(job.function, trust_code)
    tell = progress or (lambda _: None)
    session = Session(unique, store, executor, retries, trust_code)
    try:
        pending = session.reuse()
        tell(session.progress())
        for job in sorted(pending, key=lambda job: -job.cost):
            session.submit(job)
            # In the same process a job is over when it is submitted, in others some may be by now.
            while session.collect(0.0):
                tell(session.progress())
        while not session.over():
            session.collect(poll_seconds)
            session.look_at_waiting(poll_seconds)
            session.listen_to_running()
            tell(session.progress())
    finally:
        session.cancel()
    return {name: session.outcomes[name] for name in unique}
