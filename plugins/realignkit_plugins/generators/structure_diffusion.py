"""StructureDiffusion, a baseline: the prompt's noun phrases, each encoded alone, as further streams of cross-attention.

Feng et al., *Training-Free Structured Diffusion Guidance for Compositional Text-to-Image Synthesis*, ICLR 2023. Its
constituency parser is replaced by this package's noun phrases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from realignkit.errors import ModelError
from realignkit_plugins.generators.prompted import PromptedPipeline
from realignkit_plugins.generators.stable_diffusion import StableDiffusionGenerator

if TYPE_CHECKING:
    from torch import Tensor

Keys = Literal["phrases", "prompt"]


class StructureDiffusionGenerator(StableDiffusionGenerator):
    """A Stable Diffusion model whose cross-attention reads the prompt and each of its noun phrases, and averages.

    A baseline to compare with: it makes coarse images, which the fine stage does not refine.

    Raises:
        ModelError: (from :meth:`pipeline`) as for :class:`StableDiffusionGenerator`; or the model has no U-Net.
    """

    class Options(StableDiffusionGenerator.Options):
        """Options of :class:`StructureDiffusionGenerator`: those of Stable Diffusion, and ``keys``."""

        keys: Keys = Field(
            "phrases", description="keys of each stream's own text, or those of the prompt for all (values differ)"
        )

    options: StructureDiffusionGenerator.Options
    attention_family = None  # type: ignore[assignment]

    def load(self) -> StructuredPipeline:
        """The pipeline, called like one of diffusers."""
        inner = super().load()
        if getattr(inner, "unet", None) is None:
            raise ModelError(
                f"'{self.options.model}' is a {type(inner).__name__} without a U-Net. StructureDiffusion needs a "
                f"Stable Diffusion 1.x, 2.x or XL model."
            )
        return StructuredPipeline(inner, self.options.keys)


class StructuredPipeline(PromptedPipeline):
    """A Stable Diffusion pipeline whose cross-attention reads several texts per prompt."""

    def __init__(self, inner: Any, keys: Keys) -> None:
        super().__init__(inner)
        self.keys = keys

    def draw(self, prompts: list[str], **options: Any) -> Any:
        """What the inner pipeline draws with the prompts' streams."""
        with structured(self.inner.unet, [streams(self.inner, text) for text in prompts], self.keys):
            return self.inner(prompt=prompts, **options)


def streams(pipeline: Any, prompt: str) -> Tensor:
    """The prompt's embeddings, and for each noun phrase a copy in which that phrase is encoded alone.

    Args:
        pipeline: Stable Diffusion; its ``encode_prompt`` encodes.
        prompt: with n noun phrases.

    Returns:
        (1 + n, K, C), the prompt's own first. Phrases that say there is none ("no dog") are left out, as are those
        beyond the text encoder's limit.
    """
    import torch

    from realignkit_plugins.english.noun_phrases import noun_phrases

    tokenizer = pipeline.tokenizer
    # As they stand in the prompt, markup included: "a (red:1.3) cup" has no other place in its tokens.
    phrases = list(dict.fromkeys(prompt[p.start : p.end] for p in noun_phrases(prompt) if not p.negated))
    ids = tokenizer(prompt, truncation=True, max_length=tokenizer.model_max_length).input_ids
    places = [(phrase, _places(ids, tokenizer(phrase, add_special_tokens=False).input_ids)) for phrase in phrases]
    located = [(phrase, spans) for phrase, spans in places if spans]
    with torch.no_grad():
        encoded = pipeline.encode_prompt(
            prompt=[prompt, *(phrase for phrase, _ in located)],
            device=pipeline._execution_device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )[0]
    out = encoded[:1].repeat(1 + len(located), 1, 1)
    for stream, (_, spans) in enumerate(located, start=1):
        for span in spans:
            # Alone, the phrase stands behind the start token.
            out[stream, span] = encoded[stream, 1 : 1 + span.stop - span.start]
    return out


@contextmanager
def structured(unet: Any, texts: Sequence[Tensor], keys: Keys = "phrases") -> Iterator[None]:
    """Let the cross-attention of ``unet`` read several streams while the context lasts.

    Args:
        unet: called with ``len(texts)`` samples, or twice as many under guidance: unconditional first.
        texts: for each image its streams, (1 + n, K, C).
        keys: see :class:`StructuredAttnProcessor`.

    Raises:
        ModelError: the U-Net has cross-attention of another kind.
    """
    import torch
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    before = dict(unet.attn_processors)
    for name, processor in before.items():
        if type(processor) not in (AttnProcessor, AttnProcessor2_0):
            raise ModelError(
                f"{name} computes attention with {type(processor).__name__}, which StructureDiffusion would undo. "
                f"Unload adapters first."
            )
    cross = StructuredAttnProcessor(texts, keys)
    try:
        unet.set_attn_processor({name: cross if ".attn2." in name else processor for name, processor in before.items()})
        # Compiled code may not notice that its attention has changed.
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        unet.set_attn_processor(before)


class StructuredAttnProcessor:
    """Cross-attention averaged over the streams of each image.

    ``keys="phrases"``: ``O = mean_i softmax(Q K_i^T / sqrt(d)) V_i``; ``keys="prompt"``:
    ``O = mean_i softmax(Q K_0^T / sqrt(d)) V_i``, where stream 0 is the prompt (the paper's two variants).
    """

    def __init__(self, texts: Sequence[Tensor], keys: Keys = "phrases") -> None:
        self.texts, self.keys = list(texts), keys

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Compute the layer: what diffusers' plain processors take and return."""
        import torch
        from diffusers.models.attention_processor import AttnProcessor2_0

        plain: Any = AttnProcessor2_0()
        split = hidden_states.shape[0] - len(self.texts)
        if encoder_hidden_states is None or attention_mask is not None or split not in (0, len(self.texts)):
            raise ModelError(
                f"StructureDiffusion has streams for {len(self.texts)} prompts, but the U-Net is called with "
                f"{hidden_states.shape[0]} samples or a mask. Call the pipeline with one image per prompt."
            )
        texts = [text.to(hidden_states.device, hidden_states.dtype) for text in self.texts]
        conditional = hidden_states[split:]
        if self.keys == "prompt":
            # Values are linear in the text: their mean is the value of the mean.
            modulated = self._two_texts(
                attn, conditional, torch.stack([t[0] for t in texts]), torch.stack([t.mean(0) for t in texts])
            )
        else:
            counts = [len(text) for text in texts]
            repeated = conditional.repeat_interleave(torch.tensor(counts, device=conditional.device), dim=0)
            # The layer's last projection is affine: it may come before the mean.
            every = plain(attn, repeated, torch.cat(texts))
            modulated = torch.stack([part.mean(0) for part in every.split(counts)])
        if not split:
            return modulated
        rest = plain(attn, hidden_states[:split], encoder_hidden_states[:split])
        return torch.cat([rest, modulated])

    @staticmethod
    def _two_texts(attn: Any, hidden_states: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        import torch.nn.functional as F

        def heads(states: Tensor) -> Tensor:
            return states.view(*states.shape[:2], attn.heads, -1).transpose(1, 2)

        query, key, value = heads(attn.to_q(hidden_states)), heads(attn.to_k(keys)), heads(attn.to_v(values))
        out = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out))


def _places(ids: Sequence[int], phrase: Sequence[int]) -> list[slice]:
    """Every occurrence of a phrase's tokens in a text's."""
    length = len(phrase)
    starts = range(len(ids) - length + 1) if length else ()
    return [slice(i, i + length) for i in starts if list(ids[i : i + length]) == list(phrase)]
