"""Stable Diffusion 1.x to 3.x and XL, PixArt, FLUX and its kin, any other text-to-image checkpoint of diffusers."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from realignkit.contracts import Generator
from realignkit.contracts import Options as PluginOptions
from realignkit.errors import ModelError
from realignkit_plugins.failures import loading
from realignkit_plugins.generators.pipeline_families import (
    FAMILIES,
    NETWORKS,
    family_in,
    family_of,
    give_tokenizer,
    reads_pictures,
    suited_dtype,
)
from realignkit_plugins.generators.pipeline_parts import (
    check_fit,
    check_folders,
    check_index,
    check_tokenizers,
    load_vae,
    refuse_code,
)
from realignkit_plugins.generators.single_file import single_file
from realignkit_plugins.generators.single_file_config import Prediction
from realignkit_plugins.loading import (
    Checkpoint,
    CheckpointPlugin,
    DTypeName,
    hub_options,
    resolve_device,
    resolve_dtype,
)
from realignkit_plugins.model_names import local_file, resolve_model
from realignkit_plugins.weight_folders import refuse_lone_file, refuse_quantised
from realignkit_plugins.weight_formats import is_weight_file

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

SchedulerName = Literal["ddim", "ddpm", "pndm", "euler", "euler_a", "heun", "dpmpp", "dpmpp_karras", "unipc"]
OffloadName = Literal["none", "model", "sequential"]
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


class StableDiffusionGenerator(CheckpointPlugin, Generator):
    """Any text-to-image checkpoint of diffusers that the fine stage can refine: SD 1.x, 2.x, XL, 3.x, PixArt, FLUX.

    Other text-to-image families load too, but their ``attention_family`` is then None: they can make the coarse
    image, not the refined one.

    Raises:
        ModelError: (from :meth:`pipeline`) the checkpoint is missing, damaged, or not a text-to-image pipeline.
    """

    checkpoint = Checkpoint("text-to-image pipeline")
    checkpoint_options: ClassVar[tuple[tuple[str, str | None], ...]] = (("model", "revision"), ("vae", None))

    class Options(CheckpointPlugin.Options):
        """Options of :class:`StableDiffusionGenerator`."""

        model: str = Field(
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            description="hub id, folder, one file of SD 1.x, 2.x or XL (.safetensors, .ckpt), or micro:<name>",
            min_length=1,
        )
        config: str | None = Field(
            None,
            description="for one file: folder or hub id with its settings in diffusers' layout; None: from its weights",
            min_length=1,
        )
        prediction_type: Prediction | None = Field(
            None, description="what the network predicts; None: as the checkpoint says"
        )
        variant: str | None = Field(None, description="weights variant, such as fp16")
        dtype: DTypeName = Field("auto", description="auto: fp16 on CUDA (bf16 of flow models), fp32 elsewhere")
        scheduler: SchedulerName | None = Field(None, description="sampler to use instead of the checkpoint's own")
        vae: str | None = Field(
            None,
            description="AutoencoderKL to use instead of the checkpoint's own: hub id, folder, or micro:<name>",
            min_length=1,
        )
        lora: str | None = Field(
            None,
            description="adapters to merge: a folder that 'realignkit train' wrote, a .safetensors file, a hub id, or "
            "owner/name:file.safetensors",
            min_length=1,
        )
        lora_scale: float = Field(1.0, allow_inf_nan=False, description="how much of the adapters to add; 0: nothing")
        lora_partial: bool = Field(False, description="merge what fits of adapters that do not fit in full")
        offload: OffloadName = Field(
            "none", description="keep weights on the CPU until needed: by model, or layer by layer (sequential)"
        )
        safety_checker: bool = Field(False, description="load the checkpoint's safety checker, if it has one")
        num_inference_steps: int | None = Field(None, ge=1, description="default number of sampling steps")
        guidance_scale: float | None = Field(None, ge=0, description="default classifier-free guidance")
        height: int | None = Field(None, ge=8, description="default image height in pixels")
        width: int | None = Field(None, ge=8, description="default image width in pixels")
        max_sequence_length: int | None = Field(
            None,
            ge=1,
            le=512,
            description="of Stable Diffusion 3: how many tokens T5 reads, or zeros stand for without it; None: 256",
        )
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

    @property
    def attention_family(self) -> str | None:  # type: ignore[override]
        """``"unet"``, ``"pixart"``, or that of a flow model, such as ``"flux"``; None for others.

        Before loading: as the folder's index says, else ``"unet"``.
        """
        if (pipeline := vars(self).get("loaded")) is not None:
            return family_of(pipeline)
        try:
            return family_in(json.loads((Path(resolve_model(self.options.model)) / "model_index.json").read_bytes()))
        except KeyError:
            return None
        except (OSError, ValueError, TypeError, IndexError, AttributeError, ModelError):
            return "unet"  # a hub id, or a broken folder, of which loading will tell

    def pipeline(self) -> DiffusionPipeline:
        """The pipeline: loaded once and kept, on its device, progress bar off."""
        pipeline: DiffusionPipeline = self.loaded
        return pipeline

    def load(self) -> Any:
        """The pipeline, with the scheduler and the adapters that the options name."""
        chosen = self.options
        pipeline = load_pipeline(chosen.model, PipelineSettings.of(chosen), prepare=self._prepare)
        vae = getattr(pipeline, "vae", None) is not None or type(pipeline).__name__ == "IFPipeline"
        if not vae or getattr(pipeline, "tokenizer", None) is None:
            raise ModelError(
                f"'{chosen.model}' is a {type(pipeline).__name__} without VAE or tokenizer. "
                f"Use a complete text-to-image checkpoint."
            )
        return pipeline

    def _prepare(self, pipeline: Any) -> None:
        chosen = self.options
        if chosen.scheduler is not None:
            pipeline.scheduler = _scheduler(chosen.scheduler, pipeline.scheduler)
        if chosen.lora is not None:
            from realignkit_plugins.generators.lora import merge_lora

            merge_lora(pipeline, chosen.lora, chosen.lora_scale, partial=chosen.lora_partial)
        if chosen.max_sequence_length is not None:
            if family_of(pipeline) != "sd3":
                raise ModelError(
                    f"max_sequence_length is an option of Stable Diffusion 3, and '{chosen.model}' is a "
                    f"{type(pipeline).__name__}. Leave it out."
                )
            pipeline.max_sequence_length = chosen.max_sequence_length


@dataclass(frozen=True)
class PipelineSettings:
    """How a pipeline is loaded.

    Attributes:
        revision: branch, tag or commit on the hub.
        variant: of the weights, such as ``fp16``; a single file has none.
        config: settings that go with a single file, a folder or hub id; None: read off its weights.
        prediction_type: what the network predicts; None: as the checkpoint says.
        vae: an AutoencoderKL to use instead of the checkpoint's own; its latents have to be the same.
        device: see :func:`realignkit_plugins.loading.resolve_device`.
        dtype: see :func:`realignkit_plugins.loading.resolve_dtype`.
        safety_checker: whether to load one where there is one.
        offload: ``model`` moves each network to the device when it is its turn, ``sequential`` each layer (slow, least
            memory). On a CPU there is nothing to move.
    """

    revision: str | None = None
    variant: str | None = None
    config: str | None = None
    prediction_type: Prediction | None = None
    vae: str | None = None
    device: str = "auto"
    dtype: DTypeName = "auto"
    safety_checker: bool = False
    offload: OffloadName = "none"

    @classmethod
    def of(cls, options: PluginOptions) -> PipelineSettings:
        """Those among a generator's options."""
        known = type(options).model_fields
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls) if field.name in known})


