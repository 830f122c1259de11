"""From a finished shortcut study to its page: accuracy lost, mass on the patch, curves and a gallery."""

from __future__ import annotations

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
from veridical.report.formats import main_interval
from veridical.runtime.files import write_atomic
from veridical.studies.finished import Finished, read_finished
from veridical.studies.map_figures import channels_last, image_and_maps, topk_figure
from veridical.studies.shortcut import KIND
from veridical.studies.shortcut_words import MAPS, RELIANCE, headlines, map_rows, reliance_rows

REPORT = "report.html"


def read_shortcut(folder: str | Path) -> Finished:
    """Read what `veridical shortcut` left; a RunError for a folder that is not a finished study."""
    return read_finished(Finished, folder, KIND, "arms")


def write_shortcut_report(study: Finished) -> Path:
    """Write the page into the study's folder and return its path."""
    patch = next(iter(study.config["arms"].values()))["shortcut"]
    code = patch["code"]
    rates = sorted({arm["rate"] for arm in study.results["arms"].values() if not arm["control"]})
    told = " or ".join(f"{100 * rate:.4g}%" for rate in rates)
    about = (
        f"A patch of {patch['size']} x {patch['size']} pixels was planted into the images of "
        f"{Path(patch['source']).name}. In training its {code} agrees with the class in {told} of the "
        "images. How much accuracy is lost when it moves, or goes?"
    )
    panels = [_reliance_panel(study), *([_rates_panel(study)] if len(rates) > 1 else [])]
    panels += [_maps_panel(study, name) for name in study.config["attributions"]]
    panels += [_curves_panel(study), _gallery_panel(study), _meaning_panel(code)]
    page = study_page(
        "Do models, and their maps, rely on a planted shortcut?",
        [about, *headlines(study)],
        panels,
        _facts(study),
        question="do models rely on a shortcut?",
    )
    target = study.folder / REPORT
    write_atomic(target, page)
    return target


def _reliance_panel(study: Finished) -> Panel:
    return Panel(
        title="Reliance",
        text=[
            (
                "Accuracy on the same test images with the patch as in training (agreeing), at a place "
                "(or with a presence) independent of the class (moved), and without it (gone). Lost: "
                "agreeing minus the other, in percentage points, paired by image. 95% intervals are "
                "over seeds where there are several, else over images."
            )
        ],
        table=Table(RELIANCE, reliance_rows(study)),
    )


def _rates_panel(study: Finished) -> Panel:
    """The loss over the rate of agreement, a curve for each recipe."""
    kinds: dict[str, list[Any]] = {}
    for title, arm in study.results["arms"].items():
        if not arm["control"]:
            kinds.setdefault(title.rpartition(", agrees")[0], []).append(arm)
    curves = []
    for name, arms in kinds.items():
        ordered = sorted(arms, key=lambda arm: float(arm["rate"]))
        shown = [main_interval(arm["lost"]["moved"]) for arm in ordered]
        ends = {end: [one[end] for one in shown] for end in ("value", "low", "high")}
        curves.append(Curve(name, [arm["rate"] for arm in ordered], ends["value"], ends["low"], ends["high"]))
    figure = curves_figure(
        curves,
        x_label="training images whose patch agrees",
        y_label="accuracy lost",
        x_percent=True,
        y_percent=True,
        y_bounds=(-1.0, 1.0),
    )
    alt = "Accuracy lost when the patch moves, over the rate of agreement, for each kind of training."
    return Panel(
        title="The rate of agreement",
        illustrations=[Illustration(figure, "Accuracy lost when the patch moves.", alt)],
    )


def _maps_panel(study: Finished, attribution: str) -> Panel:
    return Panel(
        title=f"Maps: {attribution}",
        text=[
            (
                f"Of the first {study.results['explained']:,} test images, explained for the predicted "
                "class. A map without knowledge puts the share of the area on the patch."
            )
        ],
        table=Table(MAPS, map_rows(study, attribution)),
    )


