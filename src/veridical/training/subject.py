"""What is examined: a model and the images that it is examined on, however a command names them.

A subject comes from a run of ours (`--run DIR`), or from an architecture and weights (`--model SPEC --weights
FILE`). Jobs load it again from a few plain texts, and compare the digest of its weights with the planned one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from veridical.attribution.classifier import parameter_like, predict
from veridical.data import DATASETS, Dataset, Split
from veridical.data import load as load_data
from veridical.data.dataset import describe_source
from veridical.models.external import ModelSource, Preprocessing, build_examined, preprocessing_of
from veridical.runtime.checking import as_path, record
from veridical.runtime.devices import fast_layout, resolve_device
from veridical.runtime.errors import RunError, UsageError, argument_error
from veridical.runtime.options import SubjectChoice
from veridical.training.checkpoint import check_finite, digest_weights, unpack, weights
from veridical.training.run import MODEL, Run, load, read_settings, split_data

# Under which a training's checkpoint keeps the weights.
_ENTRIES = ("state_dict", "model_state_dict", "model")
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
        if self.run is None or not self.run.is_own(self.data):
            raise UsageError("--split validation is for a run and its own data set. Leave --data out.")
        return self.run.validation_images(self.data)

    def trained_radius(self, norm: str) -> float | None:
        """The radius of the ball of this norm that the run was trained for; None where there was none."""
        robust = None if self.run is None else self.run.settings.robust
        return robust.radius if robust is not None and robust.norm == norm else None

    def where(self, root: str | None) -> dict[str, str]:
        """The part of a job's `where` that names model and images; root: where data sets are looked up."""
        return {**describe_source(self.data.name, root, self.data.options), **self.source}

    def describe(self) -> dict[str, Any]:
        """The model as plain values, for a result's config; neither paths nor the machine."""
        return {"weights": self.digest, **self.facts}


# Subjects of the block of `share_subjects` by what names them; None outside.
_SHARED: ContextVar[dict[tuple[str, ...], Subject] | None] = ContextVar("shared subjects", default=None)


@contextmanager
def share_subjects(
    choice: SubjectChoice | None = None, subject: Subject | None = None, device: str = "auto"
) -> Iterator[None]:
    """In this block the same options give the same subject: to read folders of images again takes minutes.

    subject: one that is loaded already, with the options that named it, and on which device.
    """
    known = {} if choice is None or subject is None else {_subject_key(choice, device): subject}
    token = _SHARED.set(known)
    try:
        yield
    finally:
        _SHARED.reset(token)


def load_subject(choice: SubjectChoice, *, device: str | torch.device = "auto") -> Subject:
    """Load the model and the images that options name; in `share_subjects`, those of equal options once.

    Without --data a run is examined on its own data set. Raises UsageError unless a run or a model is named,
    for images of another kind than the model takes, and for code that is not trusted; RunError for weights
    that do not fit.
    """
    shared = _SHARED.get()
    if shared is None:
        return _load_subject(choice, device)
    key = _subject_key(choice, device)
    if key not in shared:
        shared[key] = _load_subject(choice, device)
    return shared[key]


def _subject_key(choice: SubjectChoice, device: str | torch.device) -> tuple[str, ...]:
    """All that names a subject, of options that may have others beside."""
    return (*(repr(getattr(choice, name)) for name in SubjectChoice.__dataclass_fields__), str(device))