def load_pipeline(
    model: str,
    settings: PipelineSettings,
    *,
    prepare: Callable[[Any], None] | None = None,
    text_to_image: bool = True,
    **parts: Any,
) -> Any:
    """A diffusers pipeline from safetensors, on its device, progress bar off.

    Args:
        model: see :func:`realignkit_plugins.model_names.resolve_model`; or one file of Stable Diffusion 1.x, 2.x or XL,
            see :func:`realignkit_plugins.generators.single_file.single_file`.
        settings: how it is loaded.
        prepare: called with the pipeline before it moves to the device.
        text_to_image: refuse a pipeline that is none.
        parts: components to use instead of the checkpoint's, or None.

    Raises:
        ModelError: the checkpoint is missing, damaged, or not a text-to-image pipeline.
    """
    from diffusers.utils import logging as diffusers_logging

    device, variant, prediction = resolve_device(settings.device), settings.variant, settings.prediction_type
    dtype = resolve_dtype(settings.dtype, device)
    one_file = text_to_image and is_weight_file(model)
    folder, hub = ("", {}) if one_file else (resolve_model(model), hub_options(settings.revision))
    bars = diffusers_logging.is_progress_bar_enabled()
    diffusers_logging.disable_progress_bar()
    try:
        with loading("text-to-image pipeline" if text_to_image else "pipeline", model), contextlib.ExitStack() as stack:
            from diffusers import DiffusionPipeline  # which talks about torchvision

            if one_file:
                path = local_file(model, settings.revision)
                folder, networks = stack.enter_context(single_file(path, model, settings.config, prediction, dtype))
                variant, parts = None, {**networks, **parts}
            elif text_to_image and Path(folder).is_dir():
                refuse_lone_file(Path(folder), model)
            index = DiffusionPipeline.load_config(folder, **hub)
            check_index(index, model)
            refuse_code(index, model)
            dtype = suited_dtype(settings.dtype, device, str(index.get("_class_name")))
            if settings.vae is not None:
                parts["vae"] = load_vae(settings.vae, folder, hub, index, model, dtype)
            extras: dict[str, Any] = {**hub, **parts}
            if variant is not None:
                extras["variant"] = variant
            if "safety_checker" in index and not settings.safety_checker:
                # The feature extractor serves the checker alone, and would want torchvision.
                extras |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
            if "watermarker" in index:
                extras["watermarker"] = None
            # Stable Diffusion 3 can do without T5, but has to be told.
            absent = [
                name for name in ("text_encoder_3", "tokenizer_3") if index.get(name) in ([None, None], (None, None))
            ]
            extras |= dict.fromkeys(absent)
            loader: Any = DiffusionPipeline
            if text_to_image and index.get("_class_name") not in FAMILIES:
                from diffusers import AutoPipelineForText2Image  # imports every pipeline that there is

                loader = AutoPipelineForText2Image
            files = folder
            if not Path(folder).is_dir():
                files = DiffusionPipeline.download(folder, use_safetensors=True, trust_remote_code=False, **extras)
            if not one_file:
                used = {name: entry for name, entry in index.items() if name not in extras}
                check_folders(Path(files), used, model)
                refuse_quantised(Path(files), used, variant, model)
            lacks_tokenizer = reads_pictures(index)
            if lacks_tokenizer:
                extras["tokenizer"] = None
            pipeline = loader.from_pretrained(
                files, dtype=dtype, use_safetensors=True, trust_remote_code=False, **extras
            )
            if lacks_tokenizer:
                give_tokenizer(pipeline, Path(files))
            # Neither a folder that lasts as long as this, nor the hub's cache.
            pipeline.register_to_config(_name_or_path=model if one_file else folder)
            if prediction is not None and pipeline.scheduler.config.get("prediction_type") != prediction:
                pipeline.scheduler = pipeline.scheduler.from_config(
                    pipeline.scheduler.config, prediction_type=prediction
                )
            check_tokenizers(pipeline, model)
            if (family := FAMILIES.get(type(pipeline).__name__)) is not None:
                named = model if settings.vae is None else f"{model}' and '{settings.vae}"
                check_fit(pipeline, NETWORKS[family][0], named)
            if prepare is not None:
                prepare(pipeline)
            # Moved, never cast: some networks keep modules in float32 (T5's overflow in half precision).
            if settings.offload == "none" or device == "cpu":
                pipeline = pipeline.to(device, silence_dtype_warnings=True)
            else:
                move = {"model": "enable_model_cpu_offload", "sequential": "enable_sequential_cpu_offload"}[
                    settings.offload
                ]
                getattr(pipeline, move)(device=device)
    finally:
        # Told of every cast, also of a VAE that a pipeline runs in float32, where nothing is to be kept.
        logging.getLogger("diffusers.models.modeling_utils").addFilter(_keeps_something)
        if bars:
            diffusers_logging.enable_progress_bar()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _keeps_something(record: logging.LogRecord) -> bool:
    return "should be kept in float32: []" not in record.getMessage()


def _scheduler(name: str, current: Any) -> Any:
    import diffusers

    class_name, changes = _SCHEDULERS[name]
    return getattr(diffusers, class_name).from_config(current.config, **changes)
