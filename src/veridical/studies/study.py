"""The one mechanism of all studies: a folder's claim, jobs, seeds, results, page and tables.

A study is one class in one file. It says what is done (`cases`, and a static method for each kind of step),
what comes of it (`results`), and what a page says of it (`columns`, `findings`, `panels`). All else is here.

    class Sparsity(Study[SparsityOptions]):
        name, title, Options = "sparsity", "How sparse are explanations?", SparsityOptions
        columns = (Column("zeros", "exact zeros", unit="share"),)

        def cases(self):
            return [Case({"digit": digit}, group=f"digit {digit}") for digit in range(10)]

        @staticmethod
        def measure(values, context):
            return {"zeros": ...}  # an array (N,), a value for each example
"""

from __future__ import annotations

import hashlib
import inspect
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from html import escape
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from matplotlib.figure import Figure

from veridical.data.lookup import data_root
from veridical.jobs import (
    InProcess,
    Job,
    Outcome,
    ProcessPool,
    Progress,
    Store,
    check_outcomes,
    run_jobs,
    workers_of,
)
from veridical.jobs.cluster import Dask
from veridical.jobs.pool import visible_cards
from veridical.metrics.intervals import SHARE, UNBOUNDED, two_intervals
from veridical.report import Panel, study_page
from veridical.report.formats import Interval, duration
from veridical.report.table import Column, Table, write_points
from veridical.runtime.checking import as_path, record
from veridical.runtime.devices import environment, resolve_device
from veridical.runtime.errors import RunError, UsageError, argument_error, unknown_name_error, visible
from veridical.runtime.files import (
    REPEAT_HINT,
    Arrays,
    Document,
    check_form,
    claim_folder,
    pack_arrays,
    read_arrays,
    read_json,
    result_document,
    result_schema,
    write_atomic,
    write_json,
)
from veridical.runtime.guards import thread_count
from veridical.runtime.options import DataRoot, Gallery, Placement
from veridical.runtime.registry import import_trusted

RESULT, EXAMPLES, REPORT = "result.json", "examples.npz", "report.html"
# Where intervals of a unit end.
BOUNDS: Mapping[str, tuple[float, float]] = {"share": SHARE, "points": (-1.0, 1.0)}

# The store of a study that names no other, and what a job keeps its arrays in.
JOBS, ARRAYS = "jobs", "measured.npz"

# (what is done, how far it is).
ProgressCallback = Callable[[str, Progress], object]

_PLACEMENT = {one.name for group in (Placement, DataRoot, Gallery) for one in fields(group)}
# Options on which no number depends.
_PLACEMENT = (_PLACEMENT | {"batch", "trust_code"}) - {"seed"}

OptionsT = TypeVar("OptionsT")
_OWN = "veridical."
# Studies of this process by name: one that a notebook defines runs in it, though no worker can import it.
_LIVE: dict[str, type[Study[Any]]] = {}


@record
class Case:
    """One step of a study, which runs as a job.

    values: all that its result depends on, as plain values, checksums of data and weights included. group:
    the row of the table that it belongs to; cases of one group differ in the seed. step: the static method of
    the study that does it. after: a case of an earlier stage whose folder it reads. stage: what people are
    told is going on. cost: predicted seconds, for the order. where: paths, which differ between machines.
    """

    values: Mapping[str, Any]
    group: str = ""
    seed: int = 0
    step: str = "measure"
    after: Case | None = None
    stage: str = "measuring"
    label: str = ""
    cost: float = 1.0
    where: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """Where a step runs. folder: its own, kept when it is killed and begins again. after: of `Case.after`."""

    folder: Path
    after: Path | None
    where: Mapping[str, str]

    @property
    def device(self) -> str:
        """auto, cpu or cuda[:n]."""
        return self.where.get("device", "auto")

    @property
    def data_root(self) -> str | None:
        """Folder of the data."""
        return self.where.get("data_root")

    @property
    def batch(self) -> int:
        """Images whose attributions are computed at a time."""
        return int(self.where.get("batch", "100"))

    @property
    def trust_code(self) -> bool:
        """Whether module:callable may run."""
        return self.where.get("trust_code") == "yes"


