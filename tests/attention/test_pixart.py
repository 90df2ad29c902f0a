"""PixArt-alpha: its transformer under modulation against the slow reference, and whole images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from realignkit.attention.config import ModulationConfig
from realignkit.attention.processor import modulate
from realignkit.attention.regions import regions_of
from realignkit.attention.sampler import refine
from realignkit.errors import ModelError, OptionError, PromptError
from realignkit.pipelines import phrases
from realignkit.pipelines.families import attention_family
from realignkit.pipelines.generate import generate
from realignkit.types import Layout, Likelihood, LocalCaption, Segment
from tests.attention.pixart import pixart_pipeline, small_transformer
from tests.attention.test_processor import SCHEDULE, TOKENS, Reference, example

LATENT = (8, 8)
FAST = {"num_inference_steps": 3, "height": 16, "width": 16}
PROMPTS = ["A Red book and a dog", "a cat"]  # its pipeline reads everything in lower case


@pytest.fixture(scope="module")
def transformer():
    return small_transformer()


@pytest.fixture(scope="module")
def pipeline():
    return pixart_pipeline()


def layout(*captions: str) -> Layout:
    """Side by side, one upright strip per caption."""
    segments = []
    for i, caption in enumerate(captions):
        mask = np.zeros((16, 16), dtype=bool)
        mask[2:, i * 16 // len(captions) : (i + 1) * 16 // len(captions) - 1] = True
        segments.append(Segment(LocalCaption(caption.split()[-1], caption, Likelihood.CERTAIN), mask))
    return Layout(tuple(segments))


def distance(first: Image.Image, second: Image.Image) -> int:
    return int(np.abs(np.asarray(first, dtype=int) - np.asarray(second, dtype=int)).max())


def inputs(batch: int) -> dict[str, object]:
    generator = torch.Generator().manual_seed(7)
    return {
        "hidden_states": torch.randn(batch, 4, *LATENT, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TOKENS, 24, generator=generator) * 3,
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


@torch.no_grad()
def forward(transformer, arguments: dict[str, object], t: float = SCHEDULE[0]) -> torch.Tensor:
    batch = len(arguments["hidden_states"])
    return transformer(timestep=torch.full((batch,), t), **arguments).sample


@pytest.mark.parametrize(
    "options",
    [{}, {"form": "literal"}, {"cross_weight": 0.0, "self_weight": 1.0}, {"power": 1.0, "outside_score": 0.0}],
)
def test_transformer_equals_recomputation(transformer, options):
    regions, config = [example("two", LATENT), example("unlikely", LATENT)], ModulationConfig(**options)
    arguments = inputs(4)
    with modulate(transformer, regions, config, timesteps=SCHEDULE):
        ours = forward(transformer, arguments)
    plain = forward(transformer, arguments)
    before = transformer.attn_processors
    transformer.set_attn_processor(Reference(regions, config, SCHEDULE[0], LATENT))
    reference = forward(transformer, arguments)
    transformer.set_attn_processor(before)
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(ours[:2], plain[:2], rtol=1e-5, atol=1e-5)  # the unconditional half
    assert (ours[2:] - plain[2:]).abs().amax((1, 2, 3)).min() > 1e-3  # and modulation is no trifle


def test_padding_that_the_text_mask_hides_takes_no_part(transformer):
    """T5's padding: no attention, and no part in a row's minimum and maximum either."""
    region = example("two", LATENT)
    mask = (~region.padding).long().expand(2, -1)
    arguments = inputs(2)
    with modulate(transformer, [region], timesteps=SCHEDULE):
        ours = forward(transformer, {**arguments, "encoder_attention_mask": mask})
    before = transformer.attn_processors
    transformer.set_attn_processor(Reference([region], ModulationConfig(mask_padding=True), SCHEDULE[0], LATENT))
    reference = forward(transformer, arguments)
    transformer.set_attn_processor(before)
    torch.testing.assert_close(ours[1], reference[1], rtol=1e-4, atol=2e-5)


def test_timestep_may_be_positional(transformer):
    arguments = inputs(2)
    with modulate(transformer, [example("two", LATENT)], timesteps=SCHEDULE) as state, torch.no_grad():
        sample, text = arguments["hidden_states"], arguments["encoder_hidden_states"]
        transformer(sample, text, torch.tensor([300.0, 300.0]), arguments["added_cond_kwargs"])
        assert (state.timestep, state.step) == (300.0, 3)


def test_family(pipeline):
    assert attention_family(pipeline) == "pixart"


def test_images_are_the_pipelines_own(pipeline):
    ours = generate(pipeline, PROMPTS, [3, 4], guidance_scale=5.0, negative_prompt="a dog", **FAST)
    for prompt, seed, image in zip(PROMPTS, [3, 4], ours, strict=True):
        own = pipeline(
            prompt,
            generator=torch.Generator().manual_seed(seed),
            guidance_scale=5.0,
            negative_prompt="a dog",
            clean_caption=False,
            use_resolution_binning=False,
            **FAST,
        ).images[0]
        assert image.size == (16, 16)
        assert distance(image, own) <= 1


def test_refine(pipeline):
    calls: list[tuple[int, int]] = []
    plain = generate(pipeline, PROMPTS, [0, 1], **FAST)
    nothing = ModulationConfig(cross_weight=0.0, self_weight=0.0, isolate_phrases=False)
    layouts = [layout("a dog", "red book"), Layout()]
    weightless = refine(pipeline, PROMPTS, layouts, [0, 1], nothing, **FAST)
    assert [distance(a, b) for a, b in zip(weightless.images, plain, strict=True)] == [0, 0]
    config = ModulationConfig(share=1.0, power=0.0, isolate_phrases=False)
    result = refine(pipeline, PROMPTS, layouts, [0, 1], config, progress=lambda *step: calls.append(step), **FAST)
    assert result.conditioning == PROMPTS and not result.notes[0]
    assert distance(result.images[0], plain[0]) > 1
    assert distance(result.images[1], plain[1]) <= 1
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert not pipeline.transformer._forward_pre_hooks


def test_spans_are_those_of_the_text_in_lower_case(pipeline):
    conditioning = phrases.condition(pipeline, PROMPTS[0], layout("a dog", "a red book"))
    assert conditioning.text == PROMPTS[0]
    assert conditioning.spans == (slice(4, 6), slice(0, 3))  # T5 has no start token
    regions = regions_of(pipeline, conditioning)
    assert regions.tokens.shape == (120, 2)
    assert regions.padding.sum() == 120 - 7  # six words and the end
    whole, mask = phrases.encode(pipeline, [conditioning], isolate_phrases=False)
    isolated, same = phrases.encode(pipeline, [conditioning])
    alone, _ = phrases.encode(pipeline, [phrases.Conditioning("a dog")])
    assert mask.sum() == 7 and torch.equal(mask, same)
    torch.testing.assert_close(isolated[0, 4:6], alone[0, :2])
    torch.testing.assert_close(isolated[0, 3], whole[0, 3])


def test_what_it_refuses(pipeline):
    with pytest.raises(OptionError, match="multiples of 16"):
        generate(pipeline, ["a cat"], [0], num_inference_steps=2, height=24, width=16)
    with pytest.raises(OptionError, match="no image-to-image"):
        image = Image.new("RGB", (16, 16))
        refine(pipeline, ["a cat"], [layout("a cat")], [0], ModulationConfig(strength=0.5), coarse=[image], **FAST)
    with pytest.raises(PromptError, match="reads 120"):
        generate(pipeline, ["a cat " * 60], [0], **FAST)
    pipeline.transformer.set_attn_processor(Reference([], ModulationConfig(), 0.0, LATENT))
    try:
        with pytest.raises(ModelError, match="Reference"):
            refine(pipeline, ["a cat"], [layout("a cat")], [0], **FAST)
    finally:
        pipeline.transformer.set_default_attn_processor()
