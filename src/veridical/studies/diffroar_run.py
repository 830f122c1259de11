"""DiffROAR of one run into a folder: result.json, rankings, retrainings, and pictures for the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from veridical.faithfulness.diffroar import (
    RANKINGS,
    ProgressCallback,
    measure,
    plan_from_options,
    ranking_path,
)
from veridical.faithfulness.diffroar_plan import Measurement
from veridical.faithfulness.forecast import Forecast, forecast
from veridical.faithfulness.ranking import Ranking
from veridical.faithfulness.unmasking import ENDS, unmask
from veridical.jobs import workers_of
from veridical.runtime.devices import environment, resolve_device
from veridical.runtime.files import Arrays, pack_arrays, result_document, write_atomic, write_json
from veridical.runtime.study_config import DiffRoarOptions
from veridical.studies.executors import executor_of
from veridical.studies.finished import EXAMPLES, RESULT
from veridical.studies.maps import first_of_each_class
from veridical.training.run import read_settings


def diffroar_run(options: DiffRoarOptions, progress: ProgressCallback | None = None) -> dict[str, Any]:
    """Measure as `options` say, write result.json and examples.npz into their `out`, return the former.

    Rankings and retrainings are kept as they come: interrupted at any moment, the same options continue. How
    many processes retrain, and where, changes nothing beyond rounding. Raises UsageError for options that do
    not fit, and RunError, when all others are finished, with the reasons and logs of retrainings that failed.
    """
    measurement = plan_from_options(options)
    folder = Path(options.out)
    with executor_of(options) as executor:
        result = measure(
            measurement,
            folder,
            store=options.store,
            executor=executor,
            batch=options.batch,
            stacked=options.stacked,
            progress=progress,
        )
        threads = torch.get_num_threads()
        where = {"executor": type(executor).__name__, "workers": workers_of(executor)}
    config = {"run": read_settings(Path(options.run)).to_dict(), **result.config}
    surroundings = environment(resolve_device(options.device), torch.float32, threads, options.seed)
    surroundings |= {"run": str(options.run), "attribution": options.attribution, **where}
    ranking = Ranking.load(ranking_path(folder / RANKINGS, "judged"))
    examples = pack_arrays(_pictures(measurement, ranking, options.gallery))
    write_atomic(folder / EXAMPLES, examples)
    files = {EXAMPLES: examples}
    document = result_document(result.to_dict(), config, surroundings, result.timing, files)
    write_json(folder / RESULT, document)
    return document


def predict(options: DiffRoarOptions) -> Forecast:
    """How many retrainings `diffroar_run` would make, and how long they would take; nothing is written."""
    measurement = plan_from_options(options)
    with executor_of(options) as executor:
        return forecast(measurement, executor, batch=options.batch, stacked=options.stacked)


def _pictures(measurement: Measurement, ranking: Ranking, count: int) -> Arrays:
    """What the gallery shows: the first test images of each class, their order, and both ends of every level.

    image uint8 (n, C, H, W), label and index (n,), order float32 (n, H, W) from 1 for what comes first to 0
    (the mean over channels), unmasked uint8 (n, levels, 2, C, H, W), top and bottom, levels, and class names.
    """
    split, design = measurement.data.test, measurement.design
    index = first_of_each_class(split.labels, count)
    inputs, labels = split.batch(index)
    whole = ranking.test
    ranks = torch.from_numpy(np.array(whole[index] if len(whole) > 1 else whole[[0] * len(index)]))
    last = max(1, ranking.coordinates - 1)
    order = (1 - ranks.double() / last).reshape(len(index), -1, *split.images.shape[2:]).mean(dim=1)
    unmasked = [
        unmask(inputs, ranks, level, end, mode=design.mode, fill=measurement.fill, indices=index)
        for level in design.levels
        for end in ENDS
    ]
    grid = (len(index), len(design.levels), len(ENDS), *inputs.shape[1:])
    return {
        "index": np.asarray(index, dtype=np.int64),
        "image": split.images[index].numpy(),
        "label": labels.numpy(),
        "order": order.float().numpy(),
        "levels": np.asarray(design.levels),
        "unmasked": _bytes(torch.stack(unmasked, dim=1)).reshape(grid),
        "classes": np.asarray(measurement.data.classes, dtype=np.str_),
    }


def _bytes(inputs: torch.Tensor) -> Any:
    return (inputs.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
