"""Preprocessing is every processor's own, up to 8-bit rounding, and differentiable."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

from realignkit.errors import ModelError, OptionError
from realignkit_plugins.rewards.preprocess import Preprocessing

PROCESSORS = {
    "clip": lambda: hf.CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}),
    "clip, crop larger": lambda: hf.CLIPImageProcessorPil(
        size={"shortest_edge": 20}, crop_size={"height": 27, "width": 26}
    ),
    "blip": lambda: hf.BlipImageProcessorPil(size={"height": 24, "width": 32}),
    "siglip": lambda: hf.SiglipImageProcessorPil(size={"height": 24, "width": 24}),
    "vit": lambda: hf.ViTImageProcessorPil(size={"height": 24, "width": 24}, resample=2),
    "no normalising": lambda: hf.ViTImageProcessorPil(size={"height": 24, "width": 24}, do_normalize=False),
    "no resizing": lambda: hf.ViTImageProcessorPil(do_resize=False),
}
SIZES = [(48, 70), (70, 47), (24, 24), (17, 23)]


def photo(height, width, seed=1):
    """Smooth, with a few hard black and white edges, where bicubic filters overshoot."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).copy()
    pixels[height // 4 : height // 2, width // 4 : width // 2] = 255
    pixels[height // 2 : height // 2 + 3, :5] = 0
    return Image.fromarray(pixels)


def tensor(image):
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", PROCESSORS)
def test_equal_to_the_processor(name, size):
    processor = PROCESSORS[name]()
    ours, image = Preprocessing.of(processor), photo(*size)
    theirs = processor(images=image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(ours.from_pil([image]), theirs, rtol=0, atol=2e-6)
    # In grey levels: Pillow rounds after each of its two passes.
    level = torch.tensor(ours.std)[:, None, None] * 255
    difference = ((ours(tensor(image)) - theirs) * level).abs()
    assert difference.max() < 1.6
    assert difference.mean() < 0.5


def test_the_gradient_is_that_of_finite_differences():
    ours = Preprocessing(size=6, crop=(6, 6))
    image = torch.rand(1, 3, 9, 11, generator=torch.Generator().manual_seed(0)).double() * 0.6 + 0.2
    assert torch.autograd.gradcheck(ours, image.requires_grad_())


def test_a_batch_is_its_images():
    ours = Preprocessing.of(PROCESSORS["clip"]())
    images = [photo(48, 70, seed) for seed in range(3)]
    together = ours(torch.cat([tensor(image) for image in images]))
    for image, row in zip(images, together, strict=True):
        torch.testing.assert_close(ours(tensor(image))[0], row)


def test_half_pixels_fall_as_asked():
    image = torch.arange(7.0).expand(1, 3, 1, 7) / 7
    plain = {"size": None, "crop": (1, 4), "mean": (0.0,) * 3, "std": (1 / 7,) * 3}
    assert Preprocessing(**plain)(image)[0, 0, 0].round().tolist() == [1, 2, 3, 4]
    assert Preprocessing(**plain, crop_offset="round")(image)[0, 0, 0].round().tolist() == [2, 3, 4, 5]
    assert round(1.5) == 2 and math.floor(1.5) == 1


def test_images_that_cannot_share_a_batch_are_refused():
    with pytest.raises(OptionError, match="different shapes"):
        Preprocessing(size=None).from_pil([photo(20, 20), photo(20, 21)])


@pytest.mark.parametrize(
    ("processor", "match"),
    [
        (lambda: hf.ViTImageProcessorPil(resample=1), "filter 1"),
        (lambda: hf.ViTImageProcessorPil(size={"shortest_edge": 20, "longest_edge": 30}), "resizes to"),
        (lambda: hf.DonutImageProcessorPil(), "do_"),
    ],
)
def test_what_has_no_differentiable_form_is_refused(processor, match):
    with pytest.raises(ModelError, match=match):
        Preprocessing.of(processor())
