"""Regenerate the tables and figures of both papers, beside what was published: `veridical reproduce NAME`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from veridical.data import Dataset, load
from veridical.data.arrays import Arrays as ImageArrays
from veridical.data.dataset import build_dataset, describe_source, write_source
from veridical.data.lookup import available, data_root
from veridical.data.registry import DATASETS
from veridical.jobs import Progress
from veridical.metrics.intervals import SHARE, UNBOUNDED, mean_interval
from veridical.report import Column, Illustration, Interval, Panel, Table, scatter_figure
from veridical.report.formats import DASH, duration, level_text
from veridical.runtime.checking import POSITIONAL, Count, FilePath, Repeats
from veridical.runtime.errors import DataError, RunError, argument_error, unknown_name_error
from veridical.runtime.files import to_plain
from veridical.runtime.options import (
    BlockWorldChoice,
    DataChoice,
    Gallery,
    Placement,
    TimeLimit,
    TrainOptions,
)
from veridical.studies import diffroar_page
from veridical.studies.alignment import Alignment
from veridical.studies.attack import Attack
from veridical.studies.attack_page import (
    MARKS,
    MEASURES,
    Attacks,
    attack_table,
    gallery_panels,
    paper_numbers,
    robustness_scatter,
)
from veridical.studies.block_margin import BlockMargin
from veridical.studies.diffroar import DiffRoar
from veridical.studies.leakage import Leakage
from veridical.studies.maps import RUN
from veridical.studies.one_layer import OneLayer
from veridical.studies.reproduction_costs import Cost, estimate, predict_steps
from veridical.studies.reproductions import (
    DIFFROAR_LEVELS,
    DIFFROAR_NETWORKS,
    DIFFROAR_NUMBERS,
    OBJECTIVES,
    REPRODUCTIONS,
    SINGLE_IMAGE,
    Part,
    Plan,
    Reproduction,
    ScaleName,
    Training,
)
from veridical.studies.shortcut import Shortcut
from veridical.studies.study import (
    JOBS,
    REPORT,
    RESULT,
    Budget,
    Case,
    Context,
    Study,
    StudyResult,
    Work,
    list_settings,
    read_duration,
)
from veridical.training.loop import train
from veridical.training.penalties import objective_title
from veridical.training.subject import share_subjects

Done = Mapping[str, StudyResult]
_Row = Mapping[str, Any]
_STUDIES: Final[Mapping[str, type[Study[Any]]]] = {
    one.name: one for one in (Attack, DiffRoar, Leakage, Shortcut, Alignment, OneLayer, BlockMargin)
}
_PARTS, _GENERATED = "parts", "generated.npz"
_MEASURED = "measured"
_NOT_ASKED = "not asked for"
_READ_ATTACKS = (
    "NA is over all test images, AA over those attacked, IN and CO over those classified correctly among "
    "them. Rows of one training tell how much other test images would change its numbers, rows of several "
    "how much training again would. Published numbers stand beside for orientation and are no yardstick; "
    "\u201crecalled, unverified\u201d ones were written down from memory of the paper."
)
_READ_TERM = (
    "IG-SUM-NORM with beta 0 is adversarial training: what differs between rows of like settings is the L1 "
    "term alone. Attacked are validation images, so that what is chosen here was not chosen on test images. "
    "NA is over all of them, AA over those attacked, IN and CO over those classified correctly among them."
)
_PAIRED = "With the term, less without"
_READ_DIFFROAR = (
    "Top minus bottom: accuracy of networks retrained on the coordinates that the input gradient marks most, "
    "less that on those that it marks least. Published differences are of other networks, ranked by the "
    "gradients of the loss."
)
_READ: Mapping[str, Sequence[str]] = {
    "rar": [_READ_ATTACKS],
    "trainings": [_READ_TERM],
    "diffroar": [_READ_DIFFROAR],
}
_SCALES: Mapping[ScaleName, str] = {
    "full": "the paper's settings",
    "cpu": "reduced to hours on two cores: shorter trainings by Veridical's recipe, smaller ResNets",
    "smoke": "a check that everything runs, on bundled or generated images: its numbers mean nothing",
}


# In the class below `list` is an option.
_Texts: TypeAlias = list[str]


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions(TimeLimit, DataChoice, Gallery, Placement):
    """What is reproduced, and how much of it.

    Args:
        name: Which reproduction; the flag may be left out, and --list shows them.
        scale: "full" (the paper's), "cpu" (reduced to hours on two cores) or "smoke" (a minute, on bundled or
            generated images, to see that everything runs).
        list: Show what there is, what each needs, and what is published of it.
        data: Other images than the paper's, of the same kind.
        seeds: Trainings of each kind; None is what the scale says.
        examples: The most images attacked (of DiffROAR: used in a retraining; of leakage: explained).
        only: Steps whose names hold one of these texts, such as ig-sum-norm-0 for its row of the table; the
            same command without it does the others. None does all.
        markdown: Print the tables as Markdown.
        out: Folder of everything; None is runs/reproduce/NAME-SCALE. The same command continues in it.
        seed: First seed of the trainings, and seed of ties and starts.
    """

    name: str | None = field(default=None, metadata=POSITIONAL)
    scale: ScaleName = "cpu"
    list: bool = False
    seeds: Repeats | None = None
    examples: Count | None = None
    only: _Texts | None = None
    markdown: bool = False
    out: FilePath | None = None  # type: ignore[assignment]  # filled in by `prepare`


class Reproduce(Study[ReproduceOptions]):
    """Regenerate a table or figure of the two papers, beside what was published.

    examples:
      veridical reproduce --list
      veridical reproduce rar-fashion-mnist --scale cpu --out runs/rar
      veridical reproduce rar-fashion-mnist --scale full --device cuda --out runs/rar-full
      veridical reproduce rar-mnist --only ig-sum-norm-0-paper-fast --out runs/one-row
      veridical reproduce diffroar-cifar10 --scale smoke --out runs/smoke

    Trainings and measurements are jobs: an interrupted reproduction is continued by the same command, and
    reproductions that share a --store share trainings. With --budget the page shows what was done within it,
    what matters most first. DIR/report.html shows what came out, DIR/result.json
    has the numbers, DIR/parts the folders and pages of the studies that it is made of.
    """

    name = "reproduce"
    question = "what the papers say, measured again"
    Options = ReproduceOptions

    def prepare(self) -> None:
        """Look the reproduction up, load its images, and settle the steps."""
        options = self.options
        self.limit = read_duration(options.budget)
        if options.list:
            return
        if options.name is None:
            raise argument_error("name", None, "the name of a reproduction", "`--list` shows them.")
        if options.name not in REPRODUCTIONS:
            raise unknown_name_error("name", options.name, REPRODUCTIONS)
        self.entry = REPRODUCTIONS[options.name]
        out = options.out or f"runs/reproduce/{options.name}-{options.scale}"
        self.seeds = options.seeds or self.entry.seeds[options.scale]
        self.options = options = replace(options, out=str(out))
        self.folder = Path(out)
        self.plan = self.entry.plan(options.scale, self.seeds, options.examples, options.seed)
        self.asked = _choose(self.plan, options.only)
        chosen = _images_of(self.entry, options.scale) if options.data is None else str(options.data)
        if options.data is not None and not self.entry.data:
            raise argument_error("data", options.data, "nothing", f"{options.name} makes its own examples.")
        self.generated = generate(*chosen) if isinstance(chosen, tuple) else None
        self.source = chosen if isinstance(chosen, str) else ""
        needed = [self.source, self.entry.also.get(options.scale, "")]
        _refuse_missing(self.entry, [name for name in needed if name], options.data_root)
        equalise = any(one.options.get("equalise") for one in self.plan.trainings.values())
        self.data: Dataset | None = self.generated
        if self.source:
            self.data = load(self.source, options.data_root, equalise=equalise)

    def config(self) -> dict[str, Any]:
        """What the results depend on, as plain values; neither paths nor the machine."""
        options = self.options
        described = None if self.data is None else self.data.describe()
        return {
            "name": options.name,
            "scale": options.scale,
            "data": described,
            "seeds": [*range(options.seed, options.seed + self.seeds)],
            "examples": options.examples,
            "seed": options.seed,
            "plan": to_plain(asdict(self.plan), "plan"),
        }

    def where(self) -> dict[str, str]:
        """What all steps are told of paths and machine."""
        where = super().where()
        if self.data is None:
            return where
        return {**where, "data": describe_source(self._images(), self.options.data_root, {})["data"]}

    def _images(self) -> str:
        return str((self.folder / _GENERATED).absolute()) if self.generated is not None else self.source

    def cases(self) -> Iterable[Case]:
        """The trainings; what examines them are studies of their own, see `work`."""
        for name, training in self.plan.trainings.items():
            assert self.data is not None
            values = {"training": training.options, "seed": training.seed, "data": self.data.checksum}
            yield Case(values, name, training.seed, "train", stage="training", label=f"training {name}")

    @staticmethod
    def train(values: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Train; killed at any moment, it continues where it was."""
        run = train(
            TrainOptions(
                out=str(context.folder / RUN),
                data=context.where["data"],
                data_root=context.data_root,
                device=context.device,
                seed=values["seed"],
                progress=False,
                **values["training"],
            )
        )
        if run.settings.data["checksum"] != values["data"]:
            raise RunError(
                f"{context.where['data']}: other images than were planned with. Give all the same."
            )
        return {"training_seconds": run.result["timing"]["training_seconds"]}

    def announce(self) -> str | None:
        """How long it will take, by a short timing."""
        cost = estimate(self.asked, self.entry, self.options.scale)
        return f"{self.entry.name}, scale {self.options.scale}: {_about(cost)}, by a short timing"

    def forecast(self) -> Table | None:
        """With --list, the table of reproductions; nothing is written."""
        return list_reproductions(self.options) if self.options.list else None

    def work(self, work: Work) -> None:
        """Train, then let each study examine what was trained, on the same workers."""
        if self.generated is not None:
            write_source(self.generated, self.folder / _GENERATED)
        costs = {} if self.limit is None else predict_steps(self.asked, self.entry, self.options.scale)
        budget = Budget(self.limit, costs)
        self.done: dict[str, StudyResult] = {}
        self.runs: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.left_out: dict[str, str] = {}
        with share_subjects():
            for part in self.plan.parts:
                if (self._folder(part) / RESULT).exists():
                    # The claim of the whole says that it was measured of the same.
                    self.done[part.name] = _STUDIES[part.study].read(self._folder(part))
                    trained = [case for case in self.all_cases if case.group in part.runs]
                    self._take(work, [case for case in trained if work.is_done(case)])
                    continue
                if part not in self.asked.parts:
                    self.left_out[part.name] = _NOT_ASKED
                    continue
                why = self._train_for(part, work, budget) or budget.refuse(part.name)
                if why is not None:
                    self.left_out[part.name] = why
                    continue
                begun = time.monotonic()
                self.done[part.name] = self._do(part, work)
                self.seconds[part.name] = round(time.monotonic() - begun, 3)
                budget.spend(part.name, time.monotonic() - begun)

    def _train_for(self, part: Part, work: Work, budget: Budget) -> str | None:
        """Train what a part examines and, beside it, all runs like it; why not, where time is short."""
        needed = {_run_like(self.plan.trainings[name]) for name in part.runs if name not in self.runs}
        groups = {name for name, one in self.asked.trainings.items() if _run_like(one) in needed}
        cases = [case for case in self.all_cases if case.group in groups]
        missing = [case for case in cases if not work.is_done(case)]
        if missing and (why := budget.refuse(*(case.group for case in missing))):
            return f"its training was not begun: {why}"
        begun = time.monotonic()
        self._take(work, cases)
        for case in missing:
            # They ran side by side.
            budget.spend(case.group, (time.monotonic() - begun) / len(missing))
        return None

    def _take(self, work: Work, cases: Sequence[Case]) -> None:
        work.run(cases)
        self.runs |= {case.group: str(work.folder(case) / RUN) for case in cases}

    def _folder(self, part: Part) -> Path:
        return self.folder / _PARTS / part.name

    def _do(self, part: Part, work: Work) -> StudyResult:
        study, options = _STUDIES[part.study], self.options
        out = self._folder(part)
        runs: Any = [self.runs[name] for name in part.runs]
        if runs and part.study != "alignment":  # which examines several together
            (runs,) = runs
        given = {
            "run": runs or None,
            "data_root": options.data_root,
            "device": "cpu" if issubclass(study.Options, BlockWorldChoice) else options.device,
            "seed": options.seed,
            "progress": False,
            "store": options.store or str(self.folder / JOBS),
            "out": str(out),
            **part.options,
        }
        if part.images:
            given[part.images] = self._images()
        known = {one.name for one in fields(study.Options)}
        whole = study.Options(**{name: value for name, value in given.items() if name in known})

        def tell(what: str, state: Progress) -> None:
            work.progress(f"{part.name}: {what}", state)

        return study(whole).run(tell, executor=work.executor)

    def results(self, work: Work) -> dict[str, Any]:  # noqa: ARG002 - its parts lie in folders of their own
        """The tables by title, rows of what was measured and what was published; and the parts' studies."""
        return summarise(self.entry, self.plan, self.done) | {"left_out": self.left_out}

    def timing(self, work: Work) -> dict[str, Any]:
        """What each training and each part took."""
        trained = {
            case.group: work.plain(case)["training_seconds"]
            for case in self.all_cases
            if case.group in self.runs
        }
        return {"training_seconds": trained, "part_seconds": self.seconds}

    def surroundings(self) -> dict[str, Any]:
        """Where the runs lie."""
        return {"runs": self.runs}

    # What is said about it

    @classmethod
    def tables(cls, result: StudyResult) -> dict[str, Table]:
        """What was measured beside what was published, then the papers' sentences."""
        kind, tables = _entry_of(result).kind, {}
        for title, rows in result.results["tables"].items():
            columns = (*_MODEL, *_DIFFERENCES) if title == _PAIRED else _COLUMNS[kind]
            tables[title] = Table(columns, [_written(columns, row) for row in rows])
        if _entry_of(result).kind == "parts":
            for name, part in _parts_of(result).items():
                drawn = _study_of(part).tables(part)
                tables |= {f"{name}: {title}" if title else name: table for title, table in drawn.items()}
        if statements := result.results["statements"]:
            lines = [[one["text"], MARKS[one["mark"]]] for one in statements]
            tables["What the paper says"] = Table(["sentence", "source"], lines)
        return tables

    @classmethod
    def heading(cls, result: StudyResult) -> str:
        """What is reproduced."""
        return _entry_of(result).title

    @classmethod
    def lead(cls, result: StudyResult) -> str:
        """Of which paper, and how much is done."""
        entry, scale = _entry_of(result), result.config["scale"]
        data = (result.config["data"] or {}).get("name", "generated examples")
        return f"{entry.source}. On {Path(data).name}, scale {scale}: {_SCALES[scale]}."

    @classmethod
    def facts(cls, result: StudyResult) -> dict[str, Any]:
        """How it was measured, as names and values: the data, then trainings and steps by their settings."""
        config = result.config
        plan, data = config["plan"], config["data"]
        trainings = [(f"training {name}", one["options"]) for name, one in plan["trainings"].items()]
        parts = [(one["name"], {"command": one["study"], **one["options"]}) for one in plan["parts"]]
        images = "{name}, {train:,} for training and {test:,} for testing, SHA-256 {checksum}"
        return {
            "Reproduction": f"{config['name']}, scale {config['scale']}",
            "Data": "generated examples" if data is None else images.format(**data),
            "Seeds of the trainings": ", ".join(map(str, config["seeds"])),
            **_by_settings([*trainings, *parts]),
        }

    @classmethod
    def findings(cls, result: StudyResult) -> list[str]:
        """What the intervals allow; of the smoke scale nothing."""
        left_out = result.results["left_out"]
        found, steps = [], len(left_out) + len(result.results["parts"])
        late = [why for why in left_out.values() if why != _NOT_ASKED]
        if late:
            found.append(
                f"{len(late)} of {steps} steps were left out: {late[0]}. The same command continues."
            )
        if len(late) < len(left_out):
            found.append(f"{len(left_out) - len(late)} of {steps} steps were not asked for (--only).")
        if result.config["scale"] == "smoke":
            return ["This is the smoke scale: it shows that everything runs, and nothing else.", *found]
        return [*_FINDINGS[_entry_of(result).kind](result), *found]

    @classmethod
    def panels(cls, result: StudyResult) -> list[Panel]:
        """The tables, figures of the parts, and the steps."""
        entry, parts = _entry_of(result), _parts_of(result)
        texts = {"rar": [_READ_ATTACKS], "trainings": [_READ_TERM], "diffroar": [_READ_DIFFROAR]}.get(
            entry.kind, []
        )
        own = {
            title: table
            for title, table in cls.tables(result).items()
            if title in result.results["tables"] or not title.partition(":")[2]
        }
        # What is said of all tables stands above the first.
        panels = [
            Panel(title, [] if place else texts, table=table)
            for place, (title, table) in enumerate(own.items())
        ]
        figures = _PANELS[entry.kind](parts) if parts else []
        return [*panels, *figures, _steps_panel(result)]


