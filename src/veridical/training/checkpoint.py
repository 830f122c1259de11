"""What survives a kill: one file per checkpoint, complete or absent, and checked when it is read again."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import safetensors.torch
import torch
from torch import Tensor, nn

from veridical.runtime.checking import check_structure
from veridical.runtime.errors import RunError
from veridical.runtime.files import digest, list_differences, read_bytes, to_plain, write_atomic
from veridical.training.optimisation import MOMENTS, WeightAverage, learning_rate, make_optimiser
from veridical.training.recipes import OptimiserSettings

# Checkpoints that stay: the newest, and the one before in case the newest turns out to be damaged.
_KEPT = 2
# Characters of the digest that a checkpoint's file begins with.
_DIGEST = 64


class _Record(TypedDict):
    step: int
    averaged: int | None
    config: dict[str, Any]
    progress: dict[str, Any]
    tensors: dict[str, Tensor]
    optimiser: dict[str, Any]


class Learner:
    """All that a training step changes; kept: tensors by name beside the weights, such as warm starts."""

    def __init__(
        self, model: nn.Module, settings: OptimiserSettings, kept: Mapping[str, Tensor] | None = None
    ) -> None:
        self.model, self.settings, self.kept = model, settings, kept or {}
        self.average = WeightAverage(model, settings.averaging) if settings.averaging else None
        self.optimiser = make_optimiser(model, settings)

    @property
    def delivered(self) -> nn.Module:
        """The model whose weights the training is for: the average, if there is one."""
        return self.average.module if self.average else self.model

    def move(self, step: int) -> None:
        """Move the weights by their gradients, at the learning rate of a step; the average follows."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.settings, step)
        self.optimiser.step()
        if self.average is not None:
            self.average.update(self.model)

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
    """Write `folder`/step-NNNNNNNN.pt, which appears as a whole, and drop all but the newest two.

    config: the run's settings, compared when it is loaded. progress: plain values that `load_newest` returns.
    A RunError instead of a checkpoint if a weight is not finite.
    """
    check_finite(learner.model, f"after step {step}", "Lower the learning rate, in a new folder.")
    record: _Record = {
        "step": step,
        "averaged": learner.average.updates if learner.average else None,
        "config": to_plain(dict(config), "config"),
        "progress": to_plain(dict(progress), "progress"),
        "tensors": learner.tensors(),
        "optimiser": learner.optimiser.state_dict(),
    }
    buffer = io.BytesIO()
    torch.save(record, buffer)
    content = buffer.getvalue()
    folder.mkdir(exist_ok=True)
    # A leading dot: what a kill left behind here is no checkpoint.
    for unfinished in folder.glob(".step-*"):
        unfinished.unlink()
    path = folder / _name(step)
    write_atomic(path, digest(content).encode() + content)
    for old in list_checkpoints(folder)[_KEPT:]:
        old.unlink()
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first."""
    return sorted(folder.glob("step-*.pt"), reverse=True)


def load_newest(folder: Path, learner: Learner, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Put the newest sound checkpoint into `learner` and return its {"step", **progress}; None without one.

    A damaged or truncated checkpoint is removed with a warning, and the one before it is taken. Weights keep
    the memory layout that they have. A RunError, which says what differs, for another model or configuration.
    """
    for path in list_checkpoints(folder):
        try:
            record = _read(path, learner.optimiser)
        except RunError as damage:
            warnings.warn(
                f"the checkpoint {path} is damaged and was removed; the one before it is used ({damage})",
                RuntimeWarning,
                stacklevel=2,
            )
            path.unlink()
            continue
        # Beyond damage: another configuration or model is the caller's mistake, and nothing is removed.
        if differences := list_differences(record["config"], to_plain(dict(config), "config")):
            listed = "; ".join(differences)
            raise RunError(f"{path} belongs to another configuration: {listed}. Name another folder.")
        copy_tensors(path, record["tensors"], learner.tensors())
        learner.optimiser.load_state_dict(record["optimiser"])
        if learner.average:
            learner.average.updates = record["averaged"] or 0
        return {"step": record["step"], **record["progress"]}
    return None


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors by name in the safetensors format; layouts are dropped and shared weights written twice."""
    # clone: safetensors refuses tensors that share memory, as tied weights do.
    whole = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    return safetensors.torch.save(whole)


def digest_weights(model: nn.Module) -> str:
    """SHA-256 of a model's weights, as a run's model.safetensors has it."""
    return digest(pack(weights(model)))


@torch.no_grad()
def copy_tensors(path: Path, stored: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Copy values into the tensors of a model, in place, so that device and memory layout stay theirs.

    A RunError that says what differs from those in `path`, unless names, shapes and dtypes are the same.
    """
    there, here = ({name: _form(value) for name, value in one.items()} for one in (stored, own))
    differences = [f"{name} is missing there" for name in here if name not in there]
    differences += [f"{name} is only there" for name in there if name not in here]
    for name, form in here.items():
        if there.get(name, form) != form:
            differences.append(f"{name} is {there[name]} there, {form} here")
    if differences:
        more = f" and {len(differences) - 4} more" if len(differences) > 4 else ""
        raise RunError(
            f"{path} holds the weights of another model: {'; '.join(differences[:4])}{more}. "
            "Build the model as it was when the run began, or name another folder."
        )
    for name, value in own.items():
        value.copy_(stored[name])


def unpack(content: bytes, source: Path, hint: str) -> dict[str, Tensor]:
    """What `pack` made of tensors; a RunError that names `source` for anything else."""
    try:
        return safetensors.torch.load(content)
    except Exception as error:
        raise RunError(f"{source} is damaged: it holds no tensors ({error}). {hint}") from error


def check_finite(model: nn.Module, source: object, hint: str) -> None:
    """Raise a RunError unless what is learnt is finite, and what is constant (a mask) is not NaN."""
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    trained |= {name for name, _ in model.named_buffers() if name.rpartition(".")[2].startswith("running_")}
    # A mask of -inf is a constant of the model's own; NaN is sound nowhere.
    bad = [
        name
        for name, value in weights(model).items()
        if bool(value.isnan().any()) or (name in trained and bool(value.isinf().any()))
    ]
    if bad:
        raise RunError(f"{source}: the weights {', '.join(bad[:3])} are not finite. {hint}")


def _read(path: Path, own: torch.optim.Optimizer) -> _Record:
    content = read_bytes(path, hint="")
    if digest(content[_DIGEST:]).encode() != content[:_DIGEST]:
        raise RunError(f"{path} is damaged: its content is not what was written.")
    try:
        # weights_only: a pickle that would run code is refused, not executed.
        record: _Record = torch.load(io.BytesIO(content[_DIGEST:]), map_location="cpu", weights_only=True)
        check_structure(record, _Record)
        fits = _fits(record["optimiser"], own)
    except Exception as error:
        raise RunError(f"{path} is damaged: {type(error).__name__}.") from error
    if path.name != _name(record["step"]):
        raise RunError(f"{path} is damaged: it is of step {record['step']}.")
    if not fits:
        raise RunError(f"{path} is damaged: it has not the state of this optimiser.")
    return record


def _fits(state: Mapping[str, Any], own: torch.optim.Optimizer) -> bool:
    """Whether a state is of the same groups and parameters; raises anything for one of no structure."""
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


def _form(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _name(step: int) -> str:
    return f"step-{step:08d}.pt"
