"""Results -> one self-contained HTML page. Plain numbers come in; what made them is never imported."""

from veridical.report.content import GalleryItem, ModelSection, Protocol
from veridical.report.diffroar_content import DiffRoarSection, UnmaskedItem
from veridical.report.diffroar_page import write_diffroar_report
from veridical.report.page import write_report

__all__ = [
    "DiffRoarSection",
    "GalleryItem",
    "ModelSection",
    "Protocol",
    "UnmaskedItem",
    "write_diffroar_report",
    "write_report",
]