def generate(channels: int, side: int, classes: int = 4) -> Dataset:
    """Waves whose direction and colour are the class, uint8 (160 and 40, C, S, S), always the same."""
    draw = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side] / side
    parts = []
    for count in (160, 40):
        labels = np.arange(count) % classes
        angles = np.pi * labels / classes
        phase = np.cos(angles)[:, None, None] * rows + np.sin(angles)[:, None, None] * columns
        waves = 0.5 + 0.3 * np.sin(6 * np.pi * phase)
        tint = 0.6 + 0.4 * np.cos(2 * np.pi * (labels[:, None] / classes + np.arange(channels) / 3))
        images = waves[..., None] * tint[:, None, None, :] + 0.2 * draw.random((count, side, side, channels))
        parts += [(255 * images.clip(0, 1)).round().astype(np.uint8), labels.astype(np.int64)]
    names = tuple(f"direction {label}" for label in range(classes))
    train_images, train_labels, test_images, test_labels = parts
    arrays = ImageArrays(train_images, train_labels, test_images, test_labels, names)
    return build_dataset("generated", arrays, "generated")


def _images_of(entry: Reproduction, scale: ScaleName) -> str | tuple[int, int]:
    return entry.stand_in if scale == "smoke" else entry.data


def _missing(names: Sequence[str], root: FilePath | None) -> list[str]:
    """For each registered data set that is not there what to place where; reads headers alone."""
    rows = {row.name: row for row in available(root)}
    told = []
    for name in names:
        if name in DATASETS and not rows[name].found:
            places = [
                line.partition(": not there")[0].partition(": incomplete")[0] for line in rows[name].tried
            ]
            told.append(f"{name}: place {' or '.join(dict.fromkeys(places))}")
    return told


