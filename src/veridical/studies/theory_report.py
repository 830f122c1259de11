"""From a finished experiment on the theorems to its page, and to what a terminal shows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veridical.report import Panel, study_page
from veridical.runtime.files import write_atomic
from veridical.studies import block_margin_panels, one_layer_panels

REPORT = "report.html"

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Experiment:
    """How one experiment is told: question, title, lead, and from results to headlines, panels and rows."""

    question: str
    title: str
    lead: str
    headlines: Callable[[Results], list[str]]
    panels: Callable[[Results], list[Panel]]
    columns: Sequence[str]
    rows: Callable[[Results], list[list[str]]]


EXPERIMENTS: Mapping[str, Experiment] = {
    "block-margin": Experiment(
        "what do input gradients of max-margin networks mark?",
        "Do input gradients mark what told the label?",
        "In the block world one block of each input tells its label, half of the blocks could have told it, "
        "and the others are noise. A gradient that explains an input marks the block that told its label.",
        block_margin_panels.headlines,
        block_margin_panels.panels,
        block_margin_panels.COLUMNS,
        block_margin_panels.rows,
    ),
    "one-layer": Experiment(
        "is robust attribution adversarial training, for one layer?",
        "One layer: three trainings that are one",
        "For a linear model, IG-NORM with weight 1 and adversarial training minimise the same function, a "
        "soft max-margin. Here all three are trained from one start on the same batches, in float64.",
        one_layer_panels.headlines,
        one_layer_panels.panels,
        one_layer_panels.COLUMNS,
        one_layer_panels.rows,
    ),
}


def experiment_of(document: Mapping[str, Any]) -> Experiment:
    """How the experiment of a result document is told."""
    return EXPERIMENTS[document["config"]["experiment"]]


def write_theory_report(folder: str | Path, document: Mapping[str, Any]) -> Path:
    """Write the page into the experiment's folder and return its path."""
    told, results = experiment_of(document), document["results"]
    environment = document["environment"]
    facts = {
        **document["config"],
        "version": f"veridical {environment['veridical']}, torch {environment['torch']}",
        "dtype": environment["dtype"],
        "trainings": document["timing"].get("jobs", document["timing"].get("trainings")),
    }
    page = study_page(
        told.title,
        [told.lead, *told.headlines(results)],
        told.panels(results),
        facts,
        question=told.question,
    )
    target = Path(folder) / REPORT
    write_atomic(target, page)
    return target
