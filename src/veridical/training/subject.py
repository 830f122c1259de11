"""What is examined: a model and the images that it is examined on, however a command names them.

A subject comes from a run of ours (`--run DIR`), or from an architecture and weights (`--model SPEC --weights
FILE`). Jobs load it again from a few plain texts, and compare the digest of its weights with the planned one.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from veridical.data import Dataset, Split
from veridical.data import load as load_data
from veridical.models import build
from veridical.runtime.checking import as_path, record
from veridical.runtime.devices import fast_layout, resolve_device
from veridical.runtime.errors import RunError, UsageError, argument_error
from veridical.runtime.options import SubjectChoice
from veridical.runtime.registry import import_trusted
from veridical.training.checkpoint import check_finite, copy_tensors, digest_weights, unpack, weights
from veridical.training.run import MODEL, Run, load, read_settings, split_data

_HINT = "Name a file of weights that fits --model and --model-options."


@record
class Subject:
    """A model in eval mode, and the data set that it is examined on.

    title: the run's folder or the model's name. digest: SHA-256 of the weights. source: how a job loads the
    model again (`load_model`). run: where it comes from one. facts: what decided the model, as plain values.
    """

    title: str
    model: nn.Module
    data: Dataset
    digest: str
    source: Mapping[str, str]
    run: Run | None
    facts: Mapping[str, Any]

    def split(self, part: str) -> Split:
        """The "test" images, or those that the run held out for "validation", of its own data set alone."""
        if part == "test":
            return self.data.test
        if self.run is None or self.data.checksum != self.run.settings.data["checksum"]:
            raise UsageError("--split validation is for a run and its own data set. Leave --data out.")
        return self.run.validation_images(self.data)

    def describe(self) -> dict[str, Any]:
        """The model as plain values, for a result's config; neither paths nor the machine."""
        return {"weights": self.digest, **self.facts}


def load_subject(choice: SubjectChoice, *, device: str | torch.device = "auto") -> Subject:
    """Load the model and the images that options name.

    Without --data a run is examined on its own data set. Raises UsageError unless a run or a model is named,
    for images of another kind than the model takes, and for code that is not trusted; RunError for weights
    that do not fit.
    """
    if (choice.run is None) == (choice.model is None):
        given = {"run": choice.run, "model": choice.model}
        expected = "a run (--run DIR) or a model (--model SPEC --weights FILE --data NAME), and not both"
        raise argument_error("run, model", given, expected)
    place = resolve_device(str(device))
    if choice.run is not None:
        return _subject_of_run(choice, load(choice.run, device=place, trust_code=choice.trust_code))
    if choice.data is None:
        raise argument_error("data", None, "the images", "A model does not know its own: give --data.")
    data = load_data(
        choice.data, choice.data_root, equalise=bool(choice.equalise), trust_code=choice.trust_code
    )
    source = {
        "model": choice.model,
        "options": dict(choice.model_options),
        "weights": choice.weights and str(as_path(choice.weights, "weights").absolute()),
        "shape": list(data.shape),
        "num_classes": data.num_classes,
    }
    model = _build_model(source, place, choice.trust_code)
    facts = {"model": {"name": choice.model, "options": dict(choice.model_options)}}
    where = {"subject": json.dumps(source)}
    return Subject(str(choice.model), model, data, digest_weights(model), where, None, facts)


def _subject_of_run(choice: SubjectChoice, run: Run) -> Subject:
    data = run.data(
        choice.data_root, name=choice.data, equalise=choice.equalise, trust_code=choice.trust_code
    )
    where = {"subject": json.dumps({"run": str(run.folder.absolute())})}
    digest, facts = run.result["files"][MODEL], run.settings.to_dict()
    return Subject(str(run.folder), run.model, data, digest, where, run, facts)


def load_model(where: Mapping[str, str], digest: str, *, trust_code: bool = False) -> nn.Module:
    """In a job, the model that `Subject.source` names, on the job's device; kept for the process's next job.

    Raises RunError if its weights are not the planned ones.
    """
    model, found = _load_model(where["subject"], where.get("device", "auto"), trust_code, digest)
    if found != digest:
        raise RunError(f"the weights of {where['subject']} are not those planned with. Repeat the command.")
    return model


def load_examined(
    where: Mapping[str, str], digest: str, data: Dataset, part: str, *, trust_code: bool = False
) -> tuple[nn.Module, Split]:
    """In a job, the model as `load_model`, and a part of the data set as `Subject.split` cuts it."""
    model = load_model(where, digest, trust_code=trust_code)
    if part == "test":
        return model, data.test
    _, held, _ = split_data(data.train, read_settings(Path(json.loads(where["subject"])["run"])))
    assert held is not None  # or the study would not have been planned
    return model, held


@lru_cache(maxsize=2)
def _load_model(source: str, device: str, trust_code: bool, planned: str) -> tuple[nn.Module, str]:
    del planned  # part of the key alone: a folder may get other weights
    named: dict[str, Any] = json.loads(source)
    if "run" in named:
        run = load(named["run"], device=device, trust_code=trust_code)
        return run.model, run.result["files"][MODEL]
    model = _build_model(named, resolve_device(device), trust_code)
    return model, digest_weights(model)


def _build_model(source: Mapping[str, Any], device: torch.device, trust_code: bool) -> nn.Module:
    """The architecture with its weights, in eval mode; see `load_subject` for the errors."""
    name, options, weights_file = source["model"], source["options"], source["weights"]
    sizes = {"shape": tuple(source["shape"]), "num_classes": source["num_classes"], "seed": 0}
    if ":" in name:
        factory = import_trusted("model", name, trust_code=trust_code, positional=None)
        # Who writes a factory for one data set need not ask for what it knows.
        known = {key: sizes[key] for key in sizes.keys() & inspect.signature(factory).parameters}
        try:
            model = factory(**known, **options)
        except TypeError as error:
            expected = f"options that {name} takes"
            raise argument_error("model_options", options, expected, f"{error}.") from error
        if not isinstance(model, nn.Module):
            expected = f"a callable that returns an nn.Module, not a {type(model).__name__}"
            raise argument_error("model", name, expected)
    else:
        model = build(name, **sizes, **options)
        if not weights_file:
            expected = f"a file of weights of {name}"
            raise argument_error("weights", None, expected, "Without one there is nothing to examine.")
    if weights_file:
        path = Path(weights_file)
        copy_tensors(path, _read_weights(path), weights(model))
    check_finite(model, name, _HINT)
    model = model.to(device)
    return model.to(memory_format=fast_layout(model)).eval()


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name, from a safetensors file or a state_dict that torch.save wrote; no code is run."""
    if not path.is_file():
        raise argument_error("weights", str(path), "a file of weights", "There is no such file.")
    if path.suffix == ".safetensors":
        return unpack(path.read_bytes(), path, _HINT)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler fails in nearly any way on what is no state_dict
        reason = f"no state_dict that can be read without running code ({error})"
        raise RunError(f"{path} holds {reason}.") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise RunError(f"{path} holds a {type(state).__name__}, no state_dict of tensors. {_HINT}")
    return dict(state)