def _refuse_missing(entry: Reproduction, names: Sequence[str], root: FilePath | None) -> None:
    if told := _missing(names, root):
        raise DataError(
            f"{entry.name}: not run: no data. {'; '.join(told)}. The folder of the data is named by "
            "--data-root or VERIDICAL_DATA; --scale smoke needs none of it."
        )


def list_reproductions(options: ReproduceOptions) -> Table:
    """What there is, with the data, the time and the memory that each needs at a scale."""
    scale, rows, missing = options.scale, [], list[str]()
    for entry in REPRODUCTIONS.values():
        images = _images_of(entry, scale)
        names = [images] if isinstance(images, str) else []
        names = [name for name in dict.fromkeys((*names, entry.also.get(scale, ""))) if name]
        absent = [name for name in names if _missing([name], options.data_root)]
        missing += _missing(absent, options.data_root)
        plan = entry.plan(scale, options.seeds or entry.seeds[scale], options.examples, options.seed)
        cost = estimate(plan, entry, scale)
        marked = ", ".join(f"{count} {mark}" for mark, count in entry.rows().items())
        shown = ", ".join(f"{name} (missing)" if name in absent else name for name in names) or "generated"
        minutes, memory = math.ceil(cost.seconds / 60), f"{cost.memory / 2**30:.1f} GiB"
        rows.append([entry.name, entry.regenerates, shown, f"{minutes:,}", memory, marked or "new"])
    columns = ["name", "regenerates", "data", "minutes", "memory", "beside"]
    told = (
        f"Scale {scale}: {_SCALES[scale]}. Minutes with all cores, by counted work and a short timing, which "
        "a busy machine lengthens; memory is of one process. Beside: numbers and sentences of the paper."
    )
    found = f"Data are looked up in {data_root(options.data_root)} (--data-root, VERIDICAL_DATA)."
    lines = [told, *dict.fromkeys(f"missing: {line}" for line in missing), found]
    return Table(columns, rows, "\n".join(lines))