def run_step(values: dict[str, Any], folder: Path, where: dict[str, str]) -> dict[str, Any]:
    """Job: one step of a study. Arrays that it returns are kept in ARRAYS, the rest is the job's result."""
    study = load_study(values["study"], trust_code=where.get("trust_code") == "yes")
    after = Path(where["after"]) if "after" in where else None
    measured = getattr(study, values["step"])(values["case"], Context(folder, after, where))
    # Arrays first: the job's result, which its store writes last, says that the step is done.
    arrays = {name: value for name, value in measured.items() if isinstance(value, np.ndarray)}
    if arrays:
        write_atomic(folder / ARRAYS, pack_arrays(arrays))
    return {name: value for name, value in measured.items() if name not in arrays}


def load_study(spec: str, *, trust_code: bool = False) -> type[Study[Any]]:
    """The study that "package.module:Class" names; one from outside Veridical needs `trust_code`."""
    if spec in _LIVE:
        return _LIVE[spec]
    found = import_trusted("study", spec, trust_code=trust_code or spec.startswith(_OWN), positional=None)
    if not (isinstance(found, type) and issubclass(found, Study)):
        raise argument_error("study", spec, "a class that inherits veridical.studies.study.Study")
    return found


class Work:
    """The jobs of a running study: does cases one stage after the other, and has what they left."""

    def __init__(
        self, study: Study[Any], store: Store, executor: Executor, progress: ProgressCallback | None
    ) -> None:
        self.store, self.executor = store, executor
        self.outcomes: dict[str, Outcome] = {}
        self._study, self.progress = study, progress or (lambda _what, _state: None)
        self._jobs: dict[Case, Job] = {}
        self._where = study.where()
        self._source = None if study.spec.startswith(_OWN) else _source_digest(type(study))

    def run(self, cases: Iterable[Case]) -> None:
        """Run cases by stage; a RunError with reasons and logs when the others of the stage are finished."""
        stages: dict[str, list[Job]] = {}
        # A stage ends before the next begins, so that what a case comes after is there.
        for case in cases:
            stages.setdefault(case.stage, []).append(self._job(case))
        for what, jobs in stages.items():
            tell = partial(self.progress, what)
            outcomes = run_jobs(jobs, self.store, self.executor, progress=tell)
            check_outcomes(outcomes, jobs)
            self.outcomes |= outcomes

    def plain(self, case: Case) -> Mapping[str, Any]:
        """The plain values that a finished step returned."""
        result = self.outcomes[self._job(case).id].result
        assert result is not None
        return result

    def is_done(self, case: Case) -> bool:
        """Whether a step has a result, of this session or an earlier one."""
        return self.store.record(self._job(case)) is not None

    def arrays(self, case: Case) -> Arrays:
        """The arrays that a finished step returned."""
        return self.store.arrays(self._job(case), ARRAYS)

    def folder(self, case: Case) -> Path:
        """Where a step keeps its files."""
        return self.store.folder(self._job(case))

    def _job(self, case: Case) -> Job:
        if case not in self._jobs:
            # All that the result depends on makes the job's id; `where` may differ between machines.
            values = {"study": self._study.spec, "step": case.step, "case": dict(case.values)}
            where = {**self._where, **case.where}
            if case.after is not None:
                before = self._job(case.after)
                values["after"] = before.id  # which names what that step depended on
                where["after"] = str(self.store.folder(before))
            if self._source is not None:
                values["source"] = self._source
            self._jobs[case] = Job(
                f"{__name__}:run_step", values, where, label=case.label or case.group, cost=case.cost
            )
        return self._jobs[case]


