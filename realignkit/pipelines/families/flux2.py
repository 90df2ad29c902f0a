"""``flux2``: FLUX.2. Text tokens stand first, 512 with padding, then image tokens, both in double and single blocks.

The text is read by a language model, within a conversation whose tokens count as text: Qwen3 in FLUX.2 [klein], Mistral
in FLUX.2 [dev], behind a system message. Each token is put together from three of its layers. Latents are packed, 2 x 2
pixels a token. FLUX.2 [dev] is told the guidance scale. FLUX.2 [klein] is guided with calls of its own, unless it was
distilled for a few steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from realignkit.errors import OptionError
from realignkit.pipelines.families.chat import ChatTokenizer, chat_template
from realignkit.pipelines.families.family import Call, Family, Joint, Reader, default, padded_length

if TYPE_CHECKING:
    from torch import Tensor

DEV, KLEIN = "Flux2Pipeline", "Flux2KleinPipeline"


def encode(pipeline: Any, texts: list[str]) -> tuple[Tensor, None]:
    """Embeddings (B, 512, C)."""
    return pipeline.encode_prompt(prompt=texts)[0], None


def readers(pipeline: Any) -> list[Reader]:
    """The language model; padding comes on the side that its tokenizer says."""
    template = chat_template(pipeline.tokenizer, type(pipeline).__name__)
    plain = getattr(template, "tokenizer", template)  # FLUX.2 [dev] has a processor, which holds it
    lay_out = _klein if is_klein(pipeline) else _dev(pipeline.system_message)
    chat = ChatTokenizer(plain, lambda text: lay_out(template, text))
    length = padded_length(pipeline)
    return [Reader(((chat, pipeline.text_encoder),), 0, length, left=plain.padding_side == "left")]


def _klein(tokenizer: Any, text: str) -> Sequence[int]:
    messages = [{"role": "user", "content": text}]
    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    ids: Sequence[int] = tokenizer(tokenizer.apply_chat_template(messages, **options), verbose=False).input_ids
    return ids


def _dev(system: str) -> Callable[[Any, str], Sequence[int]]:
    def lay_out(processor: Any, text: str) -> Sequence[int]:
        said = (("system", system), ("user", text.replace("[IMG]", "")))
        messages = [{"role": role, "content": [{"type": "text", "text": content}]} for role, content in said]
        ids = processor.apply_chat_template([messages], tokenize=True, return_dict=True)["input_ids"]
        first: Sequence[int] = ids[0]
        return first

    return lay_out


def is_klein(pipeline: Any) -> bool:
    """Whether it is FLUX.2 [klein]."""
    return any(kind.__name__ == KLEIN for kind in type(pipeline).__mro__)


def call(network: Any, arguments: Mapping[str, Any]) -> Call:
    """Packed latents (B, N, C), their places (B, N, 4) as (time, row, column, layer), the timestep a share of all."""
    hidden, ids, text = arguments["hidden_states"], arguments["img_ids"], arguments["encoder_hidden_states"]
    _, bottom, right, _ = (ids if ids.ndim == 2 else ids[0])[-1].tolist()
    return Call(
        samples=len(hidden),
        timestep=1000 * float(arguments["timestep"].flatten()[0]),
        grid=(int(bottom) + 1, int(right) + 1),
        image=slice(text.shape[1], text.shape[1] + hidden.shape[1]),
        text=slice(0, text.shape[1]),
        condition=text,
    )


def sampling(pipeline: Any, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """As it is called.

    Raises:
        OptionError: a negative prompt would do nothing.
    """
    if "negative_prompt" in arguments and not is_klein(pipeline):
        raise OptionError("FLUX.2 [dev] is told the guidance scale and takes no negative prompt: leave it out.")
    if "negative_prompt" in arguments and pipeline.config.is_distilled:
        raise OptionError("a distilled FLUX.2 [klein] draws without guidance: leave negative_prompt out.")
    return arguments


def with_text(pipeline: Any, arguments: Mapping[str, Any], embeddings: Tensor, _: Tensor | None) -> Mapping[str, Any]:
    """With embeddings of the unconditional text where it is guided, which FLUX.2 [klein] would make for one picture."""
    rest = {name: value for name, value in arguments.items() if name != "negative_prompt"}
    scale = arguments.get("guidance_scale", default(pipeline, "guidance_scale"))
    if is_klein(pipeline) and scale > 1 and not pipeline.config.is_distilled:
        rest["negative_prompt_embeds"] = encode(pipeline, arguments.get("negative_prompt", [""] * len(embeddings)))[0]
    return {**rest, "prompt_embeds": embeddings}


FAMILY = Family(
    name="flux2",
    pipelines=(DEV, KLEIN),
    network="Flux2Transformer2DModel",
    denoiser="transformer",
    patch=2,
    encode=encode,
    with_text=with_text,
    sampling=sampling,
    joint=Joint(
        processors=("Flux2AttnProcessor", "Flux2ParallelSelfAttnProcessor"),
        call=call,
        readers=readers,
        guidance="apart",
    ),
)
