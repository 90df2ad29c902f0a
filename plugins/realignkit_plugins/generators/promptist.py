"""Promptist, a baseline: a GPT-2 that rewrites the prompt before any model sees it.

Hao et al., *Optimizing Prompts for Text-to-Image Generation*, NeurIPS 2023.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from pydantic import Field

from realignkit_plugins.generators.prompted import PromptedPipeline
from realignkit_plugins.generators.stable_diffusion import StableDiffusionGenerator
from realignkit_plugins.loading import Checkpoint, load_tokenizer

PUBLISHED = "microsoft/Promptist"
ADAPTER = Checkpoint(
    "Promptist checkpoint",
    {"gpt2": "GPT2LMHeadModel"},
    refusal=f"a {{}} checkpoint, no GPT-2. Use {PUBLISHED} or a copy of it.",
)
CUE = " Rephrase:"
"""What stands between the prompt and its adaptation, in training and here."""


class PromptistGenerator(StableDiffusionGenerator):
    """Any text-to-image model, called with prompts that Promptist has adapted.

    A baseline to compare with: it makes coarse images, which the fine stage does not refine.

    Raises:
        ModelError: (from :meth:`pipeline`) as for :class:`StableDiffusionGenerator`; (on use) the language model is
            missing, damaged or of another kind.
    """

    class Options(StableDiffusionGenerator.Options):
        """Options of :class:`PromptistGenerator`: those of Stable Diffusion, and those of the language model."""

        adapter: str = Field(
            PUBLISHED,
            description="GPT-2 that adapts prompts: hub id or folder (the default is a pickle on the hub, as far as is "
            "known, and needs a copy as safetensors)",
            min_length=1,
        )
        adapter_tokenizer: str | None = Field(
            None, description="its tokenizer: hub id or folder; None: gpt2 for the published one, else its own"
        )
        num_beams: int = Field(8, ge=1, description="width of the beam search")
        max_new_tokens: int = Field(75, ge=1, description="most tokens of an adaptation")
        length_penalty: float = Field(-1.0, description="exponent of the length in a beam's score", allow_inf_nan=False)

    options: PromptistGenerator.Options
    checkpoint_options = (("model", "revision"), ("vae", None), ("adapter", None))
    attention_family = None  # type: ignore[assignment]

    def load(self) -> AdaptingPipeline:
        """The pipeline, called like one of diffusers."""
        return AdaptingPipeline(super().load(), self)

    def adapt(self, prompt: str) -> str:
        """The prompt as Promptist would have it: the best beam; the prompt itself where that is empty."""
        import torch

        chosen = self.options
        network, tokenizer = self._language
        cue = prompt.strip() + CUE
        tokens = tokenizer(cue, return_tensors="pt").to(network.device)
        length = tokens["input_ids"].shape[1]
        room = network.config.n_positions - length
        if room < 1:
            return prompt
        with torch.inference_mode():
            out = network.generate(
                tokens["input_ids"],
                attention_mask=tokens["attention_mask"],
                do_sample=False,
                num_beams=chosen.num_beams,
                max_new_tokens=min(chosen.max_new_tokens, room),
                length_penalty=chosen.length_penalty,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.eos_token_id,
            )
        return tokenizer.decode(out[0, length:], skip_special_tokens=True).strip() or prompt

    @cached_property
    def _language(self) -> tuple[Any, Any]:
        adapter, words = self.options.adapter, self.options.adapter_tokenizer
        network = ADAPTER.load(adapter, device=self.device).network
        words = words or ("gpt2" if adapter == PUBLISHED else adapter)
        return network, load_tokenizer("tokenizer of Promptist", words)


class AdaptingPipeline(PromptedPipeline):
    """A text-to-image pipeline that adapts its prompts first."""

    def __init__(self, inner: Any, owner: PromptistGenerator) -> None:
        super().__init__(inner)
        self.owner = owner

    def draw(self, prompts: list[str], **options: Any) -> Any:
        """What the inner pipeline draws for the adapted prompts."""
        return self.inner(prompt=[self.owner.adapt(text) for text in prompts], **options)
