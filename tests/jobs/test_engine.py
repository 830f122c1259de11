"""Sets of jobs: order, reuse, failures, other commands, and what is told."""

from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest

from veridical.jobs import InProcess, Job, Outcome, Progress, Store, WorkerLost, run_jobs
from veridical.jobs.lease import acquire
from veridical.runtime import files
from veridical.runtime.errors import RunError, UsageError


def echo(number: int, cost: float = 1.0) -> Job:
    return Job("job_functions:echo", {"x": number}, cost=cost)


def run(
    jobs: list[Job], store: Store, executor: Executor | None = None, **options: Any
) -> dict[str, Outcome]:
    return run_jobs(jobs, store, executor or InProcess(), trust_code=True, poll_seconds=0.01, **options)


class Unreliable(Executor):
    """Loses the first `losses` calls."""

    workers = 1

    def __init__(self, losses: int, error: Exception) -> None:
        self.losses, self.error, self.submitted = losses, error, 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.submitted += 1
        if self.submitted > self.losses:
            return InProcess().submit(fn, *args, **kwargs)
        future: Future[Any] = Future()
        future.set_exception(self.error)
        return future


def test_the_costliest_go_first_each_once_and_outcomes_keep_the_order(store: Store) -> None:
    jobs = [echo(1, cost=1.0), echo(2, cost=3.0), echo(3, cost=2.0), echo(2, cost=0.0)]
    ran: list[int] = []

    class Noting(InProcess):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            ran.append(args[0]["job"]["values"]["x"])
            return super().submit(fn, *args, **kwargs)

    outcomes = run(jobs, store, Noting())
    assert ran == [3, 1, 2]
    assert list(outcomes) == [jobs[0].id, jobs[1].id, jobs[2].id]
    for job in jobs:
        outcome = outcomes[job.id]
        assert (outcome.id, outcome.status, outcome.sent_bytes) == (job.id, "done", 0)
        assert outcome.result is not None
        assert outcome.result["values"] == job.values


def test_a_second_call_reuses_and_an_empty_one_is_empty(store: Store) -> None:
    first = run([echo(1)], store)
    told: list[Progress] = []
    run([echo(1)], store, progress=told.append)
    assert len(told) == 1, "nothing was left to wait for"
    second = run([echo(1), echo(2)], store)
    assert [outcome.status for outcome in second.values()] == ["reused", "done"]
    assert second[echo(1).id].result == first[echo(1).id].result
    assert run([], store) == {}


def test_a_failure_does_not_stop_the_others(store: Store) -> None:
    bad = Job("job_functions:fail", {"message": "out of luck"}, cost=9.0)
    damaged = echo(7)
    store.folder(damaged).mkdir(parents=True)
    (store.folder(damaged) / "result.json").write_text("{")
    outcomes = run([bad, damaged, echo(1)], store)
    assert [outcome.status for outcome in outcomes.values()] == ["failed", "failed", "done"]
    assert outcomes[bad.id].error == "ValueError: out of luck"
    assert outcomes[bad.id].result is None
    assert outcomes[bad.id].log_tail.splitlines()[-1] == "ValueError: out of luck"
    assert "last words" in outcomes[bad.id].log_tail
    assert "result.json" in str(outcomes[damaged.id].error)


def test_progress_is_told_in_numbers(store: Store) -> None:
    run([echo(0)], store)
    told: list[Progress] = []
    jobs = [echo(0, 100.0), echo(1, 30.0), echo(2, 20.0), Job("job_functions:fail", {}, cost=10.0)]
    run(jobs, store, progress=told.append)
    first, last = told[0], told[-1]
    assert (first.done, first.total, first.reused, first.failed, first.waiting) == (1, 4, 1, 0, 0)
    assert first.seconds_left == pytest.approx(60.0, abs=1.0)  # predicted: nothing was measured yet
    assert last == Progress(done=4, total=4, reused=1, failed=1, waiting=0, seconds_left=0.0)
    assert [state.done for state in told] == sorted(state.done for state in told)
    # The jobs took next to nothing, so the rest will, too.
    assert all(state.seconds_left is not None and state.seconds_left < 1.0 for state in told[1:])


def test_an_executor_of_unknown_size_has_no_time_left_but_works(store: Store) -> None:
    told: list[Progress] = []
    with ThreadPoolExecutor(2) as threads:
        outcomes = run([echo(number) for number in range(5)], store, threads, progress=told.append)
    assert {outcome.status for outcome in outcomes.values()} == {"done"}
    assert told[0].seconds_left is None
    assert told[-1].seconds_left == 0.0


@pytest.mark.parametrize(("losses", "status"), [(1, "done"), (2, "done"), (3, "failed")])
def test_a_lost_worker_costs_a_retry(store: Store, losses: int, status: str) -> None:
    executor = Unreliable(losses, WorkerLost("gone"))
    outcomes = run([echo(1), echo(2)], store, executor, retries=2)
    assert [outcome.status for outcome in outcomes.values()] == [status, "done"]
    assert executor.submitted == min(losses + 1, 3) + 1
    if status == "failed":
        assert "lost 3 times" in str(outcomes[echo(1).id].error)
    assert outcomes[echo(1).id].sent_bytes > outcomes[echo(2).id].sent_bytes > 0


def test_an_executor_that_broke_is_an_error_and_the_rest_is_kept(store: Store) -> None:
    run([echo(1)], store)
    with pytest.raises(RunError, match="broken for good"):
        run([echo(1), echo(2)], store, Unreliable(1, BrokenExecutor("broken for good")))
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(RunError, match="no more jobs"):
        run([echo(2)], store, pool)
    # What keeps one job from running at all fails that one.
    outcomes = run([echo(3), echo(4)], store, Unreliable(1, ModuleNotFoundError("no veridical there")))
    assert [outcome.status for outcome in outcomes.values()] == ["failed", "done"]
    assert outcomes[echo(3).id].error == "ModuleNotFoundError: no veridical there"
    # Before anything runs:
    with pytest.raises(UsageError, match="retries"):
        run([echo(2)], store, retries=-1)
    with pytest.raises(UsageError, match="trust"):
        run_jobs([echo(2)], store, InProcess())
    assert not store.folder(echo(2)).exists()


@pytest.mark.parametrize("how", ["finishes", "dies"])
def test_jobs_of_another_command_are_waited_for(store: Store, how: str) -> None:
    job = echo(1)
    folder = store.folder(job)
    folder.mkdir(parents=True)
    lease = acquire(folder, 60.0)
    assert lease is not None
    lease.__enter__()
    told: list[Progress] = []

    theirs = {"result": {"by": "another"}, "seconds": 5.0, "environment": {}}

    def tell(state: Progress) -> None:
        told.append(state)
        if state.waiting and len([state for state in told if state.waiting]) == 3:
            if how == "finishes":
                files.write_sealed(folder / "result.json", theirs)
            lease.__exit__(None, None, None)

    outcomes = run([job, echo(2)], store, progress=tell)
    assert max(state.waiting for state in told) == 1
    assert outcomes[echo(2).id].status == "done"
    if how == "finishes":
        assert outcomes[job.id] == Outcome(job.id, "reused", {"by": "another"}, 5.0)
    else:
        assert outcomes[job.id].status == "done"


def test_an_interrupt_passes_through_and_gives_the_job_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("job_functions.echo", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run([echo(1)], store)
    assert run([echo(1)], store)[echo(1).id].status == "done"
