"""DiffROAR where the answer is known."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from veridical.data import Dataset, Split
from veridical.data.dataset import MaskedDataset
from veridical.faithfulness import forecast
from veridical.faithfulness.diffroar import diffroar
from veridical.faithfulness.result import DiffRoarResult, judge
from veridical.jobs import InProcess, Progress
from veridical.models import build
from veridical.runtime.errors import UsageError

# 0.0625 of 64 pixels are four: as many as hold the class in `marked_data`.
RECIPE: dict[str, Any] = {
    "epochs": 1.0,
    "batch_size": 20,
    "learning_rate": 0.02,
    "averaging": 0.0,
    "retrain_model": "mlp",
    "retrain_model_options": {"width": 16},
    "device": "cpu",
}
ALONE: dict[str, Any] = {**RECIPE, "baselines": (), "control": False, "repeats": 3}


@pytest.fixture(autouse=True)
def quick_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prediction of costs has tests of its own."""
    monkeypatch.setattr(forecast, "SECONDS", 0.0)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build("mlp", shape=(1, 8, 8), num_classes=2, seed=0, width=16)


def measured(model: Any, data: Dataset, out: Path, **options: Any) -> DiffRoarResult:
    """`diffroar` in this process with ALONE, but for the options given."""
    return diffroar(model, data, out=out, **{"executor": InProcess(), **ALONE, **options})


class Marked:
    """The four pixels that hold the class first (or last), the others at random."""

    def __init__(self, sign: float = 1.0) -> None:
        self.sign = sign

    def __call__(self, model: nn.Module, inputs: Tensor, *_: Any, **__: Any) -> Tensor:  # noqa: ARG002
        maps = torch.rand(inputs.shape) + 2
        maps[:, :, 2:4, 5:7] += 2 * self.sign
        return maps


def ends(result: DiffRoarResult, level: float = 0.0625) -> tuple[float, float]:
    point = next(point for point in result.curve if point["level"] == level)
    return point["top"]["value"], point["bottom"]["value"]


