"""How a realignment shows itself in a notebook; what it holds is data, so all text is escaped."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

from PIL import Image

from realignkit.images import png

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from realignkit.types import Realignment

_GAP = 8  # pixels between the two pictures


def side_by_side(realignment: Realignment) -> bytes:
    """The coarse and the refined image beside each other, as PNG."""
    coarse, refined = realignment.coarse.convert("RGB"), realignment.refined.convert("RGB")
    size = coarse.width + _GAP + refined.width, max(coarse.height, refined.height)
    sheet = Image.new("RGB", size, "white")
    sheet.paste(coarse, (0, 0))
    sheet.paste(refined, (coarse.width + _GAP, 0))
    return png(sheet)


def html(realignment: Realignment) -> str:
    """Both images, what was found and the notes, as a piece of HTML that needs no other file."""
    verdict = "" if realignment.accepted else " (not accepted)"
    figures = (_figure(realignment.coarse, "coarse"), _figure(realignment.refined, f"refined{verdict}"))
    found = "".join(
        f"<tr><td>{escape(c.tag)}</td><td>{escape(str(c.likelihood))}</td><td>{escape(c.caption)}</td></tr>"
        for c in realignment.captions
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in realignment.notes)
    return (
        f"<div><p><b>{escape(realignment.prompt)}</b> (seed {realignment.seed})</p>{''.join(figures)}"
        f"<table><tr><th>tag</th><th>likelihood</th><th>local caption</th></tr>{found}</table>"
        f"{f'<ul>{notes}</ul>' if notes else ''}</div>"
    )


def _figure(image: PILImage, caption: str) -> str:
    data = base64.b64encode(png(image.convert("RGB"))).decode()
    return (
        f'<figure style="display:inline-block;margin:0 8px 0 0"><img alt="{caption}" style="min-width:192px" '
        f'src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )
