"""What plugins are tried on: small pictures and their prompts, and such as people really hand in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

PROMPTS = ("a red book and a yellow pen", "a blue car", "a green cup and a white clock", "a black cat")
"""What :func:`tiny_images` are pictures of, more or less: the embedded world knows all of these words."""

HOSTILE_PROMPTS = (
    "a cup",
    'a "red" book, a {yellow} pen & <b>50% of</b> a \\cat',
    "ein Äpfel, 红色的书 and a 🐈\n\ta new line",
    "and and a an the of",
    ", ".join(["a red book and a yellow pen"] * 60),
)
"""Short, full of signs, in other scripts, without an object, and very long."""

_SIZE = 64


def tiny_images() -> list[PILImage]:
    """A picture (RGB, 64 x 64) per prompt of :data:`PROMPTS`, always the same: two shapes each, on a light ground."""
    colours = (("red", "yellow"), ("blue", "blue"), ("green", "white"), ("black", "black"))
    return [_drawn(index, *pair) for index, pair in enumerate(colours)]


def _drawn(index: int, left: str, right: str) -> PILImage:
    image = Image.new("RGB", (_SIZE, _SIZE), (200, 190 + 10 * index, 180))
    draw = ImageDraw.Draw(image)
    draw.rectangle((6, 14 + 4 * index, 26, 50), fill=left)
    draw.ellipse((34, 20, 58, 44 + 3 * index), fill=right)
    return image


def hostile_images() -> list[PILImage]:
    """Pictures (RGB) of sizes and contents that are allowed, and that nobody thinks of.

    A single pixel, a row, a column, odd sizes, a large one; black, white, and noise.
    """
    noise = np.random.default_rng(0).integers(0, 256, (65, 63, 3), dtype=np.uint8)
    return [
        Image.new("RGB", (1, 1), (255, 0, 0)),
        Image.new("RGB", (3, 3), (0, 255, 0)),
        Image.new("RGB", (120, 1), (0, 0, 255)),
        Image.new("RGB", (1, 120), (9, 9, 9)),
        Image.new("RGB", (64, 64), "black"),
        Image.new("RGB", (64, 64), "white"),
        Image.fromarray(noise),
        Image.new("RGB", (500, 300), (120, 60, 30)),
    ]
