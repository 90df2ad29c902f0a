"""DenseDiffusion, a baseline: images from a layout that the user draws, with our sampler at its settings.

Kim et al., *Dense Text-to-Image Generation with Attention Modulation*, ICCV 2023.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from realignkit.arguments import listed, mapping, real, whole
from realignkit.attention.config import ModulationConfig
from realignkit.contracts import parse_options
from realignkit.errors import OptionError, PromptError
from realignkit.images import open_image
from realignkit.types import Layout, Likelihood, LocalCaption, Mask, Segment

if TYPE_CHECKING:
    from realignkit.attention.sampler import RefineResult

RelativeBox = tuple[float, float, float, float]
"""Left, top, right, bottom, as shares of the image's width and height in [0, 1]."""

DENSE_DIFFUSION = ModulationConfig(
    cross_weight=1.0,
    self_weight=0.3,
    size_weight=1.0,
    score_term="none",
    outside_score=1.0,
    power=5.0,
    share=0.3,
    size_term="area",
    overlap="union",
    mask_resize="nearest",
    isolate_phrases=True,
    append_missing=False,
)
"""DenseDiffusion's settings: its ``creg`` is ``cross_weight``, ``sreg`` is ``self_weight``, ``sizereg`` is
``size_weight``; p = 5, the first 30 % of the steps, and no likelihoods (S = 1)."""


def dense_layout(regions: Mapping[str, Mask | RelativeBox | str | Path], size: tuple[int, int]) -> Layout:
    """A layout from phrases and where each is to be.

    Args:
        regions: phrase -> a mask (bool, H x W), a box (see :data:`RelativeBox`), or the file of a picture in which
            what is not black is inside.
        size: (width, height) of the masks; pictures are resized to it.

    Raises:
        OptionError: nothing is given, a phrase is empty, a mask has another size or is empty, a box is no box in the
            image, or a file is no picture.
    """
    regions, size = mapping("regions", regions), _size(size)
    if not regions:
        raise OptionError("a layout needs at least one phrase with a mask or a box.")
    segments = []
    for phrase, region in regions.items():
        text = phrase.strip()
        if not text:
            raise OptionError("a phrase is empty: name the object, as the prompt does.")
        mask = _mask(text, region, size)
        if not mask.any():
            raise OptionError(f"the mask of '{text}' is empty: make it larger, or leave the phrase out.")
        segments.append(Segment(LocalCaption(text.split()[-1], text, Likelihood.CERTAIN), mask))
    return Layout(tuple(segments))


def dense_diffusion(
    pipeline: Any,
    prompts: Sequence[str],
    layouts: Sequence[Layout],
    seeds: Sequence[int],
    modulation: Mapping[str, Any] | None = None,
    **sampling: Any,
) -> RefineResult:
    """Images of prompts, each object where its layout has it.

    Args:
        pipeline: see :func:`~realignkit.attention.sampler.refine`, as are ``seeds`` and ``sampling``.
        prompts: texts that contain every phrase of their layout.
        layouts: one per prompt, as :func:`dense_layout` makes them.
        seeds: one per prompt.
        modulation: laid over :data:`DENSE_DIFFUSION`.
        sampling: ``num_inference_steps`` (50 originally), ``guidance_scale`` (7.5) and so on.

    Raises:
        PromptError: a phrase is not part of its prompt, token by token.
        ModelError, OptionError: as for refining.
    """
    from realignkit.attention import sampler

    for prompt, layout in zip(prompts, layouts, strict=False):  # refine says when their numbers differ
        check_phrases(pipeline, prompt, layout)
    return sampler.refine(pipeline, prompts, layouts, seeds, dense_modulation(modulation), **sampling)


def dense_modulation(changes: Mapping[str, Any] | None = None) -> ModulationConfig:
    """DenseDiffusion's settings with options of one's own.

    Raises:
        OptionError: there is no such option, or it has no such value.
    """
    merged = {**DENSE_DIFFUSION.model_dump(), **mapping("modulation", changes)}
    return parse_options(ModulationConfig, merged, owner="modulation")


def check_phrases(pipeline: Any, prompt: str, layout: Layout) -> None:
    """Refuse a layout with a phrase that the prompt does not have (the original ignores short ones silently).

    Raises:
        PromptError: see above.
    """
    from realignkit.pipelines import encoding, spans

    tokenizer = next((tokenizer for tokenizer, _ in encoding.encoders(pipeline)), None)
    if tokenizer is None:
        return
    for segment in layout:
        phrase = segment.caption.caption
        if not spans.names(tokenizer, prompt, phrase):
            raise PromptError(f"'{phrase}' is not part of '{prompt}', token by token. Write it as the prompt does.")


def _size(size: tuple[int, int]) -> tuple[int, int]:
    sides = [whole("width and height", side) for side in listed("width and height", size)]
    if len(sides) != 2:
        raise OptionError(f"size is (width, height), two numbers, not {len(sides)}.")
    return sides[0], sides[1]


def _mask(phrase: str, region: Mask | RelativeBox | str | Path, size: tuple[int, int]) -> Mask:
    width, height = size
    if isinstance(region, str | Path):
        return _read(phrase, Path(region), size)
    if isinstance(region, np.ndarray):
        if region.shape != (height, width):
            raise OptionError(f"the mask of '{phrase}' is {region.shape}, not (height, width) = {(height, width)}.")
        if region.dtype != np.bool_ and not np.isin(region, (0, 1, 255)).all():
            raise OptionError(
                f"the mask of '{phrase}' has values between inside and outside. Make it bool: mask > 0.5."
            )
        return region.astype(np.bool_)
    box = tuple(real(f"a side of the box of '{phrase}'", side) for side in listed(f"the sides of '{phrase}'", region))
    if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise OptionError(
            f"the box of '{phrase}' is {tuple(region)}: give left, top, right, bottom as shares of the image (0 to 1)."
        )
    mask = np.zeros((height, width), dtype=np.bool_)
    # A pixel belongs to the box that its centre lies in; a box thinner than a pixel keeps one.
    left, top = (min(round(share * side), side - 1) for share, side in zip(box[:2], size, strict=True))
    right, bottom = (round(share * side) for share, side in zip(box[2:], size, strict=True))
    mask[top : max(bottom, top + 1), left : max(right, left + 1)] = True
    return mask


def _read(phrase: str, path: Path, size: tuple[int, int]) -> Mask:
    from PIL import Image

    try:
        # On black: what is transparent is outside.
        grey = open_image(path, background="black")[0].convert("L")
    except OptionError as error:
        raise OptionError(f"the mask of '{phrase}' cannot be read: {error}") from None
    return np.asarray(grey.resize(size, Image.Resampling.NEAREST)) > 0
