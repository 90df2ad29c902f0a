"""What a person looks at: layouts drawn over images, an HTML report per realignment, sheets and indexes of many."""

from __future__ import annotations

from realignkit.report.html import write_index, write_report
from realignkit.report.overlay import contact_sheet, overlay

__all__ = ["contact_sheet", "overlay", "write_index", "write_report"]
