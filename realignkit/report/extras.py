"""What a run folder holds for people: the layout as a picture, all steps in one picture, the report, heat maps."""

from __future__ import annotations

from pathlib import Path

from realignkit.files import atomic_write
from realignkit.images import png
from realignkit.realignment import Realignment
from realignkit.report.heatmaps import write_heat_maps
from realignkit.report.html import write_report
from realignkit.report.overlay import contact_sheet, overlay

EXTRA_FILES = ("layout.png", "sheet.png", "report.html")
"""What :func:`write_extras` always writes."""


def write_extras(realignment: Realignment, folder: Path) -> None:
    """Write what is for people only: ``layout.png``, ``sheet.png`` (all in one picture), ``report.html``, heat maps.

    Raises:
        OutputError: the folder cannot be written.
    """
    atomic_write(folder / "layout.png", png(overlay(realignment.coarse, realignment.layout)))
    atomic_write(folder / "sheet.png", png(contact_sheet([realignment])))
    write_heat_maps(realignment, folder)
    write_report(realignment, folder)