@record
class StudyResult:
    """What a finished study left in its folder: result.json, and the arrays of examples.npz.

    study: which one, that knows its tables and figures; None for a result that was put together by hand.
    """

    folder: Path
    document: Mapping[str, Any]
    arrays: Mapping[str, Any]
    study: type[Study[Any]] | None = None

    @property
    def config(self) -> Mapping[str, Any]:
        """What the numbers depend on."""
        config: Mapping[str, Any] = self.document["config"]
        return config

    @property
    def results(self) -> Mapping[str, Any]:
        """What was measured."""
        results: Mapping[str, Any] = self.document["results"]
        return results

    def to_dict(self) -> dict[str, Any]:
        """All of result.json, as plain values."""
        return dict(self.document)

    def tables(self) -> dict[str, Table]:
        """The tables by title, as page and terminal show them."""
        return self._study().tables(self)

    def to_frame(self, title: str | None = None) -> Any:
        """A table as a pandas DataFrame, ends of intervals in columns of their own; the first by default."""
        tables = self._study().frames(self)
        if title is not None and title not in tables:
            raise unknown_name_error("title", title, tables)
        return tables[next(iter(tables)) if title is None else title].to_frame()

    def figures(self) -> dict[str, Figure]:
        """The figures of the page by the title of their part, and a number where it has several."""
        figures = {}
        for panel in self._study().panels(self):
            drawn = [one.figure for one in panel.illustrations if isinstance(one.figure, Figure)]
            for place, one in enumerate(drawn, start=1):
                figures[panel.title if len(drawn) == 1 else f"{panel.title} {place}"] = one
        return figures

    def figure(self, name: str) -> Figure:
        """One of `figures`; a UsageError that lists them for another name."""
        figures = self.figures()
        if name not in figures:
            raise unknown_name_error("figure", name, figures)
        return figures[name]

    def save(self, folder: str | Path) -> Path:
        """Copy result.json, examples.npz and the page to another folder, without the jobs; return it."""
        target = as_path(folder)
        target.mkdir(parents=True, exist_ok=True)
        for name in (RESULT, EXAMPLES, REPORT):
            write_atomic(target / name, (self.folder / name).read_bytes())
        return target

    def _study(self) -> type[Study[Any]]:
        if self.study is None:
            raise RunError(f"{self.folder}: this result is of no known study. Read it by its study's `read`.")
        return self.study

    def __repr__(self) -> str:
        return f"<result of {self.document.get('study', 'a study')} in {self.folder}>"

    def _repr_html_(self) -> str:
        """Tables and sentences, for a notebook."""
        study = self._study()
        parts = [f"<p>{escape(visible(line))}</p>" for line in study.findings(self)]
        for title, table in self.tables().items():
            parts.append(f"<h4>{escape(visible(title or study.title))}</h4>{table.to_html()}")
        return "".join([*parts, f"<p>{escape(str(self.folder / REPORT))}</p>"])


