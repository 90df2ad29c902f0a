"""Flow transformers from prompt to picture: what is drawn, what is refined, and what texts become."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from realignkit.attention.config import ModulationConfig
from realignkit.attention.dense import dense_diffusion
from realignkit.attention.regions import regions_of
from realignkit.attention.sampler import current_schedule, refine
from realignkit.errors import ModelError, OptionError, PromptError
from realignkit.pipelines import encoding, phrases, spans
from realignkit.pipelines.families import attention_family, attention_processors, family_of, image_size
from realignkit.pipelines.generate import generate
from realignkit.types import Layout
from tests.attention.flow_pipelines import (
    LENGTH,
    flux2_dev_pipeline,
    flux2_pipeline,
    flux_pipeline,
    qwen_image_pipeline,
    sd3_pipeline,
    z_image_pipeline,
)
from tests.small_pipelines import distance, layout

PROMPTS = ["a red book and a dog", "a cat"]
SIZE = (32, 48)
FAST = {"num_inference_steps": 3, "height": SIZE[0], "width": SIZE[1]}
STRONG = ModulationConfig(share=1.0, power=0.0, isolate_phrases=False)
PIPELINES = {
    "sd3": sd3_pipeline,
    "flux": flux_pipeline,
    "flux2": flux2_pipeline,
    "qwen_image": qwen_image_pipeline,
    "z_image": z_image_pipeline,
}


@pytest.fixture(scope="module", params=PIPELINES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def pipeline(family):
    return PIPELINES[family]()


@pytest.fixture(scope="module")
def plain(pipeline):
    return generate(pipeline, PROMPTS, [3, 4], **FAST)


def stock_picture(pipeline, prompt, seed, **options):
    return pipeline(prompt=prompt, generator=torch.Generator().manual_seed(seed), **FAST, **options).images[0]


def test_family(pipeline, family):
    assert attention_family(pipeline) == family


def test_images_are_the_pipelines_own(pipeline, plain):
    for prompt, seed, image in zip(PROMPTS, [3, 4], plain, strict=True):
        stock = stock_picture(pipeline, prompt, seed)
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
    if family_of(pipeline).joint.image_to_image is None:
        with pytest.raises(OptionError, match="has no image-to-image pipeline beside it: leave strength out"):
            refine(pipeline, PROMPTS, layouts, [3, 4], half, coarse=plain, **FAST)
        return
    result = refine(pipeline, PROMPTS, layouts, [3, 4], half, coarse=plain, **FAST)
    assert [image.size for image in result.images] == [SIZE[::-1]] * 2
    assert attention_processors(pipeline.transformer) and not pipeline.transformer._forward_pre_hooks


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
    own = stock_picture(pipeline, PROMPTS[0], 3, negative_prompt="a cat", true_cfg_scale=4.0)
    assert distance(plain[0], own) <= 1
    nothing = refine(pipeline, PROMPTS[:1], [Layout()], [3], STRONG, **wishes)
    assert distance(nothing.images[0], plain[0]) == 0
    result = refine(pipeline, PROMPTS[:1], [layout("a dog", size=SIZE)], [3], STRONG, **wishes)
    assert result.notes == [()] and distance(result.images[0], plain[0]) > 2


# --- texts within a conversation --------------------------------------------------------------------------------------

CHATS = {
    "flux2": flux2_pipeline,
    "flux2 dev": flux2_dev_pipeline,
    "flux2 dev, padded on the left": partial(flux2_dev_pipeline, padding_side="left"),
    "qwen_image": qwen_image_pipeline,
    "qwen_image, padded on the left": partial(qwen_image_pipeline, padding_side="left"),
    "z_image": z_image_pipeline,
    "z_image, padded on the left": partial(z_image_pipeline, padding_side="left"),
}


@pytest.mark.parametrize("kind", CHATS)
def test_tokens_are_those_that_the_text_encoder_is_given(kind):
    """Fails when a new diffusers lays out its conversations in another way."""
    pipeline, given = CHATS[kind](), []
    hook = pipeline.text_encoder.register_forward_pre_hook(
        lambda _, __, options: given.append((options["input_ids"], options["attention_mask"])), with_kwargs=True
    )
    conditioning = phrases.condition(pipeline, PROMPTS[0], layout("a dog", "red book"))
    embeddings, _ = encoding.encode_texts(pipeline, [conditioning.text])
    hook.remove()
    ids, mask = given[0]
    if "z_image" in kind:  # which takes padding out, on whichever side
        ids, mask = ids[:, mask[0].bool()], mask[:, mask[0].bool()]
    reader = encoding.readers(pipeline)[0]
    tokenizer, stretch = reader.encoders[0][0], encoding.stretch(reader, PROMPTS[0])
    dropped = int(mask.sum()) - (stretch.stop - stretch.start)
    assert ids[0][mask[0].bool()].tolist()[dropped:] == encoding.full_ids(tokenizer, PROMPTS[0])
    seen = ids[0].roll(-dropped) if embeddings.shape[1] == ids.shape[1] - dropped else ids[0]
    assert [tokenizer.decode(seen[span]) for span in conditioning.spans] == [" a dog", " red book"]
    regions = regions_of(pipeline, conditioning, embeddings.shape[1])
    assert (~regions.padding).nonzero()[:, 0].tolist() == list(range(stretch.start, stretch.stop))


@pytest.mark.parametrize("kind", CHATS)
def test_a_phrase_is_isolated_as_it_is_written(kind):
    """ "red" at the beginning has two tokens, behind a space it has one."""
    pipeline = CHATS[kind]()
    tokenizer = encoding.readers(pipeline)[0].encoders[0][0]
    assert [len(form) for form in spans.forms(tokenizer, "red book")] == [3, 2]
    for text, written in (("a dog and a red book", " red book"), ("red book and a dog", "red book")):
        conditioning = phrases.condition(pipeline, text, layout("red book"))
        embeddings, _ = phrases.encode(pipeline, [conditioning])
        alone, _ = encoding.encode_texts(pipeline, [written])
        (place,) = spans.phrase_spans(tokenizer, written, ["red book"])
        shift = encoding.stretch(encoding.readers(pipeline)[0], written).start
        torch.testing.assert_close(
            embeddings[0, conditioning.spans[0]], alone[0, place.start + shift : place.stop + shift]
        )
        whole, _ = encoding.encode_texts(pipeline, [text])
        changed = ((embeddings[0] - whole[0]).abs().amax(-1) > 1e-5).nonzero()[:, 0].tolist()
        span = conditioning.spans[0]
        # A language model reads from left to right: at the beginning a phrase stands alone as it is.
        assert changed == (list(range(span.start, span.stop)) if written.startswith(" ") else [])


def test_a_tokenizer_without_a_chat_template_is_refused():
    pipeline = flux2_pipeline()
    pipeline.tokenizer.chat_template = None
    with pytest.raises(ModelError, match=r"has no chat template.* chat_template\.jinja"):
        generate(pipeline, ["a cat"], [0], **FAST)


# --- FLUX.2 -----------------------------------------------------------------------------------------------------------


def test_flux2_is_guided_by_calls_of_its_own():
    pipeline = flux2_pipeline()
    unguided = generate(pipeline, PROMPTS, [3, 4], guidance_scale=1.0, **FAST)
    assert distance(unguided[0], stock_picture(pipeline, PROMPTS[0], 3, guidance_scale=1.0)) <= 1
    guided = generate(pipeline, PROMPTS, [3, 4], **FAST)
    assert distance(guided[0], unguided[0]) > 2
    other = generate(pipeline, PROMPTS, [3, 4], negative_prompt="a cat", **FAST)
    assert distance(other[0], guided[0]) > 2
    result = refine(pipeline, PROMPTS, [layout("a dog", size=SIZE), Layout()], [3, 4], STRONG, **FAST)
    assert distance(result.images[0], guided[0]) > 2 and distance(result.images[1], guided[1]) == 0


def test_flux2_distilled_and_dev_take_no_negative_prompt():
    for pipeline, why in ((flux2_pipeline(distilled=True), "without guidance"), (flux2_dev_pipeline(), "is told")):
        with pytest.raises(OptionError, match=rf"{why}.*leave"):
            generate(pipeline, ["a cat"], [0], negative_prompt="a dog", **FAST)
        (alone,) = refine(pipeline, PROMPTS[:1], [Layout()], [3], STRONG, guidance_scale=3.0, **FAST).images
        assert distance(alone, stock_picture(pipeline, PROMPTS[0], 3, guidance_scale=3.0)) == 0
        result = refine(pipeline, PROMPTS[:1], [layout("a dog", size=SIZE)], [3], STRONG, guidance_scale=3.0, **FAST)
        assert result.notes == [()] and distance(result.images[0], alone) > 2


# --- Qwen-Image -------------------------------------------------------------------------------------------------------


def test_qwen_images_instruction_is_dropped():
    pipeline = qwen_image_pipeline()
    (reader,) = encoding.readers(pipeline)
    tokenizer = reader.encoders[0][0]
    rest = "<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(encoding.full_ids(tokenizer, "a cat")) == f"a cat{rest}"
    embeddings, mask = encoding.encode_texts(pipeline, PROMPTS)
    assert embeddings.shape[:2] == mask.shape and mask.sum(1).tolist() == [6 + 5, 2 + 5]


def test_qwen_image_with_true_guidance():
    pipeline = qwen_image_pipeline()
    plain = generate(pipeline, PROMPTS, [3, 4], **FAST)
    own = stock_picture(pipeline, PROMPTS[0], 3, negative_prompt="a long text about a dog", true_cfg_scale=4.0)
    for wishes in ({"guidance_scale": 4.0}, {}):  # which is the pipeline's
        wishes |= {**FAST, "negative_prompt": "a long text about a dog"}
        guided = generate(pipeline, PROMPTS, [3, 4], **wishes)
        assert distance(guided[0], own) <= 1 < distance(guided[0], plain[0])
        layouts = [layout("a dog", size=SIZE), Layout()]
        result = refine(pipeline, PROMPTS, layouts, [3, 4], STRONG, **wishes)
        assert distance(result.images[0], guided[0]) > 2 and distance(result.images[1], guided[1]) == 0
    away = generate(pipeline, PROMPTS[:1], [3], guidance_scale=4.0, **FAST)  # from nothing in particular
    assert distance(away[0], stock_picture(pipeline, PROMPTS[0], 3, negative_prompt=" ", true_cfg_scale=4.0)) == 0
    off = generate(pipeline, PROMPTS[:1], [3], guidance_scale=1.0, **FAST)
    assert distance(off[0], stock_picture(pipeline, PROMPTS[0], 3)) == 0


# --- Z-Image ----------------------------------------------------------------------------------------------------------


def test_z_image_is_guided_in_one_batch_with_texts_of_any_length():
    pipeline, long = z_image_pipeline(), "a red book and a yellow pen and a dog and a cat and a red desk and a dog"
    off = generate(pipeline, PROMPTS, [3, 4], guidance_scale=0.0, **FAST)
    assert distance(off[0], stock_picture(pipeline, PROMPTS[0], 3, guidance_scale=0.0)) <= 1
    for negative in ("a cat", long):
        guided = generate(pipeline, PROMPTS, [3, 4], negative_prompt=negative, **FAST)
        own = stock_picture(pipeline, PROMPTS[0], 3, negative_prompt=negative)
        assert distance(guided[0], own) <= 1 < distance(guided[0], off[0])
    for prompts in (PROMPTS, [long, "a cat"]):  # within 32 tokens, and one over that
        plain = generate(pipeline, prompts, [3, 4], negative_prompt=long, **FAST)
        layouts = [layout("a dog", size=SIZE), Layout()]
        result = refine(pipeline, prompts, layouts, [3, 4], STRONG, negative_prompt=long, **FAST)
        assert distance(result.images[0], plain[0]) > 2 and distance(result.images[1], plain[1]) <= 1
        assert result.notes[0] == ()


def test_z_image_states_no_size_but_has_one():
    pipeline = z_image_pipeline()
    assert image_size(pipeline) == (256, 256)  # 128 latents of two pixels each, published 1024 x 1024
