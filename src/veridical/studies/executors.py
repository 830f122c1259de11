"""Where a command's jobs run: processes of this machine, a Dask cluster, or this process."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

import torch

from veridical.jobs import InProcess, ProcessPool
from veridical.jobs.cluster import Dask
from veridical.jobs.pool import visible_cards
from veridical.runtime.devices import resolve_device
from veridical.runtime.guards import thread_count
from veridical.runtime.options import Placement


@contextmanager
def executor_of(options: Placement) -> Iterator[Executor]:
    """Where the options say that jobs run; in the block torch has as many threads as a worker has.

    A Dask scheduler by its address; one worker for each GPU, or a core; or this process, for one worker.
    """
    # A cluster's devices are other machines'.
    device = None if options.scheduler is not None else resolve_device(options.device)
    pinned = device is not None and options.device in ("auto", "cuda") and device.type == "cuda"
    executor: Executor
    if options.scheduler is not None:
        executor = Dask(options.scheduler, insecure=options.insecure)
    elif options.workers == 1:
        executor = InProcess()
    elif pinned:
        share = -(-(options.workers or 1) // max(1, len(visible_cards())))
        executor = ProcessPool(options.workers, options.threads or 1, gpus="all", per_gpu=share)
    else:
        executor = ProcessPool(options.workers, options.threads or 1)
    alone = isinstance(executor, InProcess)
    threads = options.threads or (torch.get_num_threads() if alone else 1)
    with executor, thread_count(threads):
        yield executor
