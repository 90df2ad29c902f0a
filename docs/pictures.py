"""Draws pictures of README, home page and gallery: the embedded model's own, of one prompt and seed.

``python docs/pictures.py``, some seconds, when the embedded model draws otherwise.

A test says when they are stale. Others are made where they are shown: screenshots by the tests in a browser
(``REALIGNKIT_SCREENSHOTS=docs/images``), plots by ``python benchmarks/tables.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from realignkit import Realigner
from realignkit.report import contact_sheet, heat_sheet, overlay

IMAGES = Path(__file__).parent / "images"
PROMPT, SEED = "a yellow car and a blue bench", 49
WORDS = ("yellow", "blue")


def pictures() -> dict[str, Image.Image]:
    """File name -> picture."""
    realigner = Realigner.from_pretrained("micro_256", heat_maps=WORDS)
    result = realigner(PROMPT, seed=SEED)
    maps = heat_sheet(result)
    return {
        "demo.png": contact_sheet([result]),
        "heat-maps.png": reduced(maps),
        "before.png": result.coarse,
        "after.png": result.image,
        "layout.png": overlay(result.coarse, result.layout),
    }


def reduced(image: Image.Image) -> Image.Image:
    """Half as wide, in 256 colours."""
    half = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    return half.convert("P", palette=Image.Palette.ADAPTIVE)


if __name__ == "__main__":
    for name, picture in pictures().items():
        picture.save(IMAGES / name, optimize=True)
        print(IMAGES / name, file=sys.stderr)
