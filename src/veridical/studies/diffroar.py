"""DiffROAR: whether an attribution ranks first the coordinates that a network can learn from, by retraining.

Shah, Jain, Netrapalli, "Do input gradients highlight discriminative features?", NeurIPS 2021.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from veridical.faithfulness.diffroar import Measuring
from veridical.faithfulness.diffroar_plan import Design, plan_diffroar
from veridical.faithfulness.forecast import forecast
from veridical.faithfulness.ranking import Ranking
from veridical.faithfulness.retraining import OVERRIDES
from veridical.faithfulness.unmasking import ENDS, unmask
from veridical.report import Panel, Table
from veridical.report.formats import duration
from veridical.runtime.checking import Count, FilePath, Limit, Width, needs
from veridical.runtime.files import Arrays
from veridical.runtime.options import (
    Gallery,
    ModelOption,
    OptimiserOptions,
    Placement,
    RetrainObjectiveName,
    StackedName,
    SubjectChoice,
)
from veridical.studies import diffroar_page
from veridical.studies.maps import first_of_each_class
from veridical.studies.study import REPORT, Case, Study, StudyResult, Work, executor_of
from veridical.training.subject import load_subject


@dataclass(frozen=True, kw_only=True)
class DiffRoarOptions(OptimiserOptions, Gallery, SubjectChoice, Placement, Design):
    """Measure whether an attribution ranks the coordinates that carry the information, by retraining.

    Options of the retraining that are None are those of the run (of the recipe "fast" without a run).

    Args:
        store: Folder of finished retrainings, which several commands may share; None is one inside `out`.
        attribution: By name {attributions}, captum:CLASS, module:callable, or an .npz file of
            attribution_train and attribution_test.
        retrain_model: Architecture to retrain, by name, run folder or module:callable; None is the
            examined one.
        retrain_model_options: Options of an architecture by name, for example {"width": 8}.
        retrain_objective: Objective of the retraining, natural or the run's own.
        train_examples: Use only so many training images; None uses as many as the run.
        bf16: Retrain with bfloat16 products and convolutions, on CPUs that have them.
        stacked: Train several retrainings in one program, never, or (auto) where that can be done: natural
            ones of an mlp with a constant fill.
        batch: Images whose attributions are computed at a time.
        dry_run: Only predict how many retrainings there are and how long they take.
        seed: Seed of ties, random orders and retrainings.
    """

    attribution: FilePath = "input-gradient"
    retrain_model: FilePath | None = None
    retrain_model_options: dict[str, ModelOption] = field(
        default_factory=dict, metadata=needs("retrain_model")
    )
    retrain_objective: RetrainObjectiveName = "natural"
    train_examples: Count | None = None
    bf16: bool = False
    stacked: StackedName = "never"
    batch: Width = 200
    gallery: Annotated[int, Limit(1, 1000)] = 6
    dry_run: bool = False


class DiffRoar(Study[DiffRoarOptions]):
    r"""Measure whether an attribution marks what a network can learn from: DiffROAR, by retraining.

    examples:
      veridical diffroar --run runs/natural --data fashion-mnist --attribution input-gradient \
          --levels 0.05 0.1 0.2 0.5 --repeats 5 --out runs/dr
      veridical diffroar --run runs/natural --dry-run --out runs/dr
      veridical diffroar --model cnn --weights cnn.pt --data fashion-mnist --out runs/mine

    New networks are trained on images of which only the coordinates that the attribution marks most, or
    least, are left; the difference of their accuracies is DiffROAR. --dry-run predicts how long that
    takes. An interrupted measurement is continued by the same command. DIR/report.html shows what came
    out, DIR/result.json has the numbers; `veridical diffroar-report` puts several side by side.
    """

    name = "diffroar"
    question = "are explanations faithful?"
    Options = DiffRoarOptions
    form = diffroar_page.FORM
    forms = diffroar_page.ARRAYS_FORM

    def prepare(self) -> None:
        """Load the subject, and settle what is ranked, unmasked and retrained."""
        options = self.options
        self.subject = load_subject(options, device=self.local_device)
        retrained, retrained_options = options.retrain_model, options.retrain_model_options
        # A run says itself what is retrained; a model by name and options is built anew from them.
        if retrained is None and self.subject.run is None:
            retrained, retrained_options = options.model, options.model_options
        self.measurement = plan_diffroar(
            self.subject,
            None,
            attribution=options.attribution,
            design=options,
            # A flag that was not given does not turn off what the run had.
            overrides={name: getattr(options, name) for name in OVERRIDES} | {"bf16": options.bf16 or None},
            retrain_model=retrained,
            retrain_model_options=retrained_options,
            retrain_objective=options.retrain_objective,
            data_root=options.data_root,
            trust_code=options.trust_code,
            device=options.device,
        )

    def config(self) -> dict[str, Any]:
        """What the results depend on, as plain values; neither paths nor the machine."""
        return {"run": dict(self.subject.facts), **self.measurement.describe()}

    def cases(self) -> list[Case]:
        """None: retrainings are planned from the rankings, and are jobs of `veridical.faithfulness`."""
        return []

    def work(self, work: Work) -> None:
        """Rank, retrain, and put the accuracies together."""
        options = self.options
        self.measuring = Measuring(
            self.measurement,
            Path(options.out),
            work.store,
            work.executor,
            options.batch,
            options.stacked,
            work.progress,
        )
        self.measured = self.measuring.run()

    def results(self, work: Work) -> dict[str, Any]:  # noqa: ARG002 - measured when the jobs were done
        """Curves with verdicts, baselines, the control, rankings and notes."""
        return self.measured.to_dict()

    def timing(self, work: Work) -> dict[str, Any]:  # noqa: ARG002 - as above
        """What retrainings took, and were predicted to take."""
        return dict(self.measured.timing)

    def surroundings(self) -> dict[str, Any]:
        """What was judged, where it lay."""
        return {"run": self.subject.title, "attribution": self.options.attribution}

    def forecast(self) -> str | None:
        """With --dry-run, how many retrainings there are and how long they take; nothing is written."""
        options = self.options
        if not options.dry_run:
            return None
        with executor_of(options) as executor:
            ahead = forecast(self.measurement, executor, batch=options.batch, stacked=options.stacked)
        what = {"images": "on unmasked images", "masks": "on masks alone"}
        lines = [
            f"{count} retrainings {what[shown]}, {duration(ahead.seconds_each[shown])} each"
            for shown, count in ahead.retrainings.items()
        ]
        workers = f"{ahead.workers} at a time" if ahead.workers > 1 else "one after the other"
        lines.append(f"rankings first: {duration(ahead.ranking_seconds)}")
        return "\n".join([*lines, f"in total, {workers}: {duration(ahead.total_seconds)}"])

    def pictures(self, work: Work) -> Arrays:  # noqa: ARG002 - from the ranking's file
        """The first test images of each class, their order, and both ends of every level.

        image uint8 (n, C, H, W), label and index (n,), order float32 (n, H, W) from 1 for what comes first to
        0 (the mean over channels), unmasked uint8 (n, levels, 2, C, H, W), top and bottom, levels, and class
        names.
        """
        measurement = self.measurement
        ranking = Ranking.load(self.measuring.ranking_path("judged"))
        split, design = measurement.data.test, measurement.design
        index = first_of_each_class(split.labels, self.options.gallery)
        inputs, labels = split.batch(index)
        whole = ranking.test
        ranks = torch.from_numpy(np.array(whole[index] if len(whole) > 1 else whole[[0] * len(index)]))
        # From 1 for what comes first to 0, as maps are drawn; one coordinate alone is first.
        last = max(1, ranking.coordinates - 1)
        order = (1 - ranks.double() / last).reshape(len(index), -1, *split.images.shape[2:]).mean(dim=1)
        unmasked = [
            unmask(inputs, ranks, level, end, mode=design.mode, fill=measurement.fill, indices=index)
            for level in design.levels
            for end in ENDS
        ]
        grid = (len(index), len(design.levels), len(ENDS), *inputs.shape[1:])
        return {
            "index": np.asarray(index, dtype=np.int64),
            "image": split.images[index].numpy(),
            "label": labels.numpy(),
            "order": order.float().numpy(),
            "levels": np.asarray(design.levels),
            "unmasked": _to_bytes(torch.stack(unmasked, dim=1)).reshape(grid),
            "classes": np.asarray(measurement.data.classes, dtype=np.str_),
        }

    @classmethod
    def read(cls, folder: str | Path) -> StudyResult:
        """Read what a measurement left in a folder, its verdicts judged again; RunError if it is none."""
        return diffroar_page.judge_again(super().read(folder))

    @classmethod
    def tables(cls, result: StudyResult) -> dict[str, Table]:
        """A row for each level."""
        named = diffroar_page.name_measurements([result])
        return {name: diffroar_page.diffroar_table(named) for name in named}

    @classmethod
    def findings(cls, result: StudyResult) -> list[str]:
        """The headline, and what is to be known beside it."""
        headlines = [
            diffroar_page.diffroar_headline(*one) for one in diffroar_page.name_measurements([result]).items()
        ]
        return [*headlines, *(f"note: {note}" for note in result.results["notes"])]

    @classmethod
    def panels(cls, result: StudyResult) -> list[Panel]:
        """The parts of the page."""
        return diffroar_page.diffroar_panels(diffroar_page.name_measurements([result]))

    @classmethod
    def write_page(cls, result: StudyResult) -> Path:
        """Draw the page that `diffroar-report` draws of several measurements, and return its path."""
        run = result.document["environment"]["run"]
        return diffroar_page.write_diffroar_page(
            result.folder / REPORT,
            diffroar_page.name_measurements([result]),
            title=f"Does {diffroar_page.attribution_name(result)} mark what a network can learn from?",
            lead=f"DiffROAR of {run} on {result.config['data']['name']}.",
        )


def _to_bytes(inputs: torch.Tensor) -> Any:
    return (inputs.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
