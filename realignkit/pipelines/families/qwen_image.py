"""``qwen_image``: Qwen-Image. Text tokens stand first, then image tokens, in double blocks alone.

The text is read by Qwen2.5-VL within a conversation, whose first tokens, an instruction, are dropped. Texts of a batch
are as long as the longest; a mask hides what shorter ones lack. Latents are packed, 2 x 2 pixels a token. Guidance is
classifier-free, with calls of its own, and takes place where there is a negative prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from realignkit.pipelines.families.chat import ChatTokenizer
from realignkit.pipelines.families.family import Call, Family, Joint, Reader, default

if TYPE_CHECKING:
    from torch import Tensor

NOTHING = " "
"""What published examples guide away from where there is nothing in particular."""


def encode(pipeline: Any, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Embeddings (B, K, C), K being that of the longest text, and their mask (B, K)."""
    length = default(pipeline, "max_sequence_length")
    embeddings, mask = pipeline.encode_prompt(prompt=texts, max_sequence_length=length)
    return embeddings, embeddings.new_ones(embeddings.shape[:2]).long() if mask is None else mask


def readers(pipeline: Any) -> list[Reader]:
    """Qwen2.5-VL."""

    def conversation(text: str) -> Sequence[int]:
        ids: Sequence[int] = pipeline.tokenizer(pipeline.prompt_template_encode.format(text), verbose=False).input_ids
        return ids

    chat = ChatTokenizer(pipeline.tokenizer, conversation, dropped=pipeline.prompt_template_encode_start_idx)
    return [Reader(((chat, pipeline.text_encoder),), 0, default(pipeline, "max_sequence_length"))]


def call(network: Any, arguments: Mapping[str, Any]) -> Call:
    """Packed latents (B, N, C), and (frames, rows, columns) of each picture; the timestep is a share of all."""
    hidden, text = arguments["hidden_states"], arguments["encoder_hidden_states"]
    shape = arguments["img_shapes"][0]
    _, height, width = shape[0] if isinstance(shape, list) else shape
    return Call(
        samples=len(hidden),
        timestep=1000 * float(arguments["timestep"].flatten()[0]),
        grid=(int(height), int(width)),
        image=slice(text.shape[1], text.shape[1] + hidden.shape[1]),
        text=slice(0, text.shape[1]),
        condition=text,
    )


def sampling(pipeline: Any, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The guidance scale is that of true guidance, which needs a negative prompt."""
    if "guidance_scale" not in arguments:
        return arguments
    rest = {name: value for name, value in arguments.items() if name != "guidance_scale"}
    scale = arguments["guidance_scale"]
    return {**({"negative_prompt": NOTHING} if scale > 1 else {}), **rest, "true_cfg_scale": scale}


FAMILY = Family(
    name="qwen_image",
    pipelines=("QwenImagePipeline",),
    network="QwenImageTransformer2DModel",
    denoiser="transformer",
    patch=2,
    encode=encode,
    text_extra={"QwenImagePipeline": "prompt_embeds_mask"},
    sampling=sampling,
    joint=Joint(
        processors=("QwenDoubleStreamAttnProcessor2_0",),
        call=call,
        readers=readers,
        guidance="apart",
        plain="QwenDoubleStreamAttnProcessor2_0",
        image_to_image="QwenImageImg2ImgPipeline",
    ),
)
