"""What a result was made with, and the one document that every command writes."""

import os
import platform
from collections.abc import Mapping

import numpy as np
import torch

from veridical._version import __version__
from veridical.runtime.devices import cpu_details
from veridical.runtime.files import digest

SCHEMA = 1


def environment(
    device: torch.device | str,
    dtype: torch.dtype | str,
    threads: int | None = None,
    seed: int | None = None,
) -> dict[str, object]:
    """Return plain values that say what computed a result; `threads` defaults to what torch uses now."""
    where = torch.device(device)
    return {
        "veridical": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": cpu_details()["model"] or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "device": str(where),
        "gpu": torch.cuda.get_device_name(where) if where.type == "cuda" else None,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads() if threads is None else threads,
        "seed": seed,
    }


def result_document(
    results: Mapping[str, object],
    config: Mapping[str, object],
    environment: Mapping[str, object],
    timing: Mapping[str, object],
    files: Mapping[str, bytes] | None = None,
) -> dict[str, object]:
    """Return the content of a `result.json`: two results are equal when `results` and `config` are.

    files: what was written beside it, by name, of which it keeps the digests.
    """
    return {
        "schema": SCHEMA,
        "results": dict(results),
        "config": dict(config),
        "environment": dict(environment),
        "timing": dict(timing),
        "files": {name: digest(content) for name, content in (files or {}).items()},
    }
