"""Layouts as pictures: masks, captions and likelihoods drawn over an image (the middle of the paper's figure 9)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from realignkit.realignment import Realignment
from realignkit.report.contours import DASHES, Point, contours, dashes
from realignkit.types import Layout, Likelihood, Segment

# Okabe and Ito's palette without its black: told apart with every common colour vision deficiency.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#0072B2", "#D55E00")
LEGIBLE_WIDTH = 512
SMALL = 128
"""Pixels up to which pictures keep hard edges: smoothing would hide what the model drew."""
FILL_OPACITY = 0.35
INK, PAPER = (24, 24, 27), (255, 255, 255)


class Rectangle(NamedTuple):
    """A rectangle in pixels, right and bottom exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    def overlaps(self, other: Rectangle) -> bool:
        """Whether the two share a pixel."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


def overlay(image: Image.Image, layout: Layout, scale: int | None = None) -> Image.Image:
    """Draw a layout over its image: translucent masks, outlines, and labels that never cover one another.

    The likelihood is in the label's words and in the line: solid = certain, dashed = possible, dotted = unlikely.
    Labels that find no room on the image are listed below it.

    Args:
        image: any mode; drawn in RGB.
        layout: masks of any common size, stretched over the image.
        scale: whole-number magnification; by default the least that makes the result 512 pixels wide.

    Returns:
        RGB, ``scale`` times the image's size, higher where labels had to go below.
    """
    scale = scale or max(1, math.ceil(LEGIBLE_WIDTH / image.width))
    canvas = enlarge(image, scale)
    order = sorted(layout, key=lambda segment: -segment.area)  # small ones on top, as in the attention
    colours = {id(segment): PALETTE[i % len(PALETTE)] for i, segment in enumerate(layout)}
    for segment in order:
        colour = Image.new("RGB", canvas.size, colours[id(segment)])
        alpha = Image.fromarray((segment.mask * round(255 * FILL_OPACITY)).astype(np.uint8))
        canvas.paste(colour, mask=alpha.resize(canvas.size, Image.Resampling.NEAREST))
    line = max(1, canvas.width // 170)
    draw = ImageDraw.Draw(canvas)
    for segment in order:
        _outline(draw, segment, canvas.size, colours[id(segment)], line)
    return _label(canvas, layout, colours, line)


def contact_sheet(realignments: Sequence[Realignment], cell: int = 384) -> Image.Image:
    """One row per realignment: its prompt, the coarse image, the layout and the refined image (crossed if rejected).

    Args:
        realignments: at least one.
        cell: least width of each picture in pixels.
    """
    if not realignments:
        raise ValueError("a contact sheet needs at least one realignment")
    gap = cell // 16
    font = ImageFont.load_default(size=cell / 16)
    rows = []
    for r in realignments:
        scale = max(1, math.ceil(cell / r.coarse.width))
        rows.append([enlarge(r.coarse, scale), overlay(r.coarse, r.layout, scale), enlarge(r.refined, scale)])
    widths = [cell, *(max(row[i].width for row in rows) for i in range(3))]
    lefts = [gap + sum(widths[:i]) + gap * i for i in range(4)]
    heights = [max(picture.height for picture in row) for row in rows]
    head = cell // 8
    sheet = Image.new("RGB", (sum(widths) + 5 * gap, head + sum(heights) + gap * len(rows)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for left, title in zip(lefts, ("prompt", "coarse", "layout", "refined"), strict=True):
        draw.text((left, head // 2), title, (113, 113, 122), font, anchor="lm")
    top = head
    for r, row, height in zip(realignments, rows, heights, strict=True):
        text = "\n".join(_wrap(f"{r.prompt}", font, cell))
        draw.multiline_text((lefts[0], top), f"{text}\n(seed {r.seed})", INK, font, spacing=cell // 48)
        for left, picture in zip(lefts[1:], row, strict=True):
            sheet.paste(picture, (left, top))
        if not r.accepted:
            right, bottom = lefts[3] + row[2].width - 1, top + row[2].height - 1
            for line in ((lefts[3], top, right, bottom), (lefts[3], bottom, right, top)):
                draw.line(line, (190, 40, 40), max(2, cell // 100))
        top += height + gap
    return sheet


def enlarge(image: Image.Image, scale: int) -> Image.Image:
    """An RGB copy, ``scale`` times as wide and high; the pixels of small pictures stay what the model made."""
    size = (image.width * scale, image.height * scale)
    method = Image.Resampling.NEAREST if max(image.size) <= SMALL else Image.Resampling.LANCZOS
    return image.convert("RGB").resize(size, method)


def place_label(
    size: tuple[int, int], target: Point, bounds: tuple[int, int], taken: Sequence[Rectangle]
) -> Rectangle | None:
    """The free place for a label nearest to a point.

    Args:
        size: the label's width and height.
        target: where its centre would best be, (x, y).
        bounds: width and height of the picture, which the label must not leave.
        taken: boxes that it must not touch.

    Returns:
        None where there is no room.
    """
    width, height = size
    if width > bounds[0] or height > bounds[1]:
        return None

    def clamp(value: float, limit: int) -> int:
        return max(0, min(round(value), limit))

    wanted = (target[0] - width / 2, target[1] - height / 2)
    # The nearest free place touches, in each direction, either its wish or the edge of a taken box or of the picture.
    lefts = {clamp(x, bounds[0] - width) for x in (wanted[0], *(e for b in taken for e in (b.left - width, b.right)))}
    tops = {clamp(y, bounds[1] - height) for y in (wanted[1], *(e for b in taken for e in (b.top - height, b.bottom)))}
    places = [Rectangle(left, top, left + width, top + height) for left in lefts for top in tops]
    free = [box for box in places if not any(box.overlaps(other) for other in taken)]
    return min(free, key=lambda b: ((b.left - wanted[0]) ** 2 + (b.top - wanted[1]) ** 2, b), default=None)


def _outline(draw: ImageDraw.ImageDraw, segment: Segment, size: tuple[int, int], colour: str, line: int) -> None:
    height, width = segment.mask.shape
    for polygon in contours(segment.mask):
        scaled = [(x * size[0] / width, y * size[1] / height) for x, y in polygon]
        _stroke(draw, scaled, segment.caption.likelihood, colour, line)


def _stroke(
    draw: ImageDraw.ImageDraw, polygon: Sequence[Point], likelihood: Likelihood, colour: str, line: int
) -> None:
    """A coloured line with a dark rim, so that it shows on any background."""
    pattern = DASHES[likelihood]
    paths = list(dashes(polygon, pattern[0] * line, pattern[1] * line)) if pattern else [(*polygon, polygon[0])]
    for fill, width in ((INK, line + 2), (colour, line)):
        for path in paths:
            draw.line(path, fill, width, joint="curve")


def _label(canvas: Image.Image, layout: Layout, colours: dict[int, str], line: int) -> Image.Image:
    size = max(13, canvas.width // 25)
    font = ImageFont.load_default(size=size)
    pad = max(4, canvas.width // 100)
    height = size + 2 * pad
    taken: list[Rectangle] = []
    homeless: list[Segment] = []
    for segment in layout:
        text = _label_text(segment, font, canvas.width - 4 * pad)
        width = math.ceil(font.getlength(text)) + 4 * pad
        x, top = _top(segment, canvas.size)
        box = place_label((width, height), (x, top - height / 2), canvas.size, taken)
        if box is None:
            homeless.append(segment)
            continue
        taken.append(box)
        _draw_label(canvas, box, text, font, segment, colours[id(segment)], line)
    if not homeless:
        return canvas
    extended = Image.new("RGB", (canvas.width, canvas.height + len(homeless) * (height + pad) + pad), PAPER)
    extended.paste(canvas)
    for i, segment in enumerate(homeless):
        top = canvas.height + pad + i * (height + pad)
        text = _label_text(segment, font, canvas.width - 4 * pad)
        box = Rectangle(0, top, min(canvas.width, math.ceil(font.getlength(text)) + 4 * pad), top + height)
        _draw_label(extended, box, text, font, segment, colours[id(segment)], line)
    return extended


def _draw_label(
    canvas: Image.Image,
    box: Rectangle,
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    segment: Segment,
    colour: str,
    line: int,
) -> None:
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((box.left, box.top, box.right - 1, box.bottom - 1), INK)
    inset = (line + 3) // 2
    left, top, right, bottom = box.left + inset, box.top + inset, box.right - 1 - inset, box.bottom - 1 - inset
    frame = [(left, top), (right, top), (right, bottom), (left, bottom)]
    _stroke(draw, frame, segment.caption.likelihood, colour, max(1, line - 1))
    draw.text(((box.left + box.right) / 2, (box.top + box.bottom) / 2), text, PAPER, font, anchor="mm")


def _label_text(segment: Segment, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, limit: int) -> str:
    """The caption, shortened to fit, and the likelihood, never shortened."""
    tail = f" · {segment.caption.likelihood.value}"
    return fitting(" ".join(segment.caption.caption.split()), font, limit - font.getlength(tail)) + tail


def fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, limit: float) -> str:
    """A text, or as much of its beginning as is at most ``limit`` pixels wide, but for its first letter."""
    shown = text
    while len(shown) > 1 and font.getlength(shown) > limit:
        text = text[:-1].rstrip()
        shown = text + "…"
    return shown


def _top(segment: Segment, size: tuple[int, int]) -> Point:
    """The middle of the mask's top edge in picture coordinates; the picture's where the mask is empty."""
    ys, xs = np.nonzero(segment.mask)
    if not len(xs):
        return size[0] / 2, 0.0
    height, width = segment.mask.shape
    return (float(xs.mean()) + 0.5) * size[0] / width, float(ys.min()) * size[1] / height


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