class Study(Generic[OptionsT]):
    """A question, what is measured to answer it, and the words of the answer.

    name: of the command and of the folder's claim. title, question: heading and kind of the page. columns:
    what a table has for each group, from what `measure` returns. Options: a frozen dataclass with the fields
    of `Placement`. Methods that describe a result take it as it was read from its folder, so that a page can
    be drawn again without the options.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    question: ClassVar[str] = "a study"
    columns: ClassVar[Sequence[Column]] = ()
    Options: ClassVar[type[Any]]
    Result: ClassVar[type[StudyResult]] = StudyResult
    form: ClassVar[Any] = Document
    forms: ClassVar[Mapping[str, str] | None] = None
    """What result.json and the arrays must have, as `read_json` and `read_arrays` take it."""
    dtype: ClassVar[str] = "float32"
    """In which the steps compute."""

    def __init__(self, options: OptionsT) -> None:
        if not isinstance(options, self.Options):
            raise argument_error("options", options, f"{self.Options.__qualname__} of {self.spec}")
        self.options: OptionsT = options
        self.prepare()

    # What is done

    def prepare(self) -> None:
        """Load data and fill every gap of the options, before any folder is made; raise UsageError."""

    def config(self) -> dict[str, Any]:
        """What results depend on, as plain values: neither paths nor the machine. Default: the options."""
        names = [one.name for one in fields(self.Options) if one.name not in _PLACEMENT]
        return {name: getattr(self.options, name) for name in names}

    def cases(self) -> Iterable[Case]:
        """The steps, in any order that has a case behind the one that it comes `after`."""
        raise NotImplementedError

    def where(self) -> dict[str, str]:
        """What all steps are told of paths and machine."""
        options: Any = self.options
        where = {"device": str(options.device)}
        if hasattr(options, "batch"):
            where["batch"] = str(options.batch)
        if hasattr(options, "data_root") and (options.data_root or "VERIDICAL_DATA" in os.environ):
            where["data_root"] = str(data_root(options.data_root).absolute())  # workers start elsewhere
        # A step from outside is imported by name where it runs, under the trust that its caller had.
        if getattr(options, "trust_code", False) or not self.spec.startswith(_OWN):
            where["trust_code"] = "yes"  # who has the class in hand has run its code
        return where

    def work(self, work: Work) -> None:
        """Do all that is to be done. Default: every case."""
        work.run(self.all_cases)

    @cached_property
    def all_cases(self) -> list[Case]:
        """The cases, made once."""
        return list(self.cases())

    def cases_of(self, group: str, step: str = "measure") -> list[Case]:
        """The cases of one group and step, in their order."""
        return [case for case in self.all_cases if (case.group, case.step) == (group, step)]

    def results(self, work: Work) -> dict[str, Any]:
        """What came out. Default: {"rows": {group: {column: its two intervals}}} of what was measured."""
        rows: dict[str, Any] = {case.group: {} for case in self.all_cases if case.step == "measure"}
        for group, row in rows.items():
            runs = [work.arrays(case) for case in self.cases_of(group)]
            for column in self.columns:
                bounds = BOUNDS.get(column.unit, UNBOUNDED)
                row[column.key] = two_intervals([arrays[column.key] for arrays in runs], bounds)
        return {"rows": rows}

    def pictures(self, work: Work) -> Arrays:  # noqa: ARG002 - for those that override it
        """The arrays that the page shows and that are kept beside the result. Default: none."""
        return {}

    def timing(self, work: Work) -> dict[str, Any]:  # noqa: ARG002 - as above
        """What result.json says of times beside the usual."""
        return {}

    def surroundings(self) -> dict[str, Any]:
        """What result.json says of paths and machine beside the usual."""
        return {}

    def placement(self) -> Any:
        """The options that say what jobs run on. Default: those given."""
        return self.options

    def announce(self) -> str | None:
        """What a command prints before it runs, such as what it will cost. Default: nothing."""
        return None

    def forecast(self) -> str | Table | None:
        """What to print in place of running, for a study that can tell how long it would take."""
        return None

    # What is said about it

    @classmethod
    def tables(cls, result: StudyResult) -> dict[str, Table]:
        """The tables by title, for page, terminal and Markdown. Default: a row for each group."""
        return {cls.title: table_of("group", cls.columns, result.results["rows"])}

    @classmethod
    def frames(cls, result: StudyResult) -> dict[str, Table]:
        """The tables by title whose numbers a data frame is made of. Default: those of the page."""
        return cls.tables(result)

    @classmethod
    def heading(cls, result: StudyResult) -> str:  # noqa: ARG003 - as above
        """The title of the page. Default: the study's."""
        return cls.title

    @classmethod
    def lead(cls, result: StudyResult) -> str:  # noqa: ARG003 - as above
        """One paragraph: what was measured, and why. Default: the study's docstring."""
        return inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0]

    @classmethod
    def findings(cls, result: StudyResult) -> list[str]:  # noqa: ARG003 - as above
        """Sentences that the intervals alone allow."""
        return []

    @classmethod
    def panels(cls, result: StudyResult) -> list[Panel]:
        """The parts of the page. Default: the tables; the page says itself what their columns mean."""
        return [Panel(title, table=table) for title, table in cls.tables(result).items()]

    @classmethod
    def facts(cls, result: StudyResult) -> dict[str, Any]:
        """How it was measured, as names and values. Default: all that the results depend on."""
        return dict(result.config)

    # The mechanism

    @property
    def local_device(self) -> str:
        """Where this process computes: a cluster's devices are other machines'."""
        options: Any = self.options
        return "cpu" if options.scheduler is not None else str(options.device)

    @property
    def spec(self) -> str:
        """The class as workers import it."""
        return f"{type(self).__module__}:{type(self).__qualname__}"

    def run(
        self, progress: ProgressCallback | None = None, *, executor: Executor | None = None
    ) -> StudyResult:
        """Do what is not done yet, write result.json, examples.npz and the page to `out`; return the result.

        executor: where jobs run, which stays open; None is what the options say.

        Steps are kept as they come: interrupted at any moment, the same options continue, and studies that
        share a store share steps. Raises UsageError for options that do not fit, and for a folder of
        something else; RunError, when all others are finished, with the reasons and logs of what failed.
        """
        options: Any = self.options
        config = self.config()
        # Steps that run in this process need no import, which a notebook's class could not pass.
        _LIVE[self.spec] = type(self)
        with nullcontext(executor) if executor else executor_of(self.placement()) as executor:
            if type(self).__module__ == "__main__" and not isinstance(executor, InProcess):
                what = f"workers import {self.spec} by its name and cannot import __main__"
                raise UsageError(f"{what}. Put the class into a module, or give workers=1.")
            store = None if options.store is None else Store(options.store)  # refused, it leaves no claim
            folder = claim_folder(options.out, self.name, config)
            work = Work(self, store or Store(folder / JOBS), executor, progress)
            self.work(work)
            threads = torch.get_num_threads()
        # Results are made when the workers are gone: they need the memory.
        examples = pack_arrays(self.pictures(work))
        write_atomic(folder / EXAMPLES, examples)
        seconds = sum(outcome.seconds or 0.0 for outcome in work.outcomes.values())
        document = result_document(
            self.results(work),
            config,
            {
                **environment(resolve_device(self.local_device), self.dtype, threads, options.seed),
                "executor": type(executor).__name__,
                "workers": workers_of(executor),
                "store": str(work.store.root),
                **self.surroundings(),
            },
            {"jobs": len(work.outcomes), "seconds": round(seconds, 3), **self.timing(work)},
            {EXAMPLES: examples},
        )
        # The result is what the folder holds, as a later reader finds it: the page is drawn from that.
        write_json(folder / RESULT, {**document, "study": self.name})
        result = self.read(folder)
        self.write_page(result)
        return result

    @classmethod
    def read(cls, folder: str | Path) -> StudyResult:
        """Read what the study left in a folder; a RunError for a folder that is not a finished one of it."""
        path = as_path(folder)
        document = read_json(path / RESULT, Document)
        # Another study's document would pass the check of form and fail somewhere in the page.
        if document.get("study") != cls.name or EXAMPLES not in document["files"]:
            raise RunError(
                f"{path} is not a finished {cls.name}: `veridical {cls.name} --out {path}` makes one."
            )
        check_form(document, cls.form, path / RESULT)
        # Its digest, from the document, ties the pictures to these numbers.
        arrays = read_arrays(path / EXAMPLES, cls.forms, sha256=document["files"][EXAMPLES])
        if cls.forms and not set(arrays["label"].tolist()) <= set(range(len(arrays["classes"]))):
            raise RunError(
                f"{path / EXAMPLES} is damaged: label names classes that are not there. {REPEAT_HINT}"
            )
        return cls.Result(path, document, arrays, cls)

    @classmethod
    def schema(cls) -> dict[str, Any]:
        """The JSON Schema of the study's result.json: what every one has, and what is read of this one."""
        forms = [] if cls.form is Document else [cls.form]
        schema = result_schema(cls.name, *forms)
        schema["allOf"].append({"properties": {"study": {"const": cls.name}}, "required": ["study"]})
        return schema

    @classmethod
    def write_page(cls, result: StudyResult) -> Path:
        """Draw the page from what lies in the folder, and return its path."""
        machine = result.document["environment"]
        version = f"veridical {machine['veridical']}, torch {machine['torch']}, {machine['dtype']}"
        page = study_page(
            cls.heading(result),
            [cls.lead(result), *cls.findings(result)],
            cls.panels(result),
            {**cls.facts(result), "Jobs": result.document["timing"]["jobs"], "Version": version},
            question=cls.question,
        )
        target = result.folder / REPORT
        write_atomic(target, page)
        return target


