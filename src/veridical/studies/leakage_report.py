"""From a finished leakage study to its page: null shares over k, pairs, and a gallery."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from veridical.report import (
    Colours,
    Curve,
    Illustration,
    Panel,
    PictureRow,
    Table,
    curves_figure,
    pictures_figure,
    study_page,
)
from veridical.report.formats import level_text, percent
from veridical.runtime.files import write_atomic
from veridical.studies.finished import Finished
from veridical.studies.leakage_plan import TITLES
from veridical.studies.leakage_tables import (
    PAIR_COLUMNS,
    SURE_COLUMNS,
    columns,
    first_model,
    maps_of,
    pair_rows,
    rows,
    sure_rows,
)
from veridical.studies.leakage_words import MEANING, PAIRS, SURE, facts, headlines
from veridical.studies.map_figures import channels_last, topk_curve

REPORT = "report.html"


def write_leakage_report(study: Finished, gallery: int = 6) -> Path:
    """Write the page into the study's folder and return its path; `gallery` images of each data set."""
    names = list(study.config["attributions"])
    lead = [
        (
            "Each image is a block that shows a digit and one that tells nothing, the null block. How much "
            f"of the explanations of {study.results['explained']:,} test images lies there, and why?"
        ),
        *headlines(study),
    ]
    panels: list[Panel] = []
    for name in names:
        panels += [_curves_panel(study, name), _table_panel(study, name)]
        if any("left_at_ink" in maps for _, _, maps in maps_of(study, name)):
            panels.append(_pairs_panel(study, name))
        panels += [_gallery_panel(study, name, gallery)] if gallery else []
    panels.append(
        Panel("How sure the models are", SURE, table=Table(SURE_COLUMNS, sure_rows(study, names[0])))
    )
    panels.append(Panel("What is measured", MEANING))
    title = "Do explanations mark what is in the image, or what is in others?"
    page = study_page(title, lead, panels, facts(study), question="feature leakage")
    target = study.folder / REPORT
    write_atomic(target, page)
    return target


def _curves_panel(study: Finished, attribution: str) -> Panel:
    """A chart for each data set, of one scale; a training has one colour in all of them."""
    titles = list(study.results["models"])
    by_position: dict[str, list[Curve]] = {}
    for title, position, maps in maps_of(study, attribution):
        levels, colour = study.config["levels"], titles.index(title)
        curve = topk_curve(title, levels, maps["null"]["topk"], colour=colour)
        by_position.setdefault(position, []).append(curve)
    area = first_model(study)["maps"][attribution]["null"]["area"]["examples"]["value"]
    drawn = [y for curves in by_position.values() for curve in curves for y in curve.y if y is not None]
    # Intervals over few seeds can be many times as wide as the range of a share.
    y_range = (0.0, min(1.0, 0.1 + max(area, *drawn)))
    illustrations = []
    for position, curves in by_position.items():
        name = TITLES[position]
        figure = curves_figure(
            curves,
            title=name,
            x_label="k, share of the coordinates",
            y_label="share of them in the null block",
            x_percent=True,
            y_percent=True,
            y_range=y_range,
            level_line=(area, "its share of the area"),
        )
        alt = (
            f"Share of the top coordinates of {attribution} in the null block over k on {name}, by training."
        )
        illustrations.append(Illustration(figure, "Bands: 95% intervals; two seeds have none.", alt))
    return Panel(
        title=f"The null block's share: {attribution}",
        text=["0% marks the digit alone; the share of the area is what a map without knowledge scores."],
        illustrations=illustrations,
    )


def _table_panel(study: Finished, attribution: str) -> Panel:
    caption = (
        "Values with their 95% intervals, over seeds where there are several, else over images. AUC: of "
        "|attribution| as a sign of the null block; 0.5 says nothing, 0 puts the digit's block first."
    )
    return Panel(
        title=f"In numbers: {attribution}", table=Table(columns(study), rows(study, attribution), caption)
    )


def _pairs_panel(study: Finished, attribution: str) -> Panel:
    return Panel(
        title=f"The same digit in the other place: {attribution}",
        text=PAIRS,
        table=Table(PAIR_COLUMNS, pair_rows(study, attribution)),
    )


def _gallery_panel(study: Finished, attribution: str, count: int) -> Panel:
    arrays, titles = study.arrays, list(study.results["models"])
    positions = list(study.config["data"])
    gallery: list[PictureRow] = []
    for place in range(min(count, len(arrays[f"{positions[0]}/label"]))):
        gallery += [_picture_row(study, attribution, position, place) for position in positions]
    heat: list[Colours] = ["heat"] * len(titles)
    figure = pictures_figure(gallery, ["image", *titles], ["grey", *heat])
    alt = f"Images with the digit's block outlined, and maps of {attribution} of each training."
    text = (
        "The digit's block is outlined. Below each map stands the share of its top "
        f"{level_text(_caption_level(study))} of coordinates that lies in the null block. Each map has a "
        "scale of its own; models are those of the first seed."
    )
    return Panel(title=f"Examples: {attribution}", text=[text], illustrations=[Illustration(figure, "", alt)])


def _picture_row(study: Finished, attribution: str, position: str, place: int) -> PictureRow:
    """One image of one data set and the maps of every training that has seen the data set."""
    arrays = study.arrays
    label = str(arrays["classes"][arrays[f"{position}/label"][place]])
    image, signal = channels_last(arrays[f"{position}/image"][place]), arrays[f"{position}/signal"][place]
    level = study.config["levels"].index(_caption_level(study))
    maps: list[Any] = []
    captions = [""]
    for number in range(len(study.results["models"])):
        key = f"{position}/{attribution}/{number}"
        maps.append(arrays[f"{key}/saliency"][place].astype(np.float64))
        share, right = arrays[f"{key}/null_share"][place][level], arrays[f"{key}/correct"][place]
        captions.append(f"{percent(float(share), 0)} null" + ("" if right else ", misread"))
    outlines: Sequence[Any] = [signal] * (1 + len(maps))
    return PictureRow(f"{label}, {TITLES[position]}", [image, *maps], captions, outlines)


def _caption_level(study: Finished) -> float:
    levels: Sequence[float] = study.config["levels"]
    return 0.1 if 0.1 in levels else levels[0]
