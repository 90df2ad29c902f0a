"""What kind of pipeline it is."""

from __future__ import annotations

from diffusers import StableDiffusionImg2ImgPipeline

from realignkit.attention import attention_family


def test_family(pipeline):
    assert attention_family(pipeline) == "unet"
    assert attention_family(object()) is None
    assert attention_family(StableDiffusionImg2ImgPipeline) is None
