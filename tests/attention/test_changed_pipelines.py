"""Pipelines that their users have changed: made fast or small, offloaded, cast, extended."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor, XFormersAttnProcessor

from realignkit.attention.config import ModulationConfig
from realignkit.attention.regions import regions_of
from realignkit.attention.sampler import refine
from realignkit.pipelines import encoding, phrases
from realignkit.pipelines.families import unwrapped
from realignkit.pipelines.generate import generate
from realignkit.pipelines.images import encode_images
from tests.attention.pixart import pixart_pipeline
from tests.small_pipelines import FAST, distance, layout

PROMPT, FOUND = ["a red book and a dog"], [layout("a dog", "red book")]
STRONG = ModulationConfig(power=1.0, share=0.5)
FROM_COARSE = ModulationConfig(strength=0.7, power=1.0, share=0.5)
NOTHING = ModulationConfig(cross_weight=0.0, self_weight=0.0, isolate_phrases=False)


def sliced(pipeline):
    pipeline.enable_attention_slicing()


def compiled(pipeline):
    for part in ("unet", "transformer", "vae", "text_encoder"):
        if getattr(pipeline, part, None) is not None:
            setattr(pipeline, part, torch.compile(getattr(pipeline, part), backend="eager"))


def compiled_in_place(pipeline):
    network = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
    network.compile(backend="eager")
    pipeline.vae.decode = torch.compile(pipeline.vae.decode, backend="eager")


def fused(pipeline):
    (pipeline if hasattr(pipeline, "fuse_qkv_projections") else pipeline.transformer).fuse_qkv_projections()


def plain_products(pipeline):
    (pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer).set_attn_processor(AttnProcessor())


def subclassed_processors(pipeline):
    class Marked(AttnProcessor):
        """Computes what its base does."""

    (pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer).set_attn_processor(Marked())


def decoder_in_tiles(pipeline):
    pipeline.vae.enable_slicing()
    pipeline.vae.enable_tiling()


def offloaded(pipeline):
    pipeline.enable_model_cpu_offload(device="cpu")


def channels_last(pipeline):
    for part in (pipeline.vae, pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer):
        part.to(memory_format=torch.channels_last)


EXACT = [
    sliced,
    compiled,
    compiled_in_place,
    fused,
    plain_products,
    subclassed_processors,
    decoder_in_tiles,
    offloaded,
    channels_last,
]


def stop(done: int, total: int) -> None:
    if done == 1:
        raise RuntimeError("stop")


def processors(pipeline):
    network = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
    return list(unwrapped(network).attn_processors.values())


PIXART = {"num_inference_steps": 4}


@pytest.fixture(scope="module")
def unchanged(sd_pipeline, sdxl_pipeline):
    """Of each family a plain picture, a refined one, and one refined from the plain one."""

    def draw(pipeline, size):
        plain = generate(pipeline, PROMPT, [0], **size)[0]
        refined = refine(pipeline, PROMPT, FOUND, [0], STRONG, **size).images[0]
        if size is PIXART:
            return plain, refined, None
        return plain, refined, refine(pipeline, PROMPT, FOUND, [0], FROM_COARSE, coarse=[plain], **size).images[0]

    return {"sd": draw(sd_pipeline, FAST), "sdxl": draw(sdxl_pipeline, FAST), "pixart": draw(pixart_pipeline(), PIXART)}


@pytest.mark.parametrize("family", ["sd", "sdxl", "pixart"])
@pytest.mark.parametrize("way", EXACT)
def test_the_same_pictures_as_without_the_change(unchanged, make_pipeline, way, family):
    plain, refined, from_coarse = unchanged[family]
    assert distance(refined, plain) > 1
    pipeline, size = (pixart_pipeline(), PIXART) if family == "pixart" else (make_pipeline(family), FAST)
    way(pipeline)
    before = processors(pipeline)
    with pytest.raises(RuntimeError, match=r"^stop$"):  # the caller's own error
        refine(pipeline, PROMPT, FOUND, [0], STRONG, progress=stop, **size)
    assert all(a is b for a, b in zip(before, processors(pipeline), strict=True))
    assert distance(refine(pipeline, PROMPT, FOUND, [0], STRONG, **size).images[0], refined) <= 1
    assert all(a is b for a, b in zip(before, processors(pipeline), strict=True))
    assert distance(refine(pipeline, PROMPT, FOUND, [0], NOTHING, **size).images[0], plain) <= 1
    assert distance(generate(pipeline, PROMPT, [0], **size)[0], plain) <= 1
    if from_coarse is not None:
        again = refine(pipeline, PROMPT, FOUND, [0], FROM_COARSE, coarse=[plain], **size).images[0]
        assert distance(again, from_coarse) <= 1 < distance(from_coarse, plain)


def test_offloaded_parts_leave_the_device_after_starting_from_the_coarse_image(make_pipeline):
    """As after the pipeline's own call, which renews its hooks when it has emptied the device."""
    pipeline = make_pipeline("sd")
    offloaded(pipeline)
    coarse = generate(pipeline, PROMPT, [0], **FAST)
    hooks = pipeline._all_hooks
    refine(pipeline, PROMPT, FOUND, [0], FROM_COARSE, coarse=coarse, **FAST)
    assert len(pipeline._all_hooks) == len(hooks) > 0
    assert not any(new is old for new, old in zip(pipeline._all_hooks, hooks, strict=True))


