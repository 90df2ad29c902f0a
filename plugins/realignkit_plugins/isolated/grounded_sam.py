"""Grounded-SAM by the packages that it was published with: groundingdino-py and segment-anything."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from realignkit.isolation import IsolatedSegmenter
from realignkit_plugins.isolated import PYTHON, TORCH


class GroundedSamPackage(IsolatedSegmenter):
    """Grounding DINO's best box of each phrase, and SAM's best mask in it."""

    environment = "grounded-sam"
    python = PYTHON
    requires = (*TORCH, "groundingdino-py==0.4.0", "segment-anything==1.0", "transformers==4.46.3")
    program = Path(__file__).with_name("grounded_sam_program.py")

    class Options(IsolatedSegmenter.Options):
        """Options of :class:`GroundedSamPackage`."""

        dino: str = Field(description="groundingdino_swint_ogc.pth or groundingdino_swinb_cogcoor.pth, a file")
        sam: str = Field(description="sam_vit_h_4b8939.pth or another of SAM's, a file")
        dino_config: Literal["SwinT_OGC", "SwinB_cfg"] = Field("SwinT_OGC", description="of Grounding DINO")
        sam_type: Literal["vit_h", "vit_l", "vit_b"] = Field("vit_h", description="of SAM")
        text_encoder: str = Field("bert-base-uncased", description="Grounding DINO's: its hub id, or a folder")
        threshold: float = Field(0.35, ge=0, le=1, description="how sure Grounding DINO must be of a box")
        device: str = Field("cpu", description="there")
