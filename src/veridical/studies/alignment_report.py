"""From a finished alignment study to its page: shares inside the regions, curves over k, and a gallery."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from veridical.report import (
    Illustration,
    Panel,
    PictureRow,
    Table,
    pictures_figure,
    study_page,
)
from veridical.report.formats import percent
from veridical.runtime.files import write_atomic
from veridical.studies.alignment import KIND
from veridical.studies.alignment_words import COLUMNS, headlines, rows
from veridical.studies.finished import Finished, read_finished
from veridical.studies.maps import channels_last, draw_topk, image_and_maps

REPORT = "report.html"


def read_alignment(folder: str | Path) -> Finished:
    """Read what `veridical alignment` left; a RunError for a folder that is not a finished study."""
    return read_finished(Finished, folder, KIND, "region")


def write_alignment_report(study: Finished) -> Path:
    """Write the page into the study's folder and return its path."""
    config, results = study.config, study.results
    data, words = Path(config["data"]["name"]).name, config["region"]["words"]
    area = percent(results["area"]["value"], 1)
    lead = [
        (
            f"How much of the explanations of {results['examples']:,} test images of {data} lies inside "
            f"{words}, which covers {area} of an image on average."
        ),
        *headlines(study),
    ]
    panels = [_table_panel(study, name) for name in config["attributions"]]
    panels += [_curves_panel(study), _gallery_panel(study), _meaning_panel(words)]
    page = study_page(
        f"Do maps lie on {words}?",
        lead,
        panels,
        _facts(study),
        question="do explanations lie where people look?",
    )
    target = study.folder / REPORT
    write_atomic(target, page)
    return target


def _table_panel(study: Finished, attribution: str) -> Panel:
    area = study.results["area"]["value"]
    return Panel(
        title=f"Inside and outside: {attribution}",
        text=[
            (
                f"A map without knowledge puts {percent(area, 1)} inside, the share of the area. Values "
                "stand with their 95% intervals, over seeds where a model was trained several times, "
                "else over images."
            )
        ],
        table=Table(COLUMNS, rows(study, attribution)),
    )


def _curves_panel(study: Finished) -> Panel:
    levels = study.config["levels"]
    figures = [
        Illustration(
            draw_topk(
                {title: model["maps"][name]["topk"] for title, model in study.results["models"].items()},
                levels,
                (study.results["area"]["value"], "share of the area"),
                title=name,
            ),
            caption=f"{name}: share of the k% strongest values that lie inside.",
            alt=f"Share of the strongest values of {name} that lie inside, over k, for each model.",
        )
        for name in study.config["attributions"]
    ]
    return Panel(title="The strongest values", illustrations=figures)


def _gallery_panel(study: Finished) -> Panel:
    arrays = study.arrays
    models, names = arrays["models"].tolist(), arrays["attributions"].tolist()
    titles = ["image", *(f"{model}, {name}" for model in models for name in names)]
    gallery = []
    for place, label in enumerate(arrays["label"].tolist()):
        image, region = channels_last(arrays["image"][place]), arrays["region"][place]
        maps = [arrays["saliency"][m, a, place] for m in range(len(models)) for a in range(len(names))]
        captions = ["", *(_inside(one, region) for one in maps)]
        outlines = [region] * (1 + len(maps))
        gallery.append(PictureRow(str(arrays["classes"][label]), [image, *maps], captions, outlines))
    text = ["The region is outlined; below each map stands the share of it that lies inside."]
    if not gallery:
        return Panel(title="Examples", text=["No images were asked for."])
    figure = pictures_figure(gallery, titles, image_and_maps(len(titles) - 1))
    alt = f"{len(gallery)} images with their regions outlined, and the maps of {len(models)} models."
    return Panel(title="Examples", text=text, illustrations=[Illustration(figure, "", alt)])


def _inside(saliency: Any, region: Any) -> str:
    total = float(saliency.sum())
    return "a map of zeros" if total == 0 else f"{percent(float(saliency[region].sum()) / total, 0)} inside"


def _meaning_panel(words: str) -> Panel:
    return Panel(
        title="What the columns mean",
        text=[
            (
                f"Mass inside: the share of the sum of |attribution| that lies inside {words}. Beyond "
                "the area: that minus the region's share of the image, in percentage points; a map "
                "that looks at nothing has 0."
            ),
            (
                "Beyond one map: the same mass minus that of the model's mean map over all images, put "
                "on every image. Objects stand mostly in the middle, so a map that is the same for all "
                "images can lie inside without looking at any; only what is above it follows the image."
            ),
            (
                "Strongest value inside: the pointing game, how often the greatest |attribution| lies "
                "inside. AUC: the chance that a value inside is greater than one outside; 0.5 says "
                "nothing."
            ),
            (
                "A high share is no proof that a model is right for the right reasons, and a low one "
                "no proof of the reverse: what surrounds an object can tell its class, too."
            ),
        ],
    )


def _facts(study: Finished) -> dict[str, str]:
    config, document = study.config, study.document
    environment = document["environment"]
    facts = {
        "Images": f"the first {config['examples']:,} test images of {Path(config['data']['name']).name}",
        "Region": config["region"]["words"],
        "Seed": str(config["seed"]),
        "Version": f"veridical {environment['veridical']}, torch {environment['torch']}",
    }
    if "threshold" in config["region"]:
        facts["Garment"] = f"grey levels above {config['region']['threshold']}, and what they enclose"
    for title, model in study.results["models"].items():
        facts[title] = f"seeds {', '.join(map(str, model['seeds']))}"
    for name, record in config["attributions"].items():
        facts[name] = ", ".join(f"{key} {value}" for key, value in record.items())
    return facts
