"""Refined images of tiny SD and SDXL pipelines; nothing is left unmodulated without a note that says why."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from diffusers import PNDMScheduler, StableDiffusionImg2ImgPipeline
from PIL import Image

from realignkit.attention.config import ModulationConfig
from realignkit.attention.sampler import refine
from realignkit.errors import ModelError, OptionError, PromptError
from realignkit.pipelines import families
from realignkit.pipelines.families import attention_family
from realignkit.pipelines.generate import generate
from realignkit.types import Layout, Likelihood, LocalCaption, Segment
from tests.small_pipelines import FAST, distance, layout

PROMPTS = ["a red book and a dog", "a cat"]
EMPTY = Layout()


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


PROMPT = "a red book and a dog"
UNLIKELY = Likelihood.UNLIKELY


def segment(caption: str, box: tuple[int, int, int, int], likelihood: Likelihood = Likelihood.CERTAIN) -> Segment:
    """A mask of 16 x 16, inside from left, top to right, bottom."""
    left, top, right, bottom = box
    mask = np.zeros((16, 16), dtype=bool)
    mask[top:bottom, left:right] = True
    return Segment(LocalCaption(caption.split()[-1], caption, likelihood), mask)


def notes(pipeline, found: Layout, strength: float | None = None, **options) -> str:
    config = ModulationConfig(isolate_phrases=False, strength=strength, **options)
    coarse = [Image.new("RGB", (16, 16), "grey")]
    return "; ".join(refine(pipeline, [PROMPT], [found], [0], config, coarse=coarse, **FAST).notes[0])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cross_weight": 0.0},
        {"self_weight": 0.0},
        {"strength": 0.5, "power": 1.0},
        {"size_term": "similarity"},
        {"clamp": True},
    ],
)
def test_no_note_where_all_is_modulated(pipeline, options):
    assert notes(pipeline, layout("a dog", "red book"), **options) == ""


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"share": 0.0}, "modulation.share is 0"),
        ({"cross_weight": 0.0, "self_weight": 0.0}, "modulation.cross_weight and modulation.self_weight are 0"),
        ({"power": 50.0, "strength": 0.5, "time_scale": "train"}, "lambda_t is at most"),
        ({"append_missing": False}, "no segment of its layout"),
    ],
)
def test_nothing_is_modulated(pipeline, options, why):
    """Each of them draws the very picture that no modulation draws."""
    found = layout("a cat") if "append_missing" in options else layout("a dog", "red book")
    assert f"attention was not modulated: {why}" in notes(pipeline, found, **options)
    if "strength" not in options:
        config = ModulationConfig(isolate_phrases=False, **options)
        refined = refine(pipeline, [PROMPT], [found], [0], config, **FAST).images[0]
        assert distance(refined, generate(pipeline, [PROMPT], [0], **FAST)[0]) == 0


def test_every_object_is_unlikely(pipeline):
    found = layout("a dog", likelihood=UNLIKELY)
    assert "no segment of its layout" in notes(pipeline, found)
    assert notes(pipeline, found, suppress_unlikely=True) == ""
    assert "no segment of its layout" in notes(pipeline, layout("a zebra", likelihood=UNLIKELY), suppress_unlikely=True)
    assert "cross_weight" in notes(pipeline, found, suppress_unlikely=True, cross_weight=0.0)


def test_a_mask_of_which_no_cell_is_left(pipeline):
    """Latents of 8 x 8 are sampled at every other pixel from the first; a pixel between is lost."""
    speck, dog = segment("red book", (5, 5, 6, 6)), segment("a dog", (8, 0, 16, 16))
    one = notes(pipeline, Layout((speck, dog)))
    assert "'red book' is not modulated: no cell of attention is left" in one and "any object" not in one
    assert "not modulated in any object" in notes(pipeline, Layout((speck,)))
    assert notes(pipeline, Layout((speck, dog)), mask_resize="area") == ""


def test_a_mask_that_smaller_ones_cover(pipeline):
    left, right = segment("a dog", (0, 0, 8, 16)), segment("red book", (8, 0, 16, 16))
    both = segment("a red book and a dog", (0, 0, 16, 16))
    found = notes(pipeline, Layout((left, right, both)))
    assert found == (
        "'a red book and a dog' is not modulated: smaller masks cover all of its own; "
        "modulation.overlap=union gives it what they share"
    )


def test_a_mask_of_the_whole_image(pipeline):
    whole = Layout((segment("a dog", (0, 0, 16, 16)),))
    assert "size_term=area pushes the less" in notes(pipeline, whole)
    assert notes(pipeline, whole, size_term="none") == ""


def test_each_image_of_a_batch_has_its_own(pipeline):
    config = ModulationConfig(share=1.0)
    found = [layout("a dog"), layout("a dog", likelihood=UNLIKELY), layout("a dog")]
    result = refine(pipeline, [PROMPT] * 3, found, [0, 1, 2], config, **FAST)
    assert [len(item) for item in result.notes] == [0, 1, 0]