_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)?")
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, None: 60.0}


def read_duration(given: float | str | None) -> float | None:
    """Seconds of a time as people write it: 90s, 10m, 2h; a number alone is minutes. None stays None."""
    if given is None:
        return None
    found = _DURATION.fullmatch(given.strip()) if isinstance(given, str) else (given, given, None)
    seconds = math.nan if found is None else float(found[1]) * _SECONDS[found[2]]
    if not 0 < seconds < math.inf:
        raise argument_error("budget", given, "a time above 0, such as 90s, 10m or 2h")
    return seconds


class Budget:
    """Whether a further step fits into a time, by what it is predicted to cost and what others took.

    limit: seconds from now on; None is no limit. costs: predicted seconds of each step by name.
    """

    def __init__(self, limit: float | None, costs: Mapping[str, float]) -> None:
        self._limit, self._costs = limit, costs
        self._begun, self._taken = time.monotonic(), dict[str, float]()

    def spend(self, name: str, seconds: float) -> float:
        """Remember what a step took; return it, rounded for a result."""
        self._taken[name] = seconds
        return round(seconds, 3)

    def refuse(self, *names: str) -> str | None:
        """Why steps are not begun: the time is spent, or they would pass it. None: they may begin."""
        if self._limit is None:
            return None
        spent, told = time.monotonic() - self._begun, f"the budget of {duration(self._limit)}"
        if spent > self._limit:
            return f"{told} was spent"
        # As much slower or faster as what was done so far turned out to be.
        known = [one for one in self._taken if self._costs.get(one, 0) > 0]
        predicted = sum(self._costs[one] for one in known)
        pace = sum(self._taken[one] for one in known) / predicted if known else 1.0
        needed = pace * sum(self._costs[one] for one in names)
        if spent + needed > self._limit:
            left = duration(self._limit - spent)
            return f"it would take about {duration(needed)}, and {left} of {told} are left"
        return None


