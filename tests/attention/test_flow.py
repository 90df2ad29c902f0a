"""Flow transformers from prompt to picture: what is drawn, what is refined, and what texts become."""

from __future__ import annotations

import pytest
import torch

from realignkit.attention.config import ModulationConfig
from realignkit.attention.dense import dense_diffusion
from realignkit.attention.regions import regions_of
from realignkit.attention.sampler import current_schedule, refine
from realignkit.errors import ModelError, OptionError, PromptError
from realignkit.pipelines import phrases
from realignkit.pipelines.families import attention_family
from realignkit.pipelines.generate import generate
from realignkit.types import Layout
from tests.attention.flow_pipelines import LENGTH, flux_pipeline, sd3_pipeline
from tests.small_pipelines import distance, layout

PROMPTS = ["a red book and a dog", "a cat"]
SIZE = (32, 48)
FAST = {"num_inference_steps": 3, "height": SIZE[0], "width": SIZE[1]}
STRONG = ModulationConfig(share=1.0, power=0.0, isolate_phrases=False)
PIPELINES = {"sd3": sd3_pipeline, "flux": flux_pipeline}


@pytest.fixture(scope="module", params=PIPELINES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def pipeline(family):
    return PIPELINES[family]()


@pytest.fixture(scope="module")
def plain(pipeline):
    return generate(pipeline, PROMPTS, [3, 4], **FAST)


def test_family(pipeline, family):
    assert attention_family(pipeline) == family


def test_images_are_the_pipelines_own(pipeline, plain):
    for prompt, seed, image in zip(PROMPTS, [3, 4], plain, strict=True):
        stock = pipeline(prompt, generator=torch.Generator().manual_seed(seed), **FAST).images[0]
        assert image.size == SIZE[::-1] and distance(image, stock) <= 1  # a batch of two rounds otherwise
        (alone,) = refine(pipeline, [prompt], [Layout()], [seed], STRONG, **FAST).images
        assert distance(alone, stock) == 0


def test_an_empty_layout_is_the_pipelines_picture_to_the_bit(pipeline, plain):
    result = refine(pipeline, PROMPTS, [Layout(), Layout()], [3, 4], STRONG, **FAST)
    assert [distance(a, b) for a, b in zip(result.images, plain, strict=True)] == [0, 0]
    assert not pipeline.transformer._forward_pre_hooks


def test_refine_a_batch_of_different_layouts(pipeline, plain):
    calls: list[tuple[int, int]] = []
    layouts = [layout("a dog", "red book", size=SIZE), layout("a cat", size=SIZE)]
    result = refine(pipeline, PROMPTS, layouts, [3, 4], STRONG, progress=lambda *step: calls.append(step), **FAST)
    assert result.conditioning == PROMPTS and result.notes == [(), ()]
    assert calls == [(1, 3), (2, 3), (3, 3)]
    literal = STRONG.model_copy(update={"form": "literal"})
    for i, image in enumerate(result.images):
        assert distance(image, plain[i]) > 2
        alone = refine(pipeline, PROMPTS[i : i + 1], layouts[i : i + 1], [3 + i], literal, **FAST)
        assert distance(image, alone.images[0]) <= 2


def test_what_is_appended_and_isolated(pipeline):
    result = refine(pipeline, ["a cat"], [layout("a red dog", size=SIZE)], [0], **FAST)
    assert result.conditioning == ["a cat, a red dog"] and result.notes == [()]


def test_text_rows_by_choice(pipeline):
    of_text = ModulationConfig(share=1.0, power=0.0, cross_weight=0.0, self_weight=0.0, text_weight=1.0)
    result = refine(pipeline, ["a cat"], [layout("a cat", size=SIZE)], [4], of_text, **FAST)
    assert result.notes == [()]
    assert distance(result.images[0], generate(pipeline, ["a cat"], [4], **FAST)[0]) > 0


def test_dense(pipeline):
    result = dense_diffusion(pipeline, ["a cat"], [layout("a cat", size=SIZE)], [4], {"share": 1.0}, **FAST)
    assert result.images[0].size == SIZE[::-1] and result.notes == [()]


def test_from_the_coarse_image(pipeline, plain):
    half = STRONG.model_copy(update={"strength": 0.7})
    layouts = [layout("a dog", size=SIZE), Layout()]
    result = refine(pipeline, PROMPTS, layouts, [3, 4], half, coarse=plain, **FAST)
    assert [image.size for image in result.images] == [SIZE[::-1]] * 2
    assert pipeline.transformer.attn_processors.keys() and not pipeline.transformer._forward_pre_hooks


def test_levels_are_sigmas(pipeline):
    generate(pipeline, ["a cat"], [0], **FAST)
    schedule = current_schedule(pipeline, 3)
    sigmas = pipeline.scheduler.sigmas[:-1].tolist()
    assert schedule.count == 3 and sigmas[0] == 1.0
    assert [schedule.level(float(t)) for t in schedule.timesteps] == pytest.approx(sigmas, rel=1e-5)


def test_prompts_that_are_too_long(pipeline):
    with pytest.raises(PromptError, match=r"reads (256|512)"):
        generate(pipeline, ["a cat " * 300], [0], **FAST)
    with pytest.raises(OptionError, match="multiples of 16"):
        generate(pipeline, ["a cat"], [0], num_inference_steps=2, height=24, width=16)


def test_heat_maps_are_refused(pipeline):
    with pytest.raises(ModelError, match="Leave heat maps out"):
        refine(pipeline, ["a cat"], [layout("a cat", size=SIZE)], [0], heat_maps=["cat"], **FAST)


def test_a_scheduler_of_diffusion_is_refused():
    from diffusers import DDIMScheduler

    pipeline = sd3_pipeline()
    pipeline.scheduler = DDIMScheduler()
    with pytest.raises(ModelError, match="FlowMatchEulerDiscreteScheduler"):
        generate(pipeline, ["a cat"], [0], **FAST)


# --- Stable Diffusion 3 -----------------------------------------------------------------------------------------------


def test_a_phrase_has_places_among_clips_and_t5s_tokens():
    pipeline = sd3_pipeline()
    conditioning = phrases.condition(pipeline, PROMPTS[0], layout("a dog", "a red book"))
    assert conditioning.spans == (slice(LENGTH + 4, LENGTH + 6), slice(LENGTH, LENGTH + 3))  # T5 has no start token
    assert conditioning.more_spans == ((slice(5, 7),), (slice(1, 4),))  # CLIP has
    embeddings, pooled = phrases.encode(pipeline, [conditioning])
    assert embeddings.shape == (1, LENGTH + 256, 32) and pooled.shape == (1, 24)
    alone, _ = phrases.encode(pipeline, [phrases.Conditioning("a dog")])
    torch.testing.assert_close(embeddings[0, 5:7], alone[0, 1:3])
    torch.testing.assert_close(embeddings[0, LENGTH + 4 : LENGTH + 6], alone[0, LENGTH : LENGTH + 2])
    regions = regions_of(pipeline, conditioning, embeddings.shape[1])
    assert regions.tokens[:, 0].nonzero()[:, 0].tolist() == [5, 6, LENGTH + 4, LENGTH + 5]
    assert (~regions.padding).nonzero()[:, 0].tolist() == [*range(8), *range(LENGTH, LENGTH + 7)]


def test_what_clip_cuts_off_t5_still_reads():
    pipeline = sd3_pipeline()
    prompt = "a red book and " * 6 + "a dog"
    conditioning = phrases.condition(pipeline, prompt, layout("a dog"))
    assert conditioning.spans == (slice(LENGTH + 24, LENGTH + 26),) and conditioning.more_spans == ((),)


def test_without_t5_the_text_is_clips():
    pipeline = sd3_pipeline(t5=False)
    result = refine(pipeline, PROMPTS[:1], [layout("a dog", size=SIZE)], [3], STRONG, **FAST)
    assert result.notes == [()]
    assert distance(result.images[0], generate(pipeline, PROMPTS[:1], [3], **FAST)[0]) > 2


def test_a_shift_that_depends_on_the_size():
    pipeline = sd3_pipeline(shift=1.0, use_dynamic_shifting=True)
    result = refine(pipeline, ["a cat"], [layout("a cat", size=SIZE)], [3], STRONG, **FAST)
    assert result.notes == [()]


# --- FLUX.1 -----------------------------------------------------------------------------------------------------------


def test_flux_without_guidance():
    pipeline = flux_pipeline(distilled=False)
    plain = generate(pipeline, PROMPTS[:1], [3], **FAST)
    result = refine(pipeline, PROMPTS[:1], [layout("a dog", size=SIZE)], [3], STRONG, **FAST)
    assert result.notes == [()] and distance(result.images[0], plain[0]) > 2


def test_flux_with_true_guidance():
    pipeline = flux_pipeline()
    with pytest.raises(OptionError, match="give guidance_scale"):
        generate(pipeline, PROMPTS[:1], [3], negative_prompt="a cat", **FAST)
    wishes = {**FAST, "negative_prompt": "a cat", "guidance_scale": 4.0}
    plain = generate(pipeline, PROMPTS[:1], [3], **wishes)
    own = pipeline(
        PROMPTS[0],
        negative_prompt="a cat",
        true_cfg_scale=4.0,
        generator=torch.Generator().manual_seed(3),
        **FAST,
    ).images[0]
    assert distance(plain[0], own) <= 1
    nothing = refine(pipeline, PROMPTS[:1], [Layout()], [3], STRONG, **wishes)
    assert distance(nothing.images[0], plain[0]) == 0
    result = refine(pipeline, PROMPTS[:1], [layout("a dog", size=SIZE)], [3], STRONG, **wishes)
    assert result.notes == [()] and distance(result.images[0], plain[0]) > 2
