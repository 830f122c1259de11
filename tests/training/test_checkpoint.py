"""Checkpoints: complete or absent, checked, and exact; the log: neither lost nor repeated lines."""

import hashlib
import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from veridical.runtime.errors import RunError
from veridical.training.checkpoint import Learner, list_checkpoints, load_newest, save_checkpoint
from veridical.training.log import LOG, Log, read_log
from veridical.training.recipes import OptimiserSettings

ADAM = OptimiserSettings("adam", "constant", 1e-2, 1e-3, 4, 100, 0.9, 0.0, "mean")
SGD = OptimiserSettings("sgd", "constant", 1e-2, 1e-3, 4, 100, 0.0, 0.0, "mean")
CONFIG: dict[str, Any] = {"objective": "natural", "optimise": {"steps": 100}, "seed": 0}


def learner(settings: OptimiserSettings = ADAM, width: int = 4) -> Learner:
    with torch.random.fork_rng():
        torch.manual_seed(width)
        model = nn.Sequential(
            nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(4 * width, 2)
        )
    model = model.to(memory_format=torch.channels_last)
    return Learner(model, settings)


def work(learned: Learner, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        inputs = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(step))
        learned.optimiser.zero_grad()
        learned.model(inputs.contiguous(memory_format=torch.channels_last)).square().sum().backward()
        learned.move(step)


def saved(folder: Path, learned: Learner, step: int) -> Path:
    return save_checkpoint(folder, step, learned, CONFIG, {"seconds": 1.5, "sums": {"loss": 0.1 + 0.2}})


def assert_same(one: Learner, other: Learner) -> None:
    for name, value in one.tensors().items():
        assert torch.equal(value, other.tensors()[name]), name


@pytest.mark.parametrize("settings", [ADAM, SGD])
def test_continuing_from_a_checkpoint_is_the_same_as_never_stopping(
    tmp_path: Path, settings: OptimiserSettings
) -> None:
    unbroken, other = learner(settings), learner(settings, width=4)
    work(unbroken, 3)
    saved(tmp_path / "c", unbroken, 3)
    work(unbroken, 4, first=3)
    work(other, 1, first=50)  # what a fresh process holds does not matter
    progress = load_newest(tmp_path / "c", other, CONFIG)
    assert progress == {"step": 3, "seconds": 1.5, "sums": {"loss": 0.1 + 0.2}}
    # The memory layout of weights and moments is as it was.
    weight = other.model.get_parameter("0.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert {m.stride() for m in other.optimiser.state[weight].values() if m.ndim} <= {weight.stride()}
    work(other, 4, first=3)
    assert_same(unbroken, other)
    assert (other.average is None) or other.average.updates == 7


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip, lambda path: path.write_bytes(b"")])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    one = learner()
    work(one, 2)
    saved(tmp_path / "c", one, 2)
    before = {key: value.clone() for key, value in one.tensors().items()}
    work(one, 2, first=2)
    damage(saved(tmp_path / "c", one, 4))
    other = learner()
    with pytest.warns(RuntimeWarning, match=r"step-00000004\.pt is damaged"):
        progress = load_newest(tmp_path / "c", other, CONFIG)
    assert progress is not None
    assert progress["step"] == 2
    for key, value in other.tensors().items():
        assert torch.equal(value, before[key])
    assert [path.name for path in list_checkpoints(tmp_path / "c")] == ["step-00000002.pt"]


