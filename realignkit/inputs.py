"""What users hand in: prompts, seeds and images, paired and brought into the form that the model takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from realignkit.errors import OptionError, PromptError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL.Image import Image as PILImage


def pair(
    prompt: str | Sequence[str], seed: int | Sequence[int], coarse: PILImage | Sequence[PILImage | None] | None
) -> tuple[list[str], list[int], list[PILImage | None]]:
    """One prompt, seed and perhaps image per result; a single one serves all.

    Raises:
        OptionError: the numbers do not match, or a seed is no whole number in [0, 2**63).
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    seeds = [seed] * len(prompts) if isinstance(seed, int) else list(seed)
    if isinstance(prompt, str):
        prompts *= len(seeds)
    images = [coarse] * len(prompts) if coarse is None or isinstance(coarse, Image.Image) else list(coarse)
    if not len(prompts) == len(seeds) == len(images):
        raise OptionError(
            f"{len(prompts)} prompts, {len(seeds)} seeds and {len(images)} coarse images do not go together: "
            f"give one of each per prompt."
        )
    for value in seeds:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
            raise OptionError(f"a seed is a whole number from 0 to 2**63 - 1, not {value!r}.")
    return prompts, seeds, images


def check_text(prompt: str) -> None:
    """Refuse a prompt that is no text: bytes that are no UTF-8 and halves of surrogate pairs get into Python strings.

    Raises:
        PromptError: it holds a lone surrogate.
    """
    broken = next((character for character in prompt if "\ud800" <= character <= "\udfff"), None)
    if broken is not None:
        raise PromptError(
            f"the prompt holds a broken character (\\u{ord(broken):x}, half of a pair): '{readable(prompt[:60])}'. "
            f"Type it again, or save the file that it comes from as UTF-8."
        )


def readable(text: str) -> str:
    """A text that any file or terminal takes: lone surrogates are written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def image_size(pipeline: DiffusionPipeline, width: int | None = None, height: int | None = None) -> tuple[int, int]:
    """(width, height) in pixels of the images that the pipeline makes, where not given.

    Raises:
        OptionError: it states none.
    """
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    sample = network.config.sample_size
    if width and height:
        return width, height
    if sample is None:
        raise OptionError("the model states no size of its images: give height and width.")
    rows, columns = sample if isinstance(sample, list | tuple) else (sample, sample)
    return width or columns * pipeline.vae_scale_factor, height or rows * pipeline.vae_scale_factor


def fit_image(image: PILImage, size: tuple[int, int]) -> tuple[PILImage, list[str]]:
    """An image as RGB of ``size`` (width, height), cropped around its centre; with a note per change."""
    # Phones store photos sideways with a flag; what the user sees is what should be refined.
    changes, image = [], ImageOps.exif_transpose(image)
    if image.mode != "RGB":
        changes.append(f"the given image was converted from {image.mode} to RGB")
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        image = image.convert("RGB")
    if image.size != size:
        before, after = (f"{width} x {height}" for width, height in (image.size, size))
        changes.append(f"the given image of {before} was cropped and resized to {after}")
        image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    return image, changes
