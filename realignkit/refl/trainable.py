"""The weights that learn, of U-Net and text encoder: adapters or their own; copies of them, and their files."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from realignkit.errors import DamagedError, ModelError, OptionError, OutputError
from realignkit.files import atomic_folder, atomic_write
from realignkit.records import check_manifest, seal, sealed_notes, write_manifest
from realignkit.refl.model import Networks
from realignkit.refl.options import TrainingOptions
from realignkit.refl.refusals import ADAPTER, TEXT_ENCODERS, text_encoders
from realignkit.refl.seeds import seeded

LORA_FILE = "pytorch_lora_weights.safetensors"
"""Where diffusers looks for adapters in a folder."""
MODEL_FOLDER = "model"
"""Where a run that trains the model's own weights keeps the pipeline, for ``from_pretrained``."""
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
"""The layers of a text encoder that get adapters."""
_CROSS_ATTENTION = ".attn2."
"""In the names of the weights with which a U-Net of diffusers attends to the text."""


class Trainable:
    """Makes a pipeline's U-Net or text encoders learn, or both.

    Args:
        networks: whose; they get adapters, or thaw, wholly or in part.
        config: of the training.
        keep_base: keep the weights as they came, for :meth:`base`.

    Attributes:
        parameters: name -> float32 parameter, in a fixed order.
        average: their moving average, same order; None without.
        kept: copies of them by name, in the same order, that an algorithm compares with; checkpoints hold them.

    Raises:
        OptionError: no layer has a name in ``lora.targets``, or there is no cross-attention.
    """

    def __init__(self, networks: Networks, config: TrainingOptions, *, keep_base: bool = False) -> None:
        self.networks, self.config = networks, config
        names = text_encoders(networks.pipeline)
        texts = {name: part for name in names if (part := getattr(networks.pipeline, name, None)) is not None}
        self._parts: dict[str, Any] = {}
        if "unet" in config.learning_parts:
            self._parts["unet"] = networks.unet
        if "text_encoder" in config.learning_parts:
            self._parts |= texts
        networks.learns_text = "text_encoder" in config.learning_parts
        for component in {"unet": networks.unet, **texts}.values():
            _remove_adapters(component)  # of an earlier training
        for name, part in self._parts.items():
            if config.adapts:
                self._add_adapters(part, config.lora.targets if name == "unet" else TEXT_TARGETS)
            else:
                self._thaw(part)
        self.parameters = {
            (name if component == "unet" else f"{component}.{name}"): p
            for component, part in self._parts.items()
            for name, p in part.named_parameters()
            if p.requires_grad
        }
        for parameter in self.parameters.values():
            parameter.data = parameter.data.float()
        self.average = self.copied() if config.ema_decay is not None else None
        self.kept: dict[str, list[Tensor]] = {}
        self._base = self.copied() if keep_base else None

    def _add_adapters(self, part: Any, targets: Sequence[str]) -> None:
        from peft import LoraConfig

        options = self.config.lora
        lora = LoraConfig(r=options.rank, lora_alpha=options.alpha or options.rank, target_modules=list(targets))
        try:
            with seeded(self.config.seed, "adapters"):
                part.add_adapter(lora, adapter_name=ADAPTER)
        except ValueError as error:
            raise OptionError(f"adapters cannot be added: {error}. Choose other lora.targets.") from error

    def _thaw(self, part: Any) -> None:
        if part is not self.networks.unet or self.config.trainable != "cross_attention":
            part.requires_grad_(True)
            return
        # Where a transformer has layers of that name, they see the image alone.
        unet = self.networks.component == "unet"
        thawed = [p.requires_grad_(True) for name, p in part.named_parameters() if unet and _CROSS_ATTENTION in name]
        if not thawed:
            raise OptionError("the U-Net has no cross-attention that could learn. Choose another trainable.")

    @property
    def _lora_scale(self) -> float:
        return (self.config.lora.alpha or self.config.lora.rank) / self.config.lora.rank

    def copied(self) -> list[Tensor]:
        """A copy of the weights as they are now, in the order of the parameters."""
        return [p.detach().clone() for p in self.parameters.values()]

    def digest(self) -> str:
        """A short name for the weights as they are now."""
        digest = hashlib.blake2b(digest_size=8)
        for parameter in self.parameters.values():
            digest.update(parameter.detach().cpu().numpy().tobytes())
        return digest.hexdigest()

    @contextlib.contextmanager
    def holding(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """Other weights, in the order of the parameters, for the while; graphs of earlier predictions stay whole."""
        learning = [p.data for p in self.parameters.values()]
        self._put(tensors)
        try:
            yield
        finally:
            self._put(learning)

    def base(self) -> contextlib.AbstractContextManager[None]:
        """The weights as they came, for the while; see ``keep_base``."""
        assert self._base is not None
        return self.holding(self._base)

    @torch.no_grad()
    def update_average(self, iteration: int) -> None:
        """Move the average towards the weights; faster at first, so that it does not cling to where it began."""
        if self.average is None or self.config.ema_decay is None:
            return
        decay = min(self.config.ema_decay, (1 + iteration) / (10 + iteration))
        torch._foreach_lerp_(self.average, [p.data for p in self.parameters.values()], 1 - decay)

    @torch.no_grad()
    def follow(self, name: str, decay: float) -> None:
        """Move a kept copy towards the weights, as a moving average; 1 leaves it where it is."""
        if decay < 1:
            torch._foreach_lerp_(self.kept[name], [p.data for p in self.parameters.values()], 1 - decay)

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """The averaged weights, for the while; nothing without an average."""
        return contextlib.nullcontext() if self.average is None else self.holding(self.average)

    def _put(self, tensors: Sequence[Tensor]) -> None:
        for parameter, tensor in zip(self.parameters.values(), tensors, strict=True):
            parameter.data = tensor

    def export(self, folder: Path, iteration: int) -> Path:
        """Write the averaged weights for use: adapters for ``load_lora_weights``, or a pipeline in ``model/``.

        With them go the iteration that they are of, and checksums.

        Raises:
            OutputError: they cannot be written; what was there before is untouched.
        """
        with self.averaged():
            if not self.config.adapts:
                with atomic_folder(folder / MODEL_FOLDER) as new, _quietly():
                    self.networks.pipeline.save_pretrained(new, safe_serialization=True)
                    write_manifest(new, {"iteration": iteration})
                return folder / MODEL_FOLDER
            return atomic_write(folder / LORA_FILE, seal(self._lora_bytes(), {"iteration": str(iteration)}))

    def _lora_bytes(self) -> bytes:
        from safetensors.torch import save

        # The scale goes into the up weights, so that every reader, told nothing of alpha, applies it.
        named = {
            self._exported_name(name): (p * self._lora_scale if "lora_B" in name else p).detach().cpu().contiguous()
            for name, p in self.parameters.items()
        }
        return save(named, metadata={"format": "pt"})

    def _exported_name(self, name: str) -> str:
        """The name in peft, ``…q_proj.lora_A.<adapter>.weight`` as diffusers spells it, its part before it."""
        component, _, rest = name.partition(".")
        if component not in TEXT_ENCODERS:
            if self.networks.component == "transformer":
                return "transformer." + name.replace(f".{ADAPTER}.", ".")
            name = name.replace(f".lora_A.{ADAPTER}.", ".lora.down.").replace(f".lora_B.{ADAPTER}.", ".lora.up.")
            return f"unet.{name}"
        layer = rest if rest.startswith("text_model.") else f"text_model.{rest}"  # as before transformers 5
        for matrix, spelled in (("lora_A", "down"), ("lora_B", "up")):
            layer = layer.replace(f".{matrix}.{ADAPTER}.", f".lora_linear_layer.{spelled}.")
        return f"{component}.{layer}"

    def exported(self, folder: Path) -> int:
        """The iteration of the weights that :meth:`export` wrote.

        Raises:
            DamagedError: they are missing, or not what was written.
        """
        adapters = self.config.adapts
        notes = sealed_notes(folder / LORA_FILE) if adapters else check_manifest(folder / MODEL_FOLDER)
        try:
            return int(notes["iteration"])
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedError(f"the weights in {folder} do not say of which iteration they are") from error

    @torch.no_grad()
    def load_exported(self, folder: Path, iteration: int) -> None:
        """Put weights that :meth:`export` wrote of an iteration into the networks.

        Raises:
            OutputError: they are missing, damaged, or of another iteration.
        """
        from safetensors.torch import load_file

        if (exported := self.exported(folder)) != iteration:
            raise OutputError(
                f"the best weights, of iteration {iteration}, are no longer in {folder}: it has those of {exported}. "
                f"Train again."
            )
        adapters = self.config.adapts
        path = folder / (LORA_FILE if adapters else MODEL_FOLDER)
        try:
            tensors = load_file(path) if adapters else {}
            for component in () if adapters else self._parts:
                prefix = "" if component == "unet" else f"{component}."
                part = path / (self.networks.component if component == "unet" else component)
                tensors |= {f"{prefix}{name}": tensor for name, tensor in _weights_in(part).items()}
            for name, parameter in self.parameters.items():
                key = self._exported_name(name) if adapters else name
                scale = 1 / self._lora_scale if adapters and "lora_B" in name else 1.0
                parameter.data = (tensors[key].to(parameter.device) * scale).view_as(parameter)
        except Exception as error:  # safetensors has its own errors
            raise OutputError(f"{path} is missing or damaged ({error}). Train again.") from error

    @torch.no_grad()
    def check(self) -> None:
        """Refuse to go on with weights that are no numbers.

        Raises:
            ModelError: a weight is NaN or infinite.
        """
        for name, parameter in self.parameters.items():
            if not torch.isfinite(parameter).all():
                raise ModelError(
                    f"weight {name} became NaN or infinite. Resume from the last checkpoint with a lower learning rate."
                )


def _weights_in(folder: Path) -> dict[str, Tensor]:
    """All weights in a component's folder; large ones (SDXL's U-Net) are saved in several files."""
    from safetensors.torch import load_file

    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Save a pipeline without a warning for each part that it was loaded without, or a bar for each that is written."""
    from transformers.utils import logging as transformers_logging

    def worth_saying(record: logging.LogRecord) -> bool:
        return "<class 'NoneType'> cannot be saved" not in record.getMessage()

    logger = logging.getLogger("diffusers.pipelines.pipeline_utils")
    logger.addFilter(worth_saying)
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        logger.removeFilter(worth_saying)
        if bars:
            transformers_logging.enable_progress_bar()


def _remove_adapters(part: Any) -> None:
    if ADAPTER not in getattr(part, "peft_config", {}):
        return
    from diffusers.utils.peft_utils import recurse_remove_peft_layers

    recurse_remove_peft_layers(part)
    del part.peft_config
    part._hf_peft_config_loaded = False
