"""Any model of open_clip, by its own package."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from realignkit.isolation import IsolatedReward
from realignkit_plugins.isolated import PYTHON, TORCH


class OpenCLIPPackage(IsolatedReward):
    """Cosine of image and text features, by any architecture of the package open_clip_torch."""

    environment = "open-clip"
    python = PYTHON
    requires = (*TORCH, "open_clip_torch==2.24.0")
    program = Path(__file__).with_name("open_clip_program.py")

    class Options(IsolatedReward.Options):
        """Options of :class:`OpenCLIPPackage`."""

        model: str = Field("ViT-H-14", description="an architecture, as the package names it")
        pretrained: str = Field("laion2b_s32b_b79k", description="weights: a name that it downloads, or a file")
        device: str = Field("cpu", description="there")
