"""What survives a kill: one folder per checkpoint, complete or absent, and checked when it is read again."""

from __future__ import annotations

import io
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import safetensors.torch
import torch
from torch import Tensor, nn

from veridical.runtime.errors import RunError
from veridical.runtime.files import digest, read_bytes, read_json, to_plain, write_atomic, write_sealed
from veridical.runtime.record import record
from veridical.training.optimisation import MOMENTS, WeightAverage

# Checkpoints that stay: the newest, and the one before in case the newest turns out to be damaged.
_KEPT = 2

_WEIGHTS, _OPTIMISER, _RECORD = "weights.safetensors", "optimiser.pt", "checkpoint.json"


class _Progress(TypedDict):
    seconds: NotRequired[float]
    sums: NotRequired[dict[str, float]]
    summed: NotRequired[int]


class _Record(TypedDict):
    step: int
    averaged: int | None
    sha256: dict[str, str]
    config: dict[str, Any]
    progress: _Progress


@record
class Learner:
    """All that a training step changes: a model, its optimiser and, if there is one, the weights' average.

    kept: other tensors by name that steps change in place, such as warm starts.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    average: WeightAverage | None = None
    kept: Mapping[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Every weight, buffer and kept tensor by name, with the prefix "model.", "average." or "kept."."""
        parts = {"model": weights(self.model), "kept": self.kept}
        if self.average:
            parts["average"] = weights(self.average.module)
        return {f"{part}.{name}": value for part in parts for name, value in parts[part].items()}


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's state as tensors by name; a RunError if it keeps a state that is no tensor."""
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise RunError(
                f"the state {name} of {type(model).__name__} is a {type(value).__name__}, not a tensor, and "
                "cannot be kept in a checkpoint. Keep it as a buffer, or build it in the constructor."
            )
    return dict(state)


