"""``sd3``: Stable Diffusion 3 and 3.5. Image tokens stand first, then CLIP's text tokens, then T5's.

Every phrase has two places: both CLIP encoders make one stretch of tokens together, and T5 (which may be left out, and
is then zeros) another one. Guidance is classifier-free, in one batch. The blocks of 3.5 medium that have two attentions
have a second one of image tokens alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from realignkit.pipelines.families.family import Call, Family, Joint, Reader, padded_length

if TYPE_CHECKING:
    from torch import Tensor


def t5_length(pipeline: Any) -> int:
    """How many tokens T5's stretch has: the pipeline's default, or what a generator has set."""
    chosen: int | None = getattr(pipeline, "max_sequence_length", None)
    return padded_length(pipeline) if chosen is None else chosen


def encode(pipeline: Any, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Embeddings (B, K, C), and CLIP's pooled ones (B, P)."""
    embeddings, _, pooled, _ = pipeline.encode_prompt(
        prompt=texts,
        prompt_2=None,
        prompt_3=None,
        do_classifier_free_guidance=False,
        max_sequence_length=t5_length(pipeline),
    )
    return embeddings, pooled


def readers(pipeline: Any) -> list[Reader]:
    """T5, where there is one, and CLIP."""
    clip = Reader(
        ((pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2)),
        start=0,
        length=int(pipeline.tokenizer_max_length),
    )
    if getattr(pipeline, "text_encoder_3", None) is None:
        return [clip]
    return [Reader(((pipeline.tokenizer_3, pipeline.text_encoder_3),), clip.length, t5_length(pipeline)), clip]


def call(network: Any, arguments: Mapping[str, Any]) -> Call:
    """The latents (B, C, H, W), and the timestep as the scheduler counts."""
    batch, _, height, width = arguments["hidden_states"].shape
    grid = height // network.config.patch_size, width // network.config.patch_size
    image, text = grid[0] * grid[1], arguments["encoder_hidden_states"]
    return Call(
        samples=batch,
        timestep=float(arguments["timestep"].flatten()[0]),
        grid=grid,
        image=slice(0, image),
        text=slice(image, image + text.shape[1]),
        condition=text,
    )


def sampling(pipeline: Any, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The negative prompt, which the pipeline encodes, is as long as the others."""
    return {**arguments, "max_sequence_length": t5_length(pipeline)}


FAMILY = Family(
    name="sd3",
    pipelines=("StableDiffusion3Pipeline",),
    network="SD3Transformer2DModel",
    denoiser="transformer",
    patch=2,
    encode=encode,
    text_extra={"StableDiffusion3Pipeline": "pooled_prompt_embeds"},
    sampling=sampling,
    joint=Joint(
        processors=("JointAttnProcessor2_0", "FusedJointAttnProcessor2_0"),
        call=call,
        readers=readers,
        guidance="first",
        plain="JointAttnProcessor2_0",
        image_only=(".attn2.",),
        image_to_image="StableDiffusion3Img2ImgPipeline",
    ),
)