def forge(checkpoint: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what a checkpoint says, and the digest with it."""
    record = torch.load(io.BytesIO(checkpoint.read_bytes()[64:]))
    changed = change(record)
    buffer = io.BytesIO()
    torch.save(record if changed is None else changed, buffer)
    checkpoint.write_bytes(hashlib.sha256(buffer.getvalue()).hexdigest().encode() + buffer.getvalue())


def optimiser(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    def of(record: dict[str, Any]) -> None:
        change(record["optimiser"])

    return of


class Payload:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch executed",)


FORGED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a list": (lambda _: [1, 2], "is damaged"),
    "a pickle that runs code": (lambda record: record | {"progress": Payload()}, "damaged: UnpicklingError"),
    "no step": (lambda record: {"averaged": record["averaged"]}, "is damaged"),
    "a step that is text": (lambda record: record | {"step": "2"}, "is damaged"),
    "another step": (lambda record: record | {"step": 3}, "it is of step 3"),
    "weights that are none": (lambda record: record | {"tensors": {"model.0.weight": 1}}, "is damaged"),
    "other keys": (lambda record: record | {"optimiser": {"a": 1}}, "is damaged"),
    "no groups": (optimiser(lambda state: state.update(param_groups=[])), "is damaged"),
    "fewer parameters": (
        optimiser(lambda state: state["param_groups"][0]["params"].pop() and None),
        "state of",
    ),
    "another rate": (optimiser(lambda state: state["param_groups"][0].update(betas="x")), "state of"),
    "other moments": (optimiser(lambda state: state["state"][0].pop("exp_avg")), "state of"),
    "other shape": (optimiser(lambda state: state["state"][0].update(exp_avg=torch.zeros(3))), "state of"),
}


@pytest.mark.parametrize("forged", FORGED)
def test_other_content_with_the_right_digest_is_refused_and_nothing_is_run(
    tmp_path: Path, forged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    change, message = FORGED[forged]
    one = learner()
    work(one, 2)
    forge(saved(tmp_path / "c", one, 2), change)
    with pytest.warns(RuntimeWarning, match=message):
        assert load_newest(tmp_path / "c", learner(), CONFIG) is None
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("tensors", [{}, {"model.0.weight": torch.zeros(2)}])
def test_other_weights_with_the_right_digest_are_those_of_another_model(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    forge(saved(tmp_path / "c", learner(), 2), lambda record: record | {"tensors": tensors})
    with pytest.raises(RunError, match=r"step-00000002\.pt holds the weights of another model"):
        load_newest(tmp_path / "c", learner(), CONFIG)


def test_what_a_kill_left_half_written_is_no_checkpoint_and_is_cleared_and_the_newest_two_stay(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / ".step-00000009.pt.1.a.tmp").write_bytes(b"half")
    assert load_newest(folder, learner(), CONFIG) is None
    for step in (1, 2, 10, 11):
        saved(folder, learner(), step)
    assert list_checkpoints(folder) == [folder / "step-00000011.pt", folder / "step-00000010.pt"]
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    ("width", "steps", "difference"),
    [
        (6, 100, r"model\.0\.weight is \(4, 3, 3, 3\) float32 there, \(6, 3, 3, 3\)"),
        (4, 200, r"optimise\.steps is 100 there, 200 here"),
    ],
)
def test_another_model_or_configuration_is_refused_by_naming_the_difference(
    tmp_path: Path, width: int, steps: int, difference: str
) -> None:
    saved(tmp_path / "c", learner(), 1)
    with pytest.raises(RunError, match=difference):
        load_newest(tmp_path / "c", learner(width=width), {**CONFIG, "optimise": {"steps": steps}})


def test_weights_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    bad = learner()
    saved(tmp_path / "c", bad, 1)
    with torch.no_grad():
        next(bad.model.parameters()).fill_(float("nan"))
    with pytest.raises(RunError, match=r"0\.weight"):
        saved(tmp_path / "c", bad, 2)
    assert [path.name for path in list_checkpoints(tmp_path / "c")] == ["step-00000001.pt"]


def test_a_mask_of_minus_infinity_is_kept_and_an_infinite_running_variance_is_not(tmp_path: Path) -> None:
    learned = learner()
    learned.model.register_buffer("mask", torch.full((3, 3), float("-inf")).triu(1))
    saved(tmp_path / "c", learned, 1)
    learned.model[1].running_var.fill_(float("inf"))  # type: ignore[index]
    with pytest.raises(RunError, match=r"1\.running_var"):
        saved(tmp_path / "c", learned, 2)


def test_tied_weights_can_be_kept(tmp_path: Path) -> None:
    def tied(value: float) -> Learner:
        first, second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        second.weight = first.weight
        nn.init.constant_(first.weight, value)
        model = nn.Sequential(first, second)
        return Learner(model, SGD)

    saved(tmp_path / "c", tied(0.5), 1)
    other = tied(0.0)
    load_newest(tmp_path / "c", other, CONFIG)
    assert all(bool((parameter == 0.5).all()) for parameter in other.model.parameters())


def test_lines_after_the_checkpoint_are_removed_and_written_again(tmp_path: Path) -> None:
    log = Log(tmp_path, 0)
    for step in (10, 20, 30):
        log.write(step, {"loss": step / 3})
    log.close()
    again = Log(tmp_path, 20)
    again.write(30, {"loss": 10.0, "rate": float("nan")})
    again.sync()
    again.close()
    assert read_log(tmp_path) == [
        {"step": 10, "loss": 10 / 3},
        {"step": 20, "loss": 20 / 3},
        {"step": 30, "loss": 10.0, "rate": None},
    ]


def test_a_line_is_on_file_at_once_and_dropped_where_a_kill_cut_it_short(tmp_path: Path) -> None:
    assert read_log(tmp_path) == []
    log = Log(tmp_path, 0)
    log.write(10, {"loss": 1.0})
    assert read_log(tmp_path) == [{"step": 10, "loss": 1.0}]
    log.close()
    with (tmp_path / LOG).open("a") as file:
        file.write('{"step": 20, "lo')
    assert read_log(tmp_path) == [{"step": 10, "loss": 1.0}]
    again = Log(tmp_path, 20)
    again.write(30, {"loss": 3.0})
    again.close()
    assert [line["step"] for line in read_log(tmp_path)] == [10, 30]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    log = Log(tmp_path, 0)
    log._file.close()
    with Path("/dev/full").open("a", encoding="utf-8", buffering=1) as full, suppress(OSError):
        log._file = full
        for act in (lambda: log.write(1, {"loss": 1.0}), log.close):
            with pytest.raises(RunError, match="/dev/full cannot be written: No space left"):
                act()
