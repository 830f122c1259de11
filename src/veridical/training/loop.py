"""`train`: one classifier, from options to a finished run, continued wherever it was interrupted."""

from __future__ import annotations

import inspect
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from veridical.attribution.classifier import parameter_like
from veridical.data import Dataset, Split
from veridical.runtime.devices import environment
from veridical.runtime.errors import RunError, argument_error, unknown_name_error
from veridical.runtime.files import claim_folder, result_document, write_atomic, write_json
from veridical.runtime.guards import default_modes, preserved_rng, thread_count
from veridical.runtime.options import TrainOptions
from veridical.runtime.seeds import seed_global, stream
from veridical.training.checkpoint import (
    Learner,
    list_checkpoints,
    load_newest,
    pack,
    save_checkpoint,
    weights,
)
from veridical.training.distributed import ALONE, ProcessGroup, Share, check_parallel
from veridical.training.log import Display, Log, event_writer
from veridical.training.objectives import Objective
from veridical.training.optimisation import arithmetic, check_bf16
from veridical.training.penalties import OBJECTIVES
from veridical.training.recipes import Settings, list_deviations
from veridical.training.run import ATTACK_STEPS, KIND, MODEL, RESULT, Run, load, measure_accuracies
from veridical.training.task import Task

_CHECKPOINTS = "checkpoints"
# Steps that one line of the log sums up; the last line of an epoch may cover fewer.
LOG_EVERY = 50


def train(
    options: TrainOptions | None = None,
    /,
    *,
    model: nn.Module | str | None = None,
    data: Dataset | str | os.PathLike[str] | None = None,
    objective: Objective | str | None = None,
    group: ProcessGroup = ALONE,
    **fields: Any,
) -> Run:
    """Train a classifier and return the finished run; a run that was interrupted in `out` is continued.

    options, fields: a `TrainOptions`, or its fields as keyword arguments (`out` is required); both together
    replace fields. model, data, objective: names, or a path of data, as in `TrainOptions`; or a module
    (inputs (N, C, H, W) in [0, 1] to logits (N, K)), a `Dataset`, an `Objective`. The module is copied: the
    caller's own keeps its weights, with which the training begins unless `init` or `initial_run` is given.
    group: the processes that share every batch: `training.distributed.join_processes()` under torchrun. All
    call this with the same arguments and get the same run; `out` must be a folder that all of them see.

    Interrupted at any moment, even by kill -9, the same call continues and ends with bitwise the weights of
    an unbroken run on the same machine, with the same threads and processes. A finished run is only loaded.
    Raises UsageError where `out` belongs to other settings, RunError where the loss stops being finite.
    """
    own_model = _own("model", model, nn.Module, "a name, or a torch.nn.Module (not its class)")
    own_data = _own("data", data, Dataset, "a name, the path of a file or folder, or a veridical Dataset")
    what = "a name, or an objective: a function or object called as (model, inputs, target, generator)"
    own_objective = _own("objective", objective, Callable, what)
    given = {"model": model, "data": data, "objective": objective}
    by_name = {name: value for name, value in given.items() if isinstance(value, str | os.PathLike)}
    options = _gather_options(options, by_name | fields)
    device = group.device(options.device)
    if options.tensorboard:
        event_writer()
    if options.bf16:
        check_bf16(device)
    threads = nullcontext() if options.threads is None else thread_count(options.threads)
    with threads, preserved_rng(), default_modes(), ExitStack() as held:
        # Process 0 first: it claims the folder, and the others find it claimed for the same.
        with group.in_turn():
            initial = None
            if options.initial_run is not None:
                initial = load(options.initial_run, model=own_model, trust_code=options.trust_code)
            task = Task(options, device, own_model, own_data, own_objective, initial)
            check_parallel(task.model, task.settings.optimise.batch_size, group)
            # Claimed last: what is refused leaves no folder behind.
            folder = claim_folder(options.out, KIND, task.settings.to_dict())
        # Held until `train` ends, for all processes by the first.
        with group.guarded():
            if group.first:
                held.enter_context(_lock_folder(folder))
                task.keep_architecture(folder)
        if group.broadcast((folder / RESULT).exists()):
            if group.first:
                _clear(folder)
        else:
            _Session(options, task, folder, device, group).run()
    return load(folder, model=own_model, device=device, trust_code=options.trust_code)