def summarise(entry: Reproduction, plan: Plan, done: Done) -> dict[str, Any]:
    """The tables of those steps of the plan that were done, the papers' sentences, and these steps."""
    tables: dict[str, Callable[[Reproduction, Plan, Done], dict[str, Any]]] = {
        "rar": _attack_tables,
        "trainings": _training_tables,
        "diffroar": _diffroar_tables,
        "parts": lambda _entry, _plan, _done: {},
        "both": _both_tables,
    }
    plan = replace(plan, parts=[part for part in plan.parts if part.name in done])
    return {
        "tables": tables[entry.kind](entry, plan, done),
        "statements": [asdict(one) for one in entry.statements],
        "parts": {part.name: part.study for part in plan.parts},
    }


def _choose(plan: Plan, only: Sequence[str] | None) -> Plan:
    """The steps whose names hold one of these texts, and the trainings that they examine."""
    if only is None:
        return plan
    for text in only:
        if not text or not any(text in part.name for part in plan.parts):
            names = ", ".join(part.name for part in plan.parts)
            raise argument_error("only", text, "a text of the name of a step", f"Steps: {names}.")
    parts = [part for part in plan.parts if any(text in part.name for text in only)]
    runs = {name for part in parts for name in part.runs}
    return Plan({name: one for name, one in plan.trainings.items() if name in runs}, parts)