def half(pipeline):
    pipeline.to(torch.float16)


def stored_in_half(pipeline):
    pipeline.unet.enable_layerwise_casting(storage_dtype=torch.float16, compute_dtype=torch.float32)


def half_decoder_and_encoder(pipeline):
    """SDXL's pipeline mixes these itself; SD's does not."""
    pipeline.vae.half()
    pipeline.text_encoder.half()


@pytest.mark.parametrize(
    ("family", "way"),
    [("sd", half), ("sdxl", half), ("sd", stored_in_half), ("sdxl", half_decoder_and_encoder)],
)
def test_other_precisions_come_near(make_pipeline, family, way):
    own, other = make_pipeline(family), make_pipeline(family)
    wanted = refine(own, PROMPT, FOUND, [0], STRONG, **FAST).images[0]
    way(other)
    plain = generate(other, PROMPT, [0], **FAST)[0]
    refined = refine(other, PROMPT, FOUND, [0], STRONG, **FAST).images[0]
    assert distance(refined, wanted) <= 2 < distance(refined, plain)
    assert distance(refine(other, PROMPT, FOUND, [0], NOTHING, **FAST).images[0], plain) == 0


def freed(pipeline):
    pipeline.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)


def adapted(pipeline):
    from peft import LoraConfig

    torch.manual_seed(3)
    pipeline.unet.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v"]))


def quantised(pipeline):
    linear = {torch.nn.Linear}
    pipeline.unet = torch.ao.quantization.quantize_dynamic(pipeline.unet, linear, dtype=torch.qint8)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize("way", [freed, adapted, quantised])
def test_what_changes_the_pictures_changes_the_refined_ones_too(make_pipeline, way, family):
    own, other = make_pipeline(family), make_pipeline(family)
    way(other)
    generators = [torch.Generator().manual_seed(0)]
    native = other(PROMPT, generator=generators, **FAST).images[0]
    plain = generate(other, PROMPT, [0], **FAST)[0]
    assert distance(native, plain) == 0
    assert distance(plain, generate(own, PROMPT, [0], **FAST)[0]) > 0
    assert distance(refine(other, PROMPT, FOUND, [0], NOTHING, **FAST).images[0], plain) == 0
    refined = refine(other, PROMPT, FOUND, [0], STRONG, **FAST).images[0]
    assert distance(refined, plain) > 0
    assert distance(refined, refine(own, PROMPT, FOUND, [0], STRONG, **FAST).images[0]) > 0


