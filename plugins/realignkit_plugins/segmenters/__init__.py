"""Segmenters: find described objects in an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from realignkit import hookimpl

if TYPE_CHECKING:
    from realignkit.hookspecs import Register


@hookimpl
def register_segmenters(register: Register) -> None:
    """CLIPSeg: text in, mask out; Grounded-SAM: text to boxes to masks."""
    register(
        "clipseg",
        "realignkit_plugins.segmenters.clipseg:CLIPSegSegmenter",
        "CLIPSeg: masks from text, by any CLIPSegForImageSegmentation checkpoint",
        license="Apache-2.0",
    )
    register(
        "grounded_sam",
        "realignkit_plugins.segmenters.grounded_sam:GroundedSamSegmenter",
        "Grounded-SAM: boxes from text by Grounding DINO, masks from boxes by SAM or SAM 2",
        license="Apache-2.0",
    )
    register(
        "grounded_sam_package",
        "realignkit_plugins.isolated.grounded_sam:GroundedSamPackage",
        "Grounded-SAM by groundingdino-py and segment-anything, in an environment of their own",
    )