def _load_subject(choice: SubjectChoice, device: str | torch.device) -> Subject:
    if (choice.run is None) == (choice.model is None):
        given = {"run": choice.run, "model": choice.model}
        expected = "a run (--run DIR) or a model (--model SPEC --weights FILE --data NAME), and not both"
        raise argument_error("run, model", given, expected)
    place = resolve_device(str(device))
    if choice.run is not None:
        return _subject_of_run(choice, load(choice.run, device=place, trust_code=choice.trust_code))
    if choice.data is None:
        raise argument_error("data", None, "the images", "A model does not know its own: give --data.")
    assert choice.model is not None
    source, data = ModelSource.from_options(choice.model, choice), _load_images(choice)
    sizes = {"shape": list(data.shape), "num_classes": data.num_classes}
    weights_file = choice.weights and str(as_path(choice.weights, "weights").absolute())
    named = {"source": asdict(source), "weights": weights_file, **sizes}
    model = _build_model(named, place, choice.trust_code)
    check_fits(source, model, data)
    facts = {"model": source.describe()}
    where = {"subject": json.dumps(named)}
    return Subject(str(choice.model), model, data, digest_weights(model), where, None, facts)


def _load_images(choice: SubjectChoice) -> Dataset:
    """The images that options name, resized as the model's library does it or as the options say."""
    assert choice.data is not None
    source = None if choice.model is None else ModelSource.from_options(choice.model, choice)
    return load_data(
        choice.data,
        choice.data_root,
        equalise=bool(choice.equalise),
        masks=choice.masks,
        trust_code=choice.trust_code,
        **resize_options(choice.data, choice.image_size, source),
    )


def resize_options(data: str, image_size: int | None, source: ModelSource | None) -> dict[str, Any]:
    """How `load` resizes files of images: as the model's library does, or to the size that is asked for."""
    folder = data not in DATASETS and as_path(data, "data").is_dir()
    record = Preprocessing() if source is None else preprocessing_of(source)
    recorded = None if record.size is None else record.size[0]
    size = image_size or recorded
    if not folder or size is None:
        return {} if image_size is None else {"size": image_size}
    if recorded is None or record.resize is None:
        return {"size": size, "interpolation": record.interpolation}
    # Of another size the same share is cut out of the middle.
    crop_from = max(size, round(size * record.resize / recorded))
    return {"size": size, "crop_from": crop_from, "interpolation": record.interpolation}


def check_fits(source: ModelSource, model: nn.Module, data: Dataset) -> None:
    """Raise a UsageError for images that the model does not take, and for another number of classes."""
    like = parameter_like(model)
    inputs, _ = data.test.batch(range(min(2, len(data.test))), like.dtype, like.device)
    try:
        classes = predict(model, inputs).shape[1]
    except UsageError:
        raise
    except Exception as error:  # a foreign model says in its own way what it does not take
        size = preprocessing_of(source).size
        made = "" if size is None else f" It was made for {size[0]} x {size[1]} pixels."
        expected = f"images that {source.spec} takes ({type(error).__name__}: {error})"
        raise argument_error("data", f"images of {data.shape}", expected, made.strip()) from error
    if classes != data.num_classes:
        expected = f"{data.num_classes} logits, one for each class of {data.name}"
        raise argument_error("model", f"{source.spec} of {classes} logits", expected)


