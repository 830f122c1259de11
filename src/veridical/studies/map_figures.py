"""Figures that the pages about maps and regions have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from veridical.report.picture_rows import Colours
from veridical.report.study_page import Curve, curves_figure
from veridical.studies.over_seeds import main_interval


def topk_figure(
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    levels: Sequence[float],
    level_line: tuple[float, str],
    title: str = "",
) -> Figure:
    """Curves of the share of the top-k values inside over k, by name, with their intervals."""
    curves = []
    for name, topk in found.items():
        shown = [main_interval(two) for two in topk]
        ends = {end: [one[end] for one in shown] for end in ("value", "low", "high")}
        curves.append(Curve(name, list(levels), ends["value"], ends["low"], ends["high"]))
    return curves_figure(
        curves,
        x_label="k, share of the values",
        y_label="share of them inside",
        title=title,
        x_percent=True,
        y_percent=True,
        y_bounds=(0.0, 1.0),
        level_line=level_line,
    )


def image_and_maps(maps: int) -> list[Colours]:
    """How the columns of a gallery are coloured: the image as it is, and maps."""
    colours: list[Colours] = ["grey"]
    return colours + ["heat"] * maps


def channels_last(image: Any) -> Any:
    """Bytes (C, H, W) as numbers in [0, 1], (H, W) or (H, W, 3)."""
    values = image.astype(np.float64) / 255
    return values[0] if len(values) == 1 else np.moveaxis(values, 0, -1)
