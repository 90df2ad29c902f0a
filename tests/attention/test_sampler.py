"""Coarse and refined images of tiny SD and SDXL pipelines."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, PNDMScheduler, StableDiffusionImg2ImgPipeline
from PIL import Image

from realignkit.attention.config import ModulationConfig
from realignkit.attention.sampler import attention_family, generate, refine
from realignkit.errors import ModelError, OptionError, PromptError
from realignkit.pipelines import families
from realignkit.types import Layout, Likelihood, LocalCaption, Segment

PROMPTS = ["a red book and a dog", "a cat"]
FAST = {"num_inference_steps": 4, "height": 16, "width": 16}
EMPTY = Layout()


def layout(*captions: str, likelihood: Likelihood = Likelihood.CERTAIN, size: tuple[int, int] = (16, 16)) -> Layout:
    """Side by side, one upright strip per caption."""
    segments = []
    for i, caption in enumerate(captions):
        mask = np.zeros(size, dtype=bool)
        mask[2:, i * size[1] // len(captions) : (i + 1) * size[1] // len(captions) - 1] = True
        segments.append(Segment(LocalCaption(caption.split()[-1], caption, likelihood), mask))
    return Layout(tuple(segments))


def distance(first: Image.Image, second: Image.Image) -> int:
    """Largest difference of two images in grey levels."""
    return int(np.abs(np.asarray(first, dtype=int) - np.asarray(second, dtype=int)).max())


def test_family(pipeline):
    assert attention_family(pipeline) == "unet"
    assert attention_family(object()) is None
    assert attention_family(StableDiffusionImg2ImgPipeline) is None


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


@pytest.mark.parametrize("guidance_scale", [1.0, 6.0])
def test_refine_with_nothing_to_do_is_generate(pipeline, guidance_scale):
    sampling = {**FAST, "guidance_scale": guidance_scale}
    plain = generate(pipeline, PROMPTS, [0, 1], **sampling)
    nothing = ModulationConfig(cross_weight=0.0, self_weight=0.0, isolate_phrases=False)
    weightless = refine(pipeline, PROMPTS, [layout("a dog", "red book"), layout("a cat")], [0, 1], nothing, **sampling)
    empty = refine(pipeline, PROMPTS, [EMPTY, EMPTY], [0, 1], **sampling)
    unlikely = layout("a zebra", likelihood=Likelihood.UNLIKELY)
    ruled_out = refine(pipeline, PROMPTS, [unlikely, unlikely], [0, 1], **sampling)
    for result in (weightless, empty, ruled_out):
        assert result.conditioning == PROMPTS
        assert [distance(a, b) for a, b in zip(result.images, plain, strict=True)] == [0, 0]


def test_refine_changes_what_has_a_layout_and_nothing_else(pipeline):
    plain = generate(pipeline, PROMPTS, [0, 1], **FAST)
    config = ModulationConfig(share=1.0, power=1.0, isolate_phrases=False)
    result = refine(pipeline, PROMPTS, [layout("a dog", "red book"), EMPTY], [0, 1], config, **FAST)
    assert distance(result.images[0], plain[0]) > 1
    assert distance(result.images[1], plain[1]) <= 1


def test_isolation_alone_changes_the_image(sd_pipeline):
    plain = generate(sd_pipeline, PROMPTS[:1], [0], **FAST)
    config = ModulationConfig(cross_weight=0.0, self_weight=0.0)
    result = refine(sd_pipeline, PROMPTS[:1], [layout("a dog", "red book")], [0], config, **FAST)
    assert distance(result.images[0], plain[0]) > 0


def test_batch_equals_one_by_one(pipeline):
    layouts = [layout("a dog", "a zebra"), layout("a cat")]
    config = ModulationConfig(share=1.0, power=1.0)
    both = refine(pipeline, PROMPTS, layouts, [5, 6], config, **FAST)
    assert both.conditioning == ["a red book and a dog, a zebra", "a cat"]
    for i in range(2):
        alone = refine(pipeline, PROMPTS[i : i + 1], layouts[i : i + 1], [5 + i], config, **FAST)
        assert distance(both.images[i], alone.images[0]) <= 1
        assert both.conditioning[i] == alone.conditioning[0]


def test_not_square_and_progress(pipeline):
    calls: list[tuple[int, int]] = []
    result = refine(
        pipeline,
        ["a cat"],
        [layout("a cat", size=(48, 32))],
        [0],
        num_inference_steps=3,
        height=24,
        width=16,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert result.images[0].size == (16, 24)
    assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("side", ["height", "width"])
def test_one_side_alone_keeps_the_models_other_one(pipeline, side):
    width, height = families.image_size(pipeline)
    size = (width, 48) if side == "height" else (48, height)
    assert width != 48 != height
    sampling = {"num_inference_steps": 1, side: 48}
    assert generate(pipeline, ["a cat"], [0], **sampling)[0].size == size
    found = refine(pipeline, ["a cat"], [layout("a cat", size=size[::-1])], [0], **sampling)
    assert found.images[0].size == size


def test_notes_reach_the_caller(sd_pipeline):
    result = refine(sd_pipeline, ["a cat and a dog"], [layout("zebra " * 4, "a cat")], [0], **FAST)
    assert result.conditioning == ["a cat and a dog"]
    assert len(result.notes[0]) == 1 and "24 tokens" in result.notes[0][0]


def test_strength_starts_from_the_coarse_image(pipeline):
    coarse = generate(pipeline, ["a cat"], [0], **FAST)[0]
    calls: list[tuple[int, int]] = []

    def start(strength: float, image: Image.Image) -> Image.Image:
        config = ModulationConfig(strength=strength)
        sampling = {**FAST, "num_inference_steps": 10}
        result = refine(
            pipeline,
            ["a cat"],
            [layout("a cat")],
            [0],
            config,
            coarse=[image],
            progress=lambda *step: calls.append(step),
            **sampling,
        )
        return result.images[0]

    black, white = Image.new("RGB", (16, 16)), Image.new("RGB", (16, 16), "white")
    # The less noise, the more is left of what it starts from; with all of it, next to nothing.
    assert distance(start(0.1, black), start(0.1, white)) > distance(start(1.0, black), start(1.0, white))
    calls.clear()
    start(0.3, coarse)
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_unet_is_left_as_it_was(pipeline):
    before = pipeline.unet.attn_processors
    refine(pipeline, ["a cat"], [layout("a cat")], [0], **FAST)
    assert pipeline.unet.attn_processors == before and not pipeline.unet._forward_pre_hooks


def test_no_prompts(sd_pipeline):
    assert generate(sd_pipeline, [], []) == []
    assert refine(sd_pipeline, [], [], []).images == []


@pytest.mark.parametrize(("prompt", "message"), [(" ", "empty"), ("zebra " * 6, r"32 tokens.*24")])
def test_bad_prompts(pipeline, prompt, message):
    with pytest.raises(PromptError, match=message):
        generate(pipeline, [prompt], [0], **FAST)
    with pytest.raises(PromptError, match=message):
        refine(pipeline, [prompt], [EMPTY], [0], **FAST)


def test_a_long_prompt_prints_no_line_of_the_tokenizers(make_pipeline, capfd, caplog):
    """It says so once in the life of a tokenizer; the refusal says it already."""
    pipeline = make_pipeline("sd")
    pipeline.tokenizer = copy.deepcopy(pipeline.tokenizer)
    pipeline.tokenizer.deprecation_warnings.clear()
    with pytest.raises(PromptError, match="tokens"):
        generate(pipeline, ["zebra " * 6], [0], **FAST)
    refine(pipeline, ["a cat"], [layout("zebra " * 6, "a cat")], [0], **FAST)
    assert "Token indices" not in capfd.readouterr().err + caplog.text


def test_bad_arguments(sd_pipeline):
    with pytest.raises(OptionError, match="one seed for each"):
        generate(sd_pipeline, ["a cat"], [0, 1])
    with pytest.raises(OptionError, match="layouts"):
        refine(sd_pipeline, ["a cat"], [], [0])
    with pytest.raises(OptionError, match="coarse"):
        refine(sd_pipeline, ["a cat"], [EMPTY], [0], ModulationConfig(strength=0.5))
    with pytest.raises(OptionError, match="leaves none"):
        image = Image.new("RGB", (16, 16))
        refine(sd_pipeline, ["a cat"], [EMPTY], [0], ModulationConfig(strength=0.1), coarse=[image], **FAST)
    with pytest.raises(OptionError, match="at least 1"):
        generate(sd_pipeline, ["a cat"], [0], num_inference_steps=0)
    with pytest.raises(OptionError, match="multiples of 8"):
        generate(sd_pipeline, ["a cat"], [0], height=20, width=16)


def test_other_pipelines_are_refused(sd_pipeline):
    other = StableDiffusionImg2ImgPipeline(**sd_pipeline.components, requires_safety_checker=False)
    for pipeline in (other, object()):
        with pytest.raises(ModelError, match="StableDiffusionXLPipeline"):
            generate(pipeline, ["a cat"], [0])
        with pytest.raises(ModelError, match="StableDiffusionXLPipeline"):
            refine(pipeline, ["a cat"], [EMPTY], [0])


def test_an_image_that_does_not_fit_into_memory(sd_pipeline):
    with pytest.raises(ModelError, match=r"drawing needs more memory.*smaller ones"):
        generate(sd_pipeline, ["a cat"], [0], num_inference_steps=1, height=2**24, width=2**24)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("part", "where"), [("unet", "step 1"), ("vae.decoder", "image decoder"), ("vae.encoder", "image encoder")]
)
def test_numbers_that_are_none_are_reported(sd_pipeline, part, where, value):
    """Infinity too: clamped, it would be a white or a black picture."""
    image = Image.new("RGB", (16, 16))
    owner = sd_pipeline
    for name in part.split("."):
        owner = getattr(owner, name)
    weight = owner.conv_out.bias
    kept = weight.detach().clone()
    weight.data[0] = value
    try:
        with pytest.raises(ModelError, match=f"NaN or infinity.*{where}"):
            if part == "vae.encoder":
                refine(sd_pipeline, ["a cat"], [EMPTY], [0], ModulationConfig(strength=0.5), coarse=[image], **FAST)
            generate(sd_pipeline, ["a cat"], [0], **FAST)
    finally:
        weight.data.copy_(kept)
    assert "postprocess" not in vars(sd_pipeline.image_processor)


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


def test_a_schedule_that_cannot_be_is_refused(make_pipeline):
    pipeline = make_pipeline("sd")
    pipeline.scheduler = PNDMScheduler.from_config(pipeline.scheduler.config)  # Runge-Kutta needs four steps
    for draw in (generate, lambda *arguments, **options: refine(*arguments[:2], [EMPTY], [0], **options)):
        with pytest.raises(OptionError, match="PNDMScheduler has no schedule of 2 steps"):
            draw(pipeline, ["a cat"], [0], **{**FAST, "num_inference_steps": 2})


def test_a_foreign_network_is_named(make_pipeline):
    """As when somebody puts a traced U-Net in the place of the real one."""

    class Traced(torch.nn.Module):
        config = None

    pipeline = make_pipeline("sd")
    pipeline.unet = Traced()
    assert attention_family(pipeline) is None
    with pytest.raises(ModelError, match=r"unet of this StableDiffusionPipeline is a Traced.*UNet2DConditionModel"):
        refine(pipeline, ["a cat"], [EMPTY], [0], **FAST)
