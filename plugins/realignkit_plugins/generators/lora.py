"""Low-rank adapters (LoRA) for a loaded pipeline: in diffusers' own format, or in PEFT's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from realignkit.errors import ModelError
from realignkit_plugins.loading import hub_options, loading, resolve_model

_PEFT_CONFIG = "adapter_config.json"


def merge_lora(pipeline: Any, lora: str, scale: float = 1.0, revision: str | None = None) -> None:
    """Add an adapter to the pipeline's weights for good: ``W + scale * (alpha / r) * B A``.

    Merged, it costs nothing at sampling, and attention layers stay plain ones that can be modulated.

    Args:
        pipeline: with a ``unet`` or ``transformer``; changed in place.
        lora: a folder, a ``.safetensors`` file or a hub id. With an ``adapter_config.json`` it is read as PEFT's
            format, for the denoising network alone; otherwise as diffusers' (``pytorch_lora_weights.safetensors``).
        scale: 0 leaves the pipeline as it is.
        revision: branch, tag or commit on the hub.

    Raises:
        ModelError: it is missing, damaged, in pickle form, fits no layer, or makes weights infinite.
    """
    file = Path(lora).expanduser()
    if (file / "model" / "model_index.json").is_file():
        raise ModelError(
            f"'{lora}' holds a whole model, no adapters, as its training changed the whole U-Net. Use it as the "
            f"model: --model {file / 'model'}"
        )
    if file.is_file() and file.suffix != ".safetensors":
        raise ModelError(f"'{lora}' is no .safetensors file; other formats can run code and are not loaded.")
    named = {"weight_name": file.name} if file.is_file() and file.suffix == ".safetensors" else {}
    folder = str(file.parent) if named else resolve_model(lora)
    with loading("LoRA", lora):
        if not named and _is_peft(folder, revision):
            _merge_peft(pipeline, folder, scale, revision)
        elif hasattr(pipeline, "load_lora_weights"):
            _merge_diffusers(pipeline, folder, scale, {**named, **hub_options(revision)}, lora)
        else:
            raise ModelError(
                f"'{lora}' is no PEFT adapter (it has no {_PEFT_CONFIG}), and {type(pipeline).__name__} reads no other "
                f"kind. Save the adapter with save_pretrained of a PEFT model."
            )


def _merge_diffusers(pipeline: Any, folder: str, scale: float, options: dict[str, Any], lora: str) -> None:
    pipeline.load_lora_weights(folder, adapter_name="lora", use_safetensors=True, **options)
    if not any("lora" in names for names in pipeline.get_list_adapters().values()):
        raise ModelError(f"'{lora}' fits no layer of this model. Use one that was trained for it.")
    pipeline.fuse_lora(lora_scale=scale, safe_fusing=True)  # safe: refuses what would make a weight NaN
    pipeline.unload_lora_weights()


def _merge_peft(pipeline: Any, folder: str, scale: float, revision: str | None) -> None:
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    name = "unet" if getattr(pipeline, "unet", None) is not None else "transformer"
    adapted = PeftModel.from_pretrained(getattr(pipeline, name), folder, use_safetensors=True, **hub_options(revision))
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            for adapter in module.scaling:
                module.scaling[adapter] *= scale
    setattr(pipeline, name, adapted.merge_and_unload(safe_merge=True))


def _is_peft(folder: str, revision: str | None) -> bool:
    if Path(folder).is_dir():
        return (Path(folder) / _PEFT_CONFIG).is_file()
    from huggingface_hub import file_exists

    return bool(file_exists(folder, _PEFT_CONFIG, revision=revision))
