"""Results -> one self-contained HTML page. Plain numbers come in; what made them is never imported."""

from veridical.report.attack_page import write_report
from veridical.report.content import GalleryItem, ModelSection, Protocol
from veridical.report.diffroar_content import DiffRoarSection, UnmaskedItem
from veridical.report.diffroar_page import write_diffroar_report
from veridical.report.page import (
    Column,
    Curve,
    Illustration,
    Panel,
    PictureRow,
    Table,
    curves_figure,
    pictures_figure,
    study_page,
)
from veridical.report.picture_rows import Colours

__all__ = [
    "Colours",
    "Column",
    "Curve",
    "DiffRoarSection",
    "GalleryItem",
    "Illustration",
    "ModelSection",
    "Panel",
    "PictureRow",
    "Protocol",
    "Table",
    "UnmaskedItem",
    "curves_figure",
    "pictures_figure",
    "study_page",
    "write_diffroar_report",
    "write_report",
]
