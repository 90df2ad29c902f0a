"""What a person looks at: layouts drawn over images, an HTML report per realignment, sheets and indexes of many."""

from __future__ import annotations

from realignkit.report.extras import EXTRA_FILES, write_extras
from realignkit.report.heatmaps import heat_overlay, heat_sheet, write_heat_maps
from realignkit.report.html import write_index, write_report
from realignkit.report.overlay import contact_sheet, overlay

__all__ = [
    "EXTRA_FILES",
    "contact_sheet",
    "heat_overlay",
    "heat_sheet",
    "overlay",
    "write_extras",
    "write_heat_maps",
    "write_index",
    "write_report",
]