def _subject_of_run(choice: SubjectChoice, run: Run) -> Subject:
    data = run.data(
        choice.data_root,
        name=choice.data,
        equalise=choice.equalise,
        masks=choice.masks,
        trust_code=choice.trust_code,
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


def fresh_model(
    where: Mapping[str, str], shape: Sequence[int], num_classes: int
) -> Callable[[int], nn.Module] | None:
    """In a job, what builds the examined architecture with the initial weights of a seed.

    None where nobody but the module itself knows them.
    """
    named: dict[str, Any] = json.loads(where["subject"])
    if "run" in named:
        folder = Path(named["run"])
        # One that the caller brought is "own", which no library has.
        source = ModelSource.from_record(read_settings(folder).model, folder)
    else:
        source = ModelSource(**named["source"])
    if not source.has_initial_weights:
        return None

    def fresh(seed: int) -> nn.Module:
        return build_examined(source, shape=shape, num_classes=num_classes, seed=seed, fresh=True)

    return fresh


@lru_cache(maxsize=2)
def _load_model(source: str, device: str, trust_code: bool, planned: str) -> tuple[nn.Module, str]:
    del planned  # part of the key alone: a folder may get other weights
    named: dict[str, Any] = json.loads(source)
    if "run" in named:
        run = load(named["run"], device=device, trust_code=trust_code)
        return run.model, run.result["files"][MODEL]
    model = _build_model(named, resolve_device(device), trust_code)
    return model, digest_weights(model)


def _build_model(named: Mapping[str, Any], device: torch.device, trust_code: bool) -> nn.Module:
    """The model with its weights, in eval mode; see `load_subject` for the errors."""
    source, weights_file = ModelSource(**named["source"]), named["weights"]
    if weights_file is None and not source.brings_weights:
        expected = f"a file of weights of {source.spec}"
        raise argument_error("weights", None, expected, "Without one there is nothing to examine.")
    model = build_examined(
        source, shape=named["shape"], num_classes=named["num_classes"], trust_code=trust_code
    )
    if weights_file is not None:
        load_weights(Path(weights_file), model)
    check_finite(model, source.spec, _HINT)
    model = model.to(device)
    return model.to(memory_format=fast_layout(model)).eval()


# What wrappers put before a weight's name: DataParallel, Lightning and our own, torch.compile.
_PREFIXES = ("module.", "model.", "_orig_mod.")


def _bare(name: str) -> str:
    while prefix := next((one for one in _PREFIXES if name.startswith(one)), None):
        name = name.removeprefix(prefix)
    return name


@torch.no_grad()
def load_weights(path: Path, model: nn.Module, argument: str = "weights") -> None:
    """Copy the weights in a file into a model by their names, of which wrappers' prefixes are left out.

    Floating-point weights of another precision are converted. argument: for which the file was given. Raises
    UsageError where there is none, RunError with what is missing, left over or of another shape.
    """
    stored, own = _read_weights(path, argument), weights(model)
    there, here = ({_bare(name): name for name in one} for one in (stored, own))
    if len(there) < len(stored) or len(here) < len(own):  # a model that has both a.x and model.a.x
        there, here = ({name: name for name in one} for one in (stored, own))
    # Counters of batches came with torch 0.4.1 and decide nothing in eval mode.
    missing = [name for name in here if name not in there and not name.endswith("num_batches_tracked")]
    faults = {
        "missing": missing,
        "left over": [name for name in there if name not in here],
        "of another shape": [
            f"{name} {tuple(stored[there[name]].shape)} there and {tuple(own[here[name]].shape)} here"
            for name in here
            if name in there and stored[there[name]].shape != own[here[name]].shape
        ],
    }
    if any(faults.values()):
        told = [f"{len(names)} {what} ({', '.join(names[:4])})" for what, names in faults.items() if names]
        raise RunError(
            f"{path} does not fit the model of {len(here)} weights: {'; '.join(told)}. {_HINT} A head for "
            "another number of classes: give the data that the model was trained on."
        )
    for name, target in here.items():
        if name in there:
            own[target].copy_(stored[there[name]])


def _read_weights(path: Path, argument: str) -> dict[str, Tensor]:
    """Tensors by name, from a safetensors file or a state_dict that torch.save wrote; no code is run."""
    if not path.is_file():
        hint = f"Those of a run are {path / MODEL}." if path.is_dir() else "There is no such file."
        raise argument_error(argument, str(path), "a file of weights", hint)
    if path.suffix == ".safetensors":
        return unpack(path.read_bytes(), path, _HINT)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler fails in nearly any way on what is no state_dict
        reason = f"no state_dict that can be read without running code ({error})"
        raise RunError(f"{path} holds {reason}.") from error
    # Checkpoints keep the weights beside the epoch and the optimiser.
    inner = [
        state[key] for key in _ENTRIES if isinstance(state, Mapping) and isinstance(state.get(key), Mapping)
    ]
    state = inner[0] if inner else state
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise RunError(f"{path} holds a {type(state).__name__}, no state_dict of tensors. {_HINT}")
    return dict(state)
