"""Pictures of pipelines as they are, and what goes wrong while one draws, in words."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPAGPipeline

from realignkit.attention.sampler import refine
from realignkit.errors import ModelError
from realignkit.pipelines.generate import generate
from realignkit.pipelines.images import NotFiniteError
from realignkit.types import Layout
from tests.small_pipelines import FAST, distance

PROMPTS = ["a red book and a dog", "a cat"]
EMPTY = Layout()


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


def test_images_are_the_pipelines_own(pipeline):
    ours = generate(pipeline, PROMPTS, [3, 4], guidance_scale=5.0, negative_prompt="a dog", **FAST)
    for prompt, seed, image in zip(PROMPTS, [3, 4], ours, strict=True):
        generator = torch.Generator().manual_seed(seed)
        own = pipeline(prompt, generator=generator, guidance_scale=5.0, negative_prompt="a dog", **FAST).images[0]
        assert image.size == (16, 16) and image.mode == "RGB"
        assert distance(image, own) <= 1  # rounding; and a batch changes nothing


def test_seeds_matter(sd_pipeline):
    first, second = generate(sd_pipeline, ["a cat", "a cat"], [0, 1], **FAST)
    assert distance(first, second) > 10


def test_an_image_that_does_not_fit_into_memory(sd_pipeline):
    with pytest.raises(ModelError, match=r"drawing needs more memory.*smaller ones"):
        generate(sd_pipeline, ["a cat"], [0], num_inference_steps=1, height=2**24, width=2**24)


def test_infinity_in_the_text_encoder(sd_pipeline):
    weight = sd_pipeline.text_encoder.get_input_embeddings().weight
    kept = weight.detach().clone()
    weight.data.fill_(float("inf"))
    try:
        with pytest.raises(ModelError, match="in the text encoder"):
            generate(sd_pipeline, ["a cat"], [0], **FAST)
    finally:
        weight.data.copy_(kept)


def test_infinity_in_a_pipeline_of_another_kind(sd_pipeline):
    """One that is only called: its pictures come clamped."""

    class Other(DiffusionPipeline):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.image_processor = inner, inner.image_processor

        def __call__(self, prompt, generator=None, num_inference_steps=2, output_type="np"):
            return self.inner(
                prompt, generator=generator, num_inference_steps=2, height=16, width=16, output_type=output_type
            )

    other = Other(sd_pipeline)
    assert generate(other, ["a cat"], [0])[0].size == (16, 16)
    weight = sd_pipeline.vae.decoder.conv_out.bias
    kept = weight.detach().clone()
    weight.data.fill_(float("inf"))
    try:
        with pytest.raises(ModelError, match="image decoder"):
            generate(other, ["a cat"], [0])
    finally:
        weight.data.copy_(kept)


def half_network(pipeline):
    pipeline.unet.half()


def half_decoder(pipeline):
    pipeline.vae.half()


def double_encoder(pipeline):
    pipeline.text_encoder.double()


@pytest.mark.parametrize("way", [half_network, half_decoder, double_encoder])
def test_precisions_that_do_not_go_together(make_pipeline, way):
    pipeline = make_pipeline("sd")
    way(pipeline)
    for draw in (generate, lambda *a, **o: refine(*a[:2], [EMPTY], [0], **o)):
        with pytest.raises(ModelError, match=r"precisions .*text_encoder float\d\d, unet float.*pipeline\.to"):
            draw(pipeline, ["a cat"], [0], **FAST)
    pipeline.to(torch.float32)
    assert generate(pipeline, ["a cat"], [0], **FAST)  # as the message says


def test_layers_offloaded_to_the_cpu_by_the_cpu(make_pipeline):
    """Where accelerate cannot do it; where it can, the picture is drawn."""
    pipeline = make_pipeline("sd")
    pipeline.enable_sequential_cpu_offload(device="cpu")
    try:
        assert generate(pipeline, ["a cat"], [0], **FAST)
    except ModelError as error:
        assert "offloaded, which needs a GPU" in str(error)


def test_weights_that_were_never_loaded(make_pipeline):
    pipeline = make_pipeline("sd")
    pipeline.unet.to("meta")
    with pytest.raises(ModelError, match="are not in memory"):
        generate(pipeline, ["a cat"], [0], **FAST)


@pytest.mark.parametrize("guidance_scale", [1e30, 1e38])
def test_a_guidance_scale_that_overflows(make_pipeline, guidance_scale):
    with pytest.raises(ModelError, match=rf"guidance_scale of {guidance_scale:g}".replace("+", r"\+")) as caught:
        generate(make_pipeline("sd"), ["a cat"], [0], guidance_scale=guidance_scale, **FAST)
    assert "checkpoint" not in str(caught.value)


def test_a_damaged_checkpoint_is_still_blamed(make_pipeline):
    pipeline = make_pipeline("sd")
    pipeline.unet.conv_out.bias.data[0] = float("nan")
    with pytest.raises(NotFiniteError, match="checkpoint is damaged"):
        generate(pipeline, ["a cat"], [0], guidance_scale=7.5, **FAST)


def test_any_other_failure_is_named_with_its_reason(make_pipeline):
    pipeline = make_pipeline("sd")

    def forward(*_, **__):
        raise ValueError("the first line\nand the second")

    pipeline.unet.forward = forward
    with pytest.raises(
        ModelError, match=r"failed while drawing \(ValueError: the first line and the second\): try whether"
    ) as caught:
        generate(pipeline, ["a cat"], [0], **FAST)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("kind", [RuntimeError, KeyError, MemoryError])
def test_what_the_caller_raises_while_watching_is_the_callers(make_pipeline, kind):
    def progress(done: int, total: int) -> None:
        raise kind("enough")

    with pytest.raises(kind, match="enough"):
        generate(make_pipeline("sd"), ["a cat"], [0], progress=progress, **FAST)
