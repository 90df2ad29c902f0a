"""``flux``: FLUX.1. T5's text tokens stand first, then image tokens; CLIP gives one pooled embedding, and no tokens.

In the first, double blocks, text and image come apart and attend together; in the single blocks they come as one
sequence. Latents are packed, 2 x 2 pixels a token. FLUX.1-dev was distilled from guided predictions: its network is
told the guidance scale. A negative prompt needs true classifier-free guidance, which calls the network a second time.
FLUX.1-schnell has neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from realignkit.errors import OptionError
from realignkit.pipelines.families.family import Call, Family, Joint, Reader, padded_length

if TYPE_CHECKING:
    from torch import Tensor


def encode(pipeline: Any, texts: list[str]) -> tuple[Tensor, Tensor]:
    """T5's embeddings (B, K, C), and CLIP's pooled ones (B, P)."""
    embeddings, pooled, _ = pipeline.encode_prompt(prompt=texts, prompt_2=None)
    return embeddings, pooled


def readers(pipeline: Any) -> list[Reader]:
    """T5."""
    return [Reader(((pipeline.tokenizer_2, pipeline.text_encoder_2),), 0, padded_length(pipeline))]


def call(network: Any, arguments: Mapping[str, Any]) -> Call:
    """Packed latents (B, N, C), their places (N, 3) in the picture, and the timestep as a share of all."""
    hidden, ids, text = arguments["hidden_states"], arguments["img_ids"], arguments["encoder_hidden_states"]
    _, bottom, right = (ids if ids.ndim == 2 else ids[0])[-1].tolist()
    return Call(
        samples=len(hidden),
        timestep=1000 * float(arguments["timestep"].flatten()[0]),
        grid=(int(bottom) + 1, int(right) + 1),
        image=slice(text.shape[1], text.shape[1] + hidden.shape[1]),
        text=slice(0, text.shape[1]),
        condition=text,
    )


def sampling(pipeline: Any, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The guidance scale is what the network is told, or with a negative prompt that of true guidance.

    Raises:
        OptionError: a negative prompt without a guidance scale would do nothing.
    """
    if "negative_prompt" not in arguments:
        return arguments
    if "guidance_scale" not in arguments:
        raise OptionError(
            "with FLUX a negative prompt acts through true guidance, which is off: give guidance_scale, say 4."
        )
    rest = {name: value for name, value in arguments.items() if name != "guidance_scale"}
    return {**rest, "true_cfg_scale": arguments["guidance_scale"]}


FAMILY = Family(
    name="flux",
    pipelines=("FluxPipeline",),
    network="FluxTransformer2DModel",
    denoiser="transformer",
    patch=2,
    encode=encode,
    text_extra={"FluxPipeline": "pooled_prompt_embeds"},
    sampling=sampling,
    joint=Joint(
        processors=("FluxAttnProcessor",),
        call=call,
        readers=readers,
        guidance="apart",
        plain="FluxAttnProcessor",
        image_to_image="FluxImg2ImgPipeline",
    ),
)