def _run_like(training: Training) -> tuple[object, ...]:
    """What trainings that are begun together share."""
    return training.seed, training.options["model"]


def _about(cost: Cost) -> str:
    return f"about {duration(cost.seconds)} and {cost.memory / 2**30:.1f} GiB a process"


# What came out


def _attack_tables(entry: Reproduction, plan: Plan, done: Done) -> dict[str, Any]:
    """A table for each protocol: each objective over images, over trainings, and as published."""
    attacks = [part for part in plan.parts if part.study == "attack"]
    tables = {}
    for protocol in dict.fromkeys(part.options["protocol"] for part in attacks):
        rows = []
        for objective in OBJECTIVES:
            runs = [
                done[part.name]
                for part in attacks
                if part.options["protocol"] == protocol
                and plan.trainings[part.runs[0]].options["objective"] == objective
            ]
            rows += _attack_rows(entry, objective, protocol, runs)
        tables[f"Attacked by {protocol}"] = rows
    if entry.data in SINGLE_IMAGE and "rar" in entry.kind:
        tables["The image whose map moves most"] = _single_image(entry, plan, done)
    return tables


def _single_image(entry: Reproduction, plan: Plan, done: Done) -> list[dict[str, Any]]:
    """Of the natural model the attacked image that keeps fewest top pixels, and the one of the talk."""
    title, rows = objective_title("natural"), []
    natural = [one for one in plan.parts if one.study == "attack" and one.runs[0].startswith("natural")]
    if natural and np.isfinite(done[natural[0].name].arrays["topk_intersection"]).any():
        arrays = done[natural[0].name].arrays
        least = int(np.nanargmin(arrays["topk_intersection"]))
        numbers = {name: float(arrays[name][least]) for name in MEASURES[2:]}
        rows.append({"model": title, "source": f"{_MEASURED}, image {arrays['index'][least]}", **numbers})
    published = dict(zip(MEASURES[2:], SINGLE_IMAGE[entry.data], strict=True))
    return [*rows, {"model": title, "source": MARKS["published"], **published}]


def _training_tables(_entry: Reproduction, plan: Plan, done: Done) -> dict[str, Any]:
    """Each kind of training over images and over trainings; then what the L1 term changes, in pairs."""
    kinds: dict[str, dict[int, StudyResult]] = {}
    for part in plan.parts:
        (name,) = part.runs
        kinds.setdefault(_kind_of(name), {})[plan.trainings[name].seed] = done[part.name]
    pairs = []
    for without, term in pairs_of_the_term(plan.trainings):
        one, other = kinds.get(term, {}), kinds.get(without, {})
        if seeds := sorted({*one} & {*other}):
            pairs.append(_difference_row(term, [one[s] for s in seeds], [other[s] for s in seeds]))
    found = [row for kind, runs in kinds.items() for row in _measured_rows(kind, [*runs.values()])]
    return {"Validation images": found, _PAIRED: pairs}


def _difference_row(kind: str, runs: Sequence[StudyResult], others: Sequence[StudyResult]) -> dict[str, Any]:
    """What a kind of training has beyond another: paired by seed, of a single one by image."""
    pairs = [
        {name: _of_images(name, one) - _of_images(name, other) for name in MEASURES[1:]}
        for one, other in zip(runs, others, strict=True)
    ]
    found = {}
    for name in MEASURES[1:]:
        by_image = [pair[name][np.isfinite(pair[name])] for pair in pairs]
        means = [float(one.mean()) for one in by_image if len(one)]
        values = by_image[0].tolist() if len(pairs) == 1 else means
        found[name] = mean_interval(values)
    paired = "by image" if len(pairs) == 1 else f"by seed, {len(pairs)} of each"
    return {"model": kind, "source": f"{_MEASURED}, paired {paired}", **found}


def _of_images(name: str, run: StudyResult) -> NDArray[np.float64]:
    """A measure of every attacked image, (N,); NaN where IN and CO do not count it."""
    arrays = run.arrays
    if name == "adversarial_accuracy":
        held: NDArray[np.float64] = (arrays["adversarial_prediction"] == arrays["label"]).astype(np.float64)
        return held
    return np.where(arrays["predicted"] == arrays["label"], arrays[name], np.nan)


def _kind_of(training: str) -> str:
    """A training's name without its seed."""
    return training.rpartition("-")[0]


def _attack_rows(
    entry: Reproduction, objective: str, protocol: str, runs: Sequence[StudyResult]
) -> list[dict[str, Any]]:
    title = objective_title(objective)
    rows = _measured_rows(title, runs) if runs else []
    # The paper has no other attack than its own.
    other = ", by the paper's attack" if protocol == "strong" else ""
    for mark, words in MARKS.items():
        if numbers := paper_numbers(entry.data, objective, mark):
            rows.append({"model": title, "source": f"{words}{other}", **numbers})
    return rows


