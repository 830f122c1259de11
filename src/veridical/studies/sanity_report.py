"""From a finished sanity check to its page: verdicts, similarity over the layers, trainings, a gallery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from veridical.report import (
    Curve,
    Illustration,
    Panel,
    PictureRow,
    Table,
    curves_figure,
    pictures_figure,
    study_page,
)
from veridical.report.table import write_cell
from veridical.runtime.files import write_atomic
from veridical.studies.attacked import training_title
from veridical.studies.finished import Finished, read_finished
from veridical.studies.maps import channels_last, image_and_maps
from veridical.studies.sanity_run import KIND
from veridical.studies.sanity_words import (
    MEASURE_WORDS,
    TRAINING_WORDS,
    VERDICT_COLUMNS,
    headlines,
    meaning,
    verdict_rows,
)

REPORT = "report.html"

_ORDERS = {
    "cascading": "Layers randomised one after the other, from the logits down",
    "independent": "One layer randomised at a time, the others trained",
}
_MOST_STATES = 4
"""Columns of the gallery for the cascade."""


def read_sanity(folder: str | Path) -> Finished:
    """Read what `veridical sanity` left; a RunError for a folder that is not a finished check."""
    return read_finished(Finished, folder, KIND, "similarity", what="check")


def write_sanity_report(check: Finished) -> Path:
    """Write the page into the check's folder and return its path."""
    config = check.config
    model, data = training_title(config["run"]), config["data"]["name"]
    lead = [
        (
            f"Whether the explanations of {check.results['examples']:,} test images of {data} change when "
            f"the network ({model}, {config['run']['model']['name']}) loses what it has learnt."
        ),
        *headlines(check.results),
        *check.results["notes"],
    ]
    panels = [_verdict_panel(check)]
    for name, entry in check.results["attributions"].items():
        panels += [_order_panel(name, order, entry) for order in _ORDERS if order in entry]
    if check.results["trainings"]:
        panels += _trainings_panels(check)
    panels += [_gallery_panel(check), Panel("What was measured", meaning(config))]
    page = study_page(
        f"Do the maps care what {model} has learnt?",
        lead,
        panels,
        _facts(check),
        question="a sanity check of explanations",
    )
    target = check.folder / REPORT
    write_atomic(target, page)
    return target


def cell(interval: Mapping[str, Any]) -> str:
    """A number with its interval, which covers draws and examples together."""
    return write_cell({"examples": interval, "seeds": interval}, "number")


def _share(interval: Mapping[str, Any]) -> str:
    return write_cell({"examples": interval, "seeds": interval}, "share")


def _verdict_panel(check: Finished) -> Panel:
    text = (
        "What remains of the maps in networks that have lost what told the classes: 100% is the same map, 0% "
        "has no more in common with it than the map of another image."
    )
    return Panel("Verdicts", [text], table=Table(VERDICT_COLUMNS, verdict_rows(check.results)))


def _order_panel(name: str, order: str, entry: Mapping[str, Any]) -> Panel:
    """One attribution and one order: the curves of all measures, and the numbers beside them."""
    states = entry[order]
    rows = [
        [state["stage"], _share(state["agreement"]), *(cell(state["similarity"][m]) for m in MEASURE_WORDS)]
        for state in states
    ]
    rows += [
        [f"({other}, for comparison)", "", *(cell(found[m]) for m in MEASURE_WORDS)]
        for other, found in entry["unrelated"].items()
    ]
    first = "randomised down to" if order == "cascading" else "randomised"
    return Panel(
        f"{_ORDERS[order]}: {name}",
        illustrations=[
            Illustration(
                _curves(states, entry["unrelated"]["other image"], order),
                "Similarity to the trained network's map. Dashed: similarity to the map of another image.",
                f"Three measures of similarity over the layers, for {name}; the numbers are in the table.",
            )
        ],
        table=Table([first, "same prediction", *MEASURE_WORDS.values()], rows),
    )


