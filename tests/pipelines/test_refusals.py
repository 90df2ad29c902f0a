"""Pipelines that cannot be drawn with or modulated: each refusal says what to do, and that works."""

from __future__ import annotations

import diffusers
import pytest
import torch
from diffusers.models import attention_processor as processors

from realignkit.attention.sampler import refine
from realignkit.errors import ModelError
from realignkit.pipelines.generate import generate
from realignkit.pipelines.refusals import why_not_drawn, why_not_modulated
from tests.attention.test_changed_pipelines import FOUND, PROMPT, STRONG
from tests.small_pipelines import FAST, distance


def both_refused(pipeline, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        generate(pipeline, PROMPT, [0], **FAST)
    with pytest.raises(ModelError, match=message):
        refine(pipeline, PROMPT, FOUND, [0], STRONG, **FAST)


@pytest.mark.parametrize("part", ["unet", "vae", "scheduler", "text_encoder", "tokenizer"])
def test_a_part_is_missing(make_pipeline, part):
    pipeline = make_pipeline("sd")
    setattr(pipeline, part, None)
    both_refused(pipeline, f"StableDiffusionPipeline has no {part}: load it with all of its parts")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder_2", "tokenizer_2"])
def test_a_part_of_sdxl_is_missing(make_pipeline, part):
    pipeline = make_pipeline("sdxl")
    setattr(pipeline, part, None)
    both_refused(pipeline, f"StableDiffusionXLPipeline has no {part}: load it with all of its parts")


def test_a_network_inside_another_one(make_pipeline):
    """Drawn with where the pipeline can; where it cannot, the network is named."""
    pipeline = make_pipeline("sd")
    pipeline.unet = torch.nn.Sequential(pipeline.unet)
    both_refused(pipeline, r"unet of this StableDiffusionPipeline is a Sequential.*UNet2DConditionModel")


@pytest.mark.parametrize("channels", [5, 7, 8, 9])
def test_a_network_that_reads_an_image_too(make_pipeline, channels):
    pipeline = make_pipeline("sd")
    pipeline.unet = diffusers.UNet2DConditionModel.from_config({**pipeline.unet.config, "in_channels": channels})
    both_refused(pipeline, f"reads {channels} channels and predicts 4.*text-to-image checkpoint")


def adapter_of(pipeline) -> dict[str, dict[str, torch.Tensor]]:
    """An IP-Adapter's weights for this U-Net, as published ones are laid out."""
    attention = [name for name in pipeline.unet.attn_processors if name.endswith("attn2.processor")]
    width = pipeline.unet.config.cross_attention_dim
    own = {
        f"{2 * i + 1}.to_{which}_ip.weight": torch.randn(
            pipeline.unet.get_submodule(name.removesuffix(".processor")).to_k.out_features, width
        )
        for i, name in enumerate(attention)
        for which in "kv"
    }
    projection = {
        "proj.weight": torch.randn(4 * width, 8),
        "proj.bias": torch.randn(4 * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    return {"image_proj": projection, "ip_adapter": own}


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_an_ip_adapter(make_pipeline, family):
    pipeline = make_pipeline(family)
    plain = refine(pipeline, PROMPT, FOUND, [0], STRONG, **FAST).images[0]
    pipeline.unet._load_ip_adapter_weights([adapter_of(pipeline)])
    both_refused(pipeline, r"IP-Adapter is loaded.*pipeline\.unload_ip_adapter\(\)")
    pipeline.unload_ip_adapter()
    assert distance(refine(pipeline, PROMPT, FOUND, [0], STRONG, **FAST).images[0], plain) == 0


def test_a_network_without_attention(make_pipeline):
    pipeline = make_pipeline("sd")
    known = {name: value for name, value in pipeline.unet.config.items() if not name.startswith("_")}
    plain = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2, "mid_block_type": None}
    pipeline.unet = diffusers.UNet2DConditionModel(**{**known, **plain})
    generate(pipeline, PROMPT, [0], **FAST)
    with pytest.raises(ModelError, match="its UNet2DConditionModel has no attention to modulate"):
        refine(pipeline, PROMPT, FOUND, [0], STRONG, progress=pytest.fail, **FAST)


class Own:
    """A user's own attention, which gives something else."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
        return processors.AttnProcessor()(attn, hidden_states, encoder_hidden_states, attention_mask) * 0.5


FOREIGN = [
    Own,
    processors.LoRAAttnProcessor,
    processors.PAGIdentitySelfAttnProcessor2_0,
    processors.PAGCFGIdentitySelfAttnProcessor2_0,
    lambda: processors.CustomDiffusionAttnProcessor2_0(False, False, hidden_size=16, cross_attention_dim=32),
]


@pytest.mark.parametrize("make", FOREIGN)
def test_processors_of_others(make_pipeline, make):
    """In one layer of many; at the door, before anything is drawn; and the advice helps."""
    pipeline = make_pipeline("sd")
    wanted = refine(pipeline, PROMPT, FOUND, [0], STRONG, **FAST).images[0]
    own = pipeline.unet.attn_processors
    last = list(own)[-1]
    pipeline.unet.set_attn_processor({**own, last: make()})
    name = type(pipeline.unet.attn_processors[last]).__name__
    with pytest.raises(ModelError, match=f"{last} computes attention with {name}, which modulation would undo"):
        refine(pipeline, PROMPT, FOUND, [0], STRONG, progress=pytest.fail, **FAST)
    assert type(pipeline.unet.attn_processors[last]).__name__ == name
    pipeline.unet.set_attn_processor(processors.AttnProcessor2_0())
    assert distance(refine(pipeline, PROMPT, FOUND, [0], STRONG, **FAST).images[0], wanted) == 0


def test_processors_of_others_draw_their_own_plain_pictures(make_pipeline):
    pipeline = make_pipeline("sd")
    pipeline.unet.set_attn_processor(Own())
    own = pipeline(PROMPT, generator=[torch.Generator().manual_seed(0)], **FAST).images[0]
    assert distance(generate(pipeline, PROMPT, [0], **FAST)[0], own) == 0


def controlled(pipeline):
    second = {"tokenizer_2", "text_encoder_2"} <= pipeline.components.keys()
    cls = diffusers.StableDiffusionXLControlNetPipeline if second else diffusers.StableDiffusionControlNetPipeline
    return cls(**parts_of(pipeline), controlnet=diffusers.ControlNetModel.from_unet(pipeline.unet))


def from_images(pipeline):
    return diffusers.AutoPipelineForImage2Image.from_pipe(pipeline)


def perturbed(pipeline):
    second = "tokenizer_2" in pipeline.components
    cls = diffusers.StableDiffusionXLPAGPipeline if second else diffusers.StableDiffusionPAGPipeline
    return cls(**parts_of(pipeline), pag_applied_layers=["mid"])


def parts_of(pipeline):
    names = ("requires_safety_checker", "force_zeros_for_empty_prompt")
    return {**pipeline.components, **{name: pipeline.config[name] for name in names if name in pipeline.config}}


@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize("make", [controlled, from_images, perturbed])
def test_pipelines_of_other_kinds_say_which_one_their_parts_make(make_pipeline, make, family):
    own = make_pipeline(family)
    wanted = refine(own, PROMPT, FOUND, [0], STRONG, **FAST).images[0]
    other = make(own)
    with pytest.raises(ModelError, match=rf"{type(own).__name__}\.from_pipe\(pipeline, dtype=pipeline\.dtype\)"):
        refine(other, PROMPT, FOUND, [0], STRONG, **FAST)
    assert (why_not_drawn(other) == "") == (make is perturbed)  # which draws from prompts alone
    if make is not perturbed:
        with pytest.raises(ModelError, match="cannot draw from a prompt alone"):
            generate(other, PROMPT, [0], **FAST)
    again = type(own).from_pipe(other, dtype=other.dtype)
    assert why_not_modulated(again) == ""
    assert distance(refine(again, PROMPT, FOUND, [0], STRONG, **FAST).images[0], wanted) == 0
