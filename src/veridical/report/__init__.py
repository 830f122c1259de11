"""Results -> one self-contained HTML page. Plain numbers come in; what made them is never imported."""

from veridical.report.content import GalleryItem, ModelSection, Protocol
from veridical.report.page import write_report

__all__ = ["GalleryItem", "ModelSection", "Protocol", "write_report"]