def _curves(states: Sequence[Mapping[str, Any]], unrelated: Mapping[str, Any], order: str) -> Any:
    """Similarity over the number of randomised stages, or over the stage; dashed what is unrelated."""
    cascading = order == "cascading"
    x = list(range(0 if cascading else 1, len(states) + 1))
    curves = []
    for colour, (measure, words) in enumerate(MEASURE_WORDS.items()):
        found = [state["similarity"][measure] for state in states]
        ends = {end: [one[end] for one in found] for end in ("value", "low", "high")}
        if cascading:
            # Nothing randomised: the same map.
            ends = {end: [1.0, *values] for end, values in ends.items()}
        curves.append(Curve(words, x, ends["value"], ends["low"], ends["high"], colour=colour))
        level = unrelated[measure]["value"]
        curves.append(Curve("", x, [level] * len(x), dashed=True, colour=colour))
    return curves_figure(
        curves,
        x_label="layers randomised" if cascading else "the randomised layer, 1 being the logits'",
        y_label="similarity to the trained map",
        y_bounds=(-1.0, 1.0),
    )


def _trainings_panels(check: Finished) -> list[Panel]:
    """What the new networks have learnt, and for each attribution how alike their maps are."""
    results = check.results
    examples = check.config["train_examples"]
    text = (
        f"Networks of the same architecture, trained anew on {examples:,} images. Permuted labels and images "
        "of noise can only be learnt by heart, and carry nothing over to the test images."
    )
    learnt = [
        [TRAINING_WORDS[kind], _share(one["training_accuracy"]), _share(one["test_accuracy"])]
        for kind, one in results["trainings"].items()
    ]
    columns = ["trained on", "training accuracy", "test accuracy"]
    panels = [Panel("New trainings", [text], table=Table(columns, learnt))]
    for name, entry in results["attributions"].items():
        rows = [
            [TRAINING_WORDS[kind], *(cell(state["similarity"][m]) for m in MEASURE_WORDS)]
            for kind, state in entry["trainings"].items()
        ]
        other = entry["unrelated"]["other image"]
        rows.append(["(other image, for comparison)", *(cell(other[m]) for m in MEASURE_WORDS)])
        table = Table(["trained on", *MEASURE_WORDS.values()], rows)
        panels.append(Panel(f"Maps after new trainings: {name}", table=table))
    return panels


def _gallery_panel(check: Finished) -> Panel:
    arrays, results = check.arrays, check.results
    if not len(arrays["index"]):
        return Panel("Maps", ["No images were asked for."])
    illustrations = []
    for name, entry in results["attributions"].items():
        columns: list[tuple[str, Any]] = [("trained", arrays[f"{name}/own"])]
        if "cascading" in entry:
            states = entry["cascading"]
            chosen = np.unique(np.linspace(0, len(states) - 1, min(_MOST_STATES, len(states))).round())
            columns += [
                (f"down to {states[place]['stage']}", arrays[f"{name}/cascading"][place])
                for place in chosen.astype(int).tolist()
            ]
        columns += [
            (f"trained on {TRAINING_WORDS[kind]}", arrays[f"{name}/{kind}"]) for kind in entry["trainings"]
        ]
        rows = [
            PictureRow(
                str(arrays["classes"][label]),
                [channels_last(arrays["image"][place]), *(maps[place] for _, maps in columns)],
            )
            for place, label in enumerate(arrays["label"].tolist())
        ]
        titles = ["image", *(title for title, _ in columns)]
        figure = pictures_figure(rows, titles, image_and_maps(len(columns)))
        alt = f"{len(rows)} images and their maps by {name}: of the network as trained, and of changed ones."
        illustrations.append(Illustration(figure, f"{name}, each map on a scale of its own.", alt))
    return Panel("Maps", illustrations=illustrations)


def _facts(check: Finished) -> dict[str, object]:
    config, document = check.config, check.document
    environment = document["environment"]
    facts: dict[str, object] = {
        "Images": f"the first {config['examples']:,} test images of {config['data']['name']}",
        "Explained class": "the network's prediction" if config["target"] == "predicted" else "the label",
        "Draws of fresh weights": str(config["repeats"]),
        "SSIM": f"gaussian window of {config['similarity']['ssim_window']} pixels",
        "Seed": str(config["seed"]),
        "Version": f"veridical {environment['veridical']}, torch {environment['torch']}",
    }
    if config["training"] is not None:
        facts["New trainings"] = f"{config['train_examples']:,} images, {config['training']['steps']:,} steps"
    for name, record in config["attributions"].items():
        facts[name] = ", ".join(f"{key} {value}" for key, value in record.items() if value not in ({}, None))
    return facts
