"""Every argument of the public functions, given what it cannot be: refused, and nothing else is raised."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import veridical
from veridical import DataError, Linf, RunError, TopK, UsageError
from veridical.attacks.protocols import protocol
from veridical.attacks.robustness import measure_robustness
from veridical.attribution.classifier import predict
from veridical.data import Split
from veridical.training import run

INPUTS = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 1])
NET = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
SPLIT = Split((INPUTS * 255).byte(), TARGET)


class Stranger:
    """A value that no argument takes."""


WRONG: list[Any] = [Stranger(), Stranger, b"x", 1j, {1: 2}, iter([1]), [[1, 2], [3]], [float("nan")], (None,)]
WRONG += ["\udcff", "no such", torch.tensor([0, -1]), 10**400, -(2**70), 2.5, float("nan"), -1]
WRONG += [np.zeros(3), torch.zeros(2, 3, dtype=torch.int64)]

ASKED: dict[str, Any] = {"model": NET, "inputs": INPUTS, "target": TARGET}
ONE_STEP = protocol("paper-fast", steps=1)
ATTACKED = {"attribution": veridical.InputGradient(), "attack": TopK(5), "protocol": ONE_STEP}
NEVER = {"steps": 0}  # so that what is right, or is not looked at before the data, begins nothing
FUNCTIONS: dict[str, tuple[Callable[..., Any], dict[str, Any], str]] = {
    "pgd": (
        veridical.pgd,
        {**ASKED, "ball": Linf(0.1), "steps": 1},
        "model inputs target ball steps step_size start restarts keep seed indices generator",
    ),
    "attack": (
        veridical.attack,
        {**ASKED, **ATTACKED, "ball": Linf(0.1)},
        "model inputs target attribution attack ball protocol seed indices rows progress",
    ),
    "measure_robustness": (
        measure_robustness,
        {"model": NET, "split": SPLIT, "radius": 0.1, "steps": 1, "k": 5, "pgd_steps": 1},
        (
            "model split radius curve norm bounds protocol k steps step_size attribution attack pgd_steps "
            "pgd_step_size window examples pictures seed rows progress"
        ),
    ),
    "protocol": (protocol, {"name": "paper"}, "steps step_size k climb_nodes final_nodes climbs restarts"),
    "predict": (predict, {"model": NET, "inputs": INPUTS}, "model inputs rows"),
    "a map": (veridical.IntegratedGradients(2), ASKED, "model inputs target create_graph indices"),
    "build": (
        veridical.build,
        {"name": "mlp", "shape": (1, 8, 8), "num_classes": 3, "seed": 0},
        "name shape num_classes seed width mean std",
    ),
    "Normalized": (veridical.Normalized, {"model": NET, "mean": 0.5, "std": 0.5}, "model mean std bounds"),
    "load": (veridical.load, {"name": "mnist-5k"}, "name root download equalise size split_seed"),
    "load a run": (run.load, {"folder": "no such run"}, "folder model device"),
    "train": (veridical.train, NEVER, "model data objective device out"),
    "diffroar": (
        veridical.diffroar,
        {"run_or_model": NET, "data": "mnist-5k", **NEVER},
        (
            "run_or_model data out attribution levels repeats mode roar fill order per ties target baselines "
            "control retrain_model retrain_model_options retrain_objective store executor data_root device "
            "batch stacked progress"
        ),
    ),
}
ARGUMENTS = [(name, argument) for name, (_, _, listed) in FUNCTIONS.items() for argument in listed.split()]


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_a_wrong_value_is_refused_by_one_of_our_errors(name: str, argument: str, tmp_path: Path) -> None:
    function, given, _ = FUNCTIONS[name]
    out = {"out": tmp_path / "out"} if name in ("train", "diffroar") else {}
    told = []
    for wrong in WRONG:
        try:
            function(**given | out | {argument: wrong})
        except (UsageError, DataError, RunError) as error:
            told.append(str(error))
    assert len(told) >= 12
    assert not (tmp_path / "out").exists()