def test_processors_of_xformers_are_replaced_and_come_back(make_pipeline):
    """Whether or not xformers is installed: modulated in every step, they are not called."""
    own, other = make_pipeline("sd"), make_pipeline("sd")
    config = STRONG.model_copy(update={"share": 1.0})
    other.unet.set_attn_processor(XFormersAttnProcessor())
    before = processors(other)
    found = refine(other, PROMPT, FOUND, [0], config, **FAST).images[0]
    assert distance(found, refine(own, PROMPT, FOUND, [0], config, **FAST).images[0]) <= 1
    assert all(a is b for a, b in zip(before, processors(other), strict=True))


def test_a_tiny_autoencoder(make_pipeline):
    """TAESD's kind, whose latents are no distribution."""
    pipeline = make_pipeline("sd")
    torch.manual_seed(2)
    pipeline.vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        upsampling_scaling_factor=2,
    )
    plain = generate(pipeline, PROMPT, [0], **FAST)
    wanted = pipeline.vae.encode(pipeline.image_processor.preprocess(plain)).latents
    torch.testing.assert_close(encode_images(pipeline, plain), wanted)  # its scaling factor is 1
    refined = refine(pipeline, PROMPT, FOUND, [0], FROM_COARSE, coarse=plain, **FAST).images[0]
    assert distance(refined, plain[0]) > 0


def test_a_class_with_more_components_starts_from_the_coarse_image(make_pipeline):
    class Extended(StableDiffusionPipeline):
        def __init__(
            self,
            vae,
            text_encoder,
            tokenizer,
            unet,
            scheduler,
            safety_checker,
            feature_extractor,
            image_encoder=None,
            requires_safety_checker=True,
            judge=None,
        ):
            super().__init__(
                vae,
                text_encoder,
                tokenizer,
                unet,
                scheduler,
                safety_checker,
                feature_extractor,
                image_encoder,
                requires_safety_checker,
            )
            self.register_modules(judge=judge)

    own = make_pipeline("sd")
    other = Extended(**own.components, requires_safety_checker=False, judge=torch.nn.Linear(1, 1))
    other.set_progress_bar_config(disable=True)
    coarse = generate(own, PROMPT, [0], **FAST)
    found = [refine(p, PROMPT, FOUND, [0], FROM_COARSE, coarse=coarse, **FAST).images[0] for p in (own, other)]
    assert distance(*found) == 0


def test_words_of_several_learned_vectors_are_found_where_the_encoder_sees_them(make_pipeline):
    """Textual inversion: "toy" is read as three tokens."""
    pipeline = make_pipeline("sd")
    pipeline.tokenizer = copy.deepcopy(pipeline.tokenizer)  # other tests share it
    torch.manual_seed(0)
    pipeline.load_textual_inversion(torch.randn(3, 32), token="toy")
    text, found = "a toy and a dog", layout("a toy", "a dog")
    ids = pipeline.tokenizer(pipeline.maybe_convert_prompt(text, pipeline.tokenizer)).input_ids
    dog = pipeline.tokenizer("a dog", add_special_tokens=False).input_ids
    conditioning = phrases.condition(pipeline, text, found)
    assert [ids[span] for span in conditioning.spans] == [ids[1:5], dog]
    assert len(ids) == encoding.token_count(pipeline, text) == 9
    regions = regions_of(pipeline, conditioning)
    assert regions.padding.tolist() == [False] * 9 + [True] * 15
    embeddings, _ = phrases.encode(pipeline, [conditioning])
    alone, _ = encoding.encode_texts(pipeline, ["a dog"])
    torch.testing.assert_close(embeddings[0, conditioning.spans[1]], alone[0, 1:3])
    assert refine(pipeline, [text], [found], [0], STRONG, **FAST).notes == [()]
