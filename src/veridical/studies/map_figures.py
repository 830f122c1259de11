"""Figures that the pages about maps and regions have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from veridical.report import Colours, Curve, curves_figure
from veridical.report.formats import main_interval


def topk_curve(
    name: str,
    levels: Sequence[float],
    topk: Sequence[Mapping[str, Any]],
    *,
    colour: int | None = None,
    dashed: bool = False,
) -> Curve:
    """Shares of the top k over k, with their shown intervals as a band.

    Two seeds get none: their intervals are wider than all shares, and would hide every curve.
    """
    shown = [main_interval(two) for two in topk]
    value, low, high = ([one[end] for one in shown] for end in ("value", "low", "high"))
    if topk[0]["seeds"]["n"] == 2:
        return Curve(name, levels, value, dashed=dashed, colour=colour)
    return Curve(name, levels, value, low, high, dashed=dashed, colour=colour)


def topk_figure(
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    levels: Sequence[float],
    level_line: tuple[float, str],
    title: str = "",
) -> Figure:
    """Curves of the share of the top-k values inside over k, by name, as `topk_curve` draws them."""
    return curves_figure(
        [topk_curve(name, levels, topk) for name, topk in found.items()],
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
