"""DeepFloyd-IF: pixels, not latents, in a cascade of up to three models (64, 256, 1024 pixels)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from realignkit.contracts import Generator
from realignkit.contracts import Options as PluginOptions
from realignkit_plugins.generators.prompted import takes
from realignkit_plugins.generators.stable_diffusion import OffloadName, PipelineSettings, load_pipeline
from realignkit_plugins.loading import Checkpoint, CheckpointPlugin, DTypeName

if TYPE_CHECKING:
    import numpy as np
    from diffusers import DiffusionPipeline
    from torch import Tensor


class DeepFloydGenerator(CheckpointPlugin, Generator):
    """DeepFloyd-IF: text to 64 x 64 pixels, then 256 x 256, then (a Stable Diffusion upscaler) 1024 x 1024.

    Its attention has text and image keys side by side and cannot be modulated: it makes coarse images only.

    Raises:
        ModelError: (from :meth:`pipeline`) a checkpoint is missing, damaged, or of another kind.
    """

    checkpoint = Checkpoint("text-to-image pipeline")
    checkpoint_options = (("model", None), ("second", None), ("third", None))

    class Options(PluginOptions):
        """Options of :class:`DeepFloydGenerator`."""

        model: str = Field("DeepFloyd/IF-I-XL-v1.0", description="first model: hub id or folder", min_length=1)
        second: str | None = Field("DeepFloyd/IF-II-L-v1.0", description="to 256 pixels; none: stop at 64")
        third: str | None = Field(
            "stabilityai/stable-diffusion-x4-upscaler", description="to 1024 pixels; none: stop at 256"
        )
        variant: str | None = Field(None, description="weights variant of the first two, such as fp16")
        device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps …")
        dtype: DTypeName = Field("auto", description="auto: fp16 on CUDA, fp32 elsewhere")
        offload: OffloadName = Field(
            "none", description="keep weights on the CPU until needed: by model, or layer by layer (sequential)"
        )
        safety_checker: bool = Field(False, description="load the checkpoint's safety checker, if it has one")
        num_inference_steps: int | None = Field(None, ge=1, description="default number of steps of the first model")
        guidance_scale: float | None = Field(None, ge=0, description="default guidance of the first model")
        second_steps: int = Field(50, ge=1, description="steps of the second model")
        second_guidance: float = Field(4.0, ge=0, description="guidance of the second model")
        third_steps: int = Field(75, ge=1, description="steps of the third model")
        third_guidance: float = Field(9.0, ge=0, description="guidance of the third model")
        noise_level: int = Field(100, ge=0, description="noise that the third model's input gets")
        companions: dict[str, str] = Field({}, description="plugins that go with this model (kind -> name)")

    options: DeepFloydGenerator.Options
    attention_family = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        chosen = self.options
        self.companions: Mapping[str, str] = dict(chosen.companions)
        names = ("num_inference_steps", "guidance_scale")
        self.sampling_defaults: Mapping[str, Any] = {
            name: getattr(chosen, name) for name in names if getattr(chosen, name) is not None
        }

    def pipeline(self) -> DiffusionPipeline:
        """The :class:`Cascade`: loaded once and kept, called like a diffusers pipeline."""
        pipeline: DiffusionPipeline = self.loaded
        return pipeline

    def load(self) -> Cascade:
        """The models that the options name."""
        chosen, settings = self.options, PipelineSettings.of(self.options)
        first = load_pipeline(chosen.model, settings)
        second = third = None
        if chosen.second is not None:
            # It reads the first model's embeddings: no second copy of a T5-XXL.
            second = load_pipeline(chosen.second, settings, text_to_image=False, text_encoder=None)
        if chosen.third is not None and second is not None:
            settings = replace(settings, variant=None, safety_checker=False)
            third = load_pipeline(chosen.third, settings, text_to_image=False)
        return Cascade(first, second, third, chosen)


@dataclass(frozen=True)
class CascadeOutput:
    """``images``: float (B, H, W, 3) in [0, 1] for ``output_type="np"``, else a list of PIL images."""

    images: np.ndarray | list[Any]


class Cascade:
    """An ``IFPipeline``, perhaps an ``IFSuperResolutionPipeline``, perhaps a Stable Diffusion upscaler, as one."""

    def __init__(self, first: Any, second: Any, third: Any, options: DeepFloydGenerator.Options) -> None:
        self.first, self.second, self.third, self.options = first, second, third, options

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "first" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.first, name)

    @takes("num_inference_steps", "guidance_scale", "negative_prompt", "generator", "callback", "callback_steps")
    def __call__(self, prompt: list[str], output_type: str = "pil", **options: Any) -> CascadeOutput:
        """Images of 64, 256 or 1024 pixels a side, as many models as there are; None leaves an option to the first."""
        given = {name: value for name, value in options.items() if value is not None}
        negative_prompt, generator = given.pop("negative_prompt", None), given.get("generator")
        positive, negative = self.first.encode_prompt(
            prompt, do_classifier_free_guidance=True, negative_prompt=negative_prompt
        )
        embeddings: dict[str, Tensor] = {"prompt_embeds": positive, "negative_prompt_embeds": negative}
        images = self.first(**embeddings, **given, output_type="pt").images
        if self.second is not None:
            images = self.second(
                image=images,
                **embeddings,
                generator=generator,
                num_inference_steps=self.options.second_steps,
                guidance_scale=self.options.second_guidance,
                output_type="pt",
            ).images
        if self.third is not None:
            images = self.third(
                prompt=prompt,
                image=(images / 2 + 0.5).clamp(0, 1),  # IF's tensors are in [-1, 1]
                negative_prompt=negative_prompt,
                generator=generator,
                num_inference_steps=self.options.third_steps,
                guidance_scale=self.options.third_guidance,
                noise_level=self.options.noise_level,
                output_type="np",
            ).images
        else:
            images = (images / 2 + 0.5).clamp(0, 1).float().permute(0, 2, 3, 1).cpu().numpy()
        return CascadeOutput(images if output_type == "np" else self.first.numpy_to_pil(images))