def _source_digest(study: type[Study[Any]]) -> str:
    """SHA-256 of the file of a study from outside: with other code, what it measured is measured again."""
    try:
        text = inspect.getsource(inspect.getmodule(study) or study)
    except (OSError, TypeError):  # defined where no file is, as in a shell: the compiled code has to do
        functions = [getattr(one, "__func__", one) for one in vars(study).values()]
        codes = [one.__code__ for one in functions if inspect.isfunction(one)]
        text = repr([(code.co_code, code.co_consts, code.co_names) for code in codes])
    return hashlib.sha256(text.encode()).hexdigest()


def check_different(name: str, values: Sequence[object]) -> None:
    """Raise a UsageError for an option of several values that has none, or one twice."""
    if not values or len(set(values)) < len(values):
        raise argument_error(name, values, "different values, at least one")


def table_of(
    heading: str, columns: Sequence[Column], entries: Mapping[str, Mapping[str, Any]], caption: str = ""
) -> Table:
    """A table with a row for each entry, whose name stands first.

    A column's key is the way to its value in the entry: "maps/mass" is entry["maps"]["mass"], a number in it
    a place in a list. Where the way ends early there is nothing.
    """
    rows = [[name, *(_look_up(entry, column.key) for column in columns)] for name, entry in entries.items()]
    return Table([heading, *columns], rows, caption)