def _measured_rows(title: str, runs: Sequence[StudyResult]) -> list[dict[str, Any]]:
    first = runs[0].results
    # Over all images of the part, however few are attacked.
    key = {name: name for name in MEASURES} | {"natural_accuracy": "natural_accuracy_of_all"}
    images = {name: first[key[name]] for name in MEASURES}
    rows = [{"model": title, "source": f"{_MEASURED}, one training", **images, "images": first["examples"]}]
    if len(runs) > 1:
        few = min(run.results["examples"] for run in runs)
        rows.append(
            {
                "model": title,
                "source": f"{_MEASURED}, {len(runs)} trainings",
                **{name: _over_trainings(name, runs, few) for name in MEASURES},
                "images": few,
            }
        )
    return rows


def _over_trainings(name: str, runs: Sequence[StudyResult], few: int) -> Mapping[str, Any]:
    """The mean of each training on the same first images, and the interval over the trainings."""
    means = []
    for run in runs:
        label, arrays = run.arrays["label"][:few], run.arrays
        correct = arrays["predicted"][:few] == label
        if name == "natural_accuracy":
            means.append(run.results["natural_accuracy_of_all"]["value"])
        elif name == "adversarial_accuracy":
            means.append(float((arrays["adversarial_prediction"][:few] == label).mean()))
        elif correct.any():
            means.append(float(np.nanmean(arrays[name][:few][correct])))
    return mean_interval(means, bounds=UNBOUNDED if name == "kendall_tau" else SHARE)


def _diffroar_tables(entry: Reproduction, plan: Plan, done: Done) -> dict[str, Any]:
    """A table for each kind of network, a row for each model and level, then the published differences."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for part in plan.parts:
        options = plan.trainings[part.runs[0]].options
        found = done[part.name].results
        for place, point in enumerate(found["curve"]):
            kinds.setdefault(options["model"], []).append(
                {"model": _ball_title(options), "source": _MEASURED, **_diffroar_row(found, point, place)}
            )
    tables = {f"DiffROAR, {model}": rows for model, rows in kinds.items()}
    published = [
        {
            "model": title,
            "source": f"{DIFFROAR_NETWORKS[entry.data]}: {MARKS['recalled']}",
            "level": level,
            "difference": value,
        }
        for ball, values in DIFFROAR_NUMBERS.get(entry.data, {}).items()
        for level, value in zip(DIFFROAR_LEVELS, values, strict=True)
        for title in [_BALLS[ball]]
    ]
    return tables | ({"DiffROAR, the paper's first version": published} if published else {})


_BALLS = {"natural": "natural", "l2": "adversarial, l2", "linf": "adversarial, linf"}


def _ball_title(options: Mapping[str, Any]) -> str:
    return _BALLS[options.get("norm", "natural")]


def _diffroar_row(found: Mapping[str, Any], point: Mapping[str, Any], place: int) -> dict[str, Any]:
    judged, control = found["verdicts"][place], found["control"]
    masks = None if control is None else control["curve"][place]
    return {
        "level": point["level"],
        "top": point["top"]["value"],
        "bottom": point["bottom"]["value"],
        "difference": {name: judged[name] for name in ("value", "low", "high")},
        "verdict": judged["verdict"],
        **{name: curve[place]["difference"] for name, curve in found["baselines"].items()},
        "masks": masks and masks["top"]["value"] - masks["bottom"]["value"],
    }


def _both_tables(entry: Reproduction, plan: Plan, done: Done) -> dict[str, Any]:
    """A row for each objective: how robust its explanations are, and how faithful."""
    attacks = _attack_tables(entry, plan, done).get("Attacked by paper-fast", [])
    measured: dict[str, dict[str, Any]] = {}
    for row in attacks:  # the last one measured, which is over trainings where there are several
        if row["source"].startswith(_MEASURED):
            measured[row["model"]] = row
    for objective in OBJECTIVES:
        title = objective_title(objective)
        # Its attack may be left out.
        row = measured.setdefault(title, {"model": title, "source": _MEASURED})
        runs = [
            done[part.name].results
            for part in plan.parts
            if part.study == "diffroar" and plan.trainings[part.runs[0]].options["objective"] == objective
        ]
        for place, point in enumerate(runs[0]["curve"] if runs else ()):
            values = [run["verdicts"][place]["value"] for run in runs]
            one = runs[0]["verdicts"][place]
            shown = mean_interval(values) if len(runs) > 1 else {k: one[k] for k in ("value", "low", "high")}
            row[f"diffroar {point['level']:g}"] = shown
        row |= _of_studies(title, done)
    return {"Robust and faithful": [row for row in measured.values() if len(row) > len(_MODEL)]}


def _of_studies(title: str, done: Done) -> dict[str, Any]:
    """What the studies of several models say of one of them."""

    # Titles of studies name the ball, too.
    def own(models: Mapping[str, Any]) -> Any:
        return next(model for name, model in models.items() if name.startswith(title))

    found: dict[str, Any] = {}
    if "alignment" in done:
        found["inside"] = own(done["alignment"].results["models"])["maps"]["input-gradient"]["excess"]
    if "leakage" in done:
        leaking = own(done["leakage"].results["models"])
        found["null"] = leaking["random"]["maps"]["input-gradient"]["null"]["mass"]
    if "shortcut" in done:
        found["lost"] = own(done["shortcut"].results["arms"])["lost"]["moved"]
    return found


# What is shown

_MODEL = (Column("model", "model"), Column("source", "source"))
_ATTACKED = (
    Column(
        "natural_accuracy",
        "NA",
        "share",
        "higher",
        "Accuracy on all images of the part, attacked or not.",
    ),
    Column("adversarial_accuracy", "AA", "share", "higher", "Accuracy under PGD in the ball of training."),
    Column(
        "topk_intersection",
        "IN",
        "share",
        "higher",
        "Share of the map's top k pixels that the attack leaves.",
    ),
    Column("kendall_tau", "CO", "number", "higher", "Kendall's tau-b of the maps before and after."),
    Column("images", "images", "count", meaning="Images attacked."),
)
_DIFFERENCES = (
    Column("adversarial_accuracy", "AA", "points", "higher", "Difference of the two AA."),
    Column("topk_intersection", "IN", "points", "higher", "Difference of the two IN."),
    Column("kendall_tau", "CO", "number", "higher", "Difference of the two CO."),
)
_DIFFERENCE = "Top minus bottom, in percentage points; above zero the marked coordinates carry more."
_COLUMNS: Mapping[str, Sequence[Column]] = {
    "rar": (*_MODEL, *_ATTACKED),
    "trainings": (*_MODEL, *_ATTACKED),
    "diffroar": (
        *_MODEL,
        Column("level", "level", "share", meaning="Share of the coordinates that an end is.", digits=0),
        Column("top", "top", "share"),
        Column("bottom", "bottom", "share"),
        Column("difference", "difference", "points", meaning=_DIFFERENCE),
        Column("verdict", "verdict"),
        Column("random", "random order", "points"),
        Column("input-agnostic", "one order for all", "points"),
        Column(
            "masks", "masks only", "points", meaning="The same difference of networks that saw masks alone."
        ),
    ),
    "parts": _MODEL,
    "both": (
        *_MODEL,
        *_ATTACKED,
        *(
            Column(f"diffroar {level:g}", f"DiffROAR, {level_text(level)}", "points", meaning=_DIFFERENCE)
            for level in DIFFROAR_LEVELS
        ),
        Column("inside", "on the garment beyond its area", "points"),
        Column("null", "in the null block", "share", "lower"),
        Column("lost", "lost without the shortcut", "points"),
    ),
}


def _written(columns: Sequence[Column], row: Mapping[str, Any]) -> dict[str, Any]:
    """A row's cells; published numbers keep the digits of their print."""
    if row["source"].startswith(_MEASURED):
        return dict(row)
    digits = {"share": 2, "number": 4, "points": 1}
    return {
        column.key: column.cell(
            row.get(column.key), digits.get(column.unit) if column.key in MEASURES else None
        )
        for column in columns
    }


