"""One retraining as a job: a fresh model on unmasked images, and its accuracy on unmasked test images."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from veridical.data import Dataset
from veridical.faithfulness.fills import ConstantFill, fill_from
from veridical.faithfulness.ranking import Ranking
from veridical.faithfulness.recipe import fresh_model
from veridical.faithfulness.sources import load_source
from veridical.faithfulness.unmasking import Kept, first_images, unmasked_dataset
from veridical.runtime.errors import RunError
from veridical.runtime.files import read_json, write_sealed
from veridical.training.loop import train
from veridical.training.run import MODEL, Run

RETRAIN = "veridical.faithfulness.retraining:retrain"

RUN, ACCURACY = "run", "accuracy.json"
"""What a job leaves in its folder: the training's claim, log and result (no weights), and its own result."""


def retrain(values: dict[str, Any], folder: Path, where: dict[str, str]) -> dict[str, Any]:
    """Job: train a fresh model on unmasked training images, return its accuracy on unmasked test images.

    values: what `Measurement.values` makes. where: the data (see `sources`), ranking (a path), device, and
    trust_code for an architecture of the caller's. Killed at any moment, it continues from its checkpoint.
    Returns {"accuracy", "correct", "examples", "training_seconds", "examples_per_second"}.
    """
    if (folder / ACCURACY).exists():
        kept: dict[str, Any] = read_json(folder / ACCURACY, sealed=True)
        return kept
    run = trained(values, unmasked_of(values, where), folder / RUN, where)
    found, timing = run.result["results"]["natural_accuracy"], run.result["timing"]
    result = {
        "accuracy": found["value"],
        "correct": round(found["value"] * found["n"]),
        "examples": found["n"],
        "training_seconds": timing["training_seconds"],
        "examples_per_second": timing["examples_per_second"],
    }
    # Hundreds of models would fill a disk, and nothing asks for them; first the number, then the weights.
    write_sealed(folder / ACCURACY, result)
    (folder / RUN / MODEL).unlink()
    return result


def unmasked_of(values: Mapping[str, Any], where: Mapping[str, str]) -> Dataset:
    """The unmasked data set that a job's values describe."""
    data = load_source(where, values["data"]["checksum"])
    return unmasked_as(values, data, _ranking(where["ranking"], values["ranking"]["checksum"]))


def unmasked_as(values: Mapping[str, Any], data: Dataset, ranking: Ranking) -> Dataset:
    """`data` unmasked by `ranking` as a job's values say, whichever images and order those name.

    Where only the first training images are ranked, these are all there are.
    """
    if len(ranking.train) > 1:
        data = first_images(data, len(ranking.train))
    # Masks are shown as they are: nothing is filled in.
    fill = ConstantFill((0.0,) * data.shape[0]) if values["fill"] is None else fill_from(values["fill"])
    kept = Kept(values["kept"]["end"], values["kept"]["count"])
    return unmasked_dataset(data, ranking, kept, fill, shown=values["shown"])


def trained(values: Mapping[str, Any], data: Dataset, out: Path, where: Mapping[str, str]) -> Run:
    """Train the architecture and recipe of a job's values, from its seed, on `data`."""
    model, seed = values["model"], values["seed"]
    own = fresh_model(model, seed, trust_code=where.get("trust_code") == "yes")
    return train(
        model=model["name"] if own is None else own,
        model_options=model["options"] if own is None else {},
        data=data,
        out=str(out),
        seed=seed,
        device=where.get("device", "auto"),
        progress=False,
        **values["training"],
    )


@lru_cache(maxsize=8)
def _ranking(path: str, checksum: str) -> Ranking:
    """A ranking, mapped from its file; its content is compared with the checksum once per process."""
    ranking = Ranking.load(Path(path))
    if ranking.checksum != checksum:
        raise RunError(
            f"{path} is not the ranking that was planned with: its checksum is {ranking.checksum}, expected "
            f"{checksum}. Delete the file and repeat the command."
        )
    return ranking
