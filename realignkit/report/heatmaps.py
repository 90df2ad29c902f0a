"""Heat maps as pictures: where the network attends to a word, in colours over the image (figure 10)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from realignkit.files import atomic_write, writing
from realignkit.heatmap import STAGES, Heat
from realignkit.images import png
from realignkit.realignment import Realignment
from realignkit.report.overlay import INK, LEGIBLE_WIDTH, PAPER, enlarge, fitting

# Dark to bright, so that order is seen without colour too (after matplotlib's inferno).
RAMP = ((0, 0, 4), (57, 9, 99), (132, 32, 107), (201, 62, 76), (246, 125, 21), (249, 201, 50), (252, 255, 164))
OPACITY = 0.65
HEAT_SHEET, HEAT_FOLDER = "heat_maps.png", "heat_maps"
TITLES = dict(zip(STAGES, ("before", "after"), strict=True))


class HeatPicture(NamedTuple):
    """A word's heat map over the image that it is of.

    Attributes:
        word: as it was asked for.
        stage: ``coarse`` or ``refined``.
        image: RGB.
        peak: the map's highest value: attention summed over the network's calls.
    """

    word: str
    stage: str
    image: Image.Image
    peak: float


def heat_pictures(realignment: Realignment) -> list[HeatPicture]:
    """Every heat map of a realignment as a picture, word by word, before the fine stage and after it."""
    pictures = []
    for item in realignment.heat_maps:
        for stage in STAGES:
            heat = getattr(item, stage)
            if heat is not None:
                image = heat_overlay(getattr(realignment, stage), heat)
                pictures.append(HeatPicture(item.word, stage, image, float(heat.max())))
    return pictures


def heat_overlay(image: Image.Image, heat: Heat, scale: int | None = None) -> Image.Image:
    """A heat map in colours over its image in grey, from dark (the map's least value) to bright (its highest).

    Args:
        image: any mode.
        heat: float (h, w), of the image's proportions.
        scale: whole-number magnification; by default the least that makes the result 512 pixels wide.

    Returns:
        RGB, ``scale`` times the image's size.
    """
    import torch

    from realignkit.attention.heatmaps import expanded

    scale = scale or max(1, math.ceil(LEGIBLE_WIDTH / image.width))
    grey = enlarge(image, scale).convert("L").convert("RGB")
    values = expanded(torch.from_numpy(heat), (grey.height, grey.width)).numpy()
    stops = np.linspace(0, 1, len(RAMP))
    colours = np.stack([np.interp(values, stops, channel) for channel in zip(*RAMP, strict=True)], axis=-1)
    return Image.blend(grey, Image.fromarray(colours.round().astype(np.uint8)), OPACITY)


def heat_sheet(realignment: Realignment, cell: int = 384) -> Image.Image:
    """Figure 10: a row for each word, its heat map over the coarse image and over the refined one.

    Args:
        realignment: with heat maps.
        cell: least width of each picture in pixels.
    """
    if not realignment.heat_maps:
        raise ValueError("a sheet of heat maps needs at least one")
    scale, gap, line = max(1, math.ceil(cell / realignment.coarse.width)), cell // 16, cell // 16
    width, height = realignment.coarse.width * scale, realignment.coarse.height * scale
    font = ImageFont.load_default(size=line)
    row = height + 3 * line
    size = (2 * width + 3 * gap, len(realignment.heat_maps) * row + gap)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, item in enumerate(realignment.heat_maps):
        for column, stage in enumerate(STAGES):
            left, top = gap + column * (width + gap), gap + number * row
            heat = getattr(item, stage)
            fate = "not drawn here" if heat is None else f"peak {heat.max():.3g}"
            text = f"'{item.word}' {TITLES[stage]}, {fate}"
            draw.text((left, top), fitting(text, font, width), INK, font)
            if heat is not None:
                sheet.paste(heat_overlay(getattr(realignment, stage), heat, scale), (left, top + line + gap // 2))
    return sheet


def write_heat_maps(realignment: Realignment, folder: str | Path) -> list[Path]:
    """Write ``heat_maps.png`` (:func:`heat_sheet`) and each map as ``heat_maps/00-coarse.png`` …, by the words' order.

    Pictures of an earlier realignment go, also where this one has no heat maps.

    Raises:
        OutputError: the folder cannot be written.
    """
    folder = Path(folder)
    with writing(folder):
        for stale in (folder / HEAT_SHEET, *(folder / HEAT_FOLDER).glob("*.png")):
            stale.unlink(missing_ok=True)
    if not realignment.heat_maps:
        return []
    words = [item.word for item in realignment.heat_maps]
    paths = [atomic_write(folder / HEAT_SHEET, png(heat_sheet(realignment)))]
    for heat in heat_pictures(realignment):
        name = f"{words.index(heat.word):02d}-{heat.stage}.png"
        paths.append(atomic_write(folder / HEAT_FOLDER / name, png(heat.image)))
    return paths
