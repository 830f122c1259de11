"""Results -> one self-contained HTML page. Plain numbers come in; what made them is never imported.

A page (`study_page`) is panels of words, tables (`Table` of `Column`s), figures of matplotlib
(`curves_figure` and its kin) and galleries of pictures, with a verdict on top.
"""

from veridical.report.figures import (
    Curve,
    Illustration,
    curves_figure,
    curves_illustration,
    histograms_figure,
    intervals_figure,
    scatter_figure,
    shares_grid,
)
from veridical.report.formats import Interval, main_interval
from veridical.report.page import (
    Panel,
    Verdict,
    settings_panel,
    study_page,
)
from veridical.report.pictures import Colours, PictureGallery, PictureRow, channels_last
from veridical.report.table import Column, Table

__all__ = [
    "Colours",
    "Column",
    "Curve",
    "Illustration",
    "Interval",
    "Panel",
    "PictureGallery",
    "PictureRow",
    "Table",
    "Verdict",
    "channels_last",
    "curves_figure",
    "curves_illustration",
    "histograms_figure",
    "intervals_figure",
    "main_interval",
    "scatter_figure",
    "settings_panel",
    "shares_grid",
    "study_page",
]