@pytest.fixture(scope="module")
def perfect(
    model: nn.Module, marked_data: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> DiffRoarResult:
    options: dict[str, Any] = {"attribution": Marked(), "levels": (0.0625, 0.5), "control": True}
    return measured(model, marked_data, tmp_path_factory.mktemp("perfect") / "out", **options)


@pytest.fixture(scope="module")
def compared(
    model: nn.Module, marked_data: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> DiffRoarResult:
    options: dict[str, Any] = {"attribution": Marked(), "levels": (0.0625,), "repeats": 2}
    options["baselines"] = ("random", "input-agnostic")
    return measured(model, marked_data, tmp_path_factory.mktemp("compared") / "out", **options)


def test_a_perfect_ranking_gives_the_known_gap(perfect: DiffRoarResult) -> None:
    top, bottom = ends(perfect)
    # The four pixels agree with the class in nine of ten test images, and nothing else says anything.
    assert top == pytest.approx(0.9, abs=1e-9)
    assert bottom == pytest.approx(0.5, abs=0.06)
    (first, second) = perfect.verdicts
    assert (first["verdict"], second["verdict"]) == ("satisfied", "satisfied")
    assert first["low"] < 0.4 < first["high"]
    difference = perfect.curve[0]["difference"]
    assert difference["value"] == pytest.approx(top - bottom)
    assert len(difference["repeats"]) == 3
    # Masks that are the same for all say nothing.
    assert perfect.control is not None
    assert perfect.control["chance"] == 0.5
    masks = perfect.control["curve"][0]["top"]
    assert masks["value"] == pytest.approx(0.5, abs=0.01)
    assert (masks["leaks"], masks["low"]) == (False, None)
    # To remove the top half is to keep the bottom half; at the other level nobody asked for ROAR.
    assert [point["accuracy"] for point in perfect.kar] == [point["top"] for point in perfect.curve]
    assert perfect.roar == ({"level": 0.5, "accuracy": perfect.curve[1]["bottom"]},)


def test_its_reverse_gives_the_negative(
    perfect: DiffRoarResult, model: nn.Module, marked_data: Dataset, tmp_path: Path
) -> None:
    result = measured(model, marked_data, tmp_path / "out", attribution=Marked(-1.0), levels=(0.0625,))
    top, bottom = ends(result)
    assert result.verdicts[0]["verdict"] == "violated"
    assert bottom == pytest.approx(0.9, abs=1e-9)
    assert top - bottom == pytest.approx(-(ends(perfect)[0] - ends(perfect)[1]), abs=0.06)


def test_random_orders_are_undecided_and_a_linear_model_finds_the_pixels(compared: DiffRoarResult) -> None:
    (point,) = compared.baselines["random"]
    verdict = judge(point["top"]["repeats"], point["bottom"]["repeats"], compared.examples)
    assert verdict["verdict"] == "undecided"
    assert verdict["low"] < 0 < verdict["high"]
    linear = compared.baselines["input-agnostic"]
    assert linear[0]["top"]["value"] == pytest.approx(0.9, abs=1e-9)
    assert linear[0]["bottom"]["value"] == pytest.approx(0.5, abs=0.06)


def test_a_result_is_plain_and_complete(perfect: DiffRoarResult, compared: DiffRoarResult) -> None:
    for result in (perfect, compared):
        plain = result.to_dict()
        assert json.loads(json.dumps(plain)) == plain
        assert json.loads(json.dumps(result.config)) == result.config
        assert plain["rankings"]["judged"]["weights"] == result.config["weights"]
    assert set(compared.rankings) == {"judged", "random", "input-agnostic"}
    assert perfect.timing["retrainings"] == 2 * 2 * 3 + 2 * 2
    assert compared.timing["retrainings"] == 3 * 2 * 2
    assert compared.control is None


def test_equally_informative_coordinates_are_undecided(
    model: nn.Module, repeated_data: Dataset, tmp_path: Path
) -> None:
    def first_to_last(model: nn.Module, inputs: Tensor, *_: Any, **__: Any) -> Tensor:  # noqa: ARG001
        return torch.arange(64.0, 0.0, -1.0).reshape(1, 1, 8, 8).expand(inputs.shape)

    result = measured(
        model, repeated_data, tmp_path / "out", attribution=first_to_last, levels=(0.0625, 0.25)
    )
    for level in (0.0625, 0.25):
        assert min(ends(result, level)) > 0.65  # there is information, at both ends
    assert [verdict["verdict"] for verdict in result.verdicts] == ["undecided", "undecided"]
    assert any("equally informative" in note for note in result.notes)


def test_the_control_finds_a_leak_in_the_masks(model: nn.Module, noise_data: Dataset, tmp_path: Path) -> None:
    """The maps put the upper half first for one class and the lower for the other."""
    maps: dict[str, Any] = {}
    for part, split in (("train", noise_data.train), ("test", noise_data.test)):
        half = torch.rand(len(split), 1, 8, 8, generator=torch.Generator().manual_seed(len(split)))
        half[split.labels == 0, :, :4] += 1
        half[split.labels == 1, :, 4:] += 1
        maps[f"attribution_{part}"] = half.numpy()
    np.savez(tmp_path / "maps.npz", **maps)
    result = measured(
        model, noise_data, tmp_path / "out", attribution=tmp_path / "maps.npz", levels=(0.25,), control=True
    )
    assert result.control is not None
    point = result.control["curve"][0]
    for end in ("top", "bottom"):
        assert point[end]["value"] > 0.95
        assert point[end]["leaks"]
    assert any("masks alone tell the class" in note for note in result.notes)


LINEAR = """
from torch import nn

def linear(*, shape, num_classes, seed):
    layer = nn.Linear(shape[0] * shape[1] * shape[2], num_classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.Flatten(), layer)
"""


def test_a_permutation_of_coordinates_changes_nothing(
    network: nn.Module,
    marked_data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "zero_linear.py").write_text(LINEAR)
    monkeypatch.syspath_prepend(tmp_path)
    moved = torch.randperm(64, generator=torch.Generator().manual_seed(9))

    def permuted(split: Split) -> Split:
        return Split(split.images.flatten(1)[:, moved].reshape(split.images.shape), split.labels)

    other = dataclasses.replace(
        marked_data, train=permuted(marked_data.train), test=permuted(marked_data.test)
    )
    first = network.get_parameter("1.weight").detach()
    twin = copy.deepcopy(network)
    twin.load_state_dict({**network.state_dict(), "1.weight": first[:, moved]})
    curves = []
    for number, (judged, data) in enumerate(((network, marked_data), (twin, other))):
        # A linear model from zero treats coordinates alike, so that only rounding can differ.
        own = {"trust_code": True, "retrain_model": "zero_linear:linear", "retrain_model_options": None}
        result = measured(judged, data, tmp_path / str(number), levels=(0.0625, 0.5), repeats=2, **own)
        curves.append([ends(result, level) for level in (0.0625, 0.5)])
    assert np.allclose(curves[0], curves[1], atol=0.0051)


def test_removing_orients_the_difference_the_same_way_and_shares_the_retrainings(
    model: nn.Module, marked_data: Dataset, tmp_path: Path
) -> None:
    def at(folder: str, mode: str, **more: Any) -> DiffRoarResult:
        return measured(
            model,
            marked_data,
            tmp_path / folder,
            store=tmp_path / "store",
            attribution=Marked(),
            levels=(0.25, 0.75),
            mode=mode,
            repeats=2,
            **more,
        )

    kept, removed = at("kept", "keep"), at("removed", "remove")
    assert kept.timing["reused"] == 0
    assert removed.timing["reused"] == removed.timing["retrainings"] == 8
    for point, mirror in zip(removed.curve, reversed(kept.curve), strict=True):
        assert point["top"] == mirror["bottom"]
        assert point["difference"] == mirror["difference"]
    assert [point["accuracy"] for point in removed.roar] == [point["top"] for point in removed.curve]
    with pytest.raises(UsageError, match="mode"):
        at("kept", "remove")
    with pytest.raises(UsageError, match="learning_rate"):
        at("kept", "keep", learning_rate=0.01)


def test_an_interrupted_measurement_goes_on_where_it_was(
    model: nn.Module, marked_data: Dataset, tmp_path: Path
) -> None:
    class InterruptedHereError(Exception):
        """Stands for Ctrl-C."""

    reported: list[tuple[str, int, int]] = []

    def stop(what: str, state: Progress) -> None:
        reported.append((what, state.done, state.total))
        if what == "retraining" and state.done == 2:
            raise InterruptedHereError

    def at(folder: str, **more: Any) -> DiffRoarResult:
        settings = {"repeats": 2, "attribution": Marked(), "levels": (0.25,), **more}
        return measured(model, marked_data, tmp_path / folder, **settings)

    whole = at("whole")
    with pytest.raises(InterruptedHereError):
        at("broken", progress=stop)
    assert ("ranking", 1000, 1000) in reported
    ranking = (tmp_path / "broken" / "rankings" / "judged.npz").stat().st_mtime_ns
    result = at("broken")
    assert result.to_dict() == whole.to_dict()
    assert result.config == whole.config
    assert result.timing["reused"] == 2
    assert result.timing["predicted_seconds"] > 0
    assert (tmp_path / "broken" / "rankings" / "judged.npz").stat().st_mtime_ns == ranking
    finished = at("broken").timing
    assert (finished["reused"], finished["predicted_seconds"], finished["retraining_seconds"]) == (4, 0, 0)


def test_only_images_that_are_retrained_on_are_ranked(
    model: nn.Module, marked_data: Dataset, tmp_path: Path
) -> None:
    """With 200 of 600 training images all is as if the data set had no more; nor do its masks count."""
    nowhere = torch.zeros(600, 8, 8, dtype=torch.bool)
    masked = MaskedDataset.of(marked_data, nowhere, nowhere[:400])
    few = dataclasses.replace(
        marked_data, train=marked_data.train.subset(range(200)), checksum="1" * 64
    )  # another checksum: it is another data set
    common: dict[str, Any] = {"repeats": 2, "baselines": ("random",), "levels": (0.25,)}
    common |= {"fill": 0.0, "control": True}
    reported: list[tuple[int, int]] = []

    def ranked(what: str, state: Progress) -> None:
        if what == "ranking":
            reported.append((state.done, state.total))

    result = measured(model, masked, tmp_path / "some", train_examples=200, progress=ranked, **common)
    expected = measured(model, few, tmp_path / "all", **common)
    assert reported[-1] == (600, 600)
    here, there = result.to_dict(), expected.to_dict()
    for part in ("curve", "baselines", "control"):
        assert here[part] == there[part]
