"""Stable Diffusion 1.x, 2.x and XL, through diffusers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from realignkit.contracts import Generator
from realignkit.contracts import Options as PluginOptions
from realignkit.errors import ModelError
from realignkit_plugins.loading import DTypeName, hub_options, loading, resolve_device, resolve_dtype, resolve_model

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_UNET = "UNet2DConditionModel"
_LORA_FILE = "pytorch_lora_weights.safetensors"
SchedulerName = Literal["ddim", "ddpm", "pndm", "euler", "euler_a", "heun", "dpmpp", "dpmpp_karras", "unipc"]
_SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpmpp": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "use_karras_sigmas": False}),
    "dpmpp_karras": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
}


class StableDiffusionGenerator(Generator):
    """Any text-to-image checkpoint of diffusers with a U-Net: SD 1.x, 2.x, XL.

    Other text-to-image families load too, but their ``attention_family`` is then None: they can make the coarse
    image, not the refined one.

    Raises:
        ModelError: (from :meth:`pipeline`) the checkpoint is missing, damaged, or not a text-to-image pipeline.
    """

    class Options(PluginOptions):
        """Options of :class:`StableDiffusionGenerator`."""

        model: str = Field(
            "stable-diffusion-v1-5/stable-diffusion-v1-5", description="hub id, folder, or micro:<name>", min_length=1
        )
        revision: str | None = Field(None, description="branch, tag or commit on the hub")
        variant: str | None = Field(None, description="weights variant, such as fp16")
        device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps …")
        dtype: DTypeName = Field("auto", description="auto: fp16 on CUDA, fp32 elsewhere")
        scheduler: SchedulerName | None = Field(None, description="sampler to use instead of the checkpoint's own")
        lora: str | None = Field(
            None, description="adapters to add: a folder that 'realignkit train' wrote, a .safetensors file, a hub id"
        )
        lora_scale: float = Field(1.0, allow_inf_nan=False, description="how much of the adapters to add; 0: nothing")
        safety_checker: bool = Field(False, description="load the checkpoint's safety checker, if it has one")
        num_inference_steps: int | None = Field(None, ge=1, description="default number of sampling steps")
        guidance_scale: float | None = Field(None, ge=0, description="default classifier-free guidance")
        height: int | None = Field(None, ge=8, description="default image height in pixels")
        width: int | None = Field(None, ge=8, description="default image width in pixels")
        companions: dict[str, str] = Field({}, description="plugins that go with this model (kind -> name)")
        refine_defaults: dict[str, Any] = Field({}, description="modulation options that suit this model")

    options: StableDiffusionGenerator.Options

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        chosen = self.options
        self.companions: Mapping[str, str] = dict(chosen.companions)
        self.refine_defaults: Mapping[str, Any] = dict(chosen.refine_defaults)
        names = ("num_inference_steps", "guidance_scale", "height", "width")
        self.sampling_defaults: Mapping[str, Any] = {
            name: getattr(chosen, name) for name in names if getattr(chosen, name) is not None
        }
        self._pipeline: DiffusionPipeline | None = None

    @property
    def attention_family(self) -> str | None:  # type: ignore[override]
        """``"unet"``, or None for other networks. Before loading: as the folder's index says, else ``"unet"``."""
        if self._pipeline is not None:
            return "unet" if type(getattr(self._pipeline, "unet", None)).__name__ == _UNET else None
        try:
            index = json.loads((Path(resolve_model(self.options.model)) / "model_index.json").read_bytes())
            return "unet" if index["unet"][1] == _UNET else None
        except KeyError:
            return None
        except (OSError, ValueError, TypeError, IndexError, ModelError):
            return "unet"  # a hub id, or a broken folder, of which loading will tell

    def pipeline(self) -> DiffusionPipeline:
        """The pipeline: loaded once and kept, on its device, progress bar off."""
        if self._pipeline is None:
            self._pipeline = self._load()
        return self._pipeline

    def _load(self) -> DiffusionPipeline:
        from diffusers import AutoPipelineForText2Image, DiffusionPipeline
        from diffusers.utils import logging as diffusers_logging

        chosen = self.options
        folder = resolve_model(chosen.model)
        device = resolve_device(chosen.device)
        dtype = resolve_dtype(chosen.dtype, device)
        hub = hub_options(chosen.revision)
        bars = diffusers_logging.is_progress_bar_enabled()
        diffusers_logging.disable_progress_bar()
        try:
            with loading("text-to-image pipeline", chosen.model):
                index = DiffusionPipeline.load_config(folder, **hub)
                extras: dict[str, Any] = dict(hub)
                if chosen.variant is not None:
                    extras["variant"] = chosen.variant
                if "safety_checker" in index and not chosen.safety_checker:
                    # The feature extractor serves the checker alone, and would want torchvision.
                    extras |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
                pipeline = AutoPipelineForText2Image.from_pretrained(
                    folder, dtype=dtype, use_safetensors=True, **extras
                )
                if chosen.scheduler is not None:
                    pipeline.scheduler = _scheduler(chosen.scheduler, pipeline.scheduler)
                pipeline = pipeline.to(device, dtype)
        finally:
            if bars:
                diffusers_logging.enable_progress_bar()
        if getattr(pipeline, "vae", None) is None or getattr(pipeline, "tokenizer", None) is None:
            raise ModelError(
                f"'{chosen.model}' is a {type(pipeline).__name__} without VAE or tokenizer. "
                f"Use a complete text-to-image checkpoint."
            )
        pipeline.set_progress_bar_config(disable=True)
        if chosen.lora is not None:
            _add_lora(pipeline, chosen.lora, chosen.lora_scale)
        return pipeline


def _add_lora(pipeline: Any, lora: str, scale: float) -> None:
    """Make low-rank adapters part of the weights, so that everything after sees an ordinary model."""
    path = Path(lora).expanduser()
    if (path / "model" / "model_index.json").is_file():
        raise ModelError(
            f"'{lora}' holds a whole model, no adapters, as its training changed the whole U-Net. Use it as the "
            f"model: --model {path / 'model'}"
        )
    source: dict[str, Any] = {"pretrained_model_name_or_path_or_dict": lora}
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ModelError(f"'{lora}' is no .safetensors file; other formats can run code and are not loaded.")
        source = {"pretrained_model_name_or_path_or_dict": str(path.parent), "weight_name": path.name}
    elif path.is_dir():
        source = {"pretrained_model_name_or_path_or_dict": str(path)}
        if (path / _LORA_FILE).is_file():
            source["weight_name"] = _LORA_FILE
    else:
        source["pretrained_model_name_or_path_or_dict"] = resolve_model(lora)
    with loading("adapters", lora):
        pipeline.load_lora_weights(**source, use_safetensors=True)
        if not pipeline.get_list_adapters():
            raise ModelError(f"'{lora}' holds no adapters that fit this model. Give the folder of another training.")
        pipeline.fuse_lora(lora_scale=scale)
        pipeline.unload_lora_weights()


def _scheduler(name: str, current: Any) -> Any:
    import diffusers

    class_name, changes = _SCHEDULERS[name]
    return getattr(diffusers, class_name).from_config(current.config, **changes)
