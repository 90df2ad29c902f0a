"""ImageReward by its authors' package, image-reward."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from realignkit.isolation import IsolatedReward
from realignkit_plugins.isolated import PYTHON, TORCH


class ImageRewardPackage(IsolatedReward):
    """ImageReward, computed by the package image-reward: what it gives, gradient included."""

    environment = "image-reward"
    python = PYTHON
    requires = (
        *TORCH,
        *("image-reward==1.5", "clip-anytorch==2.6.0", "transformers==4.27.4", "diffusers==0.16.0"),
        *("accelerate==0.20.3", "huggingface_hub<0.26"),
    )
    program = Path(__file__).with_name("image_reward_program.py")
    margin = 2.0

    class Options(IsolatedReward.Options):
        """Options of :class:`ImageRewardPackage`."""

        model: str = Field("ImageReward-v1.0", description="a name that the package downloads, or ImageReward.pt")
        med_config: str = Field("", description="its med_config.json; empty: downloaded by the package")
        tokenizer: str = Field("bert-base-uncased", description="hub id or folder")
        device: str = Field("cpu", description="there")