def _entry_of(result: StudyResult) -> Reproduction:
    return REPRODUCTIONS[result.config["name"]]


def _study_of(part: StudyResult) -> type[Study[Any]]:
    return _STUDIES[part.document["study"]]


def _parts_of(result: StudyResult) -> dict[str, StudyResult]:
    """The parts by name, as their folders hold them."""
    return {
        name: _STUDIES[study].read(result.folder / _PARTS / name)
        for name, study in result.results["parts"].items()
    }


def _first_attacks(parts: Done) -> Attacks:
    """The attacks by the first protocol of the first training of each objective, by title."""
    found: dict[str, StudyResult] = {}
    for part in parts.values():
        if part.document["study"] == "attack":
            found.setdefault(objective_title(part.config["run"]["objective"]), part)
    return found


def _kinds_of_attacks(parts: Done) -> Attacks:
    """The attack of the first training of each kind, by its name."""
    found: dict[str, StudyResult] = {}
    for name, part in parts.items():
        found.setdefault(_kind_of(name.removesuffix("-paper-fast")), part)
    return found


def _attack_figures(parts: Done, attacks: Attacks | None = None) -> list[Panel]:
    attacks = attacks or _first_attacks(parts)
    if not attacks:  # they were left out
        return []
    told = attack_table(attacks).to_markdown()
    drawn = [Illustration(robustness_scatter(attacks), "", f"Adversarial accuracy against IN and CO. {told}")]
    scatter = Panel(
        "Robust predictions and robust explanations", ["Bars are 95% intervals over images."], drawn
    )
    return [*gallery_panels(attacks, 4), scatter]


def _diffroar_figures(parts: Done) -> list[Panel]:
    """Curves, baselines and unmasked images, for each kind of network."""
    kinds: dict[str, list[StudyResult]] = {}
    for part in parts.values():
        kinds.setdefault(part.config["model"]["name"], []).append(part)
    panels = []
    for kind, found in kinds.items():
        named = diffroar_page.name_measurements(found)
        panels += [replace(one, title=f"{kind}: {one.title}") for one in diffroar_page.diffroar_panels(named)]
    return panels


def _part_panels(parts: Done) -> list[Panel]:
    return [
        replace(panel, title=f"{name}: {panel.title}")
        for name, part in parts.items()
        for panel in _study_of(part).panels(part)
    ]


