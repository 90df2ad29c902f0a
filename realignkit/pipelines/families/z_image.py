"""``z_image``: Z-Image. Image tokens stand first, then text tokens, in one stream; before that, layers of each alone.

Latents and texts are lists, an item for each sample. The tokens of an image, and those of a text, are filled up to a
multiple of 32 by the network; behind a text such tokens count as text. Texts that are shorter than the longest of the
batch are filled up once more, and a mask hides that. The text is read by Qwen3 within a conversation. Guidance is
classifier-free, in one batch, conditional samples first; its scale counts from 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from realignkit.pipelines.families.chat import ChatTokenizer, chat_template
from realignkit.pipelines.families.family import Call, Family, Joint, Reader, default, padded_length

if TYPE_CHECKING:
    from torch import Tensor


def filled(tokens: int) -> int:
    """How many there are when the network has filled them up."""
    from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF

    unit = int(SEQ_MULTI_OF)
    return -(-tokens // unit) * unit


def encode(pipeline: Any, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Embeddings (B, K, C), the longest text filled up, and which of them are of texts (B, K)."""
    import torch

    each = _encoded(pipeline, texts)
    embeddings = each[0].new_zeros(len(each), filled(max(map(len, each))), each[0].shape[-1])
    mask = torch.zeros(embeddings.shape[:2], dtype=torch.bool, device=embeddings.device)
    for i, one in enumerate(each):
        embeddings[i, : len(one)], mask[i, : len(one)] = one, True
    return embeddings, mask


def _encoded(pipeline: Any, texts: list[str]) -> list[Tensor]:
    each: list[Tensor]
    each, _ = pipeline.encode_prompt(prompt=list(texts), do_classifier_free_guidance=False)  # which changes the list
    return each


def readers(pipeline: Any) -> list[Reader]:
    """Qwen3."""
    template = chat_template(pipeline.tokenizer, type(pipeline).__name__)

    def conversation(text: str) -> Sequence[int]:
        messages = [{"role": "user", "content": text}]
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": True}
        ids: Sequence[int] = template(template.apply_chat_template(messages, **options), verbose=False).input_ids
        return ids

    return [Reader(((ChatTokenizer(template, conversation), pipeline.text_encoder),), 0, padded_length(pipeline))]


def call(network: Any, arguments: Mapping[str, Any]) -> Call:
    """Latents (C, 1, H, W) and embeddings (K, C) of each sample, and 1 less the timestep as a share of all."""
    latents, texts, patch = arguments["x"], arguments["cap_feats"], arguments.get("patch_size", 2)
    grid = latents[0].shape[-2] // patch, latents[0].shape[-1] // patch
    image = grid[0] * grid[1]
    return Call(
        samples=len(latents),
        timestep=1000 * (1 - float(arguments["t"].flatten()[0])),
        grid=grid,
        image=slice(0, image),
        text=slice(filled(image), filled(image) + filled(max(map(len, texts)))),
        condition=texts,
    )


def with_text(
    pipeline: Any, arguments: Mapping[str, Any], embeddings: Tensor, mask: Tensor | None
) -> Mapping[str, Any]:
    """Lists, of the unconditional text too where it is guided: the pipeline makes both or none."""
    assert mask is not None  # encode has made one
    rest = {name: value for name, value in arguments.items() if name != "negative_prompt"}
    if arguments.get("guidance_scale", default(pipeline, "guidance_scale")) > 0:
        negative = arguments.get("negative_prompt", [""] * len(embeddings))
        rest["negative_prompt_embeds"] = _encoded(pipeline, negative)
    return {**rest, "prompt_embeds": [each[of] for each, of in zip(embeddings, mask, strict=True)]}


FAMILY = Family(
    name="z_image",
    pipelines=("ZImagePipeline",),
    network="ZImageTransformer2DModel",
    denoiser="transformer",
    patch=2,
    encode=encode,
    with_text=with_text,
    sample_size=128,
    joint=Joint(
        processors=("ZSingleStreamAttnProcessor",),
        call=call,
        readers=readers,
        guidance="last",
        ragged=True,
        image_only=("noise_refiner.",),
        text_only=("context_refiner.",),
        image_to_image="ZImageImg2ImgPipeline",
    ),
)