def _curves_panel(study: Finished) -> Panel:
    figures = []
    for name in study.config["attributions"]:
        arms = study.results["arms"]
        area = next(iter(arms.values()))["maps"][name]["agreeing"]["area"]["examples"]["value"]
        figure = topk_figure(
            {title: arm["maps"][name]["agreeing"]["topk"] for title, arm in arms.items()},
            study.config["levels"],
            (area, "share of the area"),
            title=name,
        )
        alt = f"Share of the strongest values of {name} that lie on the patch, over k, for each training."
        figures.append(Illustration(figure, "Share of the k% strongest values that lie on the patch.", alt))
    return Panel(title="The strongest values", illustrations=figures)


def _gallery_panel(study: Finished) -> Panel:
    """Each image with the patch agreeing and moved, and the maps of every training's first seed."""
    arrays, arms = study.arrays, study.arrays["arms"].tolist()
    # A control has patches of its own at other places: what stands side by side must be the same images.
    shared = [n for n, title in enumerate(arms) if not study.results["arms"][title]["control"]]
    same = [
        n
        for n in shared
        if np.array_equal(arrays[f"{n}/image/agreeing"], arrays[f"{shared[0]}/image/agreeing"])
    ]
    name = next(iter(study.config["attributions"]))
    classes = arrays["classes"]
    gallery = []
    for place, label in enumerate(arrays[f"{same[0]}/label"].tolist()):
        for variant in ("agreeing", "moved"):
            image = channels_last(arrays[f"{same[0]}/image/{variant}"][place])
            region = arrays[f"{same[0]}/region/{variant}"][place]
            maps = [arrays[f"{n}/saliency/{name}/{variant}"][place].astype(np.float64) for n in same]
            named = [str(classes[arrays[f"{n}/predicted/{variant}"][place]]) for n in same]
            gallery.append(
                PictureRow(
                    f"{classes[label]}, patch {variant}",
                    [image, *maps],
                    ["", *(f"predicts {word}" for word in named)],
                    [region if region.any() else None] * (1 + len(maps)),
                )
            )
    if not gallery:
        return Panel(title="Examples", text=["No images were asked for."])
    figure = pictures_figure(gallery, ["image", *(arms[n] for n in same)], image_and_maps(len(same)))
    alt = (
        f"{len(gallery) // 2} images with the patch outlined, agreeing and moved, and the maps of each model."
    )
    return Panel(
        title="Examples",
        text=[f"The patch is outlined. Maps by {name} of the first seed's models, and what they predict."],
        illustrations=[Illustration(figure, "", alt)],
    )


def _meaning_panel(code: str) -> Panel:
    meant = {
        "place": "its place is one that stands for another class than the image's",
        "presence": "it is there, or missing, against what the image's class has in training",
    }[code]
    return Panel(
        title="What the columns mean",
        text=[
            (
                f"Follows the patch: among the moved images in which {meant}, how many are classified "
                "as the patch says and not as the image shows. It separates reliance on the patch from "
                "mere disturbance by it."
            ),
            (
                "Patch tells nothing: the control, trained with a patch whose place (or presence) is "
                "independent of the class. What it loses when the patch is gone, and what of its maps "
                "lies on it, is what a patch does by itself; agreeing and moved images are alike to it."
            ),
            (
                "Where it was, gone: the mass at the pixels of the agreeing patch in images without "
                "it. What is still there is not about this image: the model looks where the patch "
                "usually is."
            ),
            "Attacked: accuracy under the attack of the training's own ball, on images without a patch.",
        ],
    )


def _facts(study: Finished) -> dict[str, str]:
    config, environment = study.config, study.document["environment"]
    first = next(iter(config["arms"].values()))
    patch = first["shortcut"]
    training = first["training"]
    return {
        "Data": first["data"]["name"],
        "Images": f"{first['data']['train']:,} for training, {first['data']['test']:,} for testing",
        "Patch": f"{patch['pattern']}, {patch['size']} pixels wide, contrast {patch['contrast']:g}, "
        f"{patch['margin']} pixels from the border",
        "Model": f"{training['model']}, {training['model_options']}",
        "Training": f"recipe {training['recipe']}, {training['steps']} steps of {training['batch_size']}",
        "Seeds": ", ".join(map(str, config["seeds"])),
        "Trainings": str(len(study.config["arms"]) * len(study.config["seeds"])),
        "Attributions": ", ".join(config["attributions"]),
        "Ties": "random by seed and image",
        "Version": f"veridical {environment['veridical']}, torch {environment['torch']}",
    }
