"""The frame of a study: its folder, the jobs that it runs, and the files that it leaves in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from veridical.faithfulness.diffroar import check_outcomes
from veridical.jobs import Job, Outcome, Progress, Store, run_jobs, workers_of
from veridical.runtime.devices import environment, resolve_device
from veridical.runtime.files import (
    Arrays,
    claim_folder,
    pack_arrays,
    result_document,
    write_atomic,
    write_json,
)
from veridical.runtime.options import Placement
from veridical.studies.executors import executor_of
from veridical.studies.finished import EXAMPLES, RESULT

JOBS = "jobs"
"""The store of a study that names no other."""

ProgressCallback = Callable[[str, Progress], object]
"""(what is done, how far it is)."""


class Study:
    """Runs jobs one group after the other, gives what they found, and writes the results."""

    def __init__(
        self,
        options: Placement,
        config: Mapping[str, Any],
        folder: Path,
        store: Store,
        executor: Executor,
        tell: ProgressCallback | None,
    ) -> None:
        self.options, self.config, self.folder, self._executor = options, config, folder, executor
        self.store = store
        # Of the workers; results are made after they are gone.
        self._threads = torch.get_num_threads()
        self.outcomes: dict[str, Outcome] = {}
        self._tell = tell or (lambda _what, _progress: None)

    def run(self, what: str, jobs: Iterable[Job]) -> None:
        """Run jobs, told as `what`; a RunError with reasons and logs, when the others are finished."""
        group = list(jobs)
        found = run_jobs(group, self.store, self._executor, progress=lambda state: self._tell(what, state))
        check_outcomes(found, group)
        self.outcomes |= found

    def result(self, job: Job) -> Mapping[str, Any]:
        """What a job that was run returned."""
        found = self.outcomes[job.id].result
        assert found is not None
        return found

    def arrays(self, job: Job, name: str) -> Arrays:
        """The arrays of an .npz file that a job left in its folder."""
        return self.store.arrays(job, name)

    def finish(
        self,
        results: Mapping[str, Any],
        pictures: Arrays | None = None,
        *,
        surroundings: Mapping[str, Any] | None = None,
        timing: Mapping[str, Any] | None = None,
        device: str | None = None,
        dtype: str = "float32",
    ) -> dict[str, Any]:
        """Write examples.npz, if there are pictures, and last result.json; return the content of the latter.

        surroundings, timing: recorded beside the usual. device: None is the one of the options.
        """
        files = {} if pictures is None else {EXAMPLES: pack_arrays(pictures)}
        for name, content in files.items():
            write_atomic(self.folder / name, content)
        place = resolve_device(self.options.device if device is None else device)
        where = environment(place, dtype, self._threads, self.options.seed)
        where |= {"executor": type(self._executor).__name__, "workers": workers_of(self._executor)}
        where["store"] = str(self.store.root)
        seconds = sum(outcome.seconds or 0.0 for outcome in self.outcomes.values())
        usual = {"jobs": len(self.outcomes), "seconds": round(seconds, 3)}
        document = result_document(
            results, self.config, {**where, **(surroundings or {})}, {**usual, **(timing or {})}, files
        )
        write_json(self.folder / RESULT, document)
        return document


@contextmanager
def begun(
    options: Placement, kind: str, config: Mapping[str, Any], tell: ProgressCallback | None = None
) -> Iterator[Study]:
    """A study whose folder is claimed for `config`, and whose workers are there in the block; then `finish`.

    kind: the command that the folder belongs to. tell: hears how far a group of jobs is. Interrupted at any
    moment, the same begins where it ended. Raises UsageError for a folder that is claimed for something else.
    """
    with executor_of(options) as executor:
        named = None if options.store is None else Store(options.store)  # refused, it leaves no claim
        folder = claim_folder(options.out, kind, config)
        yield Study(options, config, folder, named or Store(folder / JOBS), executor, tell)
