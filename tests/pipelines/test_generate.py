"""Pictures of pipelines that are only called."""

from __future__ import annotations

import pytest
from diffusers import StableDiffusionPAGPipeline

from realignkit.attention.sampler import generate


class Careless(StableDiffusionPAGPipeline):
    """Takes no notice of one side alone, as several pipelines of diffusers do."""

    def __call__(self, prompt, height=None, width=None, generator=None, output_type="np", **options):
        if not height or not width:
            height = width = self.unet.config.sample_size * self.vae_scale_factor
        own = {"num_inference_steps": 1, **options}
        return super().__call__(
            prompt=prompt, height=height, width=width, generator=generator, output_type=output_type, **own
        )


@pytest.mark.parametrize("side", ["height", "width"])
def test_one_side_alone_keeps_the_models_other_one(make_pipeline, side):
    own = make_pipeline("sd")
    pipeline = Careless(**own.components, requires_safety_checker=False, pag_applied_layers=["mid"])
    pipeline.set_progress_bar_config(disable=True)
    (picture,) = generate(pipeline, ["a cat"], [0], **{side: 48})
    assert picture.size == ((32, 48) if side == "height" else (48, 32))


@pytest.mark.parametrize("side", ["height", "width"])
def test_one_side_alone_is_left_to_a_pipeline_that_states_no_size(make_pipeline, side):
    pipeline = make_pipeline("sd")

    class Unstated:
        """Called like a pipeline, and no more."""

        def __call__(self, prompt, generator, output_type, height=32, width=32):
            return pipeline(prompt, height, width, 1, generator=generator, output_type=output_type)

    (picture,) = generate(Unstated(), ["a cat"], [0], **{side: 48})
    assert picture.size == ((32, 48) if side == "height" else (48, 32))
