"""Run as a script, as a command would be: jobs in a pool, and what became of them.

usage: command.py STORE OUT JOBS WORKERS. JOBS is a JSON file of jobs. Writes the process numbers of its
workers to OUT.workers whenever progress is told, and the outcomes to OUT in the end.
"""

import json
import os
import sys
from pathlib import Path

from veridical.jobs import Job, ProcessPool, Progress, Store, run_jobs


def main(root: str, out: str, jobs: str, workers: int) -> None:
    def tell(_: Progress) -> None:
        draft = Path(f"{out}.{os.getpid()}")
        draft.write_text(" ".join(map(str, pool.processes())))
        draft.replace(f"{out}.workers")

    with ProcessPool(workers) as pool:
        outcomes = run_jobs(
            [Job(**record) for record in json.loads(Path(jobs).read_text())],
            Store(root),
            pool,
            retries=9,  # one job may be hit several times
            progress=tell,
            trust_code=True,
            poll_seconds=0.05,
        )
    Path(out).write_text(json.dumps([[outcome.status, outcome.result] for outcome in outcomes.values()]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
