"""What survives a kill: one folder per checkpoint, complete or absent, and checked when it is read again."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from veridical.runtime.errors import RunError
from veridical.runtime.files import read_json, to_plain, write_atomic, write_json
from veridical.training.optimisation import WeightAverage

KEPT = 2
"""Checkpoints that stay: the newest, and the one before in case the newest turns out to be damaged."""

_WEIGHTS, _OPTIMISER, _RECORD = "weights.safetensors", "optimiser.pt", "checkpoint.json"


@dataclass(frozen=True, eq=False)
class Learner:
    """All that a training step changes: a model, its optimiser and, if there is one, the weights' average.

    kept: other tensors by name that steps change in place, such as warm starts. What is not finite from the
    start, such as a mask of -inf, may stay so (`check_finite`).
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    average: WeightAverage | None = None
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    _built: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_built", frozenset(self._not_finite()))

    def _not_finite(self) -> list[str]:
        return [name for name, value in self.tensors().items() if not bool(torch.isfinite(value).all())]

    def check_finite(self, step: int) -> None:
        """Raise a RunError if something that was finite at the start is not so after `step` steps."""
        bad = [name for name in self._not_finite() if name not in self._built]
        if bad:
            raise RunError(
                f"after step {step} the weights {', '.join(bad[:3])} hold values that are not finite"
            )

    def tensors(self) -> dict[str, Tensor]:
        """Every weight, buffer and kept tensor by name, with the prefix "model.", "average." or "kept."."""
        parts = {"model": self.model} | ({"average": self.average.module} if self.average else {})
        found = {f"{part}.{name}": value for part in parts for name, value in weights(parts[part]).items()}
        return found | {f"kept.{name}": value for name, value in self.kept.items()}


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
    """Write `folder`/step-NNNNNNNN, which appears all at once, and drop all but the newest `KEPT`.

    config: the run's settings, compared when it is loaded. progress: plain values that `load_newest` returns.
    A RunError instead of a checkpoint if a weight is not finite.
    """
    learner.check_finite(step)
    tensors = learner.tensors()
    optimiser = io.BytesIO()
    torch.save(learner.optimiser.state_dict(), optimiser)
    files = {_WEIGHTS: packed(tensors), _OPTIMISER: optimiser.getvalue()}
    folder.mkdir(exist_ok=True)
    _remove_unfinished(folder)
    # A leading dot: what a kill leaves behind here is no checkpoint and is cleared away by the next one.
    temporary, target = folder / f".step-{step:08d}", folder / _name(step)
    temporary.mkdir()
    for name, content in files.items():
        write_atomic(temporary / name, content)
    record = {
        "step": step,
        "averaged": learner.average.updates if learner.average else None,
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        "config": dict(config),
        "progress": dict(progress),
    }
    write_json(temporary / _RECORD, record)
    if target.exists():
        shutil.rmtree(target)
    os.replace(temporary, target)
    for old in checkpoints(folder)[KEPT:]:
        shutil.rmtree(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def load_newest(folder: Path, learner: Learner, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Put the newest sound checkpoint into `learner` and return its {"step", **progress}; None without one.

    A damaged or truncated checkpoint is removed with a warning, and the one before it is taken. Weights keep
    the memory layout that they have. A RunError, which says what differs, for another model or configuration.
    """
    for path in checkpoints(folder):
        try:
            record, tensors, optimiser = _read(path)
        except _DamagedError as damage:
            warnings.warn(
                f"the checkpoint {path} is damaged ({damage}) and was removed; the one before it is used",
                RuntimeWarning,
                stacklevel=2,
            )
            shutil.rmtree(path)
            continue
        _compare(path, record["config"], to_plain(dict(config), "config"))
        own = learner.tensors()
        check_tensors(path, tensors, own)
        put_into(own, tensors)
        learner.optimiser.load_state_dict(optimiser)
        if learner.average:
            learner.average.updates = int(record["averaged"])
        return {"step": record["step"], **record["progress"]}
    return None


def packed(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors by name in the safetensors format; layouts are dropped and shared weights written twice."""
    # clone: safetensors refuses tensors that share memory, as tied weights do.
    whole = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    return safetensors.torch.save(whole)


@torch.no_grad()
def put_into(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Copy values into the tensors of a model, in place, so that device and memory layout stay theirs."""
    for name, value in own.items():
        value.copy_(tensors[name])


def check_tensors(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise a RunError that says what differs, unless names, shapes and dtypes are the same."""
    differences = [f"{name} is missing there" for name in expected if name not in found]
    differences += [f"{name} is only there" for name in found if name not in expected]
    for name in expected:
        if name in found and _form(found[name]) != _form(expected[name]):
            differences.append(f"{name} is {_form(found[name])} there, {_form(expected[name])} here")
    if differences:
        more = f" and {len(differences) - 4} more" if len(differences) > 4 else ""
        raise RunError(
            f"{path} holds the weights of another model: {'; '.join(differences[:4])}{more}. "
            "Build the model as it was when the run began, or name another folder."
        )


class _DamagedError(Exception):
    """A checkpoint that is not what was written."""


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """The record, the weights and the optimiser's state of one checkpoint, each checked by its digest."""
    try:
        record: dict[str, Any] = read_json(path / _RECORD)
        digests = record["sha256"]
        contents = {name: (path / name).read_bytes() for name in (_WEIGHTS, _OPTIMISER)}
    except (RunError, OSError, KeyError, TypeError) as error:
        raise _DamagedError(str(error)) from error
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != digests.get(name):
            raise _DamagedError(f"{name} is not the file that was written")
    try:
        # weights_only: a pickle that would run code is refused, not executed.
        optimiser = torch.load(io.BytesIO(contents[_OPTIMISER]), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _DamagedError(f"{_OPTIMISER} is not an optimiser's state") from error
    return record, safetensors.torch.load(contents[_WEIGHTS]), optimiser


def _compare(path: Path, found: Any, expected: Any) -> None:
    there, here = dict(_leaves(found)), dict(_leaves(expected))
    differing = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    if differing:
        shown = "; ".join(f"{n} is {there.get(n)!r} there, {here.get(n)!r} here" for n in differing[:4])
        raise RunError(f"{path} belongs to another configuration: {shown}. Name another folder.")


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings, each with its dotted place."""
    if not isinstance(value, Mapping):
        yield place, value
        return
    for key, inner in value.items():
        yield from _leaves(inner, f"{place}.{key}" if place else key)


def _form(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _remove_unfinished(folder: Path) -> None:
    for path in folder.glob(".step-*"):
        shutil.rmtree(path)