def save_checkpoint(
    folder: Path, step: int, learner: Learner, config: Mapping[str, Any], progress: Mapping[str, Any]
) -> Path:
    """Write `folder`/step-NNNNNNNN, which appears all at once, and drop all but the newest two.

    config: the run's settings, compared when it is loaded. progress: plain values that `load_newest` returns.
    A RunError instead of a checkpoint if a weight is not finite.
    """
    if bad := nonfinite_weights(learner.model):
        raise RunError(f"after step {step} the weights {', '.join(bad[:3])} hold values that are not finite")
    tensors = learner.tensors()
    optimiser = io.BytesIO()
    torch.save(learner.optimiser.state_dict(), optimiser)
    files = {_WEIGHTS: pack(tensors), _OPTIMISER: optimiser.getvalue()}
    folder.mkdir(exist_ok=True)
    # A leading dot: what a kill leaves behind here is no checkpoint and is cleared away by the next one.
    for unfinished in folder.glob(".step-*"):
        shutil.rmtree(unfinished)
    temporary, target = folder / f".step-{step:08d}", folder / _name(step)
    temporary.mkdir()
    for name, content in files.items():
        write_atomic(temporary / name, content)
    record = {
        "step": step,
        "averaged": learner.average.updates if learner.average else None,
        "sha256": {name: digest(content) for name, content in files.items()},
        "config": dict(config),
        "progress": dict(progress),
    }
    write_sealed(temporary / _RECORD, record)
    # A rename cannot replace a folder that holds files.
    if target.exists():
        shutil.rmtree(target)
    # A rename is atomic: the checkpoint is there as a whole, or not at all.
    os.replace(temporary, target)
    for old in list_checkpoints(folder)[_KEPT:]:
        shutil.rmtree(old)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def load_newest(folder: Path, learner: Learner, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Put the newest sound checkpoint into `learner` and return its {"step", **progress}; None without one.

    A damaged or truncated checkpoint is removed with a warning, and the one before it is taken. Weights keep
    the memory layout that they have. A RunError, which says what differs, for another model or configuration.
    """
    for path in list_checkpoints(folder):
        try:
            record, tensors, optimiser = _read(path, learner.optimiser)
        except RunError as damage:
            warnings.warn(
                f"the checkpoint {path} is damaged and was removed; the one before it is used ({damage})",
                RuntimeWarning,
                stacklevel=2,
            )
            shutil.rmtree(path)
            continue
        # Beyond damage: another configuration or model is the caller's mistake, and nothing is removed.
        _compare(path, record["config"], to_plain(dict(config), "config"))
        own = learner.tensors()
        check_tensors(path, tensors, own)
        copy_weights(own, tensors)
        learner.optimiser.load_state_dict(optimiser)
        if learner.average:
            learner.average.updates = record["averaged"] or 0
        return {"step": record["step"], **record["progress"]}
    return None


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors by name in the safetensors format; layouts are dropped and shared weights written twice."""
    # clone: safetensors refuses tensors that share memory, as tied weights do.
    whole = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    return safetensors.torch.save(whole)


@torch.no_grad()
def copy_weights(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Copy values into the tensors of a model, in place, so that device and memory layout stay theirs."""
    for name, value in own.items():
        value.copy_(tensors[name])


def check_tensors(path: Path, stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise a RunError that says what differs, unless names, shapes and dtypes are the same."""
    differences = [f"{name} is missing there" for name in expected if name not in stored]
    differences += [f"{name} is only there" for name in stored if name not in expected]
    for name in expected:
        if name in stored and _form(stored[name]) != _form(expected[name]):
            differences.append(f"{name} is {_form(stored[name])} there, {_form(expected[name])} here")
    if differences:
        more = f" and {len(differences) - 4} more" if len(differences) > 4 else ""
        raise RunError(
            f"{path} holds the weights of another model: {'; '.join(differences[:4])}{more}. "
            "Build the model as it was when the run began, or name another folder."
        )


def unpack(content: bytes, source: Path, hint: str) -> dict[str, Tensor]:
    """What `pack` made of tensors; a RunError that names `source` for anything else."""
    try:
        return safetensors.torch.load(content)
    except Exception as error:
        raise RunError(f"{source} is damaged: it holds no tensors ({error}). {hint}") from error


def nonfinite_weights(model: nn.Module) -> list[str]:
    """The names of what is learnt and holds NaN or infinities, and of what is constant (a mask) and NaN."""
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    trained |= {name for name, _ in model.named_buffers() if name.rpartition(".")[2].startswith("running_")}
    # A mask of -inf is a constant of the model's own; NaN is sound nowhere.
    bad = {True: lambda value: ~torch.isfinite(value), False: torch.isnan}
    return [name for name, value in weights(model).items() if bool(bad[name in trained](value).any())]


def _read(path: Path, own: torch.optim.Optimizer) -> tuple[_Record, dict[str, Tensor], dict[str, Any]]:
    """The record, the weights and the optimiser's state of one checkpoint; a RunError if it is damaged."""
    record = read_json(path / _RECORD, _Record, hint="", sealed=True)
    digests = {name: record["sha256"].get(name, "") for name in (_WEIGHTS, _OPTIMISER)}
    contents = {name: read_bytes(path / name, hint="", sha256=digest) for name, digest in digests.items()}
    if path.name != _name(record["step"]):
        raise RunError(f"{path} is damaged: it is of step {record['step']}.")
    try:
        # weights_only: a pickle that would run code is refused, not executed.
        state = torch.load(io.BytesIO(contents[_OPTIMISER]), map_location="cpu", weights_only=True)
        fits = _fits(state, own)
    except Exception as error:
        raise RunError(f"{path / _OPTIMISER} is damaged: {type(error).__name__}.") from error
    if not fits:
        raise RunError(f"{path / _OPTIMISER} is damaged: it is not the state of this optimiser.")
    return record, unpack(contents[_WEIGHTS], path / _WEIGHTS, ""), state


def _fits(state: Mapping[str, Any], own: torch.optim.Optimizer) -> bool:
    """Whether a state is of the same groups and parameters; raises what it must for one of no structure."""
    shapes = [value.shape for group in own.param_groups for value in group["params"]]
    expected = own.state_dict()["param_groups"]
    same = [group["params"] for group in state["param_groups"]] == [group["params"] for group in expected]
    # Numbers of a group become those of the next step: a text among them would fail only there.
    for there, here in zip(state["param_groups"], expected, strict=True):
        same &= all(type(there[n]) is type(v) for n, v in here.items() if isinstance(v, float | tuple))
    for number, moments in state["state"].items():
        same &= set(moments) == MOMENTS.get(type(own).__name__, set(moments))
        same &= all(not value.ndim or value.shape == shapes[number] for value in moments.values())
    return bool(same)


def _compare(path: Path, stored: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    there, here = _flatten(stored), _flatten(expected)
    differing = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    if differing:
        listed = "; ".join(f"{n} is {there.get(n)!r} there, {here.get(n)!r} here" for n in differing[:4])
        raise RunError(f"{path} belongs to another configuration: {listed}. Name another folder.")


def _flatten(values: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """The values of nested mappings, each by its dotted place."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{place}{key}.") if isinstance(value, Mapping) else {place + key: value}
    return flat


def _form(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _name(step: int) -> str:
    return f"step-{step:08d}"
