"""DenseDiffusion as a preset: its own numbers, and layouts from boxes, pictures and arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from realignkit.attention.dense import DENSE_DIFFUSION, dense_diffusion, dense_layout
from realignkit.attention.regions import Regions
from realignkit.attention.sampler import generate
from realignkit.errors import OptionError, PromptError
from tests.attention.test_golden import IO, META, TOLERANCE, attend, spans
from tests.attention.test_golden import SETTINGS as ORIGINAL

FAST = {"num_inference_steps": 4, "height": 16, "width": 16}


@pytest.mark.parametrize("case", META["cases"], ids=lambda case: case["name"])
def test_outputs_are_the_originals(case):
    """The preset, with certain objects (s_i = 2), is DenseDiffusion's attention without likelihoods."""
    masks = torch.stack([IO[f"binary_matrix_{i}"] for i in range(len(spans()))]).bool()
    tokens = torch.zeros(ORIGINAL["max_tokens"], len(masks), dtype=torch.bool)
    for i, span in enumerate(spans()):
        tokens[span, i] = True
    regions = Regions(tokens, masks, torch.full((len(masks),), 2.0))
    hidden = IO[f"hidden_states_{case['L']}"]
    out = attend(regions, case["kind"], hidden, case["step"], **DENSE_DIFFUSION.model_dump())
    torch.testing.assert_close(out, IO[f"{case['name']}.out"], **TOLERANCE)


def test_boxes_pictures_and_arrays(tmp_path: Path):
    drawn = np.zeros((8, 16, 4), dtype=np.uint8)
    drawn[2:4, 4:8] = (255, 255, 255, 255)
    drawn[6:, :] = (255, 255, 255, 0)  # transparent is outside, whatever its colour
    Image.fromarray(drawn).save(tmp_path / "book.png")
    array = np.eye(16, 32, dtype=bool)
    layout = dense_layout({"a red book": tmp_path / "book.png", "a dog": (0.5, 0, 1, 0.5), " cat ": array}, (32, 16))
    book, dog, cat = layout
    assert [s.caption.caption for s in layout] == ["a red book", "a dog", "cat"]
    assert [s.caption.tag for s in layout] == ["book", "dog", "cat"]
    assert {s.caption.score for s in layout} == {2.0}
    want = np.zeros((16, 32), dtype=bool)
    want[4:8, 8:16] = True
    assert (book.mask == want).all()
    want[:] = False
    want[:8, 16:] = True
    assert (dog.mask == want).all()
    assert (cat.mask == array).all()
    sliver = dense_layout({"a dog": (0.999, 0.1, 1.0, 0.101)}, (32, 16))
    assert sliver.segments[0].mask.sum() == 1


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ({}, "at least one"),
        ({" ": (0, 0, 1, 1)}, "empty"),
        ({"a dog": (0, 0, 16, 16)}, "shares"),
        ({"a dog": (0.5, 0, 0.5, 1)}, "shares"),
        ({"a dog": (0, 0, 1)}, "shares"),
        ({"a dog": np.ones((4, 4), dtype=bool)}, "height, width"),
        ({"a dog": np.zeros((16, 16), dtype=bool)}, "is empty"),
        ({"a dog": np.full((16, 16), 0.5)}, "between inside and outside"),
        ({"a dog": "nowhere.png"}, "cannot be read"),
    ],
)
def test_bad_layouts(regions, message):
    with pytest.raises(OptionError, match=message):
        dense_layout(regions, (16, 16))


def test_images_follow_the_layout(sd_pipeline):
    prompt = "a red book and a dog"
    left = dense_layout({"a red book": (0, 0, 0.5, 1), "a dog": (0.5, 0, 1, 1)}, (16, 16))
    right = dense_layout({"a red book": (0.5, 0, 1, 1), "a dog": (0, 0, 0.5, 1)}, (16, 16))
    plain = generate(sd_pipeline, [prompt], [0], **FAST)[0]
    images = dense_diffusion(sd_pipeline, [prompt] * 2, [left, right], [0, 0], **FAST).images
    pixels = [np.asarray(image, dtype=int) for image in (plain, *images)]
    assert all(np.abs(a - b).max() > 0 for a, b in zip(pixels, [pixels[1], pixels[2], pixels[0]], strict=True))


def test_a_phrase_that_the_prompt_does_not_have(sd_pipeline):
    layout = dense_layout({"a cat": (0, 0, 1, 1)}, (16, 16))
    with pytest.raises(PromptError, match="'a cat' is not part of"):
        dense_diffusion(sd_pipeline, ["a red book and a dog"], [layout], [0], **FAST)
    with pytest.raises(OptionError, match="layouts"):
        dense_diffusion(sd_pipeline, ["a cat"], [], [0], **FAST)
