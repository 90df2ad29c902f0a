from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from realignkit.realignment import Realignment
from realignkit.types import Layout, Likelihood, LocalCaption, Segment, Tag


def rectangle(size, box):
    mask = np.zeros((size[1], size[0]), dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


@pytest.fixture
def realignment():
    """A book and a pen, drawn by hand: the desk has no mask, the banana is not there."""

    def draw(pen):
        image = Image.new("RGB", (64, 64), (222, 226, 220))
        draw = ImageDraw.Draw(image)
        draw.rectangle((8, 22, 29, 49), (200, 30, 40))
        draw.rectangle((40, 20, 46, 49), pen)
        return image

    captions = (
        LocalCaption("book", "a red book", Likelihood.CERTAIN),
        LocalCaption("pen", "a yellow pen", Likelihood.CERTAIN),
        LocalCaption("desk", "a desk", Likelihood.POSSIBLE),
        LocalCaption("banana", "a banana", Likelihood.UNLIKELY),
    )
    segments = (
        Segment(captions[0], rectangle((64, 64), (8, 22, 30, 50)), 0.9),
        Segment(captions[1], rectangle((64, 64), (40, 20, 47, 50)), 0.8),
    )
    return Realignment(
        prompt="a red book and a yellow pen",
        seed=42,
        coarse=draw((200, 40, 60)),
        tags=tuple(Tag(c.tag, p) for c, p in zip(captions, (0.98, 0.9, 0.4, 0.2), strict=True)),
        captions=captions,
        layout=Layout(segments),
        refined=draw((240, 210, 40)),
        conditioning="a red book and a yellow pen",
        plugins={"generator": "micro", "tagger": "micro", "scorer": "lexical", "segmenter": "micro"},
        notes=("no mask for 'desk'",),
        timings={"coarse": 1.25, "refine": 1.5},
        settings={"num_inference_steps": 50, "modulation": {"p": 5}},
        versions={"realignkit": "0.1.0"},
    )
