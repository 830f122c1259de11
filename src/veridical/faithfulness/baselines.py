"""What an attribution is compared with: random orders, and one order for all by a linear model's weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from veridical.data import Dataset
from veridical.faithfulness.ranking import CoordinateOrder, Part, Ranking, rank_coordinates, rank_parts
from veridical.faithfulness.sources import load_source
from veridical.runtime.files import read_json, write_sealed
from veridical.runtime.options import PerName
from veridical.training.loop import train
from veridical.training.run import Run

# The job that trains the linear model.
LINEAR = "veridical.faithfulness.baselines:measure_linear_importances"

EPOCHS = 5.0
_KEPT = "importances.json"


def rank_randomly(data: Dataset, *, per: PerName = "value", seed: int = 0) -> Ranking:
    """An order of its own, at random, for every instance: what a ranking without any information gets."""
    plane = (1 if per == "pixel" else data.shape[0], *data.shape[1:])

    def nothing(part: Part, numbers: range) -> Tensor:  # noqa: ARG001
        return torch.zeros(len(numbers), *plane)

    # Everything is tied, so the order is that of the ties, which have a stream of their own for this purpose.
    how, record = CoordinateOrder(per=per, seed=seed), {"attribution": {"method": "random order"}}
    return rank_parts(nothing, data, record, how, batch=1000, purpose="random order")


def measure_linear_importances(values: dict[str, Any], folder: Path, where: dict[str, str]) -> dict[str, Any]:
    """Job: train a linear model on the data and return the sum over classes of its absolute weights.

    values: {"data": {"checksum"}, "options": `linear_options`}. where: see `sources`. The result holds
    importances, C * H * W numbers, and the accuracy on the test images.
    """
    if (folder / _KEPT).exists():
        kept: dict[str, Any] = read_json(folder / _KEPT, sealed=True)
        return kept
    data = load_source(where, values["data"]["checksum"])
    run = train_linear(data, folder / "run", values["options"], where.get("device", "auto"))
    # How much a coordinate can move any logit, whichever its sign.
    weight = next(run.model.parameters()).detach().double().abs().sum(dim=0)
    accuracy = run.result["results"]["natural_accuracy"]["value"]
    result = {"importances": weight.tolist(), "accuracy": accuracy}
    write_sealed(folder / _KEPT, result)
    return result


def linear_options(data: Dataset, seed: int = 0) -> dict[str, Any]:
    """How the linear model trains, as fields of TrainOptions: Adam, one cycle."""
    return {
        "objective": "natural",
        "recipe": "fast",
        "optimiser": "adam",
        "schedule": "one-cycle",
        "epochs": EPOCHS,
        "batch_size": min(100, len(data.train)),
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "averaging": 0.0,
        "warm_up": 0.15,
        "validation": 0,
        "seed": seed,
    }


def train_linear(data: Dataset, out: Path, options: Mapping[str, Any], device: str) -> Run:
    """Train, or continue, in the folder `out` one linear layer on the flattened image, from zero."""
    # Nothing is drawn; and a coordinate that is black in every image keeps the weight zero.
    linear = nn.utils.skip_init(nn.Linear, int(np.prod(data.shape)), data.num_classes)
    for parameter in linear.parameters():
        nn.init.zeros_(parameter)
    model = nn.Sequential(nn.Flatten(), linear)
    return train(model=model, data=data, out=str(out), device=device, progress=False, **options)


def rank_by_linear_model(
    data: Dataset, result: Mapping[str, Any], *, per: PerName = "value", seed: int = 0
) -> Ranking:
    """One order for all instances from what `measure_linear_importances` returned; ties at random by seed."""
    how = CoordinateOrder(per=per, seed=seed)
    weight = torch.tensor(result["importances"], dtype=torch.float64).reshape(1, *data.shape)
    order = rank_coordinates(weight, how, purpose="input-agnostic order").numpy()
    record = {
        "attribution": {"method": "weights of a linear model", "accuracy": result["accuracy"]},
        **how.describe_order(),
        "data": data.checksum,
        "zero_share": float(np.mean(weight.numpy() == 0)),
    }
    return Ranking(order, order, data.shape, record)