def _gather_options(options: TrainOptions | None, given: Mapping[str, Any]) -> TrainOptions:
    """Options from keyword arguments, or the given ones with some replaced; UsageError for unknown names."""
    if options is not None and not isinstance(options, TrainOptions):
        raise argument_error("options", options, "TrainOptions", "Model and data are given by name: data=...")
    known = list(TrainOptions.__dataclass_fields__)
    for name in given:
        if name not in known:
            raise unknown_name_error("option", name, known, "See veridical.TrainOptions.")
    if options is not None:
        return replace(options, **given)
    if "out" not in given:
        raise argument_error("out", None, "the folder of the run")
    return TrainOptions(**given)


def _own(name: str, given: Any, kind: Any, expected: str) -> Any:
    """What a caller brought in place of a name; None for a name, which is among the options, and for none."""
    if given is None or isinstance(given, str | os.PathLike):
        return None
    if isinstance(given, type) or not isinstance(given, kind):
        raise argument_error(name, given, expected)
    if kind is Callable:
        try:
            inspect.signature(given.forward if isinstance(given, nn.Module) else given).bind(*[None] * 4)
        except TypeError as error:
            raise argument_error(name, given, expected, f"It cannot be called so: {error}.") from None
    return given


@contextmanager
def _lock_folder(folder: Path) -> Iterator[None]:
    """Hold the folder against a second process, where the system has file locks; a kill releases it."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder}: another process is training in it. Wait for it or stop it.") from None
        yield


def _clear(folder: Path) -> None:
    """Remove what a finished run needs no more, in a folder that is held; a kill may have left it."""
    shutil.rmtree(folder / _CHECKPOINTS, ignore_errors=True)
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


class _Session:
    """One session: from the newest checkpoint, or the start, to the result."""

    def __init__(
        self, options: TrainOptions, task: Task, folder: Path, device: torch.device, group: ProcessGroup
    ) -> None:
        self.options, self.task, self.folder, self.device = options, task, folder, device
        self.group, self.settings, optimise = group, task.settings, task.settings.optimise
        self.config = task.settings.to_dict()
        self.share = Share(group, optimise.batch_size)
        model = task.model.train()
        self.starts = task.starts
        kept = self.starts.tensors() if self.starts else {}
        self.learner = Learner(model, optimise, kept)
        self.dtype = parameter_like(model).dtype
        # In turn: process 0 clears damaged checkpoints away, so that all read the same one.
        with group.in_turn():
            progress = load_newest(folder / _CHECKPOINTS, self.learner, self.config) or {}
        self.step: int = progress.get("step", 0)
        self.share.check_step(self.step, folder)
        self.seconds: float = progress.get("seconds", 0.0)
        self.sums: dict[str, float] = progress.get("sums", {})
        self.summed: int = progress.get("summed", 0)
        # The epoch whose permutation is held, and the permutation.
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def run(self) -> None:
        """Do the remaining steps, then complete the folder."""
        steps, is_first = self.settings.optimise.steps, self.group.first
        with ExitStack() as stack:
            log = None
            if is_first:
                log = Log(self.folder, self.step, tensorboard=self.options.tensorboard)
                stack.callback(log.close)
            display = stack.enter_context(Display(self.options.progress and is_first, steps, self.step))
            if self.step:
                display.note(f"{self.folder}: continued after step {self.step} of {steps}")
            self._steps(log, display)
        # The others wait here: a run that cannot be measured or written fails on all processes.
        with arithmetic(), self.group.guarded():
            if self.group.first:
                self._finish()

    def _finish(self) -> None:
        """Write the delivered weights and, last, result.json with what they achieve; drop the checkpoints."""
        settings, task, ball = self.settings, self.task, self.task.ball
        content = pack(weights(self.learner.delivered))
        # Weights first, the result last: a folder with a result is complete, whenever a kill comes.
        write_atomic(self.folder / MODEL, content)
        results = {
            **self._accuracies(task.data.test),
            # Explanations are attacked by `veridical attack`; training leaves its two measures open.
            "topk_intersection": None,
            "kendall_tau": None,
            "examples": len(task.data.test),
            "adversarial_attack": None
            if ball is None
            else {
                "norm": type(ball).__name__.lower(),
                "radius": ball.radius,
                "steps": ATTACK_STEPS,
                "step_size": 2.5 * ball.radius / ATTACK_STEPS,
                "start": "random",
            },
            "validation": None if task.validation is None else self._accuracies(task.validation),
            "objective": _objective_record(settings),
            "deviations": list_deviations(settings),
        }
        surroundings = environment(self.device, torch.float32, seed=settings.seed) | {
            "processes": self.group.size,
            "layout": str(task.layout).removeprefix("torch."),
        }
        document = result_document(results, self.config, surroundings, self._timing(), {MODEL: content})
        write_json(self.folder / RESULT, document)
        _clear(self.folder)

    def _accuracies(self, split: Split) -> dict[str, Any]:
        seed = self.settings.seed
        return measure_accuracies(self.learner.delivered, split, self.task.ball, seed=seed)

    def _steps(self, log: Log | None, display: Display) -> None:
        batch, saved = self.settings.optimise.batch_size, time.monotonic()
        session, started = 0, time.monotonic()
        while self.step < self.settings.optimise.steps:
            before = time.monotonic()
            loss = self._one_step()
            self.seconds += time.monotonic() - before
            session += batch
            display.show_step(loss, session / (time.monotonic() - started))
            last = self.step == self.settings.optimise.steps
            ended = last or self.step % self.settings.steps_per_epoch == 0
            # Once an epoch: the weights of all processes must be equal, or they would drift apart unseen.
            if ended:
                self.share.check_equal(self.learner, self.step)
            if log is None:
                continue  # the files are process 0's; the others wait for it in the next step
            if ended or self.step % LOG_EVERY == 0:
                self._log_steps(log)
            if ended and self.task.validation is not None:
                display.note(self._log_epoch(log, self.task.validation))
            if ended or time.monotonic() - saved >= self.options.checkpoint_seconds:
                # The log first: a checkpoint must not be ahead of the lines that lead to it.
                log.sync()
                progress = {"seconds": self.seconds, "sums": self.sums, "summed": self.summed}
                save_checkpoint(self.folder / _CHECKPOINTS, self.step, self.learner, self.config, progress)
                saved = time.monotonic()

    def _one_step(self) -> float:
        """Move the weights once; everything random depends on the seed and the step alone."""
        settings, learner = self.settings, self.learner
        positions = self._batch()
        own = positions[self.share.rows]
        inputs, target = self.task.train.batch(own, self.dtype, self.device)
        if self.task.augment is not None:
            # Drawn for the whole batch by every process, of which each keeps its own rows.
            noise = stream(settings.seed, "augment", self.step)
            rows, count = self.share.rows, len(positions)
            inputs, target = self.task.augment(inputs, target, noise, rows=rows, count=count)
        inputs = inputs.contiguous(memory_format=self.task.layout)
        # For layers that draw from the global generator, such as dropout.
        seed_global(self.share.layer_seed(settings.seed, self.step))
        with arithmetic(bf16=settings.bf16), self.group.guarded():
            objective = self.task.objective(self.step / settings.optimise.steps)
            arguments = learner.model, inputs, target, self.share.noise(settings.seed, self.step)
            value = self.starts.value(objective, *arguments, own) if self.starts else objective(*arguments)
            learner.optimiser.zero_grad(set_to_none=True)
            self.share.reduced(value.loss, settings.optimise.reduction).backward()
        # From here on the numbers are the whole batch's, so all processes stop at the same step or none.
        value = self.share.whole(value)
        if not bool(torch.isfinite(value.loss).all()):
            self._stop("the loss", positions, ~torch.isfinite(value.loss).cpu())
        # Only now that the step is known to be sound: a run that goes on from before it must not see them.
        if self.starts is not None:
            self.starts.keep(positions, self.share)
        self.share.add_gradients(learner.model)
        gradients = [p.grad for p in learner.model.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        # `not <` also holds for NaN. A gradient cannot be traced to single images: all are named.
        if not norm < float("inf"):
            self._stop("the gradient", positions, torch.ones(len(positions), dtype=torch.bool))
        learner.move(self.step)
        self.step += 1
        means = {"loss": float(value.loss.mean()), "gradient_norm": norm}
        means |= {name: float(part.mean()) for name, part in value.parts.items()}
        self.sums |= {name: self.sums.get(name, 0.0) + mean for name, mean in means.items()}
        self.summed += 1
        return means["loss"]

    def _batch(self) -> Tensor:
        """Positions of the step's images in the training images."""
        epoch, number = divmod(self.step, self.settings.steps_per_epoch)
        if self._order[0] != epoch:
            generator = stream(self.settings.seed, "batches", epoch)
            self._order = (epoch, self.task.shuffle(generator))
        size = self.settings.optimise.batch_size
        return self._order[1][number * size : (number + 1) * size]

    def _log_steps(self, log: Log) -> None:
        means = {name: total / self.summed for name, total in self.sums.items()} if self.summed else {}
        rate = self.learner.optimiser.param_groups[0]["lr"]
        log.write(self.step, {"kind": "steps", "epoch": self._epoch, **means, "learning_rate": rate})
        self.sums, self.summed = {}, 0

    def _log_epoch(self, log: Log, held: Split) -> str:
        """Measure the weights that would be delivered now; return a line for the terminal."""
        with arithmetic():
            accuracies = self._accuracies(held)
        values = {f"validation_{name}": one["value"] for name, one in accuracies.items() if one}
        log.write(self.step, {"kind": "epoch", "epoch": self._epoch, **values, **self._timing()})
        accuracy = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in values.items())
        return f"epoch {self._epoch:g}: {accuracy}"

    @property
    def _epoch(self) -> float:
        return round(self.step / self.settings.steps_per_epoch, 4)

    def _timing(self) -> dict[str, float]:
        examples = self.step * self.settings.optimise.batch_size
        speed = examples / self.seconds if self.seconds else 0.0
        return {"training_seconds": round(self.seconds, 3), "examples_per_second": round(speed, 2)}

    def _stop(self, what: str, positions: Tensor, bad: Tensor) -> NoReturn:
        """End the run on all processes, because of the images `bad` among those of the step."""
        with self.group.guarded():
            if self.group.first:
                # By their numbers in the training split.
                batch, report = self.task.indices[positions], self.folder / "stopped.json"
                images, blamed = batch.tolist(), batch[bad].tolist()
                # The newest is from before the step, whose weights were not moved.
                checkpoint = next(iter(list_checkpoints(self.folder / _CHECKPOINTS)), None)
                record = {"step": self.step, "not_finite": what, "images": blamed, "batch": images}
                write_json(report, record | {"checkpoint": checkpoint})
                listed = ", ".join(map(str, images[:16])) + (", ..." if len(images) > 16 else "")
                raise RunError(
                    f"{what} was not finite at step {self.step} for {len(blamed)} of {len(images)} images. "
                    f"The batch was the training images {listed} (all are in {report}). "
                    f"The last good checkpoint is {checkpoint or 'none'}. "
                    "Lower the learning rate or the radius, in a new folder."
                )
        raise AssertionError("process 0 raised")


def _objective_record(settings: Settings) -> dict[str, Any]:
    """What the inner maximum and the outer step really were, beside the objective's name."""
    robust = settings.robust
    if robust is None:
        return {"name": settings.objective}
    record: dict[str, Any] = {"name": settings.objective}
    record |= {name: getattr(robust, name) for name in ("weight", "beta", "norm", "radius")}
    record["training_radius"] = robust.ball_radius
    if robust.radius_warm_up:
        record["radius_warm_up"] = robust.radius_warm_up
    if OBJECTIVES.get(settings.objective).at_the_image:
        return record | {"inner": "exact: the dual direction of the gradient", "nodes": 1, "rule": "left"}
    names = ("inner_score", "inner_start", "inner_steps", "inner_step_size", "inner_nodes", "nodes", "rule")
    record |= {name: getattr(robust, name) for name in names}
    only_some = ("distance", "topk")
    record |= {name: getattr(robust, name) for name in only_some if getattr(robust, name) is not None}
    if robust.inner_score is None:
        # The signed sum is the change of the loss: to climb it is to climb the loss.
        record["inner_score"] = "loss" if settings.objective == "adversarial" else "size"
    return record