def _both_figures(parts: Done) -> list[Panel]:
    """How robust and how faithful the first training of each objective is."""
    attacks = _first_attacks(parts)
    measured: dict[str, StudyResult] = {}
    for part in parts.values():
        if part.document["study"] == "diffroar":
            measured.setdefault(objective_title(part.config["run"]["objective"]), part)
    points = {
        name: (
            Interval.read(attacks[name].results["topk_intersection"]),
            Interval.read(one.results["verdicts"][0]),
        )
        for name, one in measured.items()
        if name in attacks
    }
    if not points:  # they were left out
        return _attack_figures(parts)
    told = "; ".join(f"{name}: {x.value} and {y.value}" for name, (x, y) in points.items())
    figure = scatter_figure([("DiffROAR at the lowest level", True, points)], x_label="top pixels kept (IN)")
    text = ["Do explanations that hold still also mark what a network can learn from? One training of each."]
    return [Panel("Robust against faithful", text, [Illustration(figure, "", told)]), *_attack_figures(parts)]


_PANELS: Mapping[str, Callable[[Done], list[Panel]]] = {
    "rar": _attack_figures,
    "trainings": lambda parts: _attack_figures(parts, _kinds_of_attacks(parts)),
    "diffroar": _diffroar_figures,
    "parts": _part_panels,
    "both": _both_figures,
}


def _by_settings(named: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, str]:
    """Steps of the same settings together: names to a line."""
    names: dict[str, list[str]] = {}
    for name, options in named:
        names.setdefault(list_settings(options), []).append(name)
    return {", ".join(ones): line for line, ones in names.items()}


def _steps_panel(result: StudyResult) -> Panel:
    """What each step took, and where its own page lies."""
    timing = result.document["timing"]
    rows = [[f"training {name}", "train", duration(s), ""] for name, s in timing["training_seconds"].items()]
    for name, study in result.results["parts"].items():
        seconds = timing["part_seconds"].get(name)  # of a step that was done before it is in its own folder
        rows.append(
            [name, study, "before" if seconds is None else duration(seconds), f"{_PARTS}/{name}/{REPORT}"]
        )
    rows += [[name, "left out", DASH, why] for name, why in result.results["left_out"].items()]
    return Panel("Steps", table=Table(["step", "command", "time", "page"], rows), folded=True)


def _compared(kept: Callable[[Column], bool], result: StudyResult) -> list[str]:
    """Where the intervals of IG-SUM-NORM lie to those of natural and of adversarial training."""
    found, ours = list[str](), objective_title("ig-sum-norm")
    columns = [column for column in _COLUMNS[_entry_of(result).kind] if kept(column)]
    for title, rows in result.results["tables"].items():
        last = {row["model"]: row for row in rows if row["source"].startswith(_MEASURED)}
        for other in (objective_title("natural"), objective_title("adversarial")):
            if ours not in last or other not in last:  # not asked for, or left out
                continue
            found += [f"{title}: {line}" for line in _compare_rows(last[ours], last[other], columns)]
    return found


def _compare_rows(ours: _Row, other: _Row, columns: Iterable[Column]) -> list[str]:
    """A sentence for each column: where the interval of a row lies to that of another."""
    found = []
    for column in columns:
        one, two = (Interval.read(row.get(column.key)) for row in (ours, other))
        if one.value is None or two.value is None:
            continue
        words = {"higher": "above", "lower": "below"}
        where = words.get(one.against(two), "not shown to differ from")
        found.append(
            f"{column.heading} of {ours['model']}, {column.cell(one)}, is {where} that of {other['model']}, "
            f"{column.cell(two)}."
        )
    return found


def _term_findings(result: StudyResult) -> list[str]:
    """What the L1 term changes of AA, IN and CO, where only the term differs."""
    found = []
    for row in result.results["tables"][_PAIRED]:
        for column in _DIFFERENCES:
            change = Interval.read(row[column.key])
            if change.value is not None:
                words = ("not shown to differ from", "above", "below")[change.sign]
                found.append(
                    f"{row['model']}: {column.heading} is {words} that of adversarial training of the same "
                    f"settings, {column.cell(change)} ({row['source'].partition(', ')[2]})."
                )
    return found


_OF_THE_TERM = ("objective", "beta", "beta_from")


def pairs_of_the_term(trainings: Mapping[str, Training]) -> Iterator[tuple[str, str]]:
    """Kinds of training that differ by the L1 term alone: the one without it, and each one with it."""
    alike: dict[str, dict[str, None]] = {}
    for name, one in trainings.items():
        rest = {key: value for key, value in one.options.items() if key not in _OF_THE_TERM}
        alike.setdefault(repr(sorted(rest.items())), {})[_kind_of(name)] = None
    for without, *others in map(list, alike.values()):
        yield from ((without, one) for one in others)


def _diffroar_findings(result: StudyResult) -> list[str]:
    kinds: dict[str, list[StudyResult]] = {}
    for part in _parts_of(result).values():
        kinds.setdefault(part.config["model"]["name"], []).append(part)
    return [
        f"{kind}: {diffroar_page.diffroar_headline(name, one)}"
        for kind, found in kinds.items()
        for name, one in diffroar_page.name_measurements(found).items()
    ]


def _part_findings(result: StudyResult) -> list[str]:
    return [line for part in _parts_of(result).values() for line in _study_of(part).findings(part)]


_FINDINGS: Mapping[str, Callable[[StudyResult], list[str]]] = {
    "rar": partial(_compared, lambda column: column.key in MEASURES[2:]),
    "trainings": _term_findings,
    "diffroar": _diffroar_findings,
    "parts": _part_findings,
    "both": partial(_compared, lambda column: column.unit == "points" or column.key in MEASURES[2:]),
}
