"""Sections -> the gallery's entries: each image once, with the pictures of every model beside each other."""

from collections.abc import Sequence
from typing import Any

from veridical.report import pictures
from veridical.report.content import GalleryItem, ModelSection
from veridical.report.formats import NOT_MEASURED, finite
from veridical.report.measures import MEASURES

# Beyond this many pixels a side, an image is drawn smooth and its card takes the whole width.
_LARGE = 64


def examples(sections: Sequence[ModelSection]) -> list[dict[str, Any]]:
    """The gallery by example: one entry per image with a panel for every model that has a gallery."""
    shown = [section for section in sections if section.gallery]
    return [
        {
            "number": number,
            "label": items[0].label,
            "large": max(items[0].map.shape) > _LARGE,
            "panels": [_example(section, item) for section, item in zip(shown, items, strict=True)],
        }
        for number, items in enumerate(zip(*(section.gallery for section in shown), strict=True), start=1)
    ]


def _example(section: ModelSection, item: GalleryItem) -> dict[str, Any]:
    shared = pictures.kept(item.map, item.perturbed_map, section.k)
    return {
        "title": section.title,
        "topk": _score("topk_intersection", item.topk_intersection, 0),
        "tau": _score("kendall_tau", item.kendall_tau, 2),
        "tiles": [
            ("Image", pictures.image_uri(item.image), f"image labelled {item.label}, before the attack"),
            ("Explanation", pictures.map_uri(item.map), f"explanation of {section.title} before the attack"),
            ("Changed image", pictures.image_uri(item.perturbed), "the image after the attack"),
            (
                "Its explanation",
                pictures.map_uri(item.perturbed_map),
                f"explanation of {section.title} after the attack",
            ),
            (
                "Top pixels",
                pictures.overlap_uri(item.image, item.map, item.perturbed_map, section.k),
                f"{shared:,} of the {section.k:,} most important pixels stayed the same",
            ),
        ],
    }


def _score(name: str, value: float | None, digits: int) -> str:
    return NOT_MEASURED if finite(value) is None else MEASURES[name].write(value, digits)


def picture_warnings(sections: Sequence[ModelSection]) -> list[str]:
    """Say so when a gallery's maps do not give the overlap written beside them, to one pixel."""
    differing = 0
    for section in sections:
        for item in section.gallery:
            written = finite(item.topk_intersection)
            if written is not None:
                drawn = pictures.kept(item.map, item.perturbed_map, section.k)
                differing += abs(drawn - written * section.k) > 1.5
    if not differing:
        return []
    return [
        (
            f"In {differing} of the pictures below, the number of top pixels drawn as kept is not the one "
            "written beside them: the maps shown are not exactly those that were measured."
        )
    ]