def _look_up(entry: Any, key: str) -> Any:
    for part in key.split("/"):
        if entry is None:
            return None
        entry = entry[int(part)] if isinstance(entry, list) else entry.get(part)
    return entry


def compare(difference: Mapping[str, Any], reference: str) -> str:
    """The difference of a share to a reference in words, as its shown interval allows."""
    words = {1: "more than", -1: "less than", 0: "not shown to differ from"}[Interval.read(difference).sign]
    return f"{words} {reference}, a difference of {write_points(difference)}"


def list_settings(settings: Mapping[str, Any]) -> str:
    """Settings on one line of a page, without those that are None or empty: steps 8, learning_rate 0.003.

    Those within another stand beside it: model_options.width 8.
    """
    told = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            inner = list_settings({f"{key}.{name}": one for name, one in value.items()})
            told += [inner] if inner else []
        elif value is not None:
            told.append(f"{key} {f'{value:g}' if isinstance(value, float) else value}")
    return ", ".join(told)


def distinct_titles(
    titles: Sequence[str] | None, defaults: Sequence[str], folders: Sequence[Path], what: str
) -> list[str]:
    """Different titles: those given, else the defaults, with the folder's name where two are equal.

    what: what is named, for messages. Raises UsageError for titles of another number, or that are equal.
    """
    if titles is not None and len(titles) != len(defaults):
        raise argument_error("titles", list(titles), f"{len(defaults)} names, one for each {what}")
    chosen = list(titles or defaults)
    if titles is None:
        chosen = [
            title if chosen.count(title) == 1 else f"{title} ({folder.name})"
            for title, folder in zip(chosen, folders, strict=True)
        ]
    if len(set(chosen)) < len(chosen):
        raise argument_error("titles", chosen, f"a different name for each {what}", "Give --titles.")
    return chosen


def check_alike(
    named: Mapping[str, StudyResult], conditions: Mapping[str, Mapping[str, Any]], advice: str
) -> None:
    """Raise a UsageError unless all results by title were measured under the conditions of the first."""
    (name, first), *others = named.items()
    for other_name, other in others:
        for key, value in conditions[name].items():
            if conditions[other_name].get(key) != value:
                raise UsageError(
                    f"{name} ({first.folder}) and {other_name} ({other.folder}) do not compare: their {key} "
                    f"differs, {value} and {conditions[other_name].get(key)}. {advice}"
                )


@contextmanager
def executor_of(options: Placement) -> Iterator[Executor]:
    """Where the options say that jobs run; in the block torch has as many threads as a worker has.

    A Dask scheduler by its address; one worker for each GPU, or a core; or this process, for one worker.
    """
    # A cluster's devices are other machines'.
    device = None if options.scheduler is not None else resolve_device(options.device)
    pinned = device is not None and options.device in ("auto", "cuda") and device.type == "cuda"
    executor: Executor
    if options.scheduler is not None:
        executor = Dask(options.scheduler, insecure=options.insecure)
    elif options.workers == 1:
        executor = InProcess()
    elif pinned:
        # Workers are dealt out evenly over the cards, rounded up.
        share = -(-(options.workers or 1) // max(1, len(visible_cards())))
        executor = ProcessPool(options.workers, options.threads or 1, gpus="all", per_gpu=share)
    else:
        executor = ProcessPool(options.workers, options.threads or 1)
    # Many processes of one thread beat few of several: small batches gain little from a second thread.
    alone = isinstance(executor, InProcess)
    threads = options.threads or (torch.get_num_threads() if alone else 1)
    with executor, thread_count(threads):
        yield executor


def limit_count(wanted: int | None, available: int) -> int:
    """How many of the available examples are used; None wants all."""
    return available if wanted is None else min(wanted, available)
